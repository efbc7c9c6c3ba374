"""The lake's readings under other rules: the alarms that there would be.

Here: reading days in lots, and letting rules judge them in order. Not here: comparing alarms
(`metering.events.whatif`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import polars as pl

from metering.events import judge, lifecycle, register_screen, registers
from metering.events.lifecycle import CHANGE_SCHEMA, PAIR, STATE_SCHEMA
from metering.events.whatif import alarms
from metering.load.windows import latest
from metering.readings.slots import answering, at_slots
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.lake import CHAIN, MEASURED, REGISTERS
from metering.tables.schema import no_rows
from pipelines.shard.steps import BLOCKS_BACK
from pipelines.shard.store import LakePast, naming_of
from sinks.lake.reader import LakeReader

LOT_ROWS = 500_000
"""Days are read together up to so many readings."""
_BEFORE = 8
"""Readings of each meter that register steps of the next lot are told by; or those of the last blocks, if more."""
_OF_READING = ("meter", "version", "slot_us", "end_us", "stamp_us", *REGISTERS, CHAIN)
_LAST = pl.Schema(
    {
        "meter": pl.UInt32(),
        "version": pl.UInt32(),
        **dict.fromkeys(("slot_us", "end_us", "stamp_us"), pl.Int64()),
        **dict.fromkeys((*REGISTERS, CHAIN), pl.Float64()),
        **registers.SEED_SCHEMA,
    }
)


@dataclass
class Replay:
    """Readings in order of time under one set of rules."""

    index: MeterIndex
    settings: MeteringSettings
    runs: pl.DataFrame = field(default_factory=lambda: no_rows(STATE_SCHEMA))
    changes: list[pl.DataFrame] = field(default_factory=lambda: [no_rows(CHANGE_SCHEMA)])

    def take(self, rows: pl.DataFrame, registers_of: Registers | None) -> None:
        """The next readings: one for each slot, stamped with its end, sorted by meter and time; and what registers did
        up to them.
        """
        versions, settings = self.index.meter_versions, self.settings
        suspects = [judge.starts(rows, versions, settings)]
        if registers_of is not None and (checks := judge.step_checks(settings)):
            going_on = self.runs["meter"].filter(self.runs["code"].is_in([check.code for check in checks]))
            rows = registers_of.valued(rows, going_on)
            suspects.append(judge.step_starts(rows, versions, settings))
        pairs = pl.concat([self.runs.select(PAIR), *(found.select(PAIR) for found in suspects)]).unique().sort(PAIR)
        if pairs.is_empty():
            return
        mine = rows.filter(pl.col("meter").is_in(pairs["meter"].unique().implode()))
        said = judge.judge_pairs(mine, versions, settings, pairs)
        self.runs, changes = lifecycle.advance(said, self.runs, versions, settings.gap_intervals, settings.alarms)
        self.changes.append(changes)

    @property
    def alarms(self) -> pl.DataFrame:
        """What there is to tell so far (`metering.events.whatif.ALARMS_SCHEMA`)."""
        return alarms(pl.concat(self.changes), self.index.meter_versions, self.settings)


@dataclass
class Registers:
    """What registers did, the same under any rules: screened once for all, and looked at closely where that found
    something, or where a violation goes on.
    """

    index: MeterIndex
    settings: MeteringSettings
    _last: pl.DataFrame = field(default_factory=lambda: no_rows(_LAST))
    _before: pl.DataFrame | None = None
    _kept: pl.DataFrame | None = None
    _wrong: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.UInt32))

    def take(self, rows: pl.DataFrame) -> None:
        """The next readings, as `Replay.take` gets them."""
        kept = rows.clear() if self._kept is None else self._kept
        self._before = kept
        both = pl.concat([self._last, rows.select(*_OF_READING, "p_kw")], how="diagonal").sort("meter", "slot_us")
        found = register_screen.screened(both, self.index.meter_versions, self.settings)
        self._wrong = found["meter"].filter(found["wrong"]).unique()
        ends = found.filter((pl.col("meter") != pl.col("meter").shift(-1)).fill_null(True)).select(self._last.columns)
        self._last = pl.concat([self._last.join(ends, on="meter", how="anti"), ends])
        self._kept = self._needed(pl.concat([kept, self._needed(rows)]).sort("meter", "slot_us"))

    def _needed(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The last of each meter's readings that steps of the next ones are told by."""
        block_us = self.index.meter_versions["block_us"].gather(rows["version"])
        reach = rows.select((pl.col("end_us").last().over("meter") - BLOCKS_BACK * block_us).alias("since"))["since"]
        back = rows.select(pl.int_range(pl.len(), 0, -1).over("meter").alias("back"))["back"]
        return rows.filter((rows["slot_us"] > reach) | (back <= _BEFORE))

    def valued(self, rows: pl.DataFrame, going_on: pl.Series) -> pl.DataFrame:
        """The readings with the values of their steps, of meters that need a look; of the others these are null."""
        assert self._before is not None
        theirs = pl.col("meter").is_in(pl.concat([self._wrong, going_on]).unique().implode())
        before, mine = self._before.filter(theirs), rows.filter(theirs)
        both = pl.concat([before, mine]).sort("meter", "slot_us")
        told = registers.steps(both, self.index.meter_versions, self.settings)
        fresh = told.join(before.select("meter", "slot_us"), on=("meter", "slot_us"), how="anti", maintain_order="left")
        looked_at = mine.with_columns(fresh.select(registers.VALUES).get_columns())
        return pl.concat([looked_at, rows.filter(~theirs)], how="diagonal").sort("meter", "slot_us")


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
    of_steps = any(judge.step_checks(each) for each in settings)
    registers_of = Registers(index, settings[0]) if of_steps else None  # rules alone differ
    done = 0
    for lot in lake.lots(days, LOT_ROWS):
        rows = at_slots(answering(latest(past.of_days(lot)))).sort("meter", "slot_us")
        if registers_of is not None:
            registers_of.take(rows)
        for replay in replays:
            replay.take(rows, registers_of)
        done += len(lot)
        yield done, replays
