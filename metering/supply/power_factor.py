"""Power factor, its tariff adjustment, and the capacitors that would mend it.

Source: Measures for power-factor tariff adjustment, 1983. Here: the formulae, and sums of energy by customer and month.
Not here: the figures of the adjustment (settings), the adjustment base in yuan, and power-factor events (limit rules).
"""

from __future__ import annotations

from datetime import date
from itertools import pairwise

import polars as pl

from metering.calendar import month_of
from metering.settings import MeteringSettings, PowerFactorAdjustment, in_force
from metering.tables.charges import POWER_FACTOR_MONTHLY
from metering.tables.schema import finite


def power_factor(p: pl.Expr, q: pl.Expr) -> pl.Expr:
    """|P| / sqrt(P^2 + Q^2) of powers [kW, kvar] or energies [kWh, kvarh]; null at P = Q = 0, or where one is none."""
    larger = pl.max_horizontal(p.abs(), q.abs())
    known = p.is_finite() & q.is_finite()
    p, q = p / larger, q / larger  # scaled, so that squares of tiny values do not vanish
    return pl.when(known & (larger > 0)).then((p.abs() / (p.pow(2) + q.pow(2)).sqrt()).clip(0, 1))


def half_up(x: pl.Expr, decimals: int) -> pl.Expr:
    """`x` >= 0 rounded half up: 0.645 gives 0.65 although its nearest float may lie a hair below."""
    scale = float(10**decimals)
    return ((x * scale + 0.5 + 1e-9).floor() / scale).round(decimals)  # dividing by a literal may be off by a hair


def adjustment_pct(pf: pl.Expr, standard: pl.Expr, adjustment: PowerFactorAdjustment) -> pl.Expr:
    """Surcharge (+) or discount (-) in % of the adjustment base, for a power factor of 2 decimals; null where pf is.

    n = round(100 (standard - pf)) points short cost the steps' marginal rates; points beyond the standard earn one rate
    up to the pivot and another beyond it, at most the standard's cap (none for a standard without a cap).
    """
    pf_points, std_points = (pf * 100).round().cast(pl.Int32), (standard * 100).round().cast(pl.Int32)
    total = _surcharge_pct(std_points - pf_points, adjustment) - _discount_pct(pf_points, std_points, adjustment)
    return pl.when(pf.is_not_null() & standard.is_not_null()).then(total.round(4) + 0.0)  # + 0.0: never -0.0


def _surcharge_pct(short: pl.Expr, adjustment: PowerFactorAdjustment) -> pl.Expr:
    steps = sorted(adjustment.surcharge, key=lambda step: step.above)
    widths = [b.above - a.above for a, b in pairwise(steps)]
    parts = [(short - step.above).clip(0, width) * step.pct for step, width in zip(steps, [*widths, None], strict=True)]
    return pl.sum_horizontal(pl.lit(0.0), *parts)


def _discount_pct(pf_points: pl.Expr, std_points: pl.Expr, adjustment: PowerFactorAdjustment) -> pl.Expr:
    pivot = round(adjustment.discount_pivot * 100)
    below = (pl.min_horizontal(pf_points, pl.lit(pivot)) - std_points).clip(0)
    above = (pf_points - pl.max_horizontal(std_points, pl.lit(pivot))).clip(0)
    caps = {round(float(standard) * 100): cap for standard, cap in adjustment.discount_cap_pct.items()}
    cap = std_points.replace_strict(caps, default=0.0, return_dtype=pl.Float64)
    earned = below * adjustment.discount_below_pct + above * adjustment.discount_above_pct
    return pl.min_horizontal(earned, cap)


def capacitor_kvar(p_kw: pl.Expr, pf_now: pl.Expr, pf_target: pl.Expr) -> pl.Expr:
    """Capacitors needed [kvar] = P (tan phi1 - tan phi2); 0 where the target is met, null where a power factor is 0."""
    needed = p_kw.abs() * (_tan_phi(pf_now) - _tan_phi(pf_target))
    return needed.clip(lower_bound=0)


def _tan_phi(pf: pl.Expr) -> pl.Expr:
    return pl.when(pf > 0).then((1 - pf.pow(2)).clip(lower_bound=0).sqrt() / pf)


def kvar_needed(active_kwh: pl.Expr, kvarh: pl.Expr, standard: pl.Expr, hours: pl.Expr) -> pl.Expr:
    """What lifts the power factor of so many hours to the standard [kvar]: Q / t - P / t tan(phi of the standard).

    0 where the standard is met; null where either energy is not known, or no time has passed.

    `kvarh` is that of `reactive_kvarh`. The same as `capacitor_kvar` of mean power, from energies.
    """
    short = kvarh - active_kwh * (1 - standard.pow(2)).sqrt() / standard
    return pl.when(hours > 0, standard > 0).then((short / hours).clip(lower_bound=0))


def energies(days: pl.DataFrame, by: str = "customer_no") -> pl.DataFrame:
    """Active and reactive energy of each customer (or meter) over `days`, rows of METER_DAILY.

    Columns: `by` (customer_no or meter_id), active_kwh (drawn from the grid), fed_kwh (fed into it), import_kvarh,
    export_kvarh. Null where no day has a value, and where the sum is no finite number.
    """
    sums = days.group_by(by).agg(
        _sum(pl.col("energy_kwh")).alias("active_kwh"),
        _sum(pl.col("export_kwh")).alias("fed_kwh"),
        _sum(pl.col("import_kvarh")).alias("import_kvarh"),
        _sum(pl.col("export_kvarh")).alias("export_kvarh"),
    )
    return finite(sums)


def reactive_kvarh(reactive: str = "absolute") -> pl.Expr:
    """Q [kvarh] = |import| + |export| of the columns import_kvarh, export_kvarh: leading is penalised as lagging is.

    `reactive` = "net": |import - export|. Where only one of them is metered it counts alone; null where neither is.
    """
    imported, exported = pl.col("import_kvarh").abs(), pl.col("export_kvarh").abs()
    if reactive == "net":
        net = (imported.fill_null(0) - exported.fill_null(0)).abs()
        return pl.when(imported.is_not_null() | exported.is_not_null()).then(net)
    return pl.when(imported.is_not_null() | exported.is_not_null()).then(pl.sum_horizontal(imported, exported))


def _sum(values: pl.Expr) -> pl.Expr:
    return pl.when(values.count() > 0).then(values.sum())


def power_factor_monthly(
    days: pl.DataFrame, customers: pl.DataFrame, month: date, settings: MeteringSettings
) -> pl.DataFrame:
    """POWER_FACTOR_MONTHLY of the local month that the date `month` lies in, for customers with energy in it.

    `days`: METER_DAILY; days of other months are left out. PF = P / sqrt(P^2 + Q^2), rounded half up to 2 decimals,
    with P what is drawn from the grid (or that less what is fed into it) and Q of `reactive_kvarh`, as the settings in
    force have both. A running month goes on as its days so far.
    """
    first = month.replace(day=1)
    adjustment = in_force(settings.power_factor, first)
    theirs = days.filter(month_of(pl.col("date")) == first)
    hours = theirs.group_by("customer_no").agg((pl.col("date").n_unique() * 24.0).alias("hours"))
    q, standard = reactive_kvarh(adjustment.reactive), pl.col("pf_standard")
    p = pl.col("active_kwh")
    if adjustment.active == "net":
        p = (p - pl.col("fed_kwh").fill_null(0)).clip(lower_bound=0)
    pf = power_factor(p, q)
    rows = (
        energies(theirs)
        .join(hours, on="customer_no")
        .join(customers.select("customer_no", "pf_standard"), on="customer_no")
        .with_columns(
            half_up(pf, 2).alias("power_factor"),
            half_up(pf, 2).alias("projected_power_factor"),
            kvar_needed(p, q, standard, pl.col("hours")).round(3).alias("kvar_needed"),
        )
        .with_columns(adjustment_pct(pl.col("power_factor"), standard, adjustment).alias("adjustment_pct"))
    )
    return POWER_FACTOR_MONTHLY.conform(rows, month=first).sort(POWER_FACTOR_MONTHLY.key)
