"""What the assets work with: one home's lake, marts, registry and settings, and how a result is gated and published.

Here: the value handed to every asset, and the one way from computed frames to published partitions: rows that break
what their table declares are kept out and told, what concerns all of a table (its columns, its unique key, what a part
itself calls a problem) keeps it from being published. Not here: what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from metering.calendar import day_bounds
from metering.registry.parse import Registry
from metering.settings import MeteringSettings
from metering.tables import Table, warehouse
from metering.tables.evidence import QUALITY_RESULTS, RESTATEMENTS
from metering.tables.quality import of_failures, of_findings, summed
from metering.tables.restate import restated, together
from metering.tables.views import View, views
from metering.vee.edits import in_force
from quality import Failure, Verdict, validate
from sinks.edits import load_edits
from sinks.lake.reader import LakeReader
from sinks.marts import Marts, Stage, period_end, table_partition

if TYPE_CHECKING:
    from assets.reconciliations import Differences

GATE_ROWS = 5_000_000
RESTATED = (
    "daily_curve", "meter_daily", "daily_load", "load_indices", "voltage_daily", "voltage_weekly", "voltage_monthly",
    "unbalance_daily", "power_factor_monthly", "demand_monthly", "charges_monthly", "load_control_daily", "kpi",
)  # fmt: skip
"""Tables whose values, once their time is over, are restated when they change."""


@dataclass(frozen=True, slots=True)
class Part:
    """A computed partition: its name in the marts, its rows, and the local day that it belongs to.

    `findings` (FINDINGS) are told beside it; a `problem` keeps the whole table from being published. `keep` says that
    rows which break their declaration stay in, for what is compared must be all there is.
    """

    partition: str
    rows: pl.DataFrame
    day: date
    findings: pl.DataFrame | None = None
    problem: str = ""
    keep: bool = False


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

    @cached_property
    def until(self) -> datetime | None:
        """The newest watermark of the lake, as far as days have come; None for an empty lake."""
        return self.lake.watermark(self.settings.lateness_s)

    @cached_property
    def compared(self) -> dict[date, Differences]:
        """How days of windows stand against the stream's, from when they were marked to when they are counted."""
        return {}

    @cached_property
    def edits(self) -> pl.DataFrame:
        """The edits in force (EDITS), of all times."""
        return in_force(load_edits(self.home))

    def edits_of(self, day: date) -> pl.DataFrame:
        start, end = day_bounds(day, self.settings.timezone)
        return self.edits.filter(pl.col("window_end") > start, pl.col("window_end") <= end)

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

    @cached_property
    def views(self) -> dict[str, View]:
        """The warehouse's views."""
        return views(self.tables.values(), self.settings.periods)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run's partitions of one table: rows for each day, the verdict, and what is waiting for it.

    `quality`: QUALITY_RESULTS of the run, what was found in rows that are published or kept out.
    """

    verdict: Verdict
    rows: dict[date, int]
    stage: Stage
    quality: pl.DataFrame


@dataclass(slots=True)
class _Gate:
    """One table's way from parts to staged partitions."""

    batch: Batch
    table: Table
    days: Sequence[date]
    stage: Stage
    rows: dict[date, int]
    quality: list[pl.DataFrame] = field(default_factory=list)
    restatements: dict[date, list[pl.DataFrame]] = field(default_factory=dict)

    def lot(self, parts: Sequence[Part]) -> Verdict:
        """Validate the parts together, and stage what stays of each."""
        whole = pl.concat([self.table.empty(), *(part.rows for part in parts)])
        verdict = validate(self.table, whole)
        failing = [failure for failure in verdict.failures if not failure.blocking]
        start = 0
        for part in parts:
            here = range(start, start + part.rows.height)
            start = here.stop
            self.quality.append(of_failures(self.table, failing, whole, here, part.day, kept=part.keep))
            if part.findings is not None:
                self.quality.append(of_findings(part.findings, self.table.name, part.day, self.batch.settings.timezone))
            self._stage(
                part, [] if part.keep else sorted({n - here.start for f in failing for n in f.rows if n in here})
            )
        problems = [Failure(part.problem, (), 1, (), blocking=True) for part in parts if part.problem]
        blocking = tuple(f for f in verdict.failures if f.blocking)
        return Verdict(self.table.name, verdict.rows, verdict.expectations, (*blocking, *problems))

    def _stage(self, part: Part, out: Sequence[int]) -> None:
        rows = part.rows
        if out:
            rows = rows.with_row_index("row").filter(~pl.col("row").is_in(list(out))).drop("row")
        if self.table.name in RESTATED:
            self._restate(part, rows)
        count = self.stage.write(self.table, part.partition, rows, self.batch.until)
        self.rows[part.day] = self.rows.get(part.day, 0) + count
        self.batch.told(self.table.name, self.days.index(part.day) + 1, len(self.days))

    def _restate(self, part: Part, rows: pl.DataFrame) -> None:
        """A value is restated once its time was over, or where it changed without anything new having come."""
        marts, now = self.batch.marts, self.batch.until
        before = marts.as_of(self.table.name, part.partition)
        if before is None or now is None:
            return
        if before < period_end(part.partition, self.batch.settings.timezone) and before != now:
            return
        published = marts.scan(self.table, [part.partition]).collect()
        changes = restated(self.table, published, self.table.conform(rows), now, _cause(self.batch, part.day))
        if changes.height:
            self.restatements.setdefault(part.day, []).append(changes)

    def finish(self) -> pl.DataFrame:
        """Stage what was found and restated, for the days of the run."""
        quality = summed(self.quality)
        for day in self.days:
            partition = table_partition(day, self.table.name)
            found = quality.filter(pl.col("date") == day)
            if found.height or self.batch.marts.files(QUALITY_RESULTS.name, [partition]):
                self.stage.write(QUALITY_RESULTS, partition, found)
            if day in self.restatements:
                told = self.batch.marts.scan(RESTATEMENTS, [partition]).collect()
                self.stage.write(RESTATEMENTS, partition, together([told, *self.restatements[day]]))
        return quality


def gated(batch: Batch, table: Table, days: Sequence[date], parts: Iterable[Part]) -> Outcome:
    """Stage every part and validate all of their rows; publishing or discarding is left to the caller.

    The verdict fails for what concerns the whole table only; rows that break their declaration are left out.
    """
    stage = batch.marts.stage()
    gate = _Gate(batch, table, days, stage, dict.fromkeys(days, 0))
    try:
        verdicts = [gate.lot(lot) for lot in _lots(parts)]
        quality = gate.finish()
    except BaseException:
        stage.discard()
        raise
    failures: tuple[Failure, ...] = tuple(f for v in verdicts for f in v.failures)
    verdict = Verdict(table.name, sum(v.rows for v in verdicts), verdicts[0].expectations, failures, verdicts[0].names)
    return Outcome(verdict, gate.rows, stage, quality)


def _lots(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts in lots of bounded size; at least one lot."""
    held: list[Part] = []
    rows = 0
    for part in parts:
        if rows and rows + part.rows.height > GATE_ROWS:
            yield held
            held, rows = [], 0
        held.append(part)
        rows += part.rows.height
    yield held


def _cause(batch: Batch, day: date) -> str:
    """What changed beneath the values of a day."""
    edits = batch.edits_of(day)
    if edits.height:
        last = edits.sort("number").row(-1, named=True)
        return f"edited by {last['by']}: {last['why']}"
    with batch.lake.held():
        revised = batch.lake.scan("windows", [day]).filter(pl.col("revision") > 0).select(pl.len()).collect().item()
    return f"later readings: {revised} revisions of windows" if revised else "computed anew"
