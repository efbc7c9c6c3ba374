"""What the processes of a stream tell whoever started them: place, progress, outcome; and their end by a signal.

Not here: running the stream (`run`), starting processes (`processes`), which needs none of what a stream does.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has done."""

    accepted: int
    rejected: dict[str, int]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: readings so far, and bytes of its files (0 of 0 for Kafka). `apart`: why it has ended, if
    meters moved from one of several processes to another.
    """

    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    read_bytes: int = 0
    total_bytes: int = 0
    apart: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Which process of a stream this is: number `process` of those at `addresses`, or the only one. Where it is told
    to, it writes its progress into `report`.
    """

    addresses: tuple[str, ...] = ()
    process: int = 0
    report: Path | None = None


ALONE = Place()


@contextmanager
def stopped_by_signals(stop_now: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT let the flow commit and end."""

    def stop(number: int, _: FrameType | None) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        stop_now()

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
