"""Someone's table to readings, by a mapping: every row becomes a reading or a reject that says why.

Here: `from_text` and `from_frame` (cells with line numbers), `replay` (cells to readings). Not here: the mapping's own
checks (`mapping`), times (`timestamps`), reading and writing files.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from metering.errors import MappingError
from metering.tables.lake import MEASURED
from metering.tables.schema import TIMESTAMP
from metering.tabular.delimited import cut
from metering.tabular.mapping import Channel, Mapping
from metering.tabular.timestamps import in_file_order, read_stamps
from metering.text import filled

REJECTS = pl.Schema({"line": pl.Int64(), "reason": pl.String(), "detail": pl.String(), "text": pl.String()})
REASONS = {
    "too_few_cells": "the row has fewer cells than the header: cut off",
    "too_many_cells": "the row has more cells than the header",
    "broken_quoting": "a quotation mark is not closed, or stands in the middle of a cell",
    "missing_meter": "the meter's cell is empty, unreadable, or longer than 64",
    "bad_time": "the stamp does not fit timestamp.format",
    "absent_local_time": "the stamp names a local time that clocks skipped",
    "not_a_number": "a mapped cell is neither a finite number nor one of null_values",
    "negative_energy": "an interval energy is below 0: map it to the export register with a negative factor",
    "no_value": "every mapped cell is one of null_values",
    "bad_record": "a record that its format does not have, or not there",
    "no_data": "the file has no value there, or marks it as none",
    "no_quality": "no quality is given for values of which the file says that it varies",
    "other_quantity": "what is measured is no field of a reading, or is left out",
    "other_series": "the same stands in the file another way, which counts; or parts of a sum are missing",
    "unlinked": "the feed does not say whose readings these are, or what they measure",
    "cut_off": "the file has no end",
}
"""Why a row is rejected, in the order in which reasons are looked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """What a mapping reads of a table: `line`, `text`, `reason` and `detail` (null where the row is sound), and cells.

    Columns of cells are named by `cell_name`; they are String, or as typed in the file.
    """

    frame: pl.DataFrame


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """Result of `replay`.

    `readings`: meter_id, ts (UTC, interval end) and the mapped fields, in order of time; rows of equal time in file
    order. `rejects`: schema REJECTS, in order of lines. `gaps` counts silences longer than an interval,
    `missing` the readings that would fill them, `doubled` rows whose meter and ts stand in a later row again.
    """

    readings: pl.DataFrame
    rejects: pl.DataFrame
    rows: int
    corrected: int
    gaps: int
    missing: int
    doubled: int


def cell_name(column: str) -> str:
    return f"cell:{column}"


def from_text(text: str, mapping: Mapping) -> Cells:
    """Cells of delimited text. `line` is the physical line a row starts on, the header's line included.

    Raises MappingError naming the key of a column that the header does not have, or has twice.
    """
    table = cut(text.removeprefix("\ufeff"), mapping.delimiter)
    _check_columns(table.header, mapping)
    width, count = len(table.header), pl.col("cells").list.len()
    extra = pl.col("cells").list.slice(width).list.join("").str.strip_chars() != ""
    short = filled("{} cells of {}", count, pl.lit(width))
    reason = (
        pl.when(pl.col("problem").is_not_null())
        .then(pl.lit("broken_quoting"))
        .when(count < width)
        .then(pl.lit("too_few_cells"))
        .when(extra)
        .then(pl.lit("too_many_cells"))
    )
    where = {name: index for index, name in enumerate(table.header)}
    cells = [pl.col("cells").list.get(where[name], null_on_oob=True).alias(cell_name(name)) for name in mapping.columns]
    detail = pl.when(reason.is_not_null()).then(pl.coalesce("problem", short))
    return Cells(table.records.select("line", "text", reason.alias("reason"), detail.alias("detail"), *cells))


def from_frame(frame: pl.DataFrame, mapping: Mapping) -> Cells:
    """Cells of a typed table. `line` is the row's number, from 1."""
    _check_columns(tuple(frame.columns), mapping)
    names = list(mapping.columns)
    none = pl.lit(None, pl.String)
    return Cells(
        frame.select(
            pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("line"),
            pl.struct(names).struct.json_encode().alias("text"),
            none.alias("reason"),
            none.alias("detail"),
            *(pl.col(name).alias(cell_name(name)) for name in names),
        )
    )


def replay(cells: Cells, mapping: Mapping) -> Replayed:
    """Readings and rejects of a table. Nothing is lost: each row is in one of the two."""
    sound = cells.frame.filter(pl.col("reason").is_null())
    rows = _timed(_with_meter(sound, mapping), mapping)
    judged = _judged(_with_values(rows, mapping), mapping)
    good = judged.filter(pl.col("reason").is_null()).sort("ts", "line")
    broken = [frame.select(REJECTS.names()) for frame in (cells.frame, judged)]
    rejects = pl.concat([frame.filter(pl.col("reason").is_not_null()) for frame in broken]).match_to_schema(REJECTS)
    gaps, missing = _gaps(good, mapping.interval_s)
    later = _stands_again()
    return Replayed(
        readings=_readings(good, mapping),
        rejects=rejects.sort("line"),
        rows=cells.frame.height,
        corrected=int(good["corrected"].sum()),
        gaps=gaps,
        missing=missing,
        doubled=int(good.select(later.sum()).item()),
    )


def _check_columns(header: tuple[str, ...], mapping: Mapping) -> None:
    for column, key in mapping.columns.items():
        if header.count(column) != 1:
            problem = "stands twice in the file" if column in header else "is not in the file"
            raise MappingError(f"{key}: '{column}' {problem}, whose columns are {', '.join(header) or 'none'}")


def _with_meter(rows: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    if mapping.meter_column is None:
        return rows.with_columns(pl.lit(mapping.meter_id, pl.String).alias("meter_id"))
    meter = pl.col(cell_name(mapping.meter_column)).cast(pl.String).str.strip_chars()
    usable = meter.str.len_chars().is_between(1, 64) & ~meter.is_in(mapping.null_values) & ~meter.str.contains("\ufffd")
    return rows.with_columns(pl.when(usable).then(meter).alias("meter_id"))


def _timed(rows: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    """Rows with `ts` as the interval's end. Rows without a meter take no part in the order of a file."""
    columns = [pl.col(cell_name(name)) for name in mapping.timestamp.columns]
    stamp = columns[0] if len(columns) == 1 else pl.concat_str([c.cast(pl.String) for c in columns], separator=" ")
    timed = read_stamps(rows.with_columns(stamp.alias("stamp")), mapping)
    if mapping.timestamp.order == "file":
        timed = in_file_order(timed, mapping.interval_s, mapping.timezone)
    else:
        timed = timed.with_columns(pl.lit(False).alias("corrected"))
    shift = mapping.interval_s if mapping.timestamp.label == "start" else 0
    return timed.with_columns((pl.col("ts") + pl.duration(seconds=shift)).cast(TIMESTAMP))


def _with_values(rows: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    """Rows with each channel's value in its field, and `unread`: the first mapped cell that is not a number."""
    names = list(dict.fromkeys(name for channel in mapping.channels for name, _ in channel.weights))
    schema = rows.schema
    wrong = []
    for name in names:
        dtype, cell = schema[cell_name(name)], pl.col(cell_name(name))
        bad = ~_is_null(cell, dtype, mapping) & ~_number(cell, dtype, mapping).is_finite().fill_null(False)
        wrong.append(pl.when(bad).then(filled("{} is '{}'", pl.lit(name), cell.cast(pl.String))))
    return rows.with_columns(
        pl.coalesce(wrong).alias("unread"),
        *(_sum(channel, schema, mapping).alias(channel.field) for channel in mapping.channels),
    )


def _is_null(cell: pl.Expr, dtype: pl.DataType, mapping: Mapping) -> pl.Expr:
    text = cell.cast(pl.String).str.strip_chars() if dtype == pl.String else cell.cast(pl.String)
    return cell.is_null() | text.is_in(mapping.null_values)


def _number(cell: pl.Expr, dtype: pl.DataType, mapping: Mapping) -> pl.Expr:
    """A cell as Float64; null where it is null or not a number."""
    text = cell.cast(pl.String).str.strip_chars()
    if dtype == pl.String and mapping.decimal == ",":
        # a point is then no decimal sign: better to report it than to guess at thousands
        text = pl.when(~text.str.contains(".", literal=True)).then(text.str.replace(",", ".", literal=True))
    number = text.cast(pl.Float64, strict=False) if dtype == pl.String else cell.cast(pl.Float64, strict=False)
    return pl.when(~_is_null(cell, dtype, mapping)).then(number)


def _sum(channel: Channel, schema: pl.Schema, mapping: Mapping) -> pl.Expr:
    """Null when any of the cells is null: part of a sum is not the sum."""
    terms = [
        _number(pl.col(cell_name(name)), schema[cell_name(name)], mapping) * weight for name, weight in channel.weights
    ]
    return pl.sum_horizontal(terms, ignore_nulls=False)


def _judged(rows: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    fields = [channel.field for channel in mapping.channels]
    energies = [channel.field for channel in mapping.channels if channel.kind == "interval_energy"]
    negative = [
        pl.when(pl.col(name) < 0).then(filled("{} of the interval is {}", pl.lit(name), name)) for name in energies
    ]
    below = pl.coalesce(*negative, pl.lit(None, pl.String))
    stamp = pl.concat_str([pl.col(cell_name(c)).cast(pl.String) for c in mapping.timestamp.columns], separator=" ")
    reason = (
        pl.when(pl.col("meter_id").is_null())
        .then(pl.lit("missing_meter"))
        .when(pl.col("ts").is_null())
        .then(pl.col("time_problem"))
        .when(pl.col("unread").is_not_null())
        .then(pl.lit("not_a_number"))
        .when(below.is_not_null())
        .then(pl.lit("negative_energy"))
        .when(pl.all_horizontal(pl.col(fields).is_null()))
        .then(pl.lit("no_value"))
    )
    detail = (
        pl.when(pl.col("reason").str.ends_with("time"))
        .then(filled("'{}'", stamp))
        .otherwise(pl.coalesce("unread", below, pl.col("reason").replace(REASONS)))
    )
    return rows.with_columns(reason.alias("reason")).with_columns(
        pl.when(pl.col("reason").is_not_null()).then(detail).alias("detail")
    )


def _stands_again() -> pl.Expr:
    """True where a later row has the same meter and ts; rows sorted by ts and line."""
    return pl.int_range(pl.len()).reverse().over("meter_id", "ts") > 0


def _readings(good: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    order = ("meter_id", "ts", *MEASURED, "status")
    registers = [_register(channel.field) for channel in mapping.channels if channel.kind == "interval_energy"]
    summed = good.with_columns(_stands_again().alias("again")).with_columns(registers)
    whole = [pl.col("status").round().cast(pl.Int64)] if "status" in summed.columns else []
    return summed.with_columns(whole).select(name for name in order if name in summed.columns)


def _register(field: str) -> pl.Expr:
    """The cumulative register after each interval. It carries on over gaps and unknown energies, without guessing.

    Of rows with the same meter and ts only the last counts. Rounded to 1e-9, so that sums of decimals stay short.
    """
    energy, again = pl.col(field), pl.col("again")
    counted = pl.when(again).then(0.0).otherwise(energy).fill_null(0.0).cum_sum().over("meter_id")
    own = pl.when(again).then(energy).otherwise(0.0)
    return pl.when(energy.is_not_null()).then((counted + own).round(9)).alias(field)


def _gaps(good: pl.DataFrame, interval_s: int) -> tuple[int, int]:
    apart = pl.col("ts").diff().over("meter_id").dt.total_seconds() / interval_s
    silent = good.select("meter_id", "ts").unique().sort("ts").select(apart.alias("apart")).filter(pl.col("apart") > 1)
    missing = int((silent["apart"].ceil() - 1).sum()) if silent.height else 0
    return silent.height, missing
