"""Validation and estimation of interval values: what was due, what came, and what may be drawn in between.

Here: slots due and received, and the status, reason and estimate of each meter's quarter-hour. Raw data is never
changed; every value that is not raw says why. Not here: sums over a customer's meters (`metering.load.curve`).
"""

from __future__ import annotations

from datetime import date

import polars as pl

from metering.calendar import day_bounds
from metering.settings import MeteringSettings
from metering.text import filled

RAW, VALIDATED, ESTIMATED, MISSING = "raw", "validated", "estimated", "missing"
STATUS_BY_RANK = (RAW, VALIDATED, ESTIMATED, MISSING)
"""From best to worst: a sum is as good as the worst of what it is made of."""

SLOT = ("n", "n_expected")
"""Readings of a window that came, and that were due."""
QUARTER_HOUR_MIN = 15
_VALUES = ("p_kw", "q_kvar", "energy_kwh")


def meters_on(meter_versions: pl.DataFrame, day: date, settings: MeteringSettings) -> pl.DataFrame:
    """Rows of the registry's meter_versions that are valid on the local `day`, one for each meter, sorted by meter_id.

    Validity is by whole local days, so a version is valid all day or not at all.
    """
    start, end = day_bounds(day, settings.timezone)
    valid = (pl.col("valid_from") < end) & (pl.col("valid_to").is_null() | (pl.col("valid_to") > start))
    return meter_versions.filter(valid).unique("meter_id", keep="last", maintain_order=True).sort("meter_id")


def expected_intervals(
    windows: pl.DataFrame, meter_versions: pl.DataFrame, day: date, settings: MeteringSettings
) -> pl.DataFrame:
    """Readings due from and received of each meter valid on the local `day`.

    Columns: meter_id, customer_no, expected (Int64, at least 1), received (Int64, at most expected). A window counts at
    most the readings due in it, so that too many in one hour do not hide a gap in another.
    """
    start, end = day_bounds(day, settings.timezone)
    seconds = int((end - start).total_seconds())
    counted = (
        windows.filter(pl.col("window_end") > start, pl.col("window_end") <= end)
        .group_by("meter_id")
        .agg(pl.min_horizontal("n", "n_expected").cast(pl.Int64).sum().alias("received"))
    )
    expected = pl.max_horizontal(pl.lit(1), pl.lit(seconds) // pl.col("interval_s")).cast(pl.Int64)
    return (
        meters_on(meter_versions, day, settings)
        .select("meter_id", "customer_no", expected.alias("expected"))
        .join(counted, on="meter_id", how="left", maintain_order="left")
        .with_columns(pl.min_horizontal(pl.col("received").fill_null(0), "expected"))
    )


def estimate(points: pl.DataFrame, linear_gap_min: int) -> pl.DataFrame:
    """`points` with `rank` (index in STATUS_BY_RANK) and `reason`, and short gaps drawn straight; any order of rows.

    `points` has one row for each `meter` (any integer) and `point` of a day, all points present; n, n_expected null
    where no reading came; p_kw, q_kvar, energy_kwh null where unknown. A gap is a run of points without p_kw. Gaps of
    at most `linear_gap_min` minutes with a known point on either side are estimated, p_kw and q_kvar on a straight
    line, energy_kwh [kWh] from p_kw; longer ones, and those at an edge of the day, stay null and missing. A window
    tells nothing of the registers across a gap, so estimates are not scaled to them.
    """
    known = points.filter(pl.col("p_kw").is_not_null())
    return pl.concat([_validated(known), _drawn(_gaps(points), known, linear_gap_min)])


def _validated(known: pl.DataFrame) -> pl.DataFrame:
    partial = pl.col("n") < pl.col("n_expected")
    return known.with_columns(
        pl.when(partial).then(1).otherwise(0).cast(pl.Int8).alias("rank"),
        pl.when(partial).then(filled("{} of {} readings", "n", "n_expected")).alias("reason"),
    )


def _gaps(points: pl.DataFrame) -> pl.DataFrame:
    """Points without power, with `first` and `length` (points) of the gap they are in."""
    missing = points.filter(pl.col("p_kw").is_null()).sort("meter", "point")
    begins = (pl.col("meter") != pl.col("meter").shift()) | (pl.col("point") != pl.col("point").shift() + 1)
    run = begins.fill_null(True).cum_sum()
    return missing.with_columns(run.alias("run")).with_columns(
        pl.col("point").first().over("run").alias("first"), pl.len().over("run").cast(pl.Int32).alias("length")
    )


def _drawn(gaps: pl.DataFrame, known: pl.DataFrame, linear_gap_min: int) -> pl.DataFrame:
    sides = {"before": pl.col("first") - 1, "after": pl.col("first") + pl.col("length")}
    for side, at in sides.items():
        values = known.select("meter", "point", *(pl.col(v).alias(f"{v}_{side}") for v in ("p_kw", "q_kvar")))
        gaps = gaps.with_columns(at.alias("at")).join(
            values, left_on=["meter", "at"], right_on=["meter", "point"], how="left", maintain_order="left"
        )
    minutes = pl.col("length") * QUARTER_HOUR_MIN
    bounded = pl.col("p_kw_before").is_not_null() & pl.col("p_kw_after").is_not_null()
    short = minutes <= linear_gap_min
    drawn = (bounded & short & _line("p_kw").is_finite()).fill_null(False)
    p_kw = pl.when(drawn).then(_line("p_kw"))
    return gaps.select(
        *(c for c in known.columns if c not in _VALUES),
        p_kw.alias("p_kw"),
        pl.when(drawn).then(pl.coalesce("q_kvar", _line("q_kvar"))).alias("q_kvar"),
        (p_kw * QUARTER_HOUR_MIN / 60).alias("energy_kwh"),
        pl.when(drawn).then(2).otherwise(3).cast(pl.Int8).alias("rank"),
        pl.when(drawn)
        .then(filled("no power for {} min: straight line between the neighbours", minutes))
        .when(short & bounded)
        .then(filled("no power for {} min, and no line between such neighbours", minutes))
        .when(short)
        .then(filled("no power for {} min, up to the edge of the day", minutes))
        .otherwise(filled("no power for {} min", minutes))
        .alias("reason"),
    ).select(*known.columns, "rank", "reason")


def _line(value: str) -> pl.Expr:
    before, after = pl.col(f"{value}_before"), pl.col(f"{value}_after")
    return before + (after - before) * (pl.col("point") - pl.col("first") + 1) / (pl.col("length") + 1)
