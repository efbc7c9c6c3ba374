"""The daily curve: every quarter-hour of the day, sums over meters, status and reason, SQL over windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.load.curve import daily_curve, scope_curve
from metering.settings import MeteringSettings
from metering.tables.batch import BATCH_WINDOWS as WINDOWS
from metering.tables.warehouse import DAILY_CURVE

Builder = Callable[..., pl.DataFrame]
DAY = date(2026, 7, 1)


@pytest.fixture(scope="module")
def customers(make_customers: Builder) -> pl.DataFrame:
    return make_customers({"A": {}, "B": {}, "C": {}})


@pytest.fixture(scope="module")
def meter_versions(customers: pl.DataFrame, make_meter_versions: Builder) -> pl.DataFrame:
    meters = {"a1": "A", "b1": "B", "b2": "B"}
    gone = {"c1": {"customer_no": "C", "valid_to": date(2026, 6, 30)}}
    return make_meter_versions(customers, {m: {"customer_no": c} for m, c in meters.items()} | gone)


def test_every_customer_with_a_meter_has_every_quarter_hour(
    make_meter_curve: Builder, customers: pl.DataFrame, meter_versions: pl.DataFrame
) -> None:
    curve = daily_curve(make_meter_curve(WINDOWS.empty(), meter_versions, DAY), customers, DAY)
    assert curve.schema == DAILY_CURVE.schema
    assert curve.group_by("customer_no").len().sort("customer_no").rows() == [("A", 96), ("B", 96)]
    assert curve["status"].unique().to_list() == ["missing"]
    assert curve.select("p_kw", "q_kvar", "energy_kwh").null_count().row(0) == (192,) * 3
    assert curve.filter(pl.col("customer_no") == "A")["reason"].unique().to_list() == ["no power for at least 1440 min"]


def test_between_two_meters_of_a_customer_the_day_has_no_hole(
    make_meter_curve: Builder, customers: pl.DataFrame, make_meter_versions: Builder, make_windows: Builder
) -> None:
    meters = ("old", "new")
    midnight = datetime(2026, 6, 30, 16, tzinfo=UTC)
    old = pl.col("meter_id") == "old"
    versions = make_meter_versions(customers, {meter: {"customer_no": "A"} for meter in meters}).with_columns(
        pl.when(old).then(pl.lit(midnight + timedelta(hours=10))).otherwise("valid_to").alias("valid_to"),
        pl.when(old).then("valid_from").otherwise(pl.lit(midnight + timedelta(hours=12))).alias("valid_from"),
    )
    made = [make_windows(meter, "A", DAY, [8.0] * 96) for meter in meters]
    curve = daily_curve(make_meter_curve(pl.concat(made), versions, DAY), customers, DAY)
    assert curve["point"].to_list() == list(range(1, 97))
    ends = curve["window_end"]
    assert (ends.diff().drop_nulls() == timedelta(minutes=15)).all()
    missing = curve.filter(pl.col("status") == "missing")
    assert missing["point"].to_list() == list(range(41, 49))
    assert missing["reason"].unique().to_list() == ["no meter of the customer is valid then"]
    assert missing["energy_kwh"].null_count() == 8


def test_no_meters_no_rows(make_meter_curve: Builder, customers: pl.DataFrame, meter_versions: pl.DataFrame) -> None:
    curve = daily_curve(make_meter_curve(WINDOWS.empty(), meter_versions.clear(), DAY), customers, DAY)
    assert curve.is_empty()
    assert curve.schema == DAILY_CURVE.schema
    assert scope_curve(curve).is_empty()


@pytest.mark.parametrize(("day", "points"), [(date(2016, 3, 27), 92), (date(2016, 10, 30), 100)])
def test_days_with_23_and_25_hours(
    metering_settings: MeteringSettings,
    make_meter_curve: Builder,
    customers: pl.DataFrame,
    make_meter_versions: Builder,
    make_windows: Builder,
    day: date,
    points: int,
) -> None:
    settings = replace(metering_settings, timezone="Europe/Berlin")
    meter_versions = make_meter_versions(customers, {"a1": {"customer_no": "A"}}, settings)
    windows = make_windows("a1", "A", day, [float(n) for n in range(points)], tz="Europe/Berlin")
    curve = daily_curve(make_meter_curve(windows, meter_versions, day, settings), customers, day)
    assert curve["point"].to_list() == list(range(1, points + 1))
    assert curve["p_kw"].to_list() == [float(n) for n in range(points)]
    assert curve["status"].unique().to_list() == ["validated"]


def test_a_sum_is_as_good_as_its_worst_meter_and_lacks_only_what_is_not_known(
    make_meter_curve: Builder, customers: pl.DataFrame, meter_versions: pl.DataFrame, make_windows: Builder
) -> None:
    first = [100.0] * 96
    second: list[float | None] = [50.0] * 96
    second[10] = None  # 15 min: estimated
    second[20:40] = [None] * 20  # 5 h, without reference days: missing
    half = make_windows("b2", "B", DAY, second).with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(7.5).otherwise("covered_min").alias("covered_min"),
        pl.when(pl.int_range(pl.len()) == 0).then(2).otherwise("n_expected").cast(pl.Int32).alias("n_expected"),
        pl.when(pl.int_range(pl.len()) == 0).then(6.25).otherwise("energy_kwh").alias("energy_kwh"),
    )
    windows = pl.concat([make_windows("b1", "B", DAY, first, q_mean_kvar=10.0), half])
    curve = daily_curve(make_meter_curve(windows, meter_versions, DAY), customers, DAY)
    at = {row["point"]: row for row in curve.filter(pl.col("customer_no") == "B").to_dicts()}
    assert (at[2]["p_kw"], at[2]["energy_kwh"], at[2]["status"], at[2]["reason"]) == (150.0, 37.5, "validated", None)
    assert (at[1]["p_kw"], at[1]["energy_kwh"], at[1]["status"]) == (150.0, 37.5, "estimated")
    assert (at[1]["rule"], at[1]["reason"]) == ("partial", "b2: readings of 7.5 of 15.0 min stand for all of it")
    assert (at[11]["p_kw"], at[11]["energy_kwh"], at[11]["status"]) == (150.0, 37.5, "estimated")
    assert at[11]["reason"] == "b2: no power for 15 min: straight line between the neighbours"
    # b1's energy is in every table, so the point is what is known of it, and says what it lacks
    assert (at[30]["p_kw"], at[30]["energy_kwh"], at[30]["status"]) == (100.0, 25.0, "raw")
    assert (at[30]["rule"], at[30]["reason"]) == ("missing", "b2: no power for 300 min")
    assert at[2]["q_kvar"] is None  # b2 does not report it, so the sum is not known


def test_power_and_energy_stand_in_for_each_other(
    make_meter_curve: Builder, customers: pl.DataFrame, meter_versions: pl.DataFrame, make_windows: Builder
) -> None:
    whole = make_windows("a1", "A", DAY, [100.0] * 96)
    no_power = whole.head(1).with_columns(pl.lit(None, pl.Float64).alias("p_mean_kw"), pl.lit(30.0).alias("energy_kwh"))
    no_energy = whole.slice(1, 1).with_columns(pl.lit(None, pl.Float64).alias("energy_kwh"))
    curve = daily_curve(make_meter_curve(pl.concat([no_power, no_energy]), meter_versions, DAY), customers, DAY)
    rows = curve.filter(pl.col("customer_no") == "A").head(2).select("p_kw", "energy_kwh", "status").rows()
    assert rows == [(120.0, 30.0, "validated"), (100.0, 25.0, "validated")]


def test_scope_sums_what_is_known(make_curve: Builder) -> None:
    a = make_curve("A", DAY, [1.0, 2.0, None, *[None] * 93])
    b = make_curve("B", DAY, [10.0, None, None, *[None] * 93])
    scope = scope_curve(pl.concat([a, b]))
    assert scope["customer_no"].unique().to_list() == ["*"]
    assert scope["p_kw"].to_list()[:3] == [11.0, 2.0, None]
    assert scope.height == 96


@given(p_kw=st.lists(st.none() | st.floats(-1e5, 1e5), min_size=96, max_size=96))
def test_shape_and_reasons_hold_for_any_day(
    make_meter_curve: Builder,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    make_windows: Builder,
    p_kw: list[float | None],
) -> None:
    curve = daily_curve(make_meter_curve(make_windows("a1", "A", DAY, p_kw), meter_versions, DAY), customers, DAY)
    assert curve.select(DAILY_CURVE.key).is_unique().all()
    assert curve.height == 192
    validated, missing = pl.col("status") == "validated", pl.col("status") == "missing"
    assert curve.select((pl.col("reason").is_null() == validated).all()).item()
    assert curve.select((pl.col("rule").is_null() == validated).all()).item()
    net = pl.col("energy_kwh") - pl.col("export_kwh")
    assert curve.select(((pl.col("p_kw") / 4 - net).abs() <= 1e-9 * pl.col("p_kw").abs()).all()).item()
    assert curve.select((pl.col("p_kw").is_null() == missing).all()).item()
    of_a = curve.filter(pl.col("customer_no") == "A")["p_kw"].to_list()
    assert all(ours == given for ours, given in zip(of_a, p_kw, strict=True) if given is not None)


def test_sums_agree_with_sql(
    make_meter_curve: Builder,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    make_windows: Builder,
    sql: Callable[..., list[tuple[Any, ...]]],
) -> None:
    windows = pl.concat(
        make_windows(meter, customer, day, [float((k * 37 + i * 13) % 101) for k in range(96)], q_mean_kvar=1.0 + i)
        for i, (meter, customer) in enumerate([("a1", "A"), ("b1", "B"), ("b2", "B")])
        for day in (date(2026, 6, 30), DAY, date(2026, 7, 2))
    )
    curve = daily_curve(make_meter_curve(windows, meter_versions, DAY), customers, DAY)
    theirs = sql(
        """
        select customer_no, cast(row_number() over (partition by customer_no order by window_end) as int), window_end,
               sum(p_mean_kw), sum(q_mean_kvar), sum(energy_kwh)
        from windows
        where cast((window_end - interval 15 minute) at time zone 'Asia/Shanghai' as date) = date '2026-07-01'
        group by customer_no, window_end order by customer_no, window_end
        """,
        windows=windows,
    )
    ours = curve.select("customer_no", "point", "window_end", "p_kw", "q_kvar", "energy_kwh").rows()
    assert [row[:2] for row in theirs] == [row[:2] for row in ours]
    assert [row[2].timestamp() for row in theirs] == [row[2].timestamp() for row in ours]
    for column in (3, 4, 5):
        assert [row[column] for row in theirs] == pytest.approx([row[column] for row in ours], rel=1e-12)


def test_sums_and_lines_that_are_no_number_are_missing(
    make_meter_curve: Builder, customers: pl.DataFrame, meter_versions: pl.DataFrame, make_windows: Builder
) -> None:
    """As a lake of before may hold them; what is not known says so, and the customers beside it are as they were."""
    huge: list[float | None] = [1.7e308] * 4 + [1.0] * 92
    gap: list[float | None] = [1.7e308, None, -1.7e308] + [5.0] * 93
    windows = pl.concat(
        [
            make_windows("a1", "A", DAY, gap), make_windows("b1", "B", DAY, huge), make_windows("b2", "B", DAY, huge)
        ]
    )  # fmt: skip
    curve = daily_curve(make_meter_curve(windows, meter_versions, DAY), customers, DAY)
    values = curve.select("p_kw", "q_kvar", "energy_kwh")
    assert values.select(pl.all().is_finite().all()).row(0) == (True,) * 3
    rows = {(row["customer_no"], row["point"]): row for row in curve.to_dicts()}
    for key in (("A", 2), ("B", 1), ("B", 4)):
        assert (rows[key]["p_kw"], rows[key]["energy_kwh"], rows[key]["status"]) == (None, None, "missing"), key
    assert rows["A", 2]["reason"] == "no power for 15 min"
    assert rows["B", 1]["reason"] == "the sum of its meters is no finite number"
    assert (rows["B", 5]["p_kw"], rows["B", 5]["status"], rows["A", 4]["p_kw"]) == (2.0, "validated", 5.0)
    both = scope_curve(pl.concat([curve, curve.with_columns(customer_no=pl.lit("Z"))]))
    assert both.select(pl.col("p_kw", "energy_kwh").is_finite().all()).row(0) == (True, True)
