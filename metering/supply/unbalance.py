"""Unbalance of voltages and currents: negative sequence, and what meters tell as unbalance, named apart.

Source: GB/T 15543 (IEC 61000-2-1 for the formula). Here: the formulae, and a meter's day against the limits. Not here:
which of them is an event (limit rules).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import polars as pl

from metering.calendar import day_bounds
from metering.settings import MeteringSettings, UnbalanceLimits, in_force
from metering.supply.phases import PHASES_OF_WIRING
from metering.tables.lake import CURRENTS, LINE_VOLTAGES, PHASES, VOLTAGES
from metering.tables.supply import FAIL, PASS, UNBALANCE_DAILY

JUDGED_BY = ("customer_no", "wiring", "nominal_v", "rated_a")
"""What `unbalance_daily` looks at of a meter's version."""
MEASURED = (*VOLTAGES, *LINE_VOLTAGES, *CURRENTS)
_P95 = 0.95
_SQRT3 = 3**0.5


def negative_sequence(a: pl.Expr, b: pl.Expr, c: pl.Expr) -> pl.Expr:
    """Negative sequence over positive sequence of three line-to-line voltages [V], as a fraction.

    L = (a^4 + b^4 + c^4) / (a^2 + b^2 + c^2)^2, eps = sqrt((1 - sqrt(3 - 6 L)) / (1 + sqrt(3 - 6 L))). Null where one
    is missing, where all are 0, and where the three make no triangle: such phasors do not exist.
    """
    squares = [side.pow(2) for side in (a, b, c)]
    total = squares[0] + squares[1] + squares[2]
    under_root = 3 - 6 * (squares[0].pow(2) + squares[1].pow(2) + squares[2].pow(2)) / total.pow(2)
    root = under_root.clip(0, 1).sqrt()
    return pl.when((total > 0) & (under_root >= -1e-9)).then(((1 - root) / (1 + root)).sqrt())


def meter_formula(values: Sequence[pl.Expr], least: pl.Expr) -> pl.Expr:
    """(max - min) / max of phases, as a fraction; null where one is missing, and where the largest is below `least`."""
    known = pl.all_horizontal(value.is_not_null() for value in values)
    highest = pl.max_horizontal(values)
    return pl.when(known & (highest > 0) & (highest >= least)).then((highest - pl.min_horizontal(values)) / highest)


def unbalance_daily(readings: pl.DataFrame, day: date, settings: MeteringSettings) -> pl.DataFrame:
    """UNBALANCE_DAILY: one row for each meter of several phases that was heard on the local `day`.

    `readings` are accepted readings, one for each (meter_id, ts), with MEASURED, JUDGED_BY of their meter's version,
    and what they answer for (`slots.weighed`: slot_end, slot_s); those of other days are left out. The 95 % value is of
    readings that answer for a slot, the largest left when 5 % of them are put aside; extremes are of all readings.
    """
    start, end = day_bounds(day, settings.timezone)
    quality = in_force(settings.voltage_quality, day)
    limits, interruption = quality.unbalance, quality.tenmin.interruption
    of_day = readings.filter(pl.col("slot_end") > start, pl.col("slot_end") <= end)
    parts = [_of_wiring(of_day, wiring, limits, interruption) for wiring in PHASES_OF_WIRING if wiring != "1p"]
    rows = pl.concat(parts).with_columns(_reason().alias("reason"), *_verdicts(limits))
    return UNBALANCE_DAILY.conform(rows, date=day).sort(UNBALANCE_DAILY.key)


def _of_wiring(readings: pl.DataFrame, wiring: str, limits: UnbalanceLimits, interruption: float) -> pl.DataFrame:
    phases = PHASES_OF_WIRING[wiring]
    lines = [pl.col(name) for name in LINE_VOLTAGES]
    nominal = pl.col("nominal_v")
    line_nominal = nominal * _SQRT3 if phases == PHASES else nominal
    energised = pl.max_horizontal(lines) >= line_nominal * interruption
    values = readings.filter(pl.col("wiring") == wiring).select(
        "meter_id",
        "customer_no",
        "slot_s",
        pl.all_horizontal(line.is_not_null() for line in lines).alias("told"),
        (pl.when(energised).then(negative_sequence(*lines)) * 100).alias("negative_sequence"),
        (meter_formula([pl.col(f"u{p}_v") for p in phases], nominal * interruption) * 100).alias("voltage"),
        (meter_formula([pl.col(f"i{p}_a") for p in phases], pl.col("rated_a") * limits.least_current) * 100).alias(
            "current"
        ),
    )
    sequence = pl.col("negative_sequence")
    answering = sequence.filter(pl.col("slot_s") > 0)
    return values.group_by("meter_id").agg(
        pl.col("customer_no").last(),
        answering.quantile(_P95, interpolation="equiprobable").alias("negative_sequence_p95_pct"),
        sequence.max().alias("negative_sequence_max_pct"),
        answering.count().cast(pl.Int32).alias("negative_sequence_values"),
        pl.col("voltage").max().alias("meter_formula_max_pct"),
        pl.col("current").max().alias("current_max_pct"),
        pl.col("told").any(),
    )


def _reason() -> pl.Expr:
    absent = "the meter does not tell the three line-to-line voltages; magnitudes of phases, or two of them, do not do"
    return (
        pl.when(~pl.col("told"))
        .then(pl.lit(absent))
        .when(pl.col("negative_sequence_max_pct").is_null())
        .then(pl.lit("its line-to-line voltages make no triangle, or there was no power"))
    )


def _verdicts(limits: UnbalanceLimits) -> list[pl.Expr]:
    judged = {"p95": limits.p95_pct, "max": limits.max_pct}
    return [
        pl.when(pl.col(f"negative_sequence_{name}_pct") <= most)
        .then(pl.lit(PASS))
        .when(pl.col(f"negative_sequence_{name}_pct") > most)
        .then(pl.lit(FAIL))
        .alias(f"{name}_verdict")
        for name, most in judged.items()
    ]
