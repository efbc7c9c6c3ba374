"""Pictures to be seen in the metadata of a materialisation: a day's curve, demand and charges of a month.

Not here: which of them an asset shows (`catalogue`, `charges`).
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from metering.charges.time_of_use import periods_of_day
from metering.settings import MeteringSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGEST = 10
"""So many customers are in a picture of a month."""


WHOLE = "全部客户 whole scope"
_BANDS = {"sharp": "C3", "peak": "C1", "flat": "C7", "valley": "C2", "deep_valley": "C0"}
_MARKED = (("raw", "C4"), ("estimated", "C1"), ("edited", "C5"), ("missing", "C3"))


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a picture of a day shows: `points` (window_end, p_kw, and status where it has one), of whom, beside what.

    `limits`: powers in kW or kVA by name. `periods`: window_end, period. `forecast`: target, p_kw, p10_kw, p90_kw.
    """

    title: str
    points: pl.DataFrame
    limits: Mapping[str, float] = field(default_factory=dict)
    periods: pl.DataFrame | None = None
    forecast: pl.DataFrame | None = None


def day_pictures(
    curve: pl.DataFrame, customers: pl.DataFrame, settings: MeteringSettings, forecast: pl.DataFrame
) -> list[Drawn]:
    """The whole scope's day, and its worst customer's: rows of daily_curve and of forecast, of one local day.

    The worst is who used most of its contract; where no contract is known, whose curve is least validated.
    """
    day = curve.item(0, "date")
    periods, named = periods_of_day(day, settings), customers.unique("customer_no", keep="last")
    by_tariff = named["tariff"].drop_nulls().value_counts().sort("count", "tariff", descending=[True, False])
    usual = by_tariff.item(0, "tariff") if by_tariff.height else ""
    sums = curve.group_by("point", "window_end").agg(pl.col("p_kw").sum()).sort("point")
    scope = Drawn(
        f"{WHOLE} ({curve['customer_no'].n_unique()})  {day}",
        sums,
        periods=periods.filter(pl.col("tariff") == usual),
        forecast=forecast.filter(pl.col("customer_no") == "*"),
    )
    ranked = (
        curve.group_by("customer_no")
        .agg(pl.col("p_kw").max().alias("p"), (pl.col("status") != "validated").mean().alias("doubtful"))
        .join(named, on="customer_no", how="left")
        .with_columns(used=pl.col("p") / pl.coalesce("contract_demand_kw", "contract_capacity_kva"))
        .sort("used", "doubtful", "p", "customer_no", descending=[True, True, True, False], nulls_last=True)
    )
    worst = ranked.row(0, named=True)
    limits = {
        "合同需量 contract demand, kW": worst["contract_demand_kw"],
        "合同容量 contract capacity, kVA": worst["contract_capacity_kva"],
    }
    of_worst = Drawn(
        f"{worst['customer_no']} {worst['name'] or ''}  {day}",
        curve.filter(pl.col("customer_no") == worst["customer_no"]).sort("point"),
        {name: float(value) for name, value in limits.items() if value is not None},
        periods.filter(pl.col("tariff") == (worst["tariff"] or "")),
        forecast.filter(pl.col("customer_no") == worst["customer_no"]),
    )
    return [scope, of_worst]


def curve_picture(drawn: Drawn, timezone: str) -> str:
    """Markdown with an embedded picture of a day: mean power, what it is measured against, and how far it is known."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.add_subplot()
    points = drawn.points
    power, ends = points["p_kw"].to_numpy(), points["window_end"]
    axes.stairs(power, range(points.height + 1), linewidth=1.4, color="C0", label="平均功率 mean power, kW")
    axes.stairs(power, range(points.height + 1), fill=True, alpha=0.15, color="C0")
    if drawn.periods is not None:
        _bands(axes, ends.to_frame().join(drawn.periods, on="window_end", how="left")["period"])
    if drawn.forecast is not None and drawn.forecast.height:
        told = ends.to_frame().join(drawn.forecast, left_on="window_end", right_on="target", how="left")
        middle = [n + 0.5 for n in range(points.height)]
        p, low, high = (
            told[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in ("p_kw", "p10_kw", "p90_kw")
        )
        axes.plot(middle, p, color="k", linewidth=1, linestyle="--", label="预测 forecast, kW")
        axes.fill_between(middle, low, high, color="k", alpha=0.12, linewidth=0, label="P10 - P90")
    for number, (name, value) in enumerate(drawn.limits.items()):
        axes.axhline(value, color="C3", linewidth=1.2, linestyle=("-.", ":")[number % 2], label=f"{name}: {value:g}")
    if "status" in points.columns:
        for status, colour in _MARKED:
            at = [n + 0.5 for n, found in enumerate(points["status"]) if found == status]
            if at:
                axes.plot(
                    at, [0.02] * len(at), "|", ms=9, mew=2.5, color=colour, transform=axes.get_xaxis_transform(),
                    label=f"{status}: {len(at)}",
                )  # fmt: skip
    clock = ends.dt.convert_time_zone(timezone).dt.strftime("%H:%M").to_list()
    shown = [n for n, text in enumerate(clock) if text.endswith(":00")][2::3]
    axes.set_xticks([n + 1 for n in shown], [clock[n] for n in shown])
    axes.set(xlim=(0, points.height), ylabel="kW", title=drawn.title)
    axes.grid(alpha=0.3)
    figure.legend(fontsize="x-small", loc="outside right upper")
    return _embedded(figure, drawn.title)


def _bands(axes: Axes, periods: pl.Series) -> None:
    """A strip of each time-of-use period along the top."""
    named = set()
    runs = periods.to_frame().with_row_index("n").group_by(pl.col("period").rle_id().alias("run"), "period")
    for row in runs.agg(pl.col("n").min().alias("start"), pl.len()).sort("start").to_dicts():
        period = row["period"]
        if period is not None:
            axes.axvspan(
                row["start"], row["start"] + row["len"], ymin=0.94, color=_BANDS.get(period, "C8"), alpha=0.55,
                linewidth=0, label=None if period in named else period,
            )  # fmt: skip
            named.add(period)


def demand_picture(demand: pl.DataFrame) -> str:
    """Markdown with an embedded picture: the largest demands of a month (DEMAND_MONTHLY) beside what is contracted."""
    from matplotlib.figure import Figure

    rows = demand.filter(pl.col("demand_kw").is_not_null()).sort("demand_kw", descending=True).head(LARGEST).reverse()
    figure = Figure(figsize=(7.2, 1.4 + 0.28 * max(rows.height, 1)), layout="constrained")
    axes = figure.add_subplot()
    names, places = rows["customer_no"].to_list(), list(range(rows.height))
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
    """Markdown with an embedded picture: what the largest customers' month (CHARGES_MONTHLY) costs, by component."""
    from matplotlib.figure import Figure

    due = charges.group_by("customer_no").agg(pl.col("amount").sum()).sort("amount", "customer_no", descending=True)
    names = due["customer_no"].head(LARGEST).reverse().to_list()
    figure = Figure(figsize=(7.2, 1.8 + 0.28 * max(len(names), 1)), layout="constrained")
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
    axes.set_yticks(list(range(len(names))), names)
    axes.set(xlabel="yuan", title=f"charges, {charges.item(0, 'month')}")
    figure.legend(fontsize="x-small", loc="outside right upper")
    return _embedded(figure, "charges of the month by component, largest customers first")


def _embedded(figure: Figure, said: str) -> str:
    """As SVG whose text is left to the reader's browser, which has Chinese type where this machine may have none."""
    from matplotlib import rc_context

    picture = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "kilowatch"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(picture, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(picture.getvalue().encode()).decode("ascii")
    return f"![{said}](data:image/svg+xml;base64,{encoded})"
