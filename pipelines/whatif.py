"""The lake's readings under other rules: the alarms that there would be.

Here: reading days in lots, and letting rules judge them in order. Not here: comparing alarms
(`metering.events.whatif`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import polars as pl

from metering.events import judge, lifecycle, registers
from metering.events.lifecycle import CHANGE_SCHEMA, PAIR, STATE_SCHEMA
from metering.events.whatif import alarms
from metering.load.windows import latest
from metering.readings.slots import answering, at_slots
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.lake import MEASURED
from metering.tables.schema import no_rows
from pipelines.shard.store import LakePast, naming_of
from sinks.lake.reader import LakeReader

LOT_ROWS = 500_000
"""Days are read together up to so many readings."""
_BEFORE = 8
"""Readings of each meter that register steps of the next lot are told by."""


@dataclass
class Replay:
    """Readings in order of time under one set of rules."""

    index: MeterIndex
    settings: MeteringSettings
    runs: pl.DataFrame = field(default_factory=lambda: no_rows(STATE_SCHEMA))
    changes: list[pl.DataFrame] = field(default_factory=lambda: [no_rows(CHANGE_SCHEMA)])
    _before: pl.DataFrame | None = None

    def take(self, rows: pl.DataFrame) -> None:
        """The next readings: one for each slot, stamped with its end, sorted by meter and time."""
        versions, settings = self.index.meter_versions, self.settings
        suspects = [judge.starts(rows, versions, settings)]
        if judge.step_checks(settings):
            rows = self._with_steps(rows)
            suspects.append(judge.step_starts(rows, versions, settings))
        pairs = pl.concat([self.runs.select(PAIR), *(found.select(PAIR) for found in suspects)]).unique().sort(PAIR)
        if pairs.is_empty():
            return
        mine = rows.filter(pl.col("meter").is_in(pairs["meter"].unique().implode()))
        said = judge.judge_pairs(mine, versions, settings, pairs)
        self.runs, changes = lifecycle.advance(said, self.runs, versions, settings.gap_intervals, settings.alarms)
        self.changes.append(changes)

    def _with_steps(self, rows: pl.DataFrame) -> pl.DataFrame:
        before = rows.clear() if self._before is None else self._before
        both = pl.concat([before, rows]).sort("meter", "slot_us")
        self._before = both.group_by("meter", maintain_order=True).tail(_BEFORE)
        told = registers.steps(both, self.index.meter_versions, self.settings)
        fresh = told.join(before.select("meter", "slot_us"), on=("meter", "slot_us"), how="anti", maintain_order="left")
        return rows.with_columns(fresh.select(registers.VALUES).get_columns())

    @property
    def alarms(self) -> pl.DataFrame:
        """What there is to tell so far (`metering.events.whatif.ALARMS_SCHEMA`)."""
        return alarms(pl.concat(self.changes), self.index.meter_versions, self.settings)


def replayed(
    lake: LakeReader, index: MeterIndex, settings: Sequence[MeteringSettings], days: Sequence[date]
) -> Iterator[tuple[int, list[Replay]]]:
    """Replays of the lake's readings of local `days` under each of some settings; after each lot of days, how many of
    these are done.
    """
    replays = [Replay(index, each) for each in settings]
    names = [naming_of(index, each) for each in settings]
    looked_at = {value for naming in names for value in naming.measured}
    measured = tuple(name for name in MEASURED if name in looked_at)
    past = LakePast(lake, replace(names[0], measured=measured), settings[0])
    done = 0
    for lot in lake.lots(days, LOT_ROWS):
        rows = at_slots(answering(latest(past.of_days(lot)))).sort("meter", "slot_us")
        for replay in replays:
            replay.take(rows)
        done += len(lot)
        yield done, replays
