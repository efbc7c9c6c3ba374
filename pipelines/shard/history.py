"""What happened in windows older than a shard's state: read from the lake, and from what is on its way into it.

Here: finding a few meters' old readings and windows. Not here: what is done with them (`advance`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

import polars as pl

from metering.calendar import local_date, window_end
from metering.events.catalogue import check_frame
from metering.events.corrections import last_told
from metering.events.lifecycle import CHANGE_SCHEMA
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.supply.compliance import remembered
from metering.tables.lake import WINDOWS
from metering.tables.schema import TIMESTAMP
from pipelines.shard.state import ROW_SCHEMA
from sinks.lake.reader import LakeReader


class LakeHistory:
    """The past of a source's meters, before the batch at hand: from all its partitions, for meters move."""

    def __init__(
        self,
        lake: LakeReader,
        source: str,
        index: MeterIndex,
        settings: MeteringSettings,
        pending: Sequence[Mapping[str, pl.DataFrame]],
    ) -> None:
        self._lake = lake
        self._mine = pl.col("source") == source
        self._index = index
        self._settings = settings
        self._pending = pending

    def readings(self, wanted: pl.DataFrame) -> pl.DataFrame:
        """Readings (ROW_SCHEMA) of `meter` in windows ending at `window_end`, and at their start edges."""
        edges = wanted.with_columns(pl.col("window_end").dt.offset_by("-15m"))
        around = pl.concat([wanted.select("meter", "window_end"), edges.select("meter", "window_end")]).unique()
        rows = self._rows("readings", around).filter(self._mine)
        rows = rows.with_columns(self._index.code(rows["meter_id"]), window_end(pl.col("ts")).alias("window_end"))
        rows = rows.join(around, on=("meter", "window_end"), how="semi")
        rows = rows.with_columns(self._index.version(rows["meter"], rows["ts"]))
        return rows.filter(pl.col("version").is_not_null()).select(ROW_SCHEMA.names()).cast(ROW_SCHEMA)

    def not_taken(self, accepted: pl.DataFrame, partition: int) -> pl.DataFrame:
        """Those of `accepted` whose place in the partition does not stand in the readings yet, in order of time."""
        place = ("source_offset", "source_row")
        here = self._mine & (pl.col("source_partition") == partition)
        coming = [step["readings"].filter(here).select(place) for step in self._pending]
        days = accepted.select(local_date(pl.col("ts"), self._settings.timezone)).to_series().unique()
        near = pl.col("source_offset").is_between(accepted["source_offset"].min(), accepted["source_offset"].max())
        with self._lake.held():
            kept = self._lake.scan("readings", days.sort()).filter(here & near).select(place).collect()
        return accepted.join(pl.concat([kept, *coming]), on=place, how="anti").sort("ts", *place)

    def windows(self, wanted: pl.DataFrame) -> pl.DataFrame:
        """Current windows (columns of `windows`, with `meter` and `version`) of `meter`, `window_end`, if any."""
        rows = self._rows("windows", wanted)
        rows = rows.with_columns(self._index.code(rows["meter_id"]))
        rows = rows.join(wanted, on=("meter", "window_end"), how="semi")
        rows = rows.with_columns(self._index.version(rows["meter"], rows["window_end"]))
        newest = rows.filter(pl.col("version").is_not_null()).sort("revision")
        return newest.unique(("meter", "window_end"), keep="last").select("meter", "version", *WINDOWS.names)

    def readings_since(self, meters: pl.Series, since: datetime) -> pl.DataFrame:
        """All readings (ROW_SCHEMA) of the meters (codes) after `since`."""
        rows = self._of("readings", meters, self._days_since("readings", since))
        rows = rows.filter(self._mine & (pl.col("ts") > since))
        rows = rows.with_columns(self._index.code(rows["meter_id"]))
        rows = rows.with_columns(self._index.version(rows["meter"], rows["ts"]))
        return rows.filter(pl.col("version").is_not_null()).select(ROW_SCHEMA.names()).cast(ROW_SCHEMA)

    def newest(self, partition: int) -> datetime | None:
        """Highest time of all readings of a partition in the lake; None where there are none."""
        for day in reversed(self._lake.dates("readings")):  # a reading's folder is its own local date
            rows = self._lake.scan("readings", [day]).filter(self._mine & (pl.col("source_partition") == partition))
            found = rows.select(pl.col("ts").max()).collect().item()
            if isinstance(found, datetime):
                return found
        return None

    def all_since(self, since: datetime, partition: int) -> pl.DataFrame:
        """All readings (ROW_SCHEMA) in the lake after `since` of the meters whose newest came from the partition."""
        days = self._days_since("readings", since)
        rows = self._lake.scan("readings", days).filter(self._mine & (pl.col("ts") > since)).collect()
        rows = rows.filter(pl.col("source_partition").sort_by("ts").last().over("meter_id") == partition)
        rows = rows.with_columns(self._index.code(rows["meter_id"])).filter(pl.col("meter").is_not_null())
        rows = rows.with_columns(self._index.version(rows["meter"], rows["ts"]))
        return rows.filter(pl.col("version").is_not_null()).select(ROW_SCHEMA.names()).cast(ROW_SCHEMA)

    def violations(self, meters: pl.Series, since: datetime) -> pl.DataFrame:
        """What was told last (CHANGE_SCHEMA) of each violation of the meters (codes) that changed after `since`."""
        rows = self._of("violations", meters, self._days_since("violations", since))
        rows = rows.with_columns(self._index.code(rows["meter_id"]))
        rows = rows.with_columns(self._index.version(rows["meter"], rows["at"]))
        checks = check_frame(self._settings).select("code", "rule", "phase")
        told = rows.filter(pl.col("version").is_not_null()).join(checks, on=("rule", "phase"))
        return last_told(told.select(CHANGE_SCHEMA.names()).cast(CHANGE_SCHEMA))

    def days(self, wanted: pl.DataFrame) -> pl.DataFrame:
        """Sums (DAYS_SCHEMA) of all days of `meter` in `month`, from what was told of them last."""
        months = set(wanted["month"])
        coming = {day for step in self._pending for day in step["compliance"]["date"].unique()}
        days = [day for day in {*self._lake.dates("compliance"), *coming} if day.replace(day=1) in months]
        rows = self._of("compliance", wanted["meter"], days)
        rows = rows.with_columns(self._index.code(rows["meter_id"]), pl.col("date").dt.month_start().alias("month"))
        rows = rows.join(wanted, on=("meter", "month"), how="semi").sort("revision")
        rows = rows.unique(("meter", "date"), keep="last")
        rows = rows.with_columns(self._index.version(rows["meter"], rows["as_of"]))
        return remembered(rows.filter(pl.col("version").is_not_null()))

    def _days_since(self, table: str, since: datetime) -> list[date]:
        first = pl.select(local_date(pl.lit(since, TIMESTAMP), self._settings.timezone)).item()
        coming = {day for step in self._pending for day in step[table]["date"].unique()}
        return sorted(day for day in {*self._lake.dates(table), *coming} if day >= first)

    def _rows(self, table: str, wanted: pl.DataFrame) -> pl.DataFrame:
        """The table's rows of the wanted meters on the wanted windows' days."""
        return self._of(table, wanted["meter"], self._days(wanted))

    def _of(self, table: str, meters: pl.Series, days: Sequence[date]) -> pl.DataFrame:
        """The table's rows of some meters (codes) on some days, of the lake and on their way into it."""
        names = pl.Series(self._index.ids.categories).gather(meters.unique()).implode()
        mine = pl.col("meter_id").is_in(names)
        with self._lake.held():
            kept = self._lake.scan(table, days).filter(mine).collect()
        return pl.concat([kept, *(step[table].filter(pl.col("date").is_in(days) & mine) for step in self._pending)])

    def _days(self, wanted: pl.DataFrame) -> list[date]:
        ends = wanted.select(local_date(pl.col("window_end").cast(TIMESTAMP), self._settings.timezone)).to_series()
        found = ends.unique().drop_nulls().to_list()
        # A window at midnight has its start edge in the day before.
        return sorted({day - timedelta(days=back) for day in found for back in (0, 1)})
