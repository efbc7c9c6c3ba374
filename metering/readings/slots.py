"""Which slot of its meter's grid a reading answers for, and which windows that slot reaches into.

Here: slots, and the one reading that answers for each. Not here: what readings are worth (`metering.load.windows`),
what is believed of them (`plausible`).

A meter's grid is counted from local midnight; where a day is not a whole number of intervals long (clocks are put
forward or back) the nearest number of slots fills it, and the last one ends with the day. A slot is cut where its
version of the meter begins or ends. Windows that slots of a meter share are one block: the shortest time from local
midnight that holds whole slots and whole windows. A meter with whole slots in each window has a block a window.
"""

from __future__ import annotations

import polars as pl

from metering.calendar import instant
from metering.tables.lake import ESTIMATED, WINDOW_S
from metering.tables.schema import TIMESTAMP

WINDOW_US = WINDOW_S * 1_000_000
_SECOND_US = 1_000_000


def on_grid(readings: pl.DataFrame, meter_versions: pl.DataFrame) -> bool:
    """Whether each reading (`version`, `ts`) is stamped with its slot's end, and windows are made of whole slots."""
    grid_us = meter_versions["grid_us"].gather(readings["version"])
    return bool((readings["ts"].to_physical() % grid_us == 0).all())


def placed(readings: pl.DataFrame, meter_versions: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """`readings` (`version`, `ts`) with `slot_us`, the end of the slot that each answers for, and `end_us`, that of its
    block (epoch microseconds).
    """
    ts_us = readings["ts"].to_physical()
    if on_grid(readings, meter_versions):
        return readings.with_columns(ts_us.alias("slot_us"), _up(ts_us, WINDOW_US).alias("end_us"))
    version = readings["version"]
    at_us = ts_us - meter_versions["tolerance_us"].gather(version)
    _, slot_us = slots_at(at_us, version, meter_versions, timezone)
    _, end_us = blocks_at(slot_us, version, meter_versions, timezone)
    return readings.with_columns(slot_us.alias("slot_us"), end_us.alias("end_us"))


def slots_at(
    at_us: pl.Series, version: pl.Series, meter_versions: pl.DataFrame, timezone: str
) -> tuple[pl.Series, pl.Series]:
    """Start and end of the slots (start, end] that instants lie in [us]."""
    interval_us = meter_versions["interval_s"].gather(version).cast(pl.Int64) * _SECOND_US
    return _parts(at_us, interval_us, timezone)


def blocks_at(
    at_us: pl.Series, version: pl.Series, meter_versions: pl.DataFrame, timezone: str
) -> tuple[pl.Series, pl.Series]:
    """Start and end of the blocks (start, end] that instants lie in [us]."""
    block_us = meter_versions["block_us"].gather(version)
    if (block_us == WINDOW_US).all():
        end_us = _up(at_us, WINDOW_US)
        return end_us - WINDOW_US, end_us
    return _parts(at_us, block_us.fill_null(WINDOW_US), timezone)


def _up(at_us: pl.Series, step: int | pl.Series) -> pl.Series:
    return -(-at_us // step) * step


def _parts(at_us: pl.Series, length_us: pl.Series, timezone: str) -> tuple[pl.Series, pl.Series]:
    """Start and end of the part of its local day that each instant lies in. Local time is a whole number of windows
    from UTC, so parts that make up a window are the same everywhere.
    """
    end_us = _up(at_us, length_us)
    start_us = end_us - length_us
    long = (WINDOW_US % length_us != 0).arg_true()
    if len(long) == 0:
        return start_us, end_us
    start, end = pl.col("start_us"), pl.col("day_end_us")
    frame = pl.DataFrame([at_us.gather(long).alias("at_us"), length_us.gather(long).alias("length_us")])
    day = (pl.col("at_us") - 1).cast(TIMESTAMP).dt.convert_time_zone(timezone).dt.date()
    at, length = pl.col("at_us"), pl.col("length_us")
    cut = (
        frame.with_columns(
            instant(day, timezone).to_physical().alias("day_us"),
            instant(day.dt.offset_by("1d"), timezone).to_physical().alias("day_end_us"),
        )
        .with_columns(parts=((end - pl.col("day_us") + length // 2) // length).clip(lower_bound=1))
        .with_columns(part=pl.min_horizontal((at - pl.col("day_us") - 1) // length, pl.col("parts") - 1))
        .with_columns(start_us=pl.col("day_us") + pl.col("part") * length)
        .with_columns(end_us=pl.when(pl.col("part") == pl.col("parts") - 1).then(end).otherwise(start + length))
    )
    return start_us.scatter(long, cut["start_us"]), end_us.scatter(long, cut["end_us"])


def spans(readings: pl.DataFrame, meter_versions: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """`readings` (with `slot_us`) with `start_us` and `stop_us`, between which each answers: its slot, within its
    version's validity. A reading whose slot ended before answers for no time.
    """
    version = readings["version"]
    start_us, _ = slots_at(readings["slot_us"], version, meter_versions, timezone)
    begin, end = (meter_versions[name].to_physical().gather(version) for name in ("valid_from", "valid_to"))
    rows = readings.with_columns(start_us.alias("start_us"), begin.alias("begin_us"), end.alias("last_us"))
    rows = rows.with_columns(
        pl.max_horizontal("start_us", "begin_us").alias("start_us"),
        pl.min_horizontal("slot_us", "last_us").alias("stop_us"),
    )
    return rows.with_columns(pl.max_horizontal("start_us", "stop_us").alias("stop_us")).drop("begin_us", "last_us")


def pieces(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of `spans` once for each window that they reach into: `window_us`, its end, and `piece_us`, how much of the
    row lies in it.
    """
    first = (pl.col("start_us") // WINDOW_US + 1) * WINDOW_US
    after = -(-pl.col("stop_us") // WINDOW_US) * WINDOW_US + WINDOW_US
    there = rows.filter(pl.col("stop_us") > pl.col("start_us"))
    each = there.with_columns(pl.int_ranges(first, after, WINDOW_US).alias("window_us")).explode("window_us")
    piece = pl.min_horizontal("stop_us", "window_us") - pl.max_horizontal("start_us", pl.col("window_us") - WINDOW_US)
    return each.with_columns(piece.alias("piece_us"))


def estimates(readings: pl.DataFrame, meter_versions: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """Windows with slots whose reading has the bit ESTIMATED in its `status`: meter_id, window_end, `estimates`, how
    many. `readings`: one for each meter and ts, sorted.
    """
    marked = ((readings["status"] & ESTIMATED) != 0).fill_null(False)
    theirs = readings.filter(readings["meter"].is_in(readings["meter"].filter(marked).unique().implode()))
    rows = answering(placed(theirs, meter_versions, timezone)).filter((pl.col("status") & ESTIMATED) != 0)
    each = pieces(spans(rows, meter_versions, timezone))
    return each.group_by(
        meter_versions["meter_id"].gather(each["version"]).alias("meter_id"),
        pl.col("window_us").cast(TIMESTAMP).alias("window_end"),
    ).agg(pl.len().cast(pl.Int32).alias("estimates"))


def answering(readings: pl.DataFrame) -> pl.DataFrame:
    """The last reading of each slot. `readings`: one for each meter and ts, sorted, with `slot_us`."""
    if (readings["slot_us"] == readings["ts"].to_physical()).all():
        return readings
    return readings.filter(is_last("meter", "slot_us"))


def at_slots(readings: pl.DataFrame) -> pl.DataFrame:
    """`readings` (with `slot_us`) with the ends of their slots for `ts`, and when they were stamped as `stamp_us`."""
    return readings.with_columns(
        readings["ts"].to_physical().alias("stamp_us"), readings["slot_us"].cast(TIMESTAMP).alias("ts")
    )


def is_last(*key: str) -> pl.Expr:
    """Whether a row is the last of those with its key, which stand together."""
    return pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift(-1)) for name in key)


def seeming_interval_s(readings: pl.DataFrame) -> pl.DataFrame:
    """The interval that each meter seems to keep: the usual time between its stamps [s], in whole seconds.

    `readings`: `meter`, `ts`, one for each. Columns: meter, seeming_s (Int64; null of a single reading), n.
    """
    gaps = readings.sort("meter", "ts").with_columns(
        pl.col("ts").diff().over("meter").dt.total_microseconds().alias("us")
    )
    seconds = (pl.col("us").median() / _SECOND_US).round().cast(pl.Int64).alias("seeming_s")
    return gaps.group_by("meter", maintain_order=True).agg(seconds, pl.len().alias("n"))


def weighed(readings: pl.DataFrame, meter_versions: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """`readings` (one for each meter and ts, sorted) with what each answers for: `slot_s`, seconds, 0 of those that
    another of their slot outdoes; and `slot_end`.
    """
    rows = placed(readings, meter_versions, timezone).drop("end_us")
    slot_end = rows["slot_us"].cast(TIMESTAMP).alias("slot_end")
    if on_grid(readings, meter_versions):
        seconds = meter_versions["interval_s"].gather(rows["version"]).cast(pl.Float64).alias("slot_s")
        before = rows["slot_us"] <= meter_versions["valid_from"].to_physical().gather(rows["version"])
        return rows.drop("slot_us").with_columns(slot_end, seconds.set(before, 0.0) if before.any() else seconds)
    spanned = spans(rows, meter_versions, timezone)
    seconds_of_span = (pl.col("stop_us") - pl.col("start_us")) / _SECOND_US
    counts = pl.when(is_last("meter", "version", "slot_us")).then(seconds_of_span).otherwise(0.0)
    return spanned.with_columns(slot_end, counts.alias("slot_s")).drop("slot_us", "start_us", "stop_us")
