"""Load put together: curves of groups, and load indices of days, months and years for customers and groups.

Here: sums of customers' curves, and indices of any period from the indices of its days or months. Not here: one
customer's curve (`curve`), its tariff periods and sliding demand (`indices`), a settlement's demand and its price.
"""

from __future__ import annotations

from datetime import date

import polars as pl

from metering.load.indices import CURVE, curve_indices
from metering.registry.scopes import CUSTOMER, groups_of, scopes_of
from metering.settings import LoadRateBands, MeteringSettings
from metering.tables.charges import BLOCK
from metering.tables.rollups import DAY, LOAD_BANDS, SCOPE_CURVE, load_indices_table
from metering.tables.schema import finite

_VALUES = ("p_kw", "q_kvar", "energy_kwh", "export_kwh")
_BY = ("scope_kind", "scope")


def scope_curves(curve: pl.DataFrame, customers: pl.DataFrame, day: date) -> pl.DataFrame:
    """SCOPE_CURVE of the local `day`.

    `curve`: DAILY_CURVE, other days are left out; `customers`: one row each. A value is the sum of those known, null
    where none is or where the sum is no finite number; a customer in no group (no feeder, say) counts for '*' alone.
    """
    values = [pl.when(value.count() > 0).then(value.sum()) for value in map(pl.col, _VALUES)]
    known = pl.col("p_kw").count().cast(pl.Int32).alias("customers")
    of_day = curve.filter(pl.col("date") == day)
    by_kind = groups_of(customers).partition_by("scope_kind", as_dict=True)  # one join with all would be twice as dear
    sums = [
        of_day.join(members, on="customer_no").group_by(*_BY, "point", "window_end").agg(*values, known)
        for members in by_kind.values()
    ]
    rows = pl.concat([SCOPE_CURVE.empty().drop("date"), *sums], how="diagonal_relaxed")
    return SCOPE_CURVE.conform(finite(rows), date=day).sort(SCOPE_CURVE.key)


def day_indices(
    curve: pl.DataFrame,
    scopes: pl.DataFrame,
    load: pl.DataFrame,
    customers: pl.DataFrame,
    day: date,
    settings: MeteringSettings,
) -> pl.DataFrame:
    """LOAD_INDICES of the local `day`: every customer with a curve, every group, the whole scope.

    `curve`: DAILY_CURVE; `scopes`: SCOPE_CURVE; `load`: DAILY_LOAD, for demand and energy by tariff period, which of a
    group are sums; `customers`: one row each.
    """
    names = tuple(name for name in CURVE if name != "customer_no")
    of_customers = curve.filter(pl.col("date") == day).select(
        pl.lit(CUSTOMER).alias("scope_kind"), pl.col("customer_no").alias("scope"), *names
    )
    points = pl.concat([of_customers, scopes.filter(pl.col("date") == day).select(*_BY, *names)])
    s = (pl.col("p_kw").pow(2) + pl.col("q_kvar").pow(2)).sqrt()
    powers = curve_indices(points.with_columns(s.alias("s_kva")), by=_BY)
    theirs = load.filter(pl.col("date") == day).join(scopes_of(customers), on="customer_no")
    energies = [f"energy_{period}_kwh" for period in settings.periods]
    summed = theirs.group_by(_BY).agg(pl.when(pl.col(e).count() > 0).then(pl.col(e).sum()).alias(e) for e in energies)
    demand = load.filter(pl.col("date") == day).select(
        pl.lit(CUSTOMER).alias("scope_kind"), pl.col("customer_no").alias("scope"), "demand_max_kw", "demand_basis"
    )
    rows = powers.join(summed, on=_BY, how="left").join(demand, on=_BY, how="left")
    block = pl.when(pl.col("p_max_kw").is_not_null()).then(pl.lit(BLOCK))
    of_day = rows.with_columns(
        pl.lit(1, pl.Int32).alias("days"),
        pl.coalesce("demand_max_kw", "p_max_kw").alias("demand_max_kw"),
        pl.coalesce("demand_basis", block).alias("demand_basis"),
        pl.col("load_factor").alias("daily_load_factor_mean"),
        pl.col("peak_valley_kw").alias("daily_peak_valley_max_kw"),
    )
    return _judged(of_day, customers, DAY, day, settings)


def period_indices(
    parts: pl.DataFrame, customers: pl.DataFrame, kind: str, period: date, settings: MeteringSettings
) -> pl.DataFrame:
    """LOAD_INDICES of a month from its days', or of a year from its months'; `period` is its first local day.

    `customers`: one row each, whose groups, capacity and contract count for the period. Of equal extremes the first
    counts. A group has rows where it had some in a part; its coincidence is over the customers that it has now.
    """
    energies = ("energy_kwh", "export_kwh", *(f"energy_{period}_kwh" for period in settings.periods))
    known, days = pl.col("known_points"), pl.col("days")
    highest, lowest, apparent, demand = (pl.col(n) for n in ("p_max_kw", "p_min_kw", "s_max_kva", "demand_max_kw"))
    factor = pl.col("daily_load_factor_mean")
    rows = (
        parts.sort(*_BY, "period")
        .group_by(_BY, maintain_order=True)
        .agg(
            pl.col("days", "points", "known_points").sum(),
            *(pl.when(pl.col(e).count() > 0).then(pl.col(e).sum()).alias(e) for e in energies),
            *(pl.col(f"{n}_at").get(pl.col(f"{n}{u}").arg_max(), null_on_oob=True) for n, u in _HIGHEST),
            pl.col("p_min_at").get(lowest.arg_min(), null_on_oob=True),
            pl.col("demand_basis").get(demand.arg_max(), null_on_oob=True),
            highest.max(),
            lowest.min(),
            apparent.max(),
            demand.max(),
            ((pl.col("p_mean_kw") * known).sum() / known.sum()).alias("p_mean_kw"),
            ((factor * days).sum() / days.filter(factor.is_not_null()).sum()).alias("daily_load_factor_mean"),
            pl.col("daily_peak_valley_max_kw").max(),
        )
    )
    return _judged(finite(rows), customers, kind, period, settings)


_HIGHEST = (("p_max", "_kw"), ("s_max", "_kva"))


def _judged(
    rows: pl.DataFrame, customers: pl.DataFrame, kind: str, period: date, settings: MeteringSettings
) -> pl.DataFrame:
    """Indices that follow from extremes and sums, contracts, and the sums of customers' own maxima."""
    p_max, p_min, s_max = pl.col("p_max_kw"), pl.col("p_min_kw"), pl.col("s_max_kva")
    loaded = pl.when(p_max > 0)
    capacity, contract, demand = pl.col("capacity_kva"), pl.col("contract_demand_kw"), pl.col("demand_max_kw")
    judged = (
        rows.join(_of_members(rows, customers), on=_BY, how="left")
        .with_columns(
            loaded.then(pl.col("p_mean_kw") / p_max).alias("load_factor"),
            loaded.then(p_min / p_max).alias("min_rate"),
            (p_max - p_min).alias("peak_valley_kw"),
            loaded.then((p_max - p_min) / p_max).alias("peak_valley_rate"),
            loaded.then(pl.col("energy_kwh") / p_max).alias("utilisation_hours"),
            pl.when(pl.col("sum_p_max_kw") > 0).then(p_max / pl.col("sum_p_max_kw")).alias("coincidence_factor"),
            pl.when(capacity > 0).then(s_max / capacity).alias("max_load_rate"),
            pl.when(capacity > 0).then((s_max - capacity).clip(lower_bound=0)).alias("over_capacity_kva"),
            pl.when(contract > 0).then(demand / contract).alias("demand_rate"),
            pl.when(contract > 0).then((demand - contract).clip(lower_bound=0)).alias("overrun_kw"),
        )
        .with_columns(_band(settings.load_rate).alias("load_band"), pl.col("customers").fill_null(0))
    )
    table = load_indices_table(settings.periods)
    return table.conform(finite(judged), period_kind=kind, period=period).sort(table.key)


def _of_members(rows: pl.DataFrame, customers: pl.DataFrame) -> pl.DataFrame:
    """Of each scope, what its customers with a curve have together: their number, maxima and contracts."""
    own = rows.filter(pl.col("scope_kind") == CUSTOMER).select(pl.col("scope").alias("customer_no"), "p_max_kw")
    capacity = pl.col("contract_capacity_kva") - pl.col("suspended_kva").fill_null(0)
    members = own.join(
        customers.select("customer_no", capacity.alias("capacity_kva"), "contract_demand_kw"),
        on="customer_no",
        how="left",
    )
    known = {"p_max_kw": "sum_p_max_kw", "capacity_kva": "capacity_kva", "contract_demand_kw": "contract_demand_kw"}
    scopes = pl.concat(
        [own.select("customer_no", scope_kind=pl.lit(CUSTOMER), scope="customer_no"), groups_of(customers)]
    )
    return (
        members.join(scopes, on="customer_no")
        .sort("customer_no")
        .group_by(_BY, maintain_order=True)
        .agg(
            pl.len().cast(pl.Int32).alias("customers"),
            *(pl.when(pl.col(n).count() > 0).then(pl.col(n).sum()).alias(to) for n, to in known.items()),
        )
    )


def _band(bands: LoadRateBands) -> pl.Expr:
    rate = pl.col("max_load_rate")
    oversized, normal, tight, overload = (pl.lit(name) for name in LOAD_BANDS)
    return (
        pl.when(rate > bands.overload_above)
        .then(overload)
        .when(rate > bands.tight_above)
        .then(tight)
        .when(rate < bands.oversized_below)
        .then(oversized)
        .when(rate.is_not_null())
        .then(normal)
    )
