"""How good a day's forecast was, against the daily curve.

Here: the accuracies of a day, side by side. Not here: which of them is a KPI, and its target.
"""

from __future__ import annotations

from datetime import date

import polars as pl

from metering.calendar import day_bounds
from metering.forecast.history import slot_of
from metering.load.curve import SCOPE, scope_curve
from metering.settings import MeteringSettings
from metering.tables.schema import finite
from metering.tables.warehouse import FORECAST_ACCURACY


def accuracy(
    forecast: pl.DataFrame,
    curve: pl.DataFrame,
    naive: pl.DataFrame,
    customers: pl.DataFrame,
    day: date,
    settings: MeteringSettings,
) -> pl.DataFrame:
    """FORECAST_ACCURACY of the local `day`, for each customer with a forecast of it and for the whole scope ('*').

    `forecast`: FORECAST; `curve`: DAILY_CURVE of the day; `naive`: DAILY_CURVE of the same weekday last week, the
    yardstick of `skill`, matched by local clock; rows of other days are left out of all three. Points compared are
    those with a forecast and an actual value Pa. Points with |Pa| under the settings' share (`left_out_below`) of the
    mean |Pa|, or 0, are left out of the ratios (grid_accuracy, mape_accuracy) and counted. Capacity of '*' is the sum
    over the customers in `curve`. Skill compares both forecasts on the points that the yardstick has too; null without
    any, and where the yardstick is without error. Null where nothing can be compared.
    """
    actual = _with_scope(curve, day).rename({"p_kw": "actual"})
    start, end = day_bounds(day, settings.timezone)
    points = (
        forecast.filter(pl.col("target") > start, pl.col("target") <= end)
        .select("customer_no", "target", "p_kw", "model")
        .join(actual, left_on=["customer_no", "target"], right_on=["customer_no", "window_end"], how="left")
        .with_columns(slot_of(pl.col("target"), settings.timezone).alias("slot"))
        .join(_yardstick(naive, day, settings), on=["customer_no", "slot"], how="left")
        .join(_capacity(curve, customers), on="customer_no", how="left")
        .sort("customer_no", "target")
    )
    rows = _scores(_errors(points, settings.forecast.left_out_below))
    return FORECAST_ACCURACY.conform(finite(rows), date=day).sort(FORECAST_ACCURACY.key)


def _with_scope(curve: pl.DataFrame, day: date) -> pl.DataFrame:
    of_day = curve.filter(pl.col("date") == day)
    columns = ("customer_no", "window_end", "p_kw")
    return pl.concat([of_day.select(columns), scope_curve(of_day).select(columns)])


def _yardstick(naive: pl.DataFrame, day: date, settings: MeteringSettings) -> pl.DataFrame:
    week_ago = pl.lit(day).dt.offset_by("-7d")
    of_day = naive.filter(pl.col("date") == week_ago)
    columns = ("customer_no", "window_end", "p_kw")
    slot = slot_of(pl.col("window_end"), settings.timezone).alias("slot")
    both = pl.concat([of_day.select(columns), scope_curve(of_day).select(columns)])
    return both.group_by("customer_no", slot).agg(pl.col("p_kw").mean().alias("naive"))


def _capacity(curve: pl.DataFrame, customers: pl.DataFrame) -> pl.DataFrame:
    capacities = customers.join(curve, on="customer_no", how="semi").select(
        "customer_no", pl.col("contract_capacity_kva").alias("capacity")
    )
    total = capacities.select(pl.lit(SCOPE).alias("customer_no"), pl.col("capacity").sum())
    return pl.concat([capacities, total])


def _errors(points: pl.DataFrame, left_out_below: float) -> pl.DataFrame:
    """Adds error [kW], naive_error [kW], and ratio = error / |Pa|, null for points left out of ratios."""
    size, error = pl.col("actual").abs(), pl.col("p_kw") - pl.col("actual")
    tiny = (size < left_out_below * size.mean().over("customer_no")) | (size == 0)
    return points.with_columns(
        error.alias("error"),
        (pl.col("naive") - pl.col("actual")).alias("naive_error"),
        pl.when(~tiny).then(error / size).alias("ratio"),
    )


def _scores(points: pl.DataFrame) -> pl.DataFrame:
    error, ratio, naive_error = pl.col("error"), pl.col("ratio"), pl.col("naive_error")
    rmse = error.pow(2).mean().sqrt()
    mae, mae_naive = error.filter(naive_error.is_not_null()).abs().mean(), naive_error.abs().mean()
    total = pl.col("actual").filter(error.is_not_null()).abs().sum()
    capacity = pl.col("capacity").first()
    return points.group_by("customer_no").agg(
        ((1 - ratio.pow(2).mean().sqrt()) * 100).alias("grid_accuracy"),
        ((1 - ratio.abs().mean()) * 100).alias("mape_accuracy"),
        pl.when(capacity > 0).then((1 - rmse / capacity) * 100).alias("capacity_accuracy"),
        pl.when(total > 0).then(error.abs().sum() / total * 100).alias("wape"),
        pl.when(mae_naive > 0).then(1 - mae / mae_naive).alias("skill"),
        error.count().cast(pl.Int32).alias("points"),
        (error.count() - ratio.count()).cast(pl.Int32).alias("left_out"),
        pl.col("model").unique().sort().str.join(" + ").alias("model"),
    )
