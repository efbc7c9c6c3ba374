"""What the assets work with: one home's lake, marts, registry and settings, and how a result is gated and published.

Here: the value handed to every asset, and the one way from computed frames to published partitions. Not here: what is
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

import polars as pl

from metering.registry.parse import Registry
from metering.settings import MeteringSettings
from metering.tables import Table, warehouse
from quality import Failure, Verdict, validate
from sinks.lake.reader import LakeReader
from sinks.marts import Marts, Stage

GATE_ROWS = 5_000_000


@dataclass(frozen=True, slots=True)
class Part:
    """A computed partition: its name in the marts, its rows, and the local day that it belongs to."""

    partition: str
    rows: pl.DataFrame
    day: date


Progress = Callable[[str, int, int], None]
"""Called with a table, the days done and the days in all."""


@dataclass(frozen=True)
class Batch:
    """One home, as assets see it. `load_registry` is called once, when the first asset asks for the registry."""

    home: Path
    settings: MeteringSettings
    load_registry: Callable[[], Registry]
    progress: Progress | None = None

    @cached_property
    def registry(self) -> Registry:
        return self.load_registry()

    def told(self, table: str, done: int, total: int) -> None:
        """Tell whoever watches how far a table is."""
        if self.progress is not None:
            self.progress(table, done, total)

    @property
    def lake(self) -> LakeReader:
        return LakeReader(self.home)

    @property
    def marts(self) -> Marts:
        return Marts(self.home)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The warehouse's tables."""
        return warehouse(self.settings.periods)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run's partitions of one table: rows for each day, the verdict, and what is waiting for it."""

    verdict: Verdict
    rows: dict[date, int]
    stage: Stage


def gated(batch: Batch, table: Table, days: Sequence[date], parts: Iterable[Part]) -> Outcome:
    """Stage every part and validate all of their rows; publishing or discarding is left to the caller."""
    stage, rows = batch.marts.stage(), dict.fromkeys(days, 0)

    def staged() -> Iterator[pl.DataFrame]:
        for part in parts:
            rows[part.day] = rows.get(part.day, 0) + stage.write(table, part.partition, part.rows)
            batch.told(table.name, days.index(part.day) + 1, len(days))
            yield part.rows

    try:
        verdict = _verdict(table, staged())
    except BaseException:
        stage.discard()
        raise
    return Outcome(verdict, rows, stage)


def _verdict(table: Table, frames: Iterable[pl.DataFrame]) -> Verdict:
    """Of all frames together, validated in lots of bounded size."""
    verdicts = [validate(table, lot) for lot in _lots(table, frames)]
    failures: tuple[Failure, ...] = tuple(f for v in verdicts for f in v.failures)
    return Verdict(table.name, sum(v.rows for v in verdicts), verdicts[0].expectations, failures)


def _lots(table: Table, frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    held, rows = [table.empty()], 0
    for frame in frames:
        if rows and rows + frame.height > GATE_ROWS:
            yield pl.concat(held)
            held, rows = [table.empty()], 0
        held.append(frame)
        rows += frame.height
    yield pl.concat(held)
