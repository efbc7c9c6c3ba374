"""How the stream runs: its figures, and what it is given from outside.

Not here: reading settings or the registry from files (`orchestration`), the figures of rules
(`metering.settings`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings


class Registry(Protocol):
    """The registry in force. A changed one is a new index; a bad one never is."""

    def index(self) -> MeterIndex: ...


@dataclass(frozen=True, slots=True)
class ResultTopics:
    """Names of the topics that results go to."""

    windows: str
    violations: str
    compliance: str
    rejected: str


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """`windows_kept` closed windows are held for late readings; a meter not heard for `silent_s`, by the time of the
    data, leaves the state. A commit is due after `commit_interval_s` or `commit_rows`. Brokers have `flush_s` to settle
    the results of a batch, and are asked again after `retry_s`, while nothing more is read; at a stop they have
    `last_flush_s`.
    """

    metering: MeteringSettings
    windows_kept: int
    commit_interval_s: float
    commit_rows: int
    silent_s: float = 7 * 86_400
    flush_s: float = 2.0
    retry_s: float = 1.0
    last_flush_s: float = 5.0
    tick_s: float = 0.5
