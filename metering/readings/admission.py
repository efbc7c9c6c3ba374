"""Which rows are readings and which are rejects, and why.

Here: the time of a row, the checks against registry and clock, the shape of a reject. Not here: parsing (`json_lines`,
`columnar`), who calls (`decode`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from metering.readings.payloads import ACCEPTED_SCHEMA, REJECTED_SCHEMA
from metering.registry.index import MeterIndex
from metering.tables.schema import TIMESTAMP
from metering.text import filled

LONGEST_METER_ID = 64
MENDABLE = ("unknown_meter", "future_time")
"""Reasons that registry, settings or clock have a part in; all others follow from the bytes alone, now and for ever."""

_RFC3339 = "%+"
_EARLIEST_US, _LATEST_US = 946_684_800_000_000, 4_133_980_799_999_999  # years 2000 to 2100: what a meter can mean
_FIRST_US, _LAST_US = -62_104_060_800_000_000, 253_370_764_799_999_000  # years 2 to 9998: dates everywhere
_MISTAKEN = {"seconds": 1e3, "microseconds": 1e-3, "nanoseconds": 1e-6}
"""Units that epoch milliseconds are taken for, and how many milliseconds one is."""
_ORIGIN = ("item", "source_offset", "source_row", "logged_at")
_ACCEPTED = [pl.col(name) for name in ACCEPTED_SCHEMA.names()]
_NO_PROBLEMS = pl.DataFrame(
    schema={"row": pl.UInt32, "reason": pl.String, "detail": pl.String, "meter_id": pl.String, "ts": TIMESTAMP}
)


def origin_of(
    item: pl.Series, offset: pl.Series | None, row: pl.Series | None, logged_ms: pl.Series | None
) -> pl.DataFrame:
    """Where each row stood: which `item` (line, message, row) of the content it came from. Without `offset` that is its
    offset too; without `row` each is the first at its offset; without `logged_ms` none has a log time.
    """
    count = len(item)
    rows = pl.Series([0], dtype=pl.Int32).new_from_index(0, count) if row is None else row
    logged = pl.Series([None], dtype=pl.Int64).new_from_index(0, count) if logged_ms is None else logged_ms
    offset = item.cast(pl.Int64) if offset is None else offset
    columns = (item.cast(pl.UInt32), offset, rows, logged.cast(pl.Datetime("ms", "UTC")).cast(TIMESTAMP))
    return pl.DataFrame([column.alias(name) for name, column in zip(_ORIGIN, columns, strict=True)])


def instant(rows: pl.DataFrame) -> pl.Series:
    """The reading's time [UTC, us] from `ts` (RFC 3339 with offset) or `ts_ms`; null: none that a meter can mean."""
    return _within(_instant(rows), _EARLIEST_US, _LATEST_US).cast(TIMESTAMP).alias("ts")


def as_told(rows: pl.DataFrame) -> pl.Series:
    """As `instant`, of any time that has a date."""
    return _within(_instant(rows), _FIRST_US, _LAST_US).cast(TIMESTAMP).alias("ts")


def _instant(rows: pl.DataFrame) -> pl.Series:
    """Epoch microseconds."""
    text, number = rows["ts"], rows["ts_ms"]
    if number.null_count() == rows.height:
        return _of_text(text)
    if text.null_count() == rows.height:
        return _of_number(number)
    return _of_text(text).fill_null(_of_number(number))


def _of_text(text: pl.Series) -> pl.Series:
    ts = text.str.to_datetime(format=_RFC3339, time_unit="us", time_zone="UTC", strict=False)
    if ts.null_count() > text.null_count():
        spaced = text.str.replace(r"^(\d{4}-\d{2}-\d{2}) ", "${1}T")
        ts = ts.fill_null(spaced.str.to_datetime(format=_RFC3339, time_unit="us", time_zone="UTC", strict=False))
    return ts.to_physical()


def _of_number(ms: pl.Series) -> pl.Series:
    return (ms * 1000).round().cast(pl.Int64, strict=False)


def _within(us: pl.Series, earliest: int, latest: int) -> pl.Series:
    """Null what is not."""
    first, last = us.min(), us.max()
    if isinstance(first, int) and isinstance(last, int) and not earliest <= first <= last <= latest:
        us = us.set(~us.is_between(earliest, latest).fill_null(False), None)
    return us


def with_times(problems: pl.DataFrame) -> pl.DataFrame:
    if problems.is_empty():  # what nearly every batch has
        return _NO_PROBLEMS
    rows = problems.select("row", "reason", "detail", "meter_id", ts="ts_text", ts_ms=pl.lit(None, pl.Float64))
    return problems.select("row", "reason", "detail", "meter_id", instant(rows))


def judge(
    rows: pl.DataFrame, origin: pl.DataFrame, index: MeterIndex, tolerance_s: int, now: datetime
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Accepted rows, and problems (row, reason, detail, meter_id, ts) of those that registry or time rule out."""
    ts = instant(rows)
    version = index.version(rows["meter"], ts)
    ahead_us = ts.to_physical() - _reference(origin, now).to_physical()
    most_us = tolerance_s * 1_000_000
    judged = rows.select_seq(pl.exclude("ts", "ts_ms")).hstack([ts, version, *origin])
    if version.null_count() == 0 and ahead_us.le(most_us).all():  # what nearly every batch is
        return judged.select_seq(_ACCEPTED), _NO_PROBLEMS
    early = (ahead_us > most_us).fill_null(False)
    good = version.is_not_null() & ~early
    bad = judged.with_columns(early.alias("early"), rows["ts_ms"], ts_text=rows["ts"]).filter(~good)
    bad = bad.with_columns(is_time=_of_text(bad["ts_text"]).is_not_null() | bad["ts_ms"].is_not_null())
    return judged.filter(good).select(_ACCEPTED), bad.select("row", *_why(tolerance_s), "meter_id", "ts")


def _reference(origin: pl.DataFrame, now: datetime) -> pl.Series:
    logged = origin["logged_at"]
    if logged.null_count() == 0:
        return logged
    return logged.fill_null(pl.Series([now], dtype=TIMESTAMP).item())


def _why(tolerance_s: int) -> list[pl.Expr]:
    no_meter = pl.col("meter_id").is_null() | (pl.col("meter_id") == "")
    cases: list[tuple[pl.Expr, str, pl.Expr]] = [
        (no_meter, "missing_meter", pl.lit("no meter_id")),
        (
            pl.col("meter_id").str.len_chars() > LONGEST_METER_ID,
            "wrong_type",
            pl.lit(f"meter_id is longer than {LONGEST_METER_ID} characters"),
        ),
        (pl.col("ts").is_null() & pl.col("is_time"), "implausible_time", _no_meter_means()),
        (
            pl.col("ts").is_null(),
            "missing_time",
            pl.coalesce(filled("ts '{}' is no usable RFC 3339 time with an offset", "ts_text"), pl.lit("no usable ts")),
        ),
        (
            pl.col("meter").is_null(),
            "unknown_meter",
            filled("meter '{}' is not in the registry", "meter_id"),
        ),
        (
            pl.col("version").is_null(),
            "unknown_meter",
            filled("meter '{}' is not valid at that time", "meter_id"),
        ),
        (
            pl.col("early"),
            "future_time",
            pl.lit(f"ts is more than {tolerance_s} s ahead of the time it was logged"),
        ),
    ]
    reason, detail = pl.lit("unparsable"), pl.lit("")
    for condition, name, text in reversed(cases):
        reason = pl.when(condition).then(pl.lit(name)).otherwise(reason)
        detail = pl.when(condition).then(text).otherwise(detail)
    return [reason.alias("reason"), detail.alias("detail")]


def _no_meter_means() -> pl.Expr:
    """What is odd about a time outside 2000 to 2100, and what it may have been meant to be."""
    ms = pl.col("ts_ms")
    number = pl.coalesce(ms.cast(pl.Int64, strict=False).cast(pl.String), ms.cast(pl.String))
    meant = pl.coalesce(
        *(
            pl.when((ms * factor * 1000).is_between(_EARLIEST_US, _LATEST_US)).then(pl.lit(unit))
            for unit, factor in _MISTAKEN.items()
        )
    )
    return pl.coalesce(
        filled("ts '{}' is not in the years 2000 to 2100", "ts_text"),
        filled("ts {} looks like epoch {}: send milliseconds", number, meant),
        filled("ts {} is no time in the years 2000 to 2100, in epoch milliseconds", number),
    )


def rejects(
    problems: pl.DataFrame,
    origin: pl.DataFrame,
    payload: Sequence[bytes],
    content_type: str,
    keys: Sequence[bytes | None] | None,
) -> pl.DataFrame:
    frame = problems.with_columns(
        pl.Series("payload", payload, dtype=pl.Binary),
        pl.lit(content_type).alias("content_type"),
        pl.Series("message_key", keys if keys is not None else [None] * len(payload), dtype=pl.Binary),
        *origin,
    )
    return frame.select(REJECTED_SCHEMA.names()).cast(REJECTED_SCHEMA)
