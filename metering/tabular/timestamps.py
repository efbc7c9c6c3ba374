"""Printed times to instants: formats, doubled and absent local hours, stamps that the file's order proves wrong.

Here: `read_stamps` and `in_file_order`, which `convert` calls in this order. Not here: what a row holds besides.
"""

from __future__ import annotations

import re
from datetime import time

import polars as pl

from metering.errors import MappingError
from metering.tables.schema import TIMESTAMP
from metering.tabular.mapping import EPOCHS, Mapping, Stamp

_WALL = pl.Datetime("us")
_ISO_WALL = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_OFFSET = re.compile(r"%([:#]?z|\+)")


def read_stamps(rows: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    """`rows` with `ts` and `time_problem` in place of `stamp`.

    `rows` has `line`, `meter_id` and `stamp` (String, or the datetime type of a typed file), in file order. `ts` is the
    instant the stamp names (UTC, as labelled) or null; `time_problem` is then bad_time or absent_local_time.
    Raises MappingError when the format reads no stamp at all.
    """
    parsed = rows.with_columns(_parsed(rows.schema["stamp"], mapping.timestamp))
    _check_format(parsed, mapping.timestamp)
    zone = mapping.timezone
    located = parsed.with_columns(
        _located("wall", zone, "earliest").alias("early"), _located("wall", zone, "latest").alias("late")
    )
    choice = (
        _second_pass(located) if mapping.timestamp.ambiguous == "infer" else mapping.timestamp.ambiguous == "latest"
    )
    return located.with_columns(
        pl.coalesce("instant", pl.when(choice).then("late").otherwise("early")).alias("ts"),
        pl.when(pl.col("instant").is_null() & pl.col("wall").is_null())
        .then(pl.lit("bad_time"))
        .when(pl.col("instant").is_null() & pl.col("early").is_null())
        .then(pl.lit("absent_local_time"))
        .alias("time_problem"),
    ).drop("stamp", "wall", "instant", "early", "late")


def in_file_order(rows: pl.DataFrame, interval_s: int, timezone: str) -> pl.DataFrame:
    """`rows` with `ts` corrected where the order of the file proves it wrong, and `corrected` saying where.

    `rows` has `meter_id` and `ts`, in file order; rows of one meter are one interval apart. A stamp is wrong when its
    neighbours are two intervals apart and it is not the one between; or when it lies outside its neighbours, which
    themselves go forward. It is replaced by the first of these that fits between them: the same local time on the
    next day (a day's last interval printed with the same date), one interval after the row before, one interval before
    the row after. A file's first and last stamps are judged by their two neighbours; a last one moves to the next
    day only if it is midnight. Other jumps stay: they are gaps.
    """
    step = pl.duration(seconds=interval_s)
    before, ts, after = pl.col("ts").shift(1), pl.col("ts"), pl.col("ts").shift(-1)
    second_before, second_after = pl.col("ts").shift(2), pl.col("ts").shift(-2)
    between = (after - before == 2 * step) & (ts != before + step)
    outside = (before < after) & ~((before < ts) & (ts < after))
    last = after.is_null() & (ts <= before) & (second_before.is_null() | (ts <= second_before))
    first = before.is_null() & (ts >= after) & (second_after <= ts) & (after < second_after)
    next_day, midnight = _next_day(ts, timezone), ts.dt.convert_time_zone(timezone).dt.time() == time()

    def fits(candidate: pl.Expr) -> pl.Expr:
        return (candidate > before) & ((candidate < after) | after.is_null())

    corrected = (
        pl.when(between)
        .then(before + step)
        .when(first)
        .then(after - step)
        .when((outside | (last & midnight)) & fits(next_day))
        .then(next_day)
        .when((outside | last) & fits(before + step))
        .then(before + step)
        .when(outside & fits(after - step))
        .then(after - step)
    )
    timed = rows.filter(ts.is_not_null()).with_columns(corrected.over("meter_id").alias("better"))
    better = rows.join(timed.select("line", "better"), on="line", how="left", maintain_order="left")
    return better.with_columns(
        pl.coalesce("better", "ts").alias("ts"), (pl.col("better") != ts).fill_null(False).alias("corrected")
    ).drop("better")


def _next_day(ts: pl.Expr, timezone: str) -> pl.Expr:
    wall = ts.dt.convert_time_zone(timezone).dt.replace_time_zone(None).dt.offset_by("1d")
    return wall.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")


def _parsed(dtype: pl.DataType, stamp: Stamp) -> list[pl.Expr]:
    """`wall` (local, without zone) or `instant` (UTC): whichever the stamp gives; both null where it is not a time."""
    cell = pl.col("stamp")
    no_wall, no_instant = pl.lit(None, _WALL).alias("wall"), pl.lit(None, TIMESTAMP).alias("instant")
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None:
            return [cell.cast(_WALL).alias("wall"), no_instant]
        return [no_wall, cell.dt.convert_time_zone("UTC").cast(TIMESTAMP).alias("instant")]
    if stamp.format in EPOCHS:
        scale = 1_000_000 if stamp.format == "epoch_s" else 1_000
        micros = cell.cast(pl.Int64, strict=False) * scale
        return [no_wall, micros.cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("instant")]
    text = cell.cast(pl.String).str.strip_chars()
    if stamp.format is None:
        iso = text.str.replace(" ", "T", literal=True)
        return [_wall(iso, _ISO_WALL).alias("wall"), _instant(iso, "%+").alias("instant")]
    if _OFFSET.search(stamp.format):
        return [no_wall, _instant(text, stamp.format).alias("instant")]
    return [_wall(text, (stamp.format,)).alias("wall"), no_instant]


def _instant(text: pl.Expr, format: str) -> pl.Expr:
    return text.str.to_datetime(format, strict=False, time_unit="us", time_zone="UTC")


def _wall(text: pl.Expr, formats: tuple[str, ...]) -> pl.Expr:
    """24:00 is the midnight that ends its date."""

    def parsed(stamps: pl.Expr) -> list[pl.Expr]:
        return [stamps.str.to_datetime(format, strict=False, time_unit="us") for format in formats]

    midnight = pl.when(text.str.contains(r"\b24:00")).then(text.str.replace("24:00", "00:00", literal=True))
    return pl.coalesce(*parsed(text), *(stamp.dt.offset_by("1d") for stamp in parsed(midnight)))


def _check_format(parsed: pl.DataFrame, stamp: Stamp) -> None:
    """A format that reads nothing is the mapping's mistake, not the rows'."""
    stamps = parsed.filter(pl.col("stamp").is_not_null())
    if stamps.is_empty() or stamps.select(pl.any_horizontal(pl.col("wall", "instant").is_not_null()).any()).item():
        return
    wanted = f"'{stamp.format}'" if stamp.format else "ISO 8601, which holds where none is given,"
    raise MappingError(f"timestamp.format: {wanted} reads none of the stamps; the first is '{stamps['stamp'][0]}'")


def _located(wall: str, zone: str, ambiguous: str) -> pl.Expr:
    # replace_time_zone takes "earliest" and "latest" as literals only in its type
    mode = pl.lit(ambiguous)
    return pl.col(wall).dt.replace_time_zone(zone, ambiguous=mode, non_existent="null").dt.convert_time_zone("UTC")


def _second_pass(located: pl.DataFrame) -> pl.Series:
    """Of doubled hours: true from where a meter's stamps go back; in a file that runs backwards, until there."""
    doubled = (pl.col("early") != pl.col("late")).fill_null(False)
    backwards = (pl.col("wall").drop_nulls().last() < pl.col("wall").drop_nulls().first()).over("meter_id")
    order = pl.int_range(pl.len())
    return (
        located.with_row_index("at")
        .with_columns(
            doubled.alias("doubled"), pl.when(backwards).then(-order).otherwise(order).alias("order").cast(pl.Int64)
        )
        .sort("order")
        .with_columns(
            (pl.col("wall").diff() <= pl.duration())
            .fill_null(False)
            .cum_sum()
            .over("meter_id", pl.col("wall").dt.date(), "doubled")
            .alias("passes")
        )
        .sort("at")
        .select((pl.col("doubled") & (pl.col("passes") > 0)).alias("second"))
        .to_series()
    )
