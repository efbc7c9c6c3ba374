"""Roll-ups: groups add up, months and years say what their quarter-hours say, contracts and bands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from metering.calendar import quarter_hours
from metering.load.rollup import day_indices, period_indices, scope_curves
from metering.settings import MeteringSettings
from metering.tables.rollups import SCOPE_CURVE, load_indices_table
from metering.tables.warehouse import DAILY_CURVE, warehouse

Builder = Callable[..., pl.DataFrame]
FIRST = date(2026, 12, 30)
OF = {"A": ("F1", "steel"), "B": ("F1", ""), "C": ("", "steel")}


@pytest.fixture(scope="module")
def customers(make_customers: Builder) -> pl.DataFrame:
    rows: dict[str, dict[str, Any]] = {no: {"feeder": f, "industry": i} for no, (f, i) in OF.items()}
    rows["A"] |= {"contract_capacity_kva": 1000.0, "suspended_kva": 200.0, "contract_demand_kw": 500.0}
    return make_customers(rows)


def curve(day: date, powers: dict[str, list[float | None]], q: float | None = 0.0) -> pl.DataFrame:
    """Powers repeated over the day."""
    frames = []
    for no, values in powers.items():
        quarters = quarter_hours(day, "Asia/Shanghai")
        p = [values[n % len(values)] for n in range(quarters.height)]
        rows = quarters.with_columns(pl.Series("p_kw", p, dtype=pl.Float64), pl.lit(q, pl.Float64).alias("q_kvar"))
        rows = rows.with_columns(energy_kwh=pl.col("p_kw") / 4)
        frames.append(DAILY_CURVE.conform(rows, customer_no=no, date=day, status="validated"))
    return pl.concat([DAILY_CURVE.empty(), *frames])


def loads(day: date, rows: list[dict[str, Any]], settings: MeteringSettings) -> pl.DataFrame:
    table = warehouse(settings.periods)["daily_load"]
    return table.conform(pl.DataFrame(rows, infer_schema_length=None), date=day) if rows else table.empty()


def of_day(
    day: date,
    points: pl.DataFrame,
    customers: pl.DataFrame,
    settings: MeteringSettings,
    load: pl.DataFrame | None = None,
) -> pl.DataFrame:
    known = loads(day, [], settings) if load is None else load
    return day_indices(points, scope_curves(points, customers, day), known, customers, day, settings)


def by_scope(table: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["scope"]: row for row in table.to_dicts()}


def test_groups_and_contracts(customers: pl.DataFrame, metering_settings: MeteringSettings) -> None:
    points = curve(FIRST, {"A": [600.0, 200.0], "B": [100.0, None], "C": [50.0, 350.0]}, q=0.0)
    load = loads(
        FIRST,
        [
            {"customer_no": "A", "demand_max_kw": 650.0, "demand_basis": "sliding", "energy_peak_kwh": 10.0},
            {"customer_no": "B", "demand_max_kw": 100.0, "demand_basis": "block", "energy_peak_kwh": 5.0},
        ],
        metering_settings,
    )
    rows = by_scope(of_day(FIRST, points, customers, metering_settings, load))
    assert set(rows) == {"A", "B", "C", "feeder:F1", "industry:steel", "segment:large", "voltage_level_kv:10", "*"}
    a, feeder, whole = rows["A"], rows["feeder:F1"], rows["*"]
    assert (a["capacity_kva"], a["s_max_kva"], a["max_load_rate"], a["load_band"]) == (800.0, 600.0, 0.75, "normal")
    assert (a["demand_max_kw"], a["demand_basis"], a["overrun_kw"]) == (650.0, "sliding", 150.0)
    assert (a["demand_rate"], a["over_capacity_kva"], a["utilisation_hours"]) == (1.3, 0.0, pytest.approx(16.0))
    assert (feeder["p_max_kw"], feeder["p_min_kw"], feeder["demand_basis"]) == (700.0, 200.0, "block")
    assert (feeder["customers"], feeder["capacity_kva"], feeder["contract_demand_kw"]) == (2, 1800.0, 500.0)
    assert (feeder["energy_peak_kwh"], rows["industry:steel"]["energy_peak_kwh"]) == (15.0, 10.0)
    assert (whole["p_max_kw"], whole["sum_p_max_kw"]) == (750.0, 1050.0)
    assert whole["coincidence_factor"] == pytest.approx(750 / 1050)
    assert (rows["C"]["overrun_kw"], rows["C"]["load_band"], rows["B"]["known_points"]) == (None, "normal", 48)


@pytest.mark.parametrize(
    ("p", "q", "band", "over"),
    [
        (239.0, 0.0, "oversized", 0.0), (640.0, 0.0, "normal", 0.0), (512.0, 384.1, "tight", 0.0),
        (800.0, 600.0, "overload", 200.0), (100.0, None, None, None),
    ],
)  # fmt: skip
def test_bands(
    customers: pl.DataFrame,
    metering_settings: MeteringSettings,
    p: float,
    q: float | None,
    band: str,
    over: float | None,
) -> None:
    row = by_scope(of_day(FIRST, curve(FIRST, {"A": [p]}, q), customers, metering_settings))["A"]
    assert (row["load_band"], row["over_capacity_kva"]) == (band, over)


power = st.none() | st.sampled_from([-20.0, 0.0, 10.0, 37.5, 500.0])


@hypothesis_settings(max_examples=25)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(sorted(OF)), st.lists(power, min_size=1, max_size=5), min_size=1),
        min_size=1,
        max_size=4,
    )
)
def test_months_and_years_say_what_their_quarter_hours_say(
    customers: pl.DataFrame, metering_settings: MeteringSettings, days: list[dict[str, list[float | None]]]
) -> None:
    """Across the turn of a year; against plain Python over all points."""
    frames = [curve(FIRST + timedelta(days=n), powers) for n, powers in enumerate(days)]
    of_days = [of_day(FIRST + timedelta(days=n), frame, customers, metering_settings) for n, frame in enumerate(frames)]
    months = {
        d: [r for r in of_days if r["period"][0].replace(day=1) == d] for d in (date(2026, 12, 1), date(2027, 1, 1))
    }
    for month, parts in months.items():
        if not parts:
            continue
        of_month = period_indices(pl.concat(parts), customers, "month", month, metering_settings)
        of_year = period_indices(of_month, customers, "year", month.replace(month=1), metering_settings)
        assert of_year.drop("period_kind", "period").equals(of_month.drop("period_kind", "period"))
        points = pl.concat(frames).filter(pl.col("date").dt.month_start() == month)
        for scope, row in by_scope(of_month).items():
            theirs = [no for no in OF if scope in (no, "*", f"feeder:{OF[no][0]}", f"industry:{OF[no][1]}")]
            if not scope.startswith(("segment", "voltage")):
                check(row, points.filter(pl.col("customer_no").is_in(theirs)))


def check(row: dict[str, Any], points: pl.DataFrame) -> None:
    sums: dict[Any, float] = {}
    largest: dict[str, float] = {}
    for no, at, p in points.select("customer_no", "window_end", "p_kw").rows():
        if p is not None:
            sums[at] = sums.get(at, 0.0) + p
            largest[no] = max(largest.get(no, p), p)
    if not sums:
        assert (row["p_max_kw"], row["energy_kwh"], row["load_factor"]) == (None, None, None)
        return
    p_max, p_min = max(sums.values()), min(sums.values())
    assert (row["p_max_kw"], row["p_min_kw"]) == pytest.approx((p_max, p_min))
    assert row["p_max_at"] == min(at for at, p in sums.items() if p == p_max)
    assert row["p_mean_kw"] == pytest.approx(sum(sums.values()) / len(sums))
    assert row["energy_kwh"] == pytest.approx(sum(sums.values()) / 4)
    assert row["sum_p_max_kw"] == pytest.approx(sum(largest.values()))
    assert row["days"] == points["date"].n_unique()
    if p_max > 0:
        assert row["load_factor"] == pytest.approx(row["p_mean_kw"] / p_max)


def test_a_day_of_23_hours_has_92_points(customers: pl.DataFrame, metering_settings: MeteringSettings) -> None:
    day = date(2026, 3, 29)
    rows = quarter_hours(day, "Europe/Berlin").with_columns(p_kw=pl.lit(1.0), energy_kwh=pl.lit(0.25))
    points = DAILY_CURVE.conform(rows, customer_no="A", date=day, status="validated")
    table = of_day(day, points, customers, metering_settings)
    assert set(table["points"]) == {92}
    assert table.schema == load_indices_table(metering_settings.periods).schema
    assert scope_curves(points, customers, day).schema == SCOPE_CURVE.schema


def test_nobody_has_no_rows(customers: pl.DataFrame, metering_settings: MeteringSettings) -> None:
    nothing = curve(FIRST, {})
    assert of_day(FIRST, nothing, customers, metering_settings).is_empty()
    assert of_day(FIRST, nothing, customers.clear(), metering_settings).is_empty()
    empty = of_day(FIRST, nothing, customers.clear(), metering_settings)
    assert period_indices(empty, customers.clear(), "month", FIRST.replace(day=1), metering_settings).is_empty()
