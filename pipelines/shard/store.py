"""What a turn depends on beside its readings, and the one place that is asked for what came before.

Here: rows of readings as they are held, the context of a turn, and finding a few meters' past: in the lake, and in what
is on its way into it. Not here: what is done with them (the detectors), what the state holds (`state`).

A meter is a meter: it is not asked from which source or partition its past came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

import polars as pl

from metering.calendar import local_date, local_dates
from metering.events.catalogue import check_frame, told_apart, values_read
from metering.events.lifecycle import CHANGE_SCHEMA, last_emitted
from metering.load.windows import USED
from metering.readings.slots import blocks_at, on_grid
from metering.readings.slots import placed as placed_in_slots
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.supply.compliance import remembered
from metering.tables import LAKE
from metering.tables.lake import MEASURED, READINGS, WINDOWS
from metering.tables.schema import TIMESTAMP
from pipelines.shard.state import Naming
from sinks.lake.reader import LakeReader

KEY = ("meter", "window_end")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
POSITION = ("source_partition", "log_offset", "source_row")
"""Which of several readings of a meter and time counts; also, which reading this is."""

HELD_SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32(),
        "version": pl.UInt32(),
        "ts": TIMESTAMP,
        **{name: READINGS.schema[name] for name in MEASURED},
        **{name: READINGS.schema[name] for name in POSITION},
        "logged_at": TIMESTAMP,
        "slot_us": pl.Int64(),
        "end_us": pl.Int64(),
    }
)
"""A reading as it is held: `slot_us` is the end of its slot, `end_us` that of the block (most often: the window) that
the slot lies in. Of the measured values only those that are needed."""
PLACES = ("slot_us", "end_us")


class Past(Protocol):
    """What the lake, and what is on its way into it, knows."""

    def readings(self, wanted: pl.DataFrame) -> pl.DataFrame:
        """Readings (as held) of `meter` in blocks ending at `end_us`, and at their start edges."""

    def readings_since(self, meters: pl.Series, since: datetime) -> pl.DataFrame:
        """All readings (as held) of the meters (codes) whose slots end after `since`."""

    def events(self, meters: pl.Series | None, since: datetime) -> pl.DataFrame:
        """What was emitted last (CHANGE_SCHEMA) of each violation of the meters (codes; None: all) that changed after
        `since`."""

    def days(self, wanted: pl.DataFrame) -> pl.DataFrame:
        """Sums (DAYS_SCHEMA) of all days of `meter` in `month`, from what was emitted of them last."""

    def windows(self, wanted: pl.DataFrame) -> pl.DataFrame:
        """Current windows (columns of `windows`, with `meter` and `version`) of `meter`, `window_end`, if any."""

    def rows(self, table: str, column: str, values: pl.Series, days: Sequence[date]) -> pl.DataFrame:
        """The table's rows of local days whose `column` has one of some values, all revisions."""

    def and_then(self, rows: pl.DataFrame, results: Mapping[str, pl.DataFrame]) -> Past:
        """This past, and what has just come after it: readings (as held, but for `end_us`), what followed from them."""


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one kind (`metering.tables.records`) in a turn: those that `arrived` with it, in the order of their
    logs, and the last of each key among all that are known, these included (`current`). After a restart a record that
    was known may arrive again.
    """

    arrived: pl.DataFrame
    current: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Context:
    """What a turn depends on beside its state and readings.

    `windows_kept` closed windows are held for late readings. Meters not heard for `silent_s`, by the time of the data,
    leave the state. `records`: of the kinds that are broadcast, by table. `alone`: no other worker reads telemetry.
    `read_at`: the machine's time, which stands for that of a message where there is none.
    """

    naming: Naming
    settings: MeteringSettings
    windows_kept: int
    past: Past
    silent_s: float = 7 * 86_400
    records: Mapping[str, Records] = field(default_factory=dict)
    alone: bool = True
    read_at: datetime = EPOCH

    @property
    def index(self) -> MeterIndex:
        return self.naming.index

    @property
    def meter_versions(self) -> pl.DataFrame:
        return self.naming.index.meter_versions

    @property
    def held_columns(self) -> list[str]:
        """Columns of HELD_SCHEMA that are kept."""
        return held_columns(self.naming)

    @property
    def arriving_columns(self) -> list[str]:
        """Those that readings come with, before they are placed."""
        return [name for name in self.held_columns if name not in PLACES]


def naming_of(index: MeterIndex, settings: MeteringSettings) -> Naming:
    """What numbers in a state stand for under a registry and settings."""
    needed = {*USED, *values_read(settings)}
    return Naming(index, check_frame(settings), tuple(name for name in MEASURED if name in needed))


def held_columns(naming: Naming) -> list[str]:
    return [name for name in HELD_SCHEMA if name not in MEASURED or name in naming.measured]


def dates_of(rows: pl.DataFrame, meter_versions: pl.DataFrame, timezone: str) -> pl.Series:
    """Local `date` of the slots that readings (`version`, `ts`) answer for."""
    if on_grid(rows, meter_versions):
        return local_dates(rows["ts"], timezone)
    slot_us = placed_in_slots(rows.select("version", "ts"), meter_versions, timezone)["slot_us"]
    return local_dates(slot_us.cast(TIMESTAMP), timezone)


_ASKED_BEFORE = timedelta(hours=6)
"""So much earlier than what is asked for readings are looked up: several ask within a turn, some from earlier on."""


def _after(since: datetime, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("slot_us").cast(TIMESTAMP) > since)


def _instant(us: object) -> datetime:
    assert isinstance(us, int)
    return EPOCH + timedelta(microseconds=us)


class LakePast:
    """The past that the lake tells, and what has not been committed yet (`pending`: tables of turns)."""

    def __init__(
        self,
        lake: LakeReader,
        naming: Naming,
        settings: MeteringSettings,
        pending: Sequence[Mapping[str, pl.DataFrame]] = (),
    ) -> None:
        self._lake = lake
        late_us = naming.index.meter_versions["tolerance_us"].max()
        self._late = timedelta(microseconds=late_us if isinstance(late_us, int) else 0)
        self._naming = naming
        self._index = naming.index
        self._settings = settings
        self._pending = pending
        self._told: dict[str, tuple[pl.DataFrame, pl.DataFrame]] = {}
        self._told_since = pl.Series(dtype=pl.UInt32), datetime.max.replace(tzinfo=UTC), pl.DataFrame()

    def readings(self, wanted: pl.DataFrame) -> pl.DataFrame:
        starts = wanted.select("meter", end_us=self._block_starts(wanted))
        around = pl.concat([wanted.select("meter", "end_us"), starts]).unique()
        return self._once("readings", around, self._around)

    def _around(self, around: pl.DataFrame) -> pl.DataFrame:
        firsts = self._block_starts(around)
        near = (pl.col("ts") > _instant(firsts.min())) & (pl.col("ts") <= _instant(around["end_us"].max()) + self._late)
        rows = self._of("readings", around["meter"], self._days(around["end_us"].cast(TIMESTAMP)), near, self._of_held)
        return self._held(self._coded(rows, "ts")).join(around, on=("meter", "end_us"), how="semi")

    def _block_starts(self, blocks: pl.DataFrame) -> pl.Series:
        version = self._index.version_of_window(blocks["meter"], blocks["end_us"].cast(TIMESTAMP))
        return blocks_at(blocks["end_us"], version, self._index.meter_versions, self._settings.timezone)[0]

    def readings_since(self, meters: pl.Series, since: datetime) -> pl.DataFrame:
        asked, first, rows = self._told_since
        if since < first or not meters.is_in(asked.implode()).all():
            days = self._days_since("readings", since - _ASKED_BEFORE)
            first = since - _ASKED_BEFORE if days != self._dates("readings") else EPOCH  # or all that there is
            found = self._of("readings", meters, days, pl.col("ts") > first, self._of_held)
            asked, rows = meters.unique(), _after(first, self._held(self._coded(found, "ts")))
            self._told_since = asked, first, rows
        theirs = rows if meters.n_unique() == len(asked) else rows.filter(pl.col("meter").is_in(meters.implode()))
        return _after(since, theirs)

    def all_since(self, since: datetime, sources: Sequence[tuple[str, int]]) -> pl.DataFrame:
        """All readings (as held) of slots after `since` that came from some sources and partitions."""
        places = pl.DataFrame(list(sources), schema={"source": pl.String, "source_partition": pl.Int32}, orient="row")
        with self._lake.held():
            late = self._lake.scan("readings", self._days_since("readings", since)).filter(pl.col("ts") > since)
            rows = late.join(places.lazy(), on=places.columns, how="semi").collect()
        return _after(since, self._held(self._coded(rows, "ts")))

    def last_since(self, since: datetime, known: pl.Series) -> pl.DataFrame:
        """The newest readings (as held) after `since` of each meter but those `known` (codes)."""
        found: list[pl.DataFrame] = []
        names = self._index.names.gather(known)
        for day in reversed(self._days_since("readings", since)):
            with self._lake.held():
                theirs = pl.col("meter_id").is_in(names.implode())
                rows = self._lake.scan("readings", [day]).filter(~theirs & (pl.col("ts") > since))
                newest = rows.group_by("meter_id").agg(pl.col("ts").max())
                found.append(rows.join(newest, on=("meter_id", "ts"), how="semi").collect())
            names = pl.concat([names, found[-1]["meter_id"].unique()])
        every = pl.concat(found) if found else READINGS.empty()
        return _after(since, self._held(self._coded(every, "ts")))

    def sources(self) -> dict[tuple[str, int], datetime]:
        """Every source and partition of readings, and the highest time of these."""
        found: dict[tuple[str, int], datetime] = {}
        with self._lake.held():
            for day in self._lake.dates("readings"):
                of_day = self._lake.scan("readings", [day]).group_by("source", "source_partition")
                for source, partition, ts in of_day.agg(pl.col("ts").max()).collect().iter_rows():
                    found[source, partition] = max(ts, found.get((source, partition), ts))
        return found

    def windows(self, wanted: pl.DataFrame) -> pl.DataFrame:
        return self._once("windows", wanted.select(KEY), self._windows)

    def _windows(self, wanted: pl.DataFrame) -> pl.DataFrame:
        ends = wanted["window_end"]
        near = pl.col("window_end").is_between(ends.min(), ends.max())
        rows = self._of("windows", wanted["meter"], self._days(ends), near)
        rows = self._coded(rows, "window_end", of_window=True).join(wanted, on=KEY, how="semi")
        newest = rows.sort("revision").unique(KEY, keep="last")
        return newest.select("meter", "version", *WINDOWS.names)

    def open_violations(self, rules: Sequence[str]) -> pl.DataFrame:
        """Current rows of `violations` of some rules that are not over."""
        rows = self._of("violations", None, self._dates("violations"), pl.col("rule").is_in(list(rules)))
        last = rows.sort("revision").unique("violation_id", keep="last", maintain_order=True)
        return last.filter(pl.col("state").is_in(["raised", "updated"]))

    def events(self, meters: pl.Series | None, since: datetime) -> pl.DataFrame:
        rows = self._of("violations", meters, self._days_since("violations", since))
        checks = self._naming.checks.select("code", "rule", "phase")
        rows = rows.filter(~pl.col("rule").is_in(told_apart(self._settings.rules)))  # no reading was judged for it
        return self._changes(rows, checks)

    def told_of(self, rule: str) -> pl.DataFrame:
        """What was emitted last (CHANGE_SCHEMA) of each violation of a rule that no reading is judged by."""
        rows = self._of("violations", None, self._dates("violations"), pl.col("rule") == rule)
        return self._changes(rows, self._naming.checks.select("code", "rule", "phase"))

    def _changes(self, rows: pl.DataFrame, checks: pl.DataFrame) -> pl.DataFrame:
        emitted = self._coded(rows, "at", of_window=True).join(checks, on=("rule", "phase"))
        return last_emitted(emitted.select(CHANGE_SCHEMA.names()).cast(CHANGE_SCHEMA))

    def of_days(self, days: Sequence[date]) -> pl.DataFrame:
        """All readings (as held) of some local days."""
        rows = self._of("readings", None, days, None, self._of_held)
        return self._held(self._coded(rows, "ts"))

    def slots_by_day(self, since: datetime) -> Iterator[pl.DataFrame]:
        """`meter`, `version`, `slot_us` of all readings, a local day after the other, from that of `since` on."""
        for day in self._days_since("readings", since):
            with self._lake.held():
                rows = self._lake.scan("readings", [day]).select("meter_id", "ts").collect()
            coded = self._coded(rows, "ts")
            placed = placed_in_slots(coded, self._index.meter_versions, self._settings.timezone)
            yield placed.select("meter", "version", "slot_us")

    def days(self, wanted: pl.DataFrame) -> pl.DataFrame:
        months = set(wanted["month"])
        days = [day for day in self._dates("compliance") if day.replace(day=1) in months]
        rows = self._coded(self._of("compliance", wanted["meter"], days), "as_of", of_window=True)
        rows = rows.with_columns(pl.col("date").dt.month_start().alias("month"))
        rows = rows.join(wanted, on=("meter", "month"), how="semi").sort("revision")
        return remembered(rows.unique(("meter", "date"), keep="last"))

    def rows(self, table: str, column: str, values: pl.Series, days: Sequence[date]) -> pl.DataFrame:
        theirs, names = pl.col(column).is_in(values.unique().implode()), LAKE[table].names
        with self._lake.held():
            kept = self._lake.scan(table, days).filter(theirs).select(names).collect()
        mine = theirs & pl.col("date").is_in(list(days))
        coming = [tables[table].filter(mine).select(names) for tables in self._pending if table in tables]
        return pl.concat([kept, *coming])

    def and_then(self, rows: pl.DataFrame, results: Mapping[str, pl.DataFrame]) -> LakePast:
        pending = [*self._pending, self.tables_of(rows, results)]
        return LakePast(self._lake, self._naming, self._settings, pending)

    def tables_of(self, rows: pl.DataFrame, results: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        """Results, and the readings that they followed from, as rows of the lake's tables."""
        meter_id = self._index.names.gather(rows["meter"]).alias("meter_id")
        date = dates_of(rows, self._index.meter_versions, self._settings.timezone)
        return {**results, "readings": READINGS.conform(rows.with_columns(meter_id, date))}

    def not_taken(self, accepted: pl.DataFrame, source: str, partition: int) -> pl.DataFrame:
        """Those of `accepted` whose place in the source does not stand in the readings yet, in order of time."""
        place = ("source_offset", "source_row")
        here = (pl.col("source") == source) & (pl.col("source_partition") == partition)
        coming = [tables["readings"].filter(here).select(place) for tables in self._pending]
        days = dates_of(accepted, self._index.meter_versions, self._settings.timezone).unique()
        near = pl.col("source_offset").is_between(accepted["source_offset"].min(), accepted["source_offset"].max())
        with self._lake.held():
            kept = self._lake.scan("readings", days.sort()).filter(here & near).select(place).collect()
        return accepted.join(pl.concat([kept, *coming]), on=place, how="anti").sort("ts", *place)

    # --- finding rows ---

    def _coded(self, rows: pl.DataFrame, time: str, of_window: bool = False) -> pl.DataFrame:
        """With `meter` and `version` at `time`; rows of meters not known then are left out."""
        rows = rows.with_columns(self._index.code(rows["meter_id"]))
        rows = rows.filter(pl.col("meter").is_not_null())
        version = self._index.version_of_window if of_window else self._index.version
        rows = rows.with_columns(version(rows["meter"], rows[time]))
        return rows.filter(pl.col("version").is_not_null())

    def _held(self, rows: pl.DataFrame, *more: str) -> pl.DataFrame:
        placed = rows.with_columns(pl.coalesce("log_offset", "source_offset").alias("log_offset"))
        placed = placed_in_slots(placed, self._index.meter_versions, self._settings.timezone)
        names = held_columns(self._naming)
        return placed.select(*(pl.col(name).cast(HELD_SCHEMA[name]) for name in names), *more)

    def _once(self, table: str, keys: pl.DataFrame, ask: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
        """Rows of some keys, from the last answer if that is about all of them: several ask within a turn."""
        if table in self._told:
            asked, rows = self._told[table]
            if keys.join(asked, on=keys.columns, how="anti").is_empty():
                return rows.join(keys, on=keys.columns, how="semi")
        rows = ask(keys)
        self._told[table] = keys, rows
        return rows

    @property
    def _of_held(self) -> list[str]:
        """Columns of `readings` that held ones are made of."""
        held = (name for name in held_columns(self._naming) if name in READINGS.schema)
        return list(dict.fromkeys(("meter_id", "source_offset", "log_offset", *held)))

    def _of(
        self,
        table: str,
        meters: pl.Series | None,
        days: Sequence[date],
        near: pl.Expr | None = None,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """The table's rows of some meters (codes; None: of all) on some days, of the lake and on their way into it.
        `near`: which of them, by time; what a row group's statistics rule out is not read. `columns`: None, all.
        """
        names = LAKE[table].names if columns is None else columns
        mine = pl.lit(True) if near is None else near
        if meters is not None:
            mine &= pl.col("meter_id").is_in(self._index.names.gather(meters.unique()).implode())
        with self._lake.held():
            kept = self._lake.scan(table, days).filter(mine).select(names).collect()
        of_days = pl.col("date").is_in(days)
        return pl.concat([kept, *(tables[table].filter(of_days & mine).select(names) for tables in self._pending)])

    def _dates(self, table: str) -> list[date]:
        coming = {day for tables in self._pending for day in tables[table]["date"].unique()}
        return sorted({*self._lake.dates(table), *coming})

    def _days_since(self, table: str, since: datetime) -> list[date]:
        first = pl.select(local_date(pl.lit(since - self._late, TIMESTAMP), self._settings.timezone)).item()
        return [day for day in self._dates(table) if day >= first]

    def _days(self, ends: pl.Series) -> list[date]:
        """Local dates of windows or blocks, and the days before them: one at midnight has its start edge there."""
        local = ends.unique().cast(TIMESTAMP).to_frame("end").select(local_date(pl.col("end"), self._settings.timezone))
        found = local.to_series().unique().drop_nulls().to_list()
        return sorted({day - timedelta(days=back) for day in found for back in (0, 1)})
