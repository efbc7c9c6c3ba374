"""Estimation: what stands in for values that are not known, and how it is made to agree with the registers.

Here: filling the quarter-hours of meters (domain handbook, section 9). Gaps of power up to `linear_gap_min` are drawn
straight between their neighbours, never across a power failure; longer ones follow the mean of reference days. Energy
that is not known is shared out by that power; where the registers on both sides are known, so that the sum over the
span between them is their difference. Not here: which values are believed (`validation`), corrections by hand
(`edits`).
"""

from __future__ import annotations

import polars as pl

from metering.settings import VeeSettings
from metering.tables.lake import REGISTERS
from metering.text import filled
from metering.vee.chains import end_of, steps, without_wrong
from metering.vee.expected import QUARTER_HOUR_MIN

LINEAR, REFERENCE, SHARED, PARTIAL, SPREAD, MISSING_RULE = (
    "linear", "reference_days", "register_difference", "partial", "spread", "missing"
)  # fmt: skip
"""How a value that is not measured came about."""
_HOUR_MIN = 60.0
_SIGNS = {"import_kwh": ("p", 1), "export_kwh": ("p", -1), "import_kvarh": ("q", 1), "export_kvarh": ("q", -1)}


def estimate(points: pl.DataFrame, reference: pl.DataFrame, vee: VeeSettings) -> pl.DataFrame:
    """`points` with unknown values filled in, and `rule` and `reason` of each that was; sorted by meter and quarter.

    `points`: consecutive quarter-hours of meters, one row each: `meter` (integer), `quarter` (number of the
    quarter-hour, Int64), `chain` (within which registers are continuous), `due_min`, `covered_min`, `p_kw`, `q_kvar`
    (mean over what came), `known` (whether the energies are measured), the energies (REGISTERS [kWh, kvarh]), the
    registers at its end (`end_of`), what their steps are believed by (`register_modulus`, `step_most_kw`,
    `step_tolerance`, `step_count_kwh`, `p_mean_kw`), `registered` (its energy is of registers), `dark` (no voltage),
    `spread` (readings reach beyond it), and `edge` (nothing but its end is looked at).
    `reference`: `meter`, `quarter`, `p_ref_kw`, `q_ref_kvar`, `days`, as of `reference_days`.

    An energy stays null where neither power, nor reference days, nor registers tell of it.
    """
    shaped = _shaped(without_wrong(points.sort("meter", "quarter")), reference, vee)
    for register in REGISTERS:
        shaped = _shared(shaped, register)
    known, given = pl.col("known"), pl.col("import_kwh_new").is_not_null()
    no_export = pl.when(given).then(pl.coalesce("export_kwh_new", 0.0))
    values = shaped.with_columns(
        pl.when(known).then("import_kwh").otherwise("import_kwh_new").alias("import_kwh"),
        pl.when(known).then("export_kwh").otherwise(no_export).alias("export_kwh"),
        *(pl.when(known).then(pl.coalesce(n, f"{n}_new")).otherwise(f"{n}_new").alias(n) for n in REGISTERS[2:]),
    )
    hours = QUARTER_HOUR_MIN / _HOUR_MIN
    net_q = pl.col("import_kvarh") - pl.col("export_kvarh")
    return values.with_columns(
        pl.when(known).then("p_kw").otherwise((pl.col("import_kwh") - pl.col("export_kwh")) / hours).alias("p_kw"),
        pl.when(known).then("q_kvar").otherwise(pl.coalesce(net_q / hours, "q_est")).alias("q_kvar"),
        pl.when(~known).then(_rule()).alias("rule"),
        pl.when(~known).then(_reason()).alias("reason"),
    ).select(*points.columns, "rule", "reason")


def gaps(points: pl.DataFrame) -> pl.DataFrame:
    """`points` (sorted by meter and quarter) with the neighbours of the gap of power that each lies in.

    Columns: `i_before`, `i_after` (quarters of the last known power up to, and the first from, a point), their
    `p_before`, `p_after`, `q_before`, `q_after`, `dark_gap` (no voltage at one of them), `gap_min` (null where one
    side is not known), and `silent_min` (its length as far as it is seen).
    """
    known = pl.col("p_kw").is_not_null()
    sides = {"before": "forward", "after": "backward"}
    beside = []
    for side, direction in sides.items():
        for name, column in (("i", "quarter"), ("p", "p_kw"), ("q", "q_kvar"), ("dark", "dark")):
            value = pl.when(known).then(pl.col(column))
            near = value.forward_fill() if direction == "forward" else value.backward_fill()
            beside.append(near.over("meter").alias(f"{name}_{side}"))
    return points.with_columns(beside).with_columns(
        ((pl.col("i_after") - pl.col("i_before") - 1) * QUARTER_HOUR_MIN).alias("gap_min"),
        (pl.col("dark_before").fill_null(False) | pl.col("dark_after").fill_null(False)).alias("dark_gap"),
        ((~known & ~pl.col("edge")).sum().over("meter", "i_before").cast(pl.Int64) * QUARTER_HOUR_MIN).alias(
            "silent_min"
        ),
    )


def reference_days(wanted: pl.DataFrame, history: pl.DataFrame, days: int) -> pl.DataFrame:
    """Mean power of the newest `days` reference days of each quarter-hour that is wanted.

    `wanted`: meter, quarter, date, slot (quarter-hour of the local clock), kind (of day). `history`: meter, date, slot,
    kind, p_kw, q_kvar of quarter-hours that were measured whole; days not before the wanted one are left out.
    Columns: meter, quarter, p_ref_kw, q_ref_kvar, days (how many there were).
    """
    past = wanted.join(history, on=["meter", "slot", "kind"], suffix="_past").filter(
        pl.col("date_past") < pl.col("date")
    )
    return (
        past.sort("date_past", descending=True)
        .group_by("meter", "quarter", maintain_order=True)
        .head(days)
        .group_by("meter", "quarter", maintain_order=True)
        .agg(
            pl.col("p_kw").mean().alias("p_ref_kw"),
            pl.col("q_kvar").mean().alias("q_ref_kvar"),
            pl.col("date_past").n_unique().alias("days"),
        )
    )


def _shaped(points: pl.DataFrame, reference: pl.DataFrame, vee: VeeSettings) -> pl.DataFrame:
    """With `method`, and `p_est`, `q_est`: the power by which unknown energy is shared out; null where none is."""
    rows = gaps(points).join(
        reference.select("meter", "quarter", "p_ref_kw", "q_ref_kvar", "days"),
        on=["meter", "quarter"],
        how="left",
        maintain_order="left",
    )
    silent = pl.col("p_kw").is_null()
    bounded = pl.col("p_before").is_not_null() & pl.col("p_after").is_not_null()
    drawn = silent & bounded & (pl.col("gap_min") <= vee.linear_gap_min) & ~pl.col("dark_gap") & _line("p").is_finite()
    followed = silent & ~drawn & ~pl.col("dark_gap") & pl.col("p_ref_kw").is_not_null()
    return rows.with_columns(
        pl.when(~silent & pl.col("spread"))
        .then(pl.lit(SPREAD))
        .when(~silent)
        .then(pl.lit(PARTIAL))
        .when(drawn.fill_null(False))
        .then(pl.lit(LINEAR))
        .when(followed)
        .then(pl.lit(REFERENCE))
        .alias("method")
    ).with_columns(
        _by_method("p_kw", _line("p"), "p_ref_kw").alias("p_est"),
        _by_method("q_kvar", pl.coalesce("q_kvar", _line("q")), "q_ref_kvar").alias("q_est"),
    )


def _by_method(measured: str, line: pl.Expr, reference: str) -> pl.Expr:
    method = pl.col("method")
    return (
        pl.when(method.is_in([SPREAD, PARTIAL]))
        .then(measured)
        .when(method == LINEAR)
        .then(line)
        .when(method == REFERENCE)
        .then(reference)
    )


def _line(value: str) -> pl.Expr:
    before, after = pl.col(f"{value}_before"), pl.col(f"{value}_after")
    at, width = pl.col("quarter") - pl.col("i_before"), pl.col("i_after") - pl.col("i_before")
    return before + (after - before) * at / width


def _shared(rows: pl.DataFrame, register: str) -> pl.DataFrame:
    """With `<register>_new`: energy of the quarter-hours that are not known, and `<register>_scaled`: by registers.

    A span runs from one reading of the register to the next. Unknown quarter-hours take what its difference leaves
    after the known ones, in proportion to the power that is estimated for them.
    """
    power, sign = _SIGNS[register]
    weight = pl.max_horizontal(pl.col(f"{power}_est") * sign, 0.0) * pl.col("due_min") / _HOUR_MIN
    span = ["meter", "span"]
    unknown = ~pl.col("known") | pl.col(register).is_null()
    read = pl.col(end_of(register)).is_not_null()
    rows = (
        rows.with_columns(read.cum_sum().shift(1, fill_value=0).over("meter").alias("span"), steps(rows, register))
        .with_columns(
            pl.col("step").last().over(span),
            pl.when(unknown).then(pl.when(pl.col(f"{power}_est").is_not_null()).then(weight)).alias("weight"),
        )
        .with_columns(
            # what has no shape of its own takes the mean of the others in its span
            pl.when(unknown & pl.col("step").is_not_null())
            .then(pl.coalesce("weight", pl.col("weight").mean().over(span), 1.0))
            .otherwise("weight")
            .alias("share"),
            pl.when(~unknown).then(register).sum().over(span).alias("measured"),
            pl.when(unknown).then("due_min").sum().over(span).alias("unknown_min"),
        )
        .with_columns(pl.when(unknown).then("share").sum().over(span).alias("shares"))
    )
    left = (pl.col("step") - pl.col("measured")).clip(lower_bound=0)
    fraction = pl.when(pl.col("shares") > 0).then(pl.col("share") / pl.col("shares"))
    evenly = pl.col("due_min") / pl.col("unknown_min")
    scaled = unknown & pl.col("step").is_not_null()
    shared = left * pl.coalesce(fraction, evenly)
    return rows.with_columns(
        pl.when(scaled).then(shared).otherwise("weight").alias(f"{register}_new"),
        scaled.alias(f"{register}_scaled"),
    ).drop("span", "weight", "step", "share", "measured", "unknown_min", "shares")


def _rule() -> pl.Expr:
    unknown = pl.col("import_kwh_new").is_null()
    return pl.when(unknown).then(pl.lit(MISSING_RULE)).otherwise(pl.coalesce("method", pl.lit(SHARED)))


def _reason() -> pl.Expr:
    silent = (
        pl.when(pl.col("gap_min").is_not_null())
        .then(filled("no power for {} min", "gap_min"))
        .otherwise(filled("no power for at least {} min", "silent_min"))
    )
    scaled = pl.when("import_kwh_scaled").then(pl.lit(", scaled to the registers")).otherwise(pl.lit(""))
    failure = pl.lit(": supply had failed, and nothing is estimated across that")
    method = pl.col("method")
    came = pl.col("covered_min").round(1)
    return (
        pl.when(pl.col("import_kwh_new").is_null() & pl.col("dark_gap") & pl.col("p_kw").is_null())
        .then(silent + failure)
        .when(pl.col("import_kwh_new").is_null())
        .then(silent)
        .when(method == SPREAD)
        .then(pl.lit("readings reach beyond the quarter-hour and are spread over it") + scaled)
        .when(method == PARTIAL)
        .then(filled("readings of {} of {} min stand for all of it", came, pl.col("due_min").round(1)) + scaled)
        .when(method == LINEAR)
        .then(silent + pl.lit(": straight line between the neighbours") + scaled)
        .when(method == REFERENCE)
        .then(silent + filled(": mean of {} reference days", "days") + scaled)
        .otherwise(silent + pl.lit(": the registers' difference, shared evenly"))
    )
