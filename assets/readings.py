"""Readings as batch work takes them: one for each meter and time, with the meter_versions that they are judged by.

Here: reading days of the lake in lots of bounded size. Not here: anything computed from readings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from assets.batch import Batch
from metering.calendar import day_bounds
from metering.load.windows import latest
from metering.readings.plausible import believed
from metering.readings.slots import seeming_interval_s, weighed
from metering.registry.index import MeterIndex
from metering.tables import LAKE, TIMESTAMP
from metering.tables.lake import WINDOW_S

LOT_ROWS = 3_000_000
_FEW = 4
"""Fewer readings than these tell nothing of a rhythm."""
_ORDER = ("source_partition", "log_offset", "source_row", "logged_at")
"""What tells which of several readings of a time counts."""


def lots(batch: Batch, days: Sequence[date]) -> Iterator[list[date]]:
    """`days` in order, cut so that a lot's readings fit in memory; a lot has at least one day."""
    return batch.lake.lots(days, LOT_ROWS)


def readings(batch: Batch, days: Sequence[date], columns: Sequence[str] = LAKE["readings"].names) -> pl.DataFrame:
    """Readings of consecutive local `days`, and of the 15 minutes (of meters with longer intervals: the day) before
    them, which hold the registers at the edge.

    One row for each (meter_id, ts), the one that counts: `ts`, `columns` of `readings`, `meter` (code) and `version`
    (row in the registry's meter_versions).
    """
    start, _ = day_bounds(days[0], batch.settings.timezone)
    versions = batch.registry.meter_versions
    long = versions.filter(pl.col("block_us") > WINDOW_S * 1_000_000)["meter_id"].unique()
    since = pl.col("ts") > start - timedelta(seconds=WINDOW_S + 1)
    if len(long):
        since |= pl.col("meter_id").is_in(long.implode())
    wanted = list(dict.fromkeys(("meter_id", "ts", *_ORDER, *columns)))
    placed = pl.coalesce("log_offset", "source_offset").alias("log_offset")
    with batch.lake.held():
        scan = batch.lake.scan("readings", [days[0] - timedelta(days=1), *days])
        rows = scan.filter(since).with_columns(placed).select(wanted).collect()
    return counted(rows, batch.registry.meter_versions).select("meter", "version", *dict.fromkeys(("ts", *columns)))


def believed_answers(batch: Batch, lot: Sequence[date], columns: Sequence[str]) -> pl.DataFrame:
    """`readings` with what they answer for (`slots.weighed`), and null for what is not believed of them."""
    rows = readings(batch, lot, columns)
    answers = weighed(rows, batch.registry.meter_versions, batch.settings.timezone)
    return believed(answers, batch.registry.meter_versions)


def near_day(answers: pl.DataFrame, day: date, timezone: str) -> pl.DataFrame:
    """Those of the local `day`, and of the 15 minutes before it."""
    start, end = day_bounds(day, timezone)
    return answers.filter(pl.col("slot_end").is_between(start - timedelta(minutes=15), end))


def readings_at(batch: Batch, at: datetime, columns: Sequence[str]) -> pl.DataFrame:
    """Readings that may answer for the slots that end `at`: stamped then, or a tolerance later; as `readings`."""
    versions = batch.registry.meter_versions
    latest_us = versions["tolerance_us"].max() or 0
    assert isinstance(latest_us, int)
    day = (at - timedelta(microseconds=1)).astimezone(ZoneInfo(batch.settings.timezone)).date()
    wanted = list(dict.fromkeys(("meter_id", "ts", *_ORDER, *columns)))
    placed = pl.coalesce("log_offset", "source_offset").alias("log_offset")
    with batch.lake.held():
        scan = batch.lake.scan("readings", [day, day + timedelta(days=1)])
        stamped = pl.col("ts").is_between(at, at + timedelta(microseconds=latest_us))
        rows = scan.filter(stamped).with_columns(placed).select(wanted).collect()
    return counted(rows, versions).select("meter", "version", *dict.fromkeys(("ts", *columns)))


def counted(rows: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    """The reading that counts for each meter and time, with `meter` (code) and `version` (row in `meter_versions`).

    Readings of meters that the registry does not know, or not at that time, are left out.
    """
    return latest(known(rows, meter_versions))


def known(rows: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    """Readings with `meter` (code) and `version`, without those of meters that the registry does not know then."""
    index = MeterIndex.of(meter_versions)
    coded = _known(rows.with_columns(index.code(rows["meter_id"])), "meter")
    return _known(coded.with_columns(index.version(coded["meter"], coded["ts"])), "version")


def _known(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    return rows.filter(pl.col(column).is_not_null()) if rows[column].has_nulls() else rows


def with_version(counted: pl.DataFrame, meter_versions: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Those readings with columns of their meter_versions."""
    return counted.with_columns(meter_versions[name].gather(counted["version"]) for name in names)


def copies(batch: Batch, day: date, counted: pl.DataFrame) -> pl.DataFrame:
    """Readings of the local `day` that came several times: meter_id, ts, copies. `counted`: those that count."""
    start, end = day_bounds(day, batch.settings.timezone)
    of_day = counted.filter(pl.col("ts") > start, pl.col("ts") <= end).height
    with batch.lake.held():
        scan = batch.lake.scan("readings", [day])
        if scan.select(pl.len()).collect().item() == of_day:
            return pl.DataFrame(schema={"meter_id": pl.String, "ts": TIMESTAMP, "copies": pl.UInt32})
        return scan.group_by("meter_id", "ts").agg(pl.len().alias("copies")).filter(pl.col("copies") > 1).collect()


def rhythms(counted: pl.DataFrame, meter_versions: pl.DataFrame, day: date, timezone: str) -> pl.DataFrame:
    """The interval that each meter seems to keep on the local `day`: meter_id, interval_s (registered), seems_s."""
    start, end = day_bounds(day, timezone)
    of_day = counted.filter(pl.col("ts") > start, pl.col("ts") <= end).select("meter", "version", "ts")
    seen = seeming_interval_s(of_day).filter(pl.col("n") > _FEW, pl.col("seeming_s").is_not_null())
    last = of_day.unique("meter", keep="last", maintain_order=True).select("meter", "version")
    named = seen.join(last, on="meter", how="left", maintain_order="left").rename({"seeming_s": "seems_s"})
    return named.with_columns(meter_versions[n].gather(named["version"]) for n in ("meter_id", "interval_s"))
