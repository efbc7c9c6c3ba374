"""NEM13, accumulated metering data: register reads, of Australia's meter data file format (AEMO MDFF).

Here: 250 records. Not here: what they share with NEM12 (`mdff`), whose records a file has (`nem12`).
"""

from __future__ import annotations

import polars as pl

from metering.tabular.field_options import FieldOptions
from metering.tabular.interval_data import REGISTER, VALUES, reject
from metering.tabular.mdff import cell_at, field_of, mark_of, midnight_of, unit_of, why_no_field
from metering.text import filled

DIRECTIONS = {"E": ("import_kwh", "import_kvarh"), "I": ("export_kwh", "export_kvarh")}
"""NEM13: by direction from and to the market."""


def registers_of(
    records: pl.DataFrame, meters: pl.DataFrame, options: FieldOptions
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Both register reads of each 250 record, on the scale of its quantity, and rejects."""
    direction = cell_at(7).str.to_uppercase()
    unit, factor = unit_of(cell_at(19))
    kind = pl.when(pl.col("unit").is_in(["kvarh", "kvar"])).then(1).otherwise(0)
    by_direction = pl.coalesce(
        *(
            pl.when((direction == letter) & (kind == at)).then(pl.lit(ways[at]))
            for letter, ways in DIRECTIONS.items()
            for at in (0, 1)
        )
    )
    reads = (
        records.filter(pl.col("kind") == "250")
        .with_columns(unit, factor, cell_at(19).fill_null("").alias("uom"), cell_at(1).alias("nmi"))
        .with_columns(cell_at(4).fill_null("").str.to_uppercase().alias("suffix"))
        .with_columns(field_of(pl.col("suffix"), options, by_direction).alias("field"))
        .join(meters, on="nmi", how="left", maintain_order="left")
        .with_columns(
            *(cell_at(index).cast(pl.Float64, strict=False).alias(name) for name, index in _READS.items()),
            *(cell_at(index).fill_null("").alias(f"{name}_mark") for name, index in _MARKS.items()),
        )
    )
    reads = reads.with_columns(
        _instants(reads, 9, options).alias("previous_at"), _instants(reads, 14, options).alias("current_at")
    )
    reads = reads.with_columns(_multiplier().alias("multiplier"))
    numbers = pl.all_horizontal(pl.col(name).is_finite().fill_null(False) & (pl.col(name) >= 0) for name in _READS)
    said = "it needs two register reads and a quantity, all numbers from 0 on"
    problem = (
        pl.when(pl.col("meter_id").is_null())
        .then(pl.lit("it names no NMI"))
        .when(~numbers)
        .then(pl.lit(said))
        .when(pl.col("multiplier").is_null())
        .then(pl.lit("its quantity does not come from its register reads, with any one multiplier"))
    )
    timed = pl.col("previous_at") < pl.col("current_at")
    powers = pl.col("unit").is_in(["kw", "kvar"])
    other = (
        pl.when(powers)
        .then(filled("a register cannot count '{}'", "uom"))
        .otherwise(why_no_field("direction or suffix"))
    )
    wrong = reads.with_columns(problem.alias("wrong"), other.alias("other"), timed.fill_null(False).alias("timed"))
    bad = wrong.filter(pl.col("wrong").is_not_null())
    rest = wrong.filter(pl.col("wrong").is_null())
    elsewhere = rest.filter(pl.col("other").is_not_null())
    rest = rest.filter(pl.col("other").is_null())
    rejects = [
        reject(bad, "bad_record", pl.col("wrong")),
        reject(elsewhere, "other_quantity", pl.col("other")),
        reject(
            rest.filter(~pl.col("timed")),
            "bad_time",
            pl.lit("its two reads are not at two times of 2000 to 2100, one after the other"),
        ),
    ]
    good = rest.filter("timed")
    parts, marked = [], []
    for name in ("previous", "current"):
        mark = mark_of(pl.col(f"{name}_mark"), options)
        at = good.with_columns(mark.alias("mark"), pl.col(name).alias("read"), pl.col(f"{name}_at").alias("ts"))
        fit = at.filter((pl.col("mark") != "reject").fill_null(True))
        marked.append(
            reject(
                at.filter(pl.col("mark") == "reject"), "no_data", filled(f"{name} read: quality {{}}", f"{name}_mark")
            )
        )
        parts.append(
            fit.select(
                "line",
                "meter_id",
                "field",
                pl.lit(REGISTER).alias("kind"),
                filled("{} {}", "suffix", cell_at(3).fill_null("")).alias("stream"),
                pl.col("ts").dt.epoch("d").cast(pl.Int64).alias("day"),
                "ts",
                pl.lit(0).alias("duration_s"),
                (pl.col("read") * pl.col("multiplier") * pl.col("factor")).round(9).alias("value"),
                (pl.col("mark") == "estimated").fill_null(False).alias("estimated"),
            ).cast(VALUES)
        )
    return pl.concat(parts), [*rejects, *marked]


_READS = {"previous": 8, "current": 13, "quantity": 18}
_MARKS = {"previous": 10, "current": 15}
_ROUNDING = 0.005


def _multiplier() -> pl.Expr:
    """What the register counts, times this, is the quantity: a whole number, as transformer ratios are; null: nothing.

    A register that went on past its last digit began again at 0. Without use there is nothing to tell it by: 1.
    """
    digits = cell_at(8).str.split(".").list.first().str.len_chars()
    step = pl.col("current") - pl.col("previous")
    step = pl.when(step < 0).then(step + 10.0 ** digits.cast(pl.Float64)).otherwise(step)
    ratio = pl.col("quantity") / step
    whole = ratio.round()
    near = (whole >= 1) & (
        (whole * step - pl.col("quantity")).abs() <= pl.max_horizontal(1.0, _ROUNDING * pl.col("quantity"))
    )
    return pl.when((step == 0) & (pl.col("quantity") == 0)).then(1.0).when((step > 0) & near).then(whole)


def _instants(reads: pl.DataFrame, index: int, options: FieldOptions) -> pl.Series:
    """Times such as 20260301093055, or without seconds or time, in standard time; null: none of 2000 to 2100."""
    cells = reads.select(cell_at(index).alias("cell"))
    cell = pl.col("cell")
    padded = pl.when(cell.str.contains(r"^\d{8}(\d{4}(\d{2})?)?$")).then(cell.str.pad_end(14, "0"))
    walls = cells.select(padded.str.to_datetime("%Y%m%d%H%M%S", strict=False, time_unit="us").alias("wall"))["wall"]
    dates = walls.dt.date()
    in_range = dates.dt.year().is_between(2000, 2100)
    known = dates.set(~in_range.fill_null(False), None)
    return midnight_of(known, options) + (walls - walls.dt.truncate("1d"))
