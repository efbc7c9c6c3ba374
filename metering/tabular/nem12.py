"""NEM12 and NEM13, Australia's meter data file format (AEMO MDFF): interval and accumulated metering data.

Here: reading a file, its records 100, 200, 300, 400, 500, 900. Not here: 250 records (`nem13`), suffixes, units and
quality (`mdff`), what becomes of the values (`interval_data`).
"""

from __future__ import annotations

import polars as pl

from metering.errors import MappingError
from metering.tabular.convert import REJECTS, Replayed
from metering.tabular.delimited import RECORDS, cut
from metering.tabular.field_options import FieldOptions, meter_name
from metering.tabular.interval_data import ENERGY, VALUES, reject, to_readings
from metering.tabular.mdff import (
    QUALITY,
    VARIABLE,
    cell_at,
    date_of,
    field_of,
    mark_of,
    midnight_of,
    undated,
    unit_of,
    why_no_field,
)
from metering.tabular.nem13 import registers_of
from metering.tabular.shape import Mapping
from metering.text import filled

_DAY_MIN = 1440
_OF_A_STREAM = ("300", "400", "500")
_KINDS = ("100", "200", *_OF_A_STREAM, "250", "550", "900")


def read_nem12(content: bytes, mapping: Mapping) -> Replayed:
    """Readings of a NEM12 or NEM13 file. A record that cannot be read is a reject.

    Raises MappingError when it is none, or when one meter_id would stand for several NMIs.
    """
    options = mapping.options
    records = _records(content.decode(mapping.encoding, errors="replace"))
    if not records["kind"].is_in(["200", "250"]).any() and not (records["kind"] == "100").any():
        raise MappingError("format: the file has no 100, 200 or 250 record, so it is neither NEM12 nor NEM13")
    bad = [_unreadable(records), _unended(records)]
    sound = (
        records.with_row_index("row")
        .with_columns(_head())
        .filter(pl.col("kind").is_in(_KINDS), pl.col("problem").is_null())
    )
    names = sorted({*_natives(sound, "200"), *_natives(sound, "250")})
    meters = pl.DataFrame(
        {"nmi": names, "meter_id": [meter_name(name, options, len(names)) for name in names]},
        schema={"nmi": pl.String, "meter_id": pl.String},
    )
    intervals, of_intervals = _intervals(sound, meters, options)
    registers, of_registers = registers_of(sound, meters, options)
    return to_readings(pl.concat([intervals, registers]), [*bad, *of_intervals, *of_registers])


def meters_in(content: bytes) -> list[str]:
    """The NMIs of a file, sorted."""
    records = _records(content.decode("utf-8-sig", errors="replace"))
    return sorted({*_natives(records, "200"), *_natives(records, "250")})


def looks_like(text: str) -> bool:
    """Whether a text begins as NEM12 or NEM13 do."""
    cells = [cell.strip().strip('"').upper() for cell in text.lstrip("\ufeff \t\r\n").partition("\n")[0].split(",")]
    return cells[:2] in (["100", "NEM12"], ["100", "NEM13"]) or (cells[0] in {"200", "250"} and len(cells) >= 9)


# --- records ---------------------------------------------------------------------------------------------------------


def _records(text: str) -> pl.DataFrame:
    """RECORDS and `kind`, the record indicator, with every line that has text."""
    table = cut("\n" + text.removeprefix("\ufeff"), ",") if text.strip() else None
    if table is None or not table.header:
        return pl.DataFrame(schema={**RECORDS, "kind": pl.String})
    first = {"line": [table.header_line], "text": [",".join(table.header)], "cells": [list(table.header)]}
    whole = pl.concat([pl.DataFrame({**first, "problem": [None]}, schema=RECORDS), table.records])
    return whole.select(
        pl.col("line") - 1,
        "text",
        pl.col("cells").list.eval(pl.element().str.strip_chars()),
        "problem",
        pl.col("cells").list.first().str.strip_chars().alias("kind"),
    )


def _unreadable(records: pl.DataFrame) -> pl.DataFrame:
    broken = records.filter(pl.col("problem").is_not_null())
    unknown = records.filter(pl.col("problem").is_null(), ~pl.col("kind").is_in(_KINDS))
    said = filled("'{}' is no record indicator", pl.col("kind").str.slice(0, 20))
    return pl.concat([reject(broken, "broken_quoting", pl.col("problem")), reject(unknown, "bad_record", said)])


def _unended(records: pl.DataFrame) -> pl.DataFrame:
    """A reject for each 100 record without a 900, and for a file that is cut off after the last line."""
    ends = records.filter(pl.col("kind").is_in(["100", "900"]))
    if ends.is_empty() or ends["kind"][-1] != "900":
        said = "the file does not end with a 900 record: it may have been cut off here"
        return reject(records.tail(1), "cut_off", pl.lit(said))
    return pl.DataFrame(schema=REJECTS)


def _head() -> pl.Expr:
    """The row of the record that a stream's records stand under: one that cannot be read may have been a 200 record."""
    of_a_stream = pl.col("kind").is_in(_OF_A_STREAM) & pl.col("problem").is_null()
    return pl.when(~of_a_stream.fill_null(False)).then(pl.col("row")).forward_fill().alias("head")


def _natives(records: pl.DataFrame, kind: str) -> list[str]:
    return [name for name in records.filter(pl.col("kind") == kind).select(cell_at(1)).to_series().unique() if name]


# --- NEM12: 200, 300, 400 --------------------------------------------------------------------------------------------


def _intervals(
    records: pl.DataFrame, meters: pl.DataFrame, options: FieldOptions
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Values of the 300 records, and rejects."""
    days, bad_days = _days(records, meters, options)
    ranges, bad_ranges = _ranges(records, days)
    values = _values(days).join(ranges, on=["row", "interval"], how="left", maintain_order="left")
    quality = pl.coalesce("range_quality", "quality")
    judged = values.with_columns(quality.alias("mark_of")).with_columns(
        mark_of(pl.col("mark_of"), options).alias("mark")
    )
    number = pl.col("cell").cast(pl.Float64, strict=False)
    value = number * pl.col("factor")
    why = (
        pl.when(pl.col("mark_of").str.slice(0, 1).str.to_uppercase() == VARIABLE)
        .then(pl.struct(reason=pl.lit("no_quality"), detail=pl.lit("quality V, yet no 400 record names them")))
        .when(pl.col("mark") == "reject")
        .then(pl.struct(reason=pl.lit("no_data"), detail=filled("quality {}", "mark_of")))
        .when(pl.col("cell").fill_null("") == "")
        .then(pl.struct(reason=pl.lit("no_data"), detail=pl.lit("the cell is empty")))
        .when(~value.is_finite().fill_null(False))
        .then(pl.struct(reason=pl.lit("not_a_number"), detail=filled("'{}'", "cell")))
        .when(value < 0)
        .then(pl.struct(reason=pl.lit("negative_energy"), detail=filled("{}", "cell")))
    )
    judged = judged.with_columns(why.alias("why"))
    good = judged.with_columns(pl.when(pl.col("why").is_null()).then(value).round(9).alias("value"))
    intervals = good.select(
        "line",
        "meter_id",
        "field",
        pl.lit(ENERGY).alias("kind"),
        pl.col("suffix").alias("stream"),
        pl.col("date").dt.epoch("d").cast(pl.Int64).alias("day"),
        (pl.col("midnight") + pl.duration(minutes=pl.col("interval") * pl.col("length_min"))).alias("ts"),
        (pl.col("length_min") * 60).alias("duration_s"),
        "value",
        (pl.col("mark") == "estimated").fill_null(False).alias("estimated"),
    ).cast(VALUES)
    return intervals, [bad_days, bad_ranges, _told(judged.filter(pl.col("why").is_not_null()))]


def _days(records: pl.DataFrame, meters: pl.DataFrame, options: FieldOptions) -> tuple[pl.DataFrame, pl.DataFrame]:
    """300 records with what their 200 record says of them; and rejects."""
    length = cell_at(8).cast(pl.Int64, strict=False)
    heads = records.filter(pl.col("kind") == "200").select(
        pl.col("row").alias("head"),
        cell_at(1).alias("nmi"),
        cell_at(4).fill_null("").str.to_uppercase().alias("suffix"),
        cell_at(7).fill_null("").alias("uom"),
        pl.when(length.is_between(1, _DAY_MIN) & (_DAY_MIN % length == 0)).then(length).alias("length_min"),
        field_of(cell_at(4).str.to_uppercase(), options).alias("field"),
        *unit_of(cell_at(7)),
        pl.lit(True).alias("headed"),
    )
    due = _DAY_MIN // pl.col("length_min")
    days = (
        records.filter(pl.col("kind") == "300")
        .join(heads, on="head", how="left", maintain_order="left")
        .join(meters, on="nmi", how="left", maintain_order="left")
        .with_columns(due.alias("n"))
        .with_columns(
            pl.col("cells").list.get(pl.col("n") + 2, null_on_oob=True).alias("quality"),
            date_of(cell_at(1)).alias("date"),
        )
    )
    days = days.with_columns(midnight_of(days["date"], options))
    marks = "".join({*QUALITY, VARIABLE, *(name[:1].upper() for name, _ in options.quality)} - {""})
    fits = pl.col("quality").str.contains(rf"(?i)^[{marks}]\d*$").fill_null(False)
    count = pl.col("cells").list.len()
    problem = (
        pl.when(pl.col("headed").is_null())
        .then(pl.lit("no 200 record stands before it"))
        .when(pl.col("meter_id").is_null())
        .then(pl.lit("the 200 record before it names no NMI"))
        .when(pl.col("length_min").is_null())
        .then(pl.lit("the interval length of the 200 record before it is no whole part of a day, in minutes"))
        .when(~fits)
        .then(
            filled(
                "its 200 record says {} minutes, so {} values and a quality are due; its {} cells are not that",
                "length_min", "n", count,
            )
        )
    )  # fmt: skip
    return _sifted(days.with_columns(why_no_field("suffix").alias("other"), problem.alias("wrong")))


def _sifted(days: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows without `wrong`, `other` or a missing date; and the rest, as rejects."""
    wrong = days.filter(pl.col("wrong").is_not_null())
    rest = days.filter(pl.col("wrong").is_null())
    other = rest.filter(pl.col("other").is_not_null())
    rest = rest.filter(pl.col("other").is_null())
    without_date = rest.filter(pl.col("midnight").is_null())
    rejects = [
        reject(wrong, "bad_record", pl.col("wrong")),
        reject(other, "other_quantity", pl.col("other")),
        undated(without_date, cell_at(1), "such as 20260301"),
    ]
    return rest.filter(pl.col("midnight").is_not_null()), pl.concat(rejects)


def _ranges(records: pl.DataFrame, days: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`row` (of the 300 record), `interval`, `range_quality` of the 400 records; and rejects."""
    owner = pl.when(pl.col("kind") == "300").then(pl.col("row")).forward_fill().over("head")
    first, last = (cell_at(index).cast(pl.Int64, strict=False) for index in (1, 2))
    events = (
        records.with_columns(owner.alias("owner"))
        .filter(pl.col("kind") == "400")
        .drop("row")
        .join(days.select(pl.col("row").alias("owner"), "n"), on="owner", how="left", maintain_order="left")
        .with_columns(first.alias("first"), last.alias("last"), cell_at(3).fill_null("").alias("range_quality"))
    )
    fits = (pl.col("first") >= 1) & (pl.col("first") <= pl.col("last")) & (pl.col("last") <= pl.col("n"))
    events = events.with_columns((fits & (pl.col("range_quality") != "")).fill_null(False).alias("fits"))
    said = (
        pl.when(pl.col("n").is_null())
        .then(pl.lit("no 300 record that could be read stands before it"))
        .otherwise(filled("it does not name intervals 1 to {} and a quality", "n"))
    )
    spread = (
        events.filter("fits")
        .select(
            pl.col("owner").alias("row"), pl.int_ranges("first", pl.col("last") + 1).alias("interval"), "range_quality"
        )
        .explode("interval")
        .unique(["row", "interval"], keep="last", maintain_order=True)
    )
    return spread, reject(events.filter(~pl.col("fits")), "bad_record", said)


def _values(days: pl.DataFrame) -> pl.DataFrame:
    """A row for each interval: `interval` from 1 and `cell`, with the columns of `days`; powers as energies."""
    hours = pl.when(pl.col("unit").is_in(["kw", "kvar"])).then(pl.col("length_min") / 60).otherwise(1.0)
    kept = ("row", "line", "text", "meter_id", "field", "suffix", "date", "midnight", "length_min", "quality", "factor")
    return (
        days.with_columns((pl.col("factor") * hours).alias("factor"))
        .select(
            *kept, pl.int_ranges(1, pl.col("n") + 1).alias("interval"), pl.col("cells").list.slice(2, "n").alias("cell")
        )
        .explode("interval", "cell")
    )


def _told(bad: pl.DataFrame) -> pl.DataFrame:
    """One reject for a record and reason, which names its intervals."""
    runs = (
        bad.sort("line", "interval", maintain_order=True)
        .with_columns(pl.col("why").struct.unnest())
        .with_columns(
            (pl.col("interval").diff() != 1).fill_null(True).cum_sum().over("line", "reason", "detail").alias("run")
        )
        .group_by("line", "reason", "detail", "run", maintain_order=True)
        .agg(pl.col("text").first(), pl.col("interval").min().alias("from"), pl.col("interval").max().alias("to"))
        .with_columns(
            pl.when(pl.col("from") == pl.col("to"))
            .then(filled("{}", "from"))
            .otherwise(filled("{} to {}", "from", "to"))
            .alias("span")
        )
        .group_by("line", "reason", "detail", maintain_order=True)
        .agg(pl.col("text").first(), pl.col("span").str.join(", "))
    )
    return runs.select("line", "reason", filled("intervals {}: {}", "span", "detail").alias("detail"), "text").cast(
        REJECTS
    )
