"""Accuracy of a forecast: reference figures, points left out, skill, and SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest

from metering.calendar import day_bounds
from metering.forecast import accuracy
from metering.settings import MeteringSettings
from metering.tables.warehouse import DAILY_CURVE, FORECAST, FORECAST_ACCURACY

Builder = Callable[..., pl.DataFrame]
DAY, WEEK_AGO = date(2026, 7, 1), date(2026, 6, 24)


@pytest.fixture(scope="module")
def customers(make_customers: Builder) -> pl.DataFrame:
    return make_customers({"A": {"contract_capacity_kva": 1000.0}, "B": {"contract_capacity_kva": 600.0}, "X": {}})


def forecast(curve: pl.DataFrame, p_kw: list[float | None], customer_no: str, model: str = "m") -> pl.DataFrame:
    """A forecast of the quarter-hours in one customer's `curve`."""
    rows = curve.select(pl.col("window_end").alias("target")).with_columns(pl.Series("p_kw", p_kw, dtype=pl.Float64))
    issued = day_bounds(DAY, "Asia/Shanghai")[0]
    return FORECAST.conform(rows, customer_no=customer_no, issued_at=issued, model=model)


def scores(table: pl.DataFrame) -> dict[str, dict[str, Any]]:
    assert table.schema == FORECAST_ACCURACY.schema
    return {row["customer_no"]: row for row in table.to_dicts()}


def test_reference_figures(metering_settings: MeteringSettings, customers: pl.DataFrame, make_curve: Builder) -> None:
    actual = make_curve("A", DAY, [100.0] * 48 + [200.0] * 48)
    naive = make_curve("A", WEEK_AGO, [80.0] * 48 + [200.0] * 48)
    ahead = forecast(actual, [110.0] * 48 + [200.0] * 48, "A")
    row = scores(accuracy(ahead, actual, naive, customers, DAY, metering_settings))["A"]
    assert row["grid_accuracy"] == pytest.approx((1 - (0.01 / 2) ** 0.5) * 100)
    assert row["mape_accuracy"] == pytest.approx(95.0)
    assert row["capacity_accuracy"] == pytest.approx((1 - 50**0.5 / 1000) * 100)
    assert row["wape"] == pytest.approx(100 * 10 / 300)
    assert row["skill"] == pytest.approx(0.5)
    assert (row["points"], row["left_out"], row["model"], row["date"]) == (96, 0, "m", DAY)


def test_tiny_points_are_left_out_of_ratios_and_counted(
    metering_settings: MeteringSettings, customers: pl.DataFrame, make_curve: Builder
) -> None:
    actual = make_curve("A", DAY, [100.0] * 90 + [0.0] * 3 + [0.5] * 3)
    ahead = forecast(actual, [100.0] * 90 + [50.0] * 6, "A")
    row = scores(accuracy(ahead, actual, DAILY_CURVE.empty(), customers, DAY, metering_settings))["A"]
    assert (row["points"], row["left_out"]) == (96, 6)
    assert (row["grid_accuracy"], row["mape_accuracy"]) == (100.0, 100.0)
    assert row["wape"] == pytest.approx(100 * (3 * 50 + 3 * 49.5) / (90 * 100 + 1.5))
    assert row["skill"] is None


def test_a_day_of_zeros_has_no_ratios(
    metering_settings: MeteringSettings, customers: pl.DataFrame, make_curve: Builder
) -> None:
    actual = make_curve("A", DAY, [0.0] * 96)
    naive = make_curve("A", WEEK_AGO, [0.0] * 96)
    row = scores(accuracy(forecast(actual, [1.0] * 96, "A"), actual, naive, customers, DAY, metering_settings))["A"]
    assert (row["points"], row["left_out"]) == (96, 96)
    assert (row["grid_accuracy"], row["mape_accuracy"], row["wape"], row["skill"]) == (None,) * 4
    assert row["capacity_accuracy"] == pytest.approx(99.9)


def test_only_points_with_both_sides_are_compared(
    metering_settings: MeteringSettings, customers: pl.DataFrame, make_curve: Builder
) -> None:
    actual = make_curve("A", DAY, [None] * 90 + [100.0] * 6)
    naive = make_curve("A", WEEK_AGO, [None] * 93 + [50.0] * 3)
    ahead = forecast(actual, [500.0] * 90 + [90.0] * 3 + [75.0] * 3, "A")
    row = scores(accuracy(ahead, actual, naive, customers, DAY, metering_settings))["A"]
    assert (row["points"], row["left_out"]) == (6, 0)
    assert row["skill"] == pytest.approx(0.5)  # on the three points that the yardstick has
    nothing = accuracy(ahead, make_curve("A", DAY, [None] * 96), naive, customers, DAY, metering_settings)
    empty = scores(nothing)["A"]
    assert (empty["points"], empty["grid_accuracy"], empty["wape"]) == (0, None, None)


def test_scope_is_scored_on_the_sum_and_the_sum_of_capacities(
    metering_settings: MeteringSettings, customers: pl.DataFrame, make_curve: Builder
) -> None:
    curve = pl.concat([make_curve("A", DAY, [100.0] * 96), make_curve("B", DAY, [300.0] * 96)])
    a = curve.filter(pl.col("customer_no") == "A")
    ahead = pl.concat([forecast(a, [440.0] * 96, "*"), forecast(a, [100.0] * 96, "A", "n")])
    rows = scores(accuracy(ahead, curve, curve, customers, DAY, metering_settings))
    assert list(rows) == ["*", "A"]
    assert rows["*"]["grid_accuracy"] == pytest.approx(90.0)
    assert rows["*"]["capacity_accuracy"] == pytest.approx((1 - 40 / 1600) * 100)
    assert rows["A"]["model"] == "n"


def test_other_days_and_empty_frames(
    metering_settings: MeteringSettings, customers: pl.DataFrame, make_curve: Builder
) -> None:
    curve = make_curve("A", DAY, [1.0] * 96)
    ahead = forecast(curve, [1.0] * 96, "A")
    tomorrow = DAY + timedelta(days=1)
    assert accuracy(ahead, curve, curve, customers, tomorrow, metering_settings).is_empty()
    nothing = accuracy(FORECAST.empty(), DAILY_CURVE.empty(), curve, customers, DAY, metering_settings)
    assert nothing.is_empty()
    assert nothing.schema == FORECAST_ACCURACY.schema


def test_agrees_with_sql(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    make_curve: Builder,
    sql: Callable[..., list[tuple[Any, ...]]],
) -> None:
    actual = make_curve("A", DAY, [float((k * 37) % 101) if k % 17 else 0.1 for k in range(96)])
    naive = make_curve("A", WEEK_AGO, [float((k * 41) % 89) for k in range(96)])
    ahead = forecast(actual, [float((k * 29) % 97) + 1 for k in range(96)], "A")
    ours = scores(accuracy(ahead, actual, naive, customers, DAY, metering_settings))["A"]
    theirs = sql(
        """
        with points as (
            select f.p_kw as pf, a.p_kw as pa, n.p_kw as pn, avg(abs(a.p_kw)) over () as mean
            from ahead f join actual a on a.window_end = f.target
            join naive n on n.window_end + interval 7 day = f.target
        )
        select 100 * (1 - sqrt(avg(((pf - pa) / pa) ** 2) filter (abs(pa) >= 0.01 * mean and pa <> 0))),
               100 * (1 - avg(abs((pf - pa) / pa)) filter (abs(pa) >= 0.01 * mean and pa <> 0)),
               100 * (1 - sqrt(avg((pf - pa) ** 2)) / 1000),
               100 * sum(abs(pf - pa)) / sum(abs(pa)),
               1 - avg(abs(pf - pa)) / avg(abs(pn - pa)),
               count(*), count(*) filter (abs(pa) < 0.01 * mean or pa = 0)
        from points
        """,
        ahead=ahead,
        actual=actual,
        naive=naive,
    )
    columns = (
        "grid_accuracy", "mape_accuracy", "capacity_accuracy", "wape", "skill", "points", "left_out",
    )  # fmt: skip
    assert [ours[c] for c in columns] == pytest.approx(list(theirs[0]), rel=1e-9)
    assert ours["left_out"] > 0
