"""What meters froze at a month's first and last moment: its energy by rate, and the maximum demand of its settlement.

Here: differences of frozen registers, and whether they can stand for a customer. Not here: reading such records
(`metering.records`), what is charged (`monthly`).
"""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl

from metering.calendar import day_bounds
from metering.charges.settlement import demand_period, next_month
from metering.settings import MeteringSettings, in_force
from metering.tables.warehouse import MAIN
from metering.text import filled

REGISTER = "import_kwh"
_TOTALS = ("", "*", "total", "0")
_ENERGY = pl.Schema({"customer_no": pl.String(), "period": pl.String(), "frozen_kwh": pl.Float64()})
_DEMAND = pl.Schema({"customer_no": pl.String(), "frozen_kw": pl.Float64()})


def frozen_energy(
    rows: pl.DataFrame, meter_versions: pl.DataFrame, month: date, settings: MeteringSettings
) -> pl.DataFrame:
    """Energy of the month as frozen registers tell it: customer_no, period (null: all of it), frozen_kwh.

    `rows`: current frozen_registers. Of customers all of whose main meters have run all month, and froze their
    registers within `frozen_within_s` of both its ends; by rate where all of them did so by the same rates. A register
    that rolled over went once round; a step that a meter cannot have made says nothing.
    """
    start, end = day_bounds(month, settings.timezone)[0], day_bounds(next_month(month), settings.timezone)[0]
    main = _main_all_month(meter_versions, start, end)
    both = _at(rows, start, settings, month).join(
        _at(rows, end, settings, month), on=["meter_id", "rate"], nulls_equal=True, suffix="_end"
    )
    hours = (end - start) / timedelta(hours=1)
    step = pl.col("value_end") - pl.col("value")
    turned = pl.when(step < 0).then(step + pl.col("register_modulus")).otherwise(step)
    steps = (
        both.join(main.filter("whole"), on="meter_id")
        .with_columns(turned.alias("kwh"))
        .filter(pl.col("kwh").is_between(0, pl.col("step_most_kw") * hours))
    )
    meters = main.group_by("customer_no").agg(pl.col("meter_id").n_unique().alias("meters"))
    sums = (
        steps.group_by("customer_no", "rate")
        .agg(pl.col("kwh").sum().alias("frozen_kwh"), pl.len().alias("told"))
        .join(meters, on="customer_no")
    )
    whole = sums.filter(pl.col("rate").is_null(), pl.col("told") == pl.col("meters"))
    rated = sums.filter(pl.col("rate").is_not_null()).filter(
        (pl.col("told") == pl.col("meters")).all().over("customer_no")
    )
    by_rate = rated.join(_incomplete(rated, whole, month, settings), on="customer_no", how="anti")
    alone = whole.join(by_rate, on="customer_no", how="anti")
    found = pl.concat([by_rate, alone]).rename({"rate": "period"}).select(_ENERGY.names())
    return found.sort("customer_no", "period")


def _incomplete(rated: pl.DataFrame, whole: pl.DataFrame, month: date, settings: MeteringSettings) -> pl.DataFrame:
    """Customers whose rates do not add up to their total register: there the total counts."""
    tolerance = in_force(settings.settlement, month).frozen_tolerance
    sums = rated.group_by("customer_no").agg(pl.col("frozen_kwh").sum().alias("by_rate"))
    both = sums.join(whole.select("customer_no", "frozen_kwh"), on="customer_no")
    apart = (pl.col("by_rate") - pl.col("frozen_kwh")).abs()
    return both.filter(apart > tolerance * pl.col("frozen_kwh").abs() + 1).select("customer_no")


def frozen_demand(
    rows: pl.DataFrame, meter_versions: pl.DataFrame, month: date, settings: MeteringSettings
) -> pl.DataFrame:
    """Maximum demand that meters froze as the month's demand was reset: customer_no, frozen_kw.

    Of customers with one main meter for each source, which all froze it; the sources' demands are added, as far as the
    settings measure them apart.
    """
    end = day_bounds(demand_period(month, settings.settlement)[1], settings.timezone)[1]
    rules = in_force(settings.settlement, month)
    near = timedelta(seconds=rules.frozen_within_s)
    told = (
        rows.filter(pl.col("kind") == "settlement", pl.col("demand_kw").is_not_null())
        .filter(pl.col("at").is_between(end - near, end + near))
        .sort((pl.col("at") - end).abs(), "at")
        .unique("meter_id", keep="first")
        .select("meter_id", "demand_kw")
    )
    valid = (pl.col("valid_from") < end) & (pl.col("valid_to").is_null() | (pl.col("valid_to") >= end))
    main = meter_versions.filter(valid, pl.col("role") == MAIN).unique("meter_id", keep="last")
    found = (
        main.join(told, on="meter_id", how="left")
        .group_by("customer_no")
        .agg(
            pl.col("demand_kw").sum().alias("frozen_kw"),
            pl.col("demand_kw").null_count().alias("silent"),
            pl.len().alias("meters"),
            pl.col("source_no").n_unique().alias("sources"),
        )
        .filter(pl.col("silent") == 0, pl.col("meters") == pl.col("sources"))
    )
    if rules.sources == "together":
        found = found.filter(pl.col("sources") == 1)
    return found.select(_DEMAND.names()).sort("customer_no")


def frozen_findings(
    energy: pl.DataFrame, demand: pl.DataFrame, own: pl.DataFrame, month: date, settings: MeteringSettings
) -> pl.DataFrame:
    """Where our own sums are not what the meters froze: rule, severity, value, limit, detail of FINDINGS.

    `own`: customer_no, active_kwh and demand_kw of the month.
    """
    tolerance = in_force(settings.settlement, month).frozen_tolerance
    kwh = energy.group_by("customer_no").agg(pl.col("frozen_kwh").sum())
    frames = []
    for rule, unit, told, frozen, ours in (
        ("frozen_registers", "kWh", kwh, "frozen_kwh", "active_kwh"),
        ("frozen_demand", "kW", demand, "frozen_kw", "demand_kw"),
    ):
        off = (pl.col(ours) - pl.col(frozen)).abs()
        rows = told.join(own, on="customer_no").filter(off > tolerance * pl.col(frozen).abs() + 0.01)
        frames.append(
            rows.select(
                pl.lit(rule).alias("rule"),
                pl.lit("warning").alias("severity"),
                off.alias("value"),
                (tolerance * pl.col(frozen).abs()).alias("limit"),
                filled(
                    f"customer {{}} in {month:%Y-%m}: {{}} {unit} frozen by its meters, {{}} {unit} by its readings",
                    "customer_no",
                    pl.col(frozen).round(2),
                    pl.col(ours).round(2),
                ).alias("detail"),
            )
        )
    return pl.concat(frames)


def _main_all_month(meter_versions: pl.DataFrame, start: object, end: object) -> pl.DataFrame:
    """Main meters of the month; `whole`: of one chain of registers from its first moment to its last."""
    at = pl.lit(start, meter_versions.schema["valid_from"])
    until = pl.lit(end, meter_versions.schema["valid_from"])
    meets = (pl.col("valid_from") < until) & (pl.col("valid_to").is_null() | (pl.col("valid_to") > at))
    open_end = pl.col("valid_to").fill_null(pl.lit(end, meter_versions.schema["valid_from"]))
    return (
        meter_versions.filter(meets, pl.col("role") == MAIN)
        .sort("meter_id", "valid_from")
        .group_by("meter_id", maintain_order=True)
        .agg(
            pl.col("customer_no", "register_modulus", "step_most_kw").last(),
            (
                (pl.col("chain").n_unique() == 1)
                & (pl.col("customer_no").n_unique() == 1)
                & (pl.col("valid_from").min() <= at)
                & (open_end.max() >= until)
            ).alias("whole"),
        )
    )


def _at(rows: pl.DataFrame, at: object, settings: MeteringSettings, month: date) -> pl.DataFrame:
    """Import registers as frozen nearest to a moment: meter_id, rate (null: all), value."""
    rules = in_force(settings.settlement, month)
    near = pl.duration(seconds=rules.frozen_within_s)
    moment = pl.lit(at, rows.schema["at"])
    off = (pl.col("at") - moment).abs()
    nearest = (
        rows.filter(off <= near, pl.col("registers").is_not_null()).sort(off, "at").unique("meter_id", keep="first")
    )
    figures = nearest.select("meter_id", "registers").explode("registers").unnest("registers")
    name = pl.col("name")
    rate = (
        pl.when(name == REGISTER)
        .then(pl.lit(""))
        .when(name.str.starts_with(f"{REGISTER}."))
        .then(name.str.strip_prefix(f"{REGISTER}."))
        .when(~name.str.contains(r"kvarh|export"))
        .then(name)
    )
    period = pl.col("rate").replace(rules.rates) if rules.rates else pl.col("rate")
    known = figures.with_columns(rate.alias("rate")).filter(pl.col("rate").is_not_null())
    return known.select("meter_id", pl.when(~pl.col("rate").is_in(_TOTALS)).then(period).alias("rate"), "value").unique(
        ["meter_id", "rate"], keep="first", maintain_order=True
    )
