"""Pictures to be seen in the metadata of a materialisation: a day's curve, demand and charges of a month.

Not here: which of them an asset shows (`catalogue`, `charges`).
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 10
"""So many customers are in a picture of a month."""


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
    axes.set(xlim=(0, rows.height), ylabel="kW", title=f"{_ascii(customer)}  {day}")
    axes.grid(alpha=0.3)
    return _embedded(figure, f"daily curve of {customer} on {day}")


def demand_picture(demand: pl.DataFrame) -> str:
    """Markdown with an embedded PNG: the largest demands of a month (DEMAND_MONTHLY) beside what is contracted."""
    from matplotlib.figure import Figure

    rows = demand.filter(pl.col("demand_kw").is_not_null()).sort("demand_kw", descending=True).head(LARGEST).reverse()
    figure = Figure(figsize=(7.2, 1.4 + 0.28 * max(rows.height, 1)), dpi=80, layout="constrained")
    axes = figure.add_subplot()
    names, places = [_ascii(name) for name in rows["customer_no"]], list(range(rows.height))
    axes.barh(places, rows["demand_kw"].to_list(), height=0.7, label="maximum demand")
    contracts = [(n, kw) for n, kw in enumerate(rows["contract_demand_kw"]) if kw is not None]
    axes.scatter(
        [kw for _, kw in contracts], [n for n, _ in contracts], marker="|", s=220, color="C3", label="contract"
    )
    axes.set_yticks(places, names)
    axes.set(xlabel="kW", title=f"maximum demand, {demand.item(0, 'month')}")
    figure.legend(fontsize="x-small", loc="outside right upper")
    return _embedded(figure, "maximum demand of the month, largest first, and contract demand")


def charges_picture(charges: pl.DataFrame) -> str:
    """Markdown with an embedded PNG: what the largest customers' month (CHARGES_MONTHLY) costs, by component."""
    from matplotlib.figure import Figure

    due = charges.group_by("customer_no").agg(pl.col("amount").sum()).sort("amount", "customer_no", descending=True)
    names = due["customer_no"].head(LARGEST).reverse().to_list()
    figure = Figure(figsize=(7.2, 1.8 + 0.28 * max(len(names), 1)), dpi=80, layout="constrained")
    axes = figure.add_subplot()
    sums = charges.group_by("component", "customer_no").agg(pl.col("amount").sum().cast(pl.Float64))
    positive, negative = [0.0] * len(names), [0.0] * len(names)
    for component in charges["component"].unique(maintain_order=True):
        own = dict(sums.filter(component=component).select("customer_no", "amount").iter_rows())
        values = [own.get(name) or 0.0 for name in names]
        left = [p if v >= 0 else n for v, p, n in zip(values, positive, negative, strict=True)]
        axes.barh(range(len(names)), values, left=left, height=0.7, label=component)
        positive = [p + max(v, 0) for p, v in zip(positive, values, strict=True)]
        negative = [n + min(v, 0) for n, v in zip(negative, values, strict=True)]
    axes.set_yticks(list(range(len(names))), [_ascii(name) for name in names])
    axes.set(xlabel="yuan", title=f"charges, {charges.item(0, 'month')}")
    figure.legend(fontsize="x-small", loc="outside right upper")
    return _embedded(figure, "charges of the month by component, largest customers first")


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def _embedded(figure: Figure, said: str) -> str:
    png = io.BytesIO()
    figure.savefig(png, format="png")
    encoded = base64.b64encode(png.getvalue()).decode("ascii")
    return f"![{said}](data:image/png;base64,{encoded})"
