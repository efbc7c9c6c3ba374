"""A day's curve of one customer as a picture, to be seen in the metadata of its materialisation."""

from __future__ import annotations

import base64
import io

import polars as pl


def curve_picture(curve: pl.DataFrame, timezone: str) -> str:
    """Markdown with an embedded PNG: the mean power of the first customer of `curve` (rows of daily_curve, one day)."""
    from matplotlib.figure import Figure

    customer, day = curve.row(0)[:2]
    rows = curve.filter(pl.col("customer_no") == customer).sort("point")
    figure = Figure(figsize=(7.2, 2.7), dpi=80, layout="constrained")
    axes = figure.add_subplot()
    power = rows["p_kw"].to_numpy()
    axes.stairs(power, range(rows.height + 1), linewidth=1.4)
    axes.stairs(power, range(rows.height + 1), fill=True, alpha=0.15)
    hours = rows.filter(pl.col("window_end").dt.convert_time_zone(timezone).dt.strftime("%H%M").str.ends_with("00"))
    shown = hours.filter(pl.int_range(pl.len()) % 3 == 2)
    labels = shown["window_end"].dt.convert_time_zone(timezone).dt.strftime("%H:%M").to_list()
    axes.set_xticks(shown["point"].to_list(), labels)
    axes.set(xlim=(0, rows.height), ylabel="kW", title=f"{customer.encode('ascii', 'replace').decode()}  {day}")
    axes.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    encoded = base64.b64encode(png.getvalue()).decode("ascii")
    return f"![daily curve of {customer} on {day}](data:image/png;base64,{encoded})"
