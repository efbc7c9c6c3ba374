"""What a materialisation tells in Dagster of each day: numbers that draw trends, and pictures.

Here: which figures of which tables. Not here: drawing (`picture`), the metadata of months (`charges`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import polars as pl

from assets.batch import Batch
from assets.picture import WHOLE, Drawn, curve_picture, day_pictures

Shown = dict[str, int | float | str]
"""Metadata of a materialisation: numbers that draw trends, and markdown."""

_WHOLE = pl.col("customer_no") == "*"


def _curve(rows: pl.DataFrame) -> Shown:
    counts = dict(rows["status"].value_counts().iter_rows())
    known = rows.height - counts.get("missing", 0)
    return {
        "completeness": known / rows.height,
        "energy_kwh": _sum(rows, "energy_kwh"),
        **{f"{status}_points": counts.get(status, 0) for status in ("estimated", "edited", "missing")},
    }


def _load(rows: pl.DataFrame) -> Shown:
    return _numbers(rows.filter(_WHOLE), "energy_kwh", "p_max_kw", "p_min_kw", "load_factor", "completeness")


def _accuracy(rows: pl.DataFrame) -> Shown:
    return _numbers(rows.filter(_WHOLE), "grid_accuracy", "mape_accuracy", "capacity_accuracy", "wape", "skill")


def _kpi(rows: pl.DataFrame) -> Shown:
    of_day = rows.filter(pl.col("scope") == "*", pl.col("period").str.len_chars() == 10)
    counts = dict(of_day["status"].value_counts().iter_rows())
    return {f"{status}_kpis": counts.get(status, 0) for status in ("missed", "met", "no_data")}


def _voltage(rows: pl.DataFrame) -> Shown:
    monitored, over, under = (_sum(rows, name) for name in ("monitored_min", "over_min", "under_min"))
    shown: Shown = {"monitored_min": monitored, "over_min": over, "under_min": under}
    return shown | ({"qualification_rate": (monitored - over - under) / monitored} if monitored else {})


def _reconciliation(rows: pl.DataFrame) -> Shown:
    return {name: int(_sum(rows, name)) for name in ("differing_rows", "stream_rows", "batch_rows")}


FIGURES: dict[str, Callable[[pl.DataFrame], Shown]] = {
    "daily_curve": _curve,
    "daily_load": _load,
    "forecast_accuracy": _accuracy,
    "kpi": _kpi,
    "voltage_daily": _voltage,
    "reconciliation": _reconciliation,
}
"""Of a table's rows of a day, which are some; each gives the same names every day, that Dagster can draw them."""


def seen_curve(batch: Batch, day: date) -> Shown:
    """The whole scope's day first, then its worst customer's."""
    curve = batch.marts.read(batch.tables["daily_curve"], [day])
    if curve.is_empty():
        return {}
    forecast = batch.marts.read(batch.tables["forecast"], [day])
    drawn = day_pictures(curve, batch.registry.customers_on(day), batch.settings, forecast)
    return {"curve": "\n\n".join(curve_picture(each, batch.settings.timezone) for each in drawn)}


def seen_forecast(batch: Batch, day: date) -> Shown:
    """The whole scope's day as it was forecast and as it came."""
    forecast = batch.marts.read(batch.tables["forecast"], [day]).filter(_WHOLE)
    curve = batch.marts.read(batch.tables["daily_curve"], [day], ("point", "window_end", "p_kw"))
    if forecast.is_empty() or curve.is_empty():
        return {}
    sums = curve.group_by("point", "window_end").agg(pl.col("p_kw").sum()).sort("point")
    drawn = Drawn(f"{WHOLE}  {day}", sums, forecast=forecast)
    return {"forecast": curve_picture(drawn, batch.settings.timezone)}


def _sum(rows: pl.DataFrame, name: str) -> float:
    return float(rows[name].sum())


def _numbers(rows: pl.DataFrame, *names: str) -> Shown:
    """Those that are known of the one row."""
    if rows.is_empty():
        return {}
    row = rows.row(0, named=True)
    return {name: float(row[name]) for name in names if row[name] is not None}
