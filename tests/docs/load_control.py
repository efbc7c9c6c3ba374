"""The picture of docs/load-control.md: one simulated customer's day under a plan. `python -m tests.docs.load_control`.

Not here: any figure that the core does not make.
"""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from metering.calendar import day_bounds, local_date
from metering.control.baseline import baselines, customer_load
from metering.control.execution import executed
from metering.control.plans import ANSWERS, holding, targets
from metering.load.windows import latest, windows
from metering.readings.decode import Lines
from metering.records.current import broadcast
from metering.records.decode import decode_records
from metering.registry.index import MeterIndex
from metering.registry.meter_versions import meter_versions
from metering.settings import MeteringSettings
from metering.simulation import draw_fleet, shed_of, simulate
from metering.tables.records import PLANS
from orchestration.home.settings import load_settings

PICTURE = Path(__file__).parents[2] / "docs" / "load-control.svg"
START, DAYS, CUSTOMER, INTERVAL_S = date(2026, 3, 2), 10, "100001", 900
ACTUAL, BASELINE, CAP = "#1f6f8b", "#8a8a8a", "#c0392b"


def day_under_plan(settings: MeteringSettings) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """A customer's power on the day of the plan, its baseline, and LOAD_CONTROL."""
    fleet = draw_fleet(12, 1, INTERVAL_S, date(2025, 1, 1), settings)
    shed = shed_of(fleet, START, DAYS, settings)
    assert shed is not None
    versions = meter_versions(fleet.customers, fleet.meters, settings)
    index = MeterIndex.of(versions)
    readings = pl.concat(part.readings for part in simulate(fleet, START, DAYS, INTERVAL_S, settings, shed))
    coded = readings.with_columns(index.code(readings["meter_id"]))
    placed = coded.with_columns(index.version(coded["meter"], coded["ts"]), log_offset=pl.int_range(pl.len()))
    load = customer_load(_closed(placed, versions, settings), versions).filter(pl.col("customer_no") == CUSTOMER)
    rows = decode_records(PLANS, Lines("\n".join(map(json.dumps, shed.plans)).encode())).accepted
    rows = PLANS.table.conform(
        rows.with_columns(date=local_date(pl.col("issued_at"), settings.timezone)), source="plans"
    )
    found = targets(broadcast(rows, PLANS), pl.DataFrame(schema=ANSWERS), versions, "last_5")
    start, end = day_bounds(shed.begin.astimezone(ZoneInfo(settings.timezone)).date(), settings.timezone)
    of_day = load.filter(pl.col("window_end") > start, pl.col("window_end") <= end)
    past = load.filter(pl.col("window_end") <= start)
    keys = of_day.select("customer_no", "window_end")
    every = baselines(keys.with_columns(baseline=pl.lit("last_5")), past, found, versions, settings).sort("window_end")
    held = holding(found, keys)
    base = baselines(held, past, found, versions, settings)
    return of_day, every, executed(held, of_day, base, versions, settings)


def _closed(readings: pl.DataFrame, versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    rows = latest(readings.with_columns(source_row=pl.lit(0)))
    return windows(rows, versions, settings.timezone).with_columns(revision=pl.lit(0, pl.Int32))


def draw(path: Path) -> None:
    """Write the picture as SVG: the same figures give the same bytes."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib.dates import DateFormatter
    from matplotlib.figure import Figure

    settings = load_settings(path.parent).metering
    zone = ZoneInfo(settings.timezone)
    actual, base, control = day_under_plan(settings)
    first, last = control["window_end"][0] - timedelta(hours=2), control["window_end"][-1] + timedelta(hours=2)
    with mpl.rc_context({"svg.hashsalt": "kilowatch", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for rows, column, colour, label, style in (
            (base, "baseline_kw", BASELINE, "baseline: last 5 normal days", "--"),
            (actual, "p_kw", ACTUAL, "power", "-"),
            (control, "cap_kw", CAP, "cap: baseline less what is asked for, tightened at 10:40", "-"),
        ):
            near = rows.filter(pl.col("window_end").is_between(first, last))
            ends = [at.astimezone(zone) for at in near["window_end"]]
            values = near[column].to_list()
            starts = [ends[0] - timedelta(minutes=15), *ends]
            axes.step(starts, [values[0], *values], color=colour, label=label, linestyle=style, where="pre")
        begin = control["window_end"][0] - timedelta(minutes=15)
        axes.axvspan(begin, control["window_end"][-1], color=CAP, alpha=0.06, linewidth=0)
        axes.xaxis.set_major_formatter(DateFormatter("%H:%M", tz=zone))
        axes.set_ylabel("kW")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, loc="lower right")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    draw(PICTURE)
