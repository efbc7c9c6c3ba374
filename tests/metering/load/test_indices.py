"""Load indices, sliding and block demand, energy by period, completeness; SQL over the curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.calendar import quarter_hours
from metering.load.demand import demand_daily, sliding_demand
from metering.load.indices import daily_load
from metering.settings import MeteringSettings
from metering.tables.batch import METER_CURVE
from metering.tables.charges import DEMAND_DAILY
from metering.tables.lake import READINGS, WINDOWS
from metering.tables.warehouse import DAILY_CURVE, warehouse

Builder = Callable[..., pl.DataFrame]
DAY = date(2026, 7, 1)
START = datetime(2026, 6, 30, 16, tzinfo=UTC)


@pytest.fixture(scope="module")
def customers(make_customers: Builder) -> pl.DataFrame:
    return make_customers({"A": {}, "B": {"tariff": "agriculture"}})


@pytest.fixture(scope="module")
def meter_versions(customers: pl.DataFrame, make_meter_versions: Builder) -> pl.DataFrame:
    return make_meter_versions(customers, {"a1": {"customer_no": "A"}, "b1": {"customer_no": "B"}})


def minutes(meter_id: str, p_kw: list[float | None], first: datetime = START, step_s: int = 60) -> pl.DataFrame:
    """Readings one step apart, the first one step after `first`, and what they answer for."""
    ends = [first + timedelta(seconds=step_s * (n + 1)) for n in range(len(p_kw))]
    frame = pl.DataFrame({"ts": ends, "p_kw": p_kw}, schema={"ts": READINGS.schema["ts"], "p_kw": pl.Float64})
    rows = READINGS.conform(frame, meter_id=meter_id)
    return rows.with_columns(slot_end="ts", slot_s=pl.lit(float(step_s)))


def loads(
    curve: pl.DataFrame,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    settings: MeteringSettings,
    windows: pl.DataFrame | None = None,
    readings: pl.DataFrame | None = None,
) -> dict[str, dict[str, Any]]:
    given = WINDOWS.empty() if windows is None else windows
    demand = demand_daily(curve, METER_CURVE.empty(), readings, meter_versions, DAY, settings)
    table = daily_load(curve, given, demand, customers, meter_versions, DAY, settings)
    assert table.schema == warehouse(settings.periods)["daily_load"].schema
    return {row["customer_no"]: row for row in table.to_dicts()}


def test_indices_of_a_known_day(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame, make_curve: Builder
) -> None:
    curve = make_curve("A", DAY, [100.0] * 40 + [400.0] * 16 + [100.0] * 40)
    row = loads(curve, customers, meter_versions, metering_settings)["A"]
    assert row["energy_kwh"] == 80 * 25 + 16 * 100
    assert (row["p_max_kw"], row["p_min_kw"], row["p_mean_kw"]) == (400.0, 100.0, 150.0)
    assert row["p_max_at"] == START + timedelta(minutes=15 * 41)  # of equal extremes the first
    assert row["p_min_at"] == START + timedelta(minutes=15)
    assert (row["load_factor"], row["min_rate"]) == (0.375, 0.25)
    assert (row["peak_valley_kw"], row["peak_valley_rate"]) == (300.0, 0.75)
    assert (row["demand_max_kw"], row["demand_basis"]) == (400.0, "block")
    assert row["completeness"] == 0.0


def test_rates_are_null_without_positive_power(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame, make_curve: Builder
) -> None:
    row = loads(make_curve("A", DAY, [0.0] * 96), customers, meter_versions, metering_settings)["A"]
    assert (row["load_factor"], row["min_rate"], row["peak_valley_rate"]) == (None, None, None)
    assert (row["peak_valley_kw"], row["energy_kwh"]) == (0.0, 0.0)


def test_a_day_without_values_has_nulls_and_a_row(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame, make_curve: Builder
) -> None:
    rows = loads(make_curve("A", DAY, [None] * 96), customers, meter_versions, metering_settings)
    assert set(rows) == {"A", "*"}
    for row in rows.values():
        known = {k: v for k, v in row.items() if v is not None}
        assert known.keys() == {"customer_no", "date", "completeness", "energy_deep_valley_kwh"}


def test_energy_goes_by_each_customers_own_tariff(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame, make_curve: Builder
) -> None:
    curve = pl.concat([make_curve("A", DAY, [40.0] * 96), make_curve("B", DAY, [4.0] * 96)])
    rows = loads(curve, customers, meter_versions, metering_settings)
    assert metering_settings.periods == ("peak", "sharp", "valley", "deep_valley", "flat")
    by_period = {c: [row[f"energy_{p}_kwh"] for p in metering_settings.periods] for c, row in rows.items()}
    assert by_period["A"] == [240.0, 80.0, 320.0, 0.0, 320.0]
    assert by_period["B"] == [0.0, 0.0, 0.0, 0.0, 96.0]
    assert by_period["*"] == [240.0, 80.0, 320.0, 0.0, 416.0]


def test_scope_is_the_sum_of_the_curves(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    make_curve: Builder,
    make_windows: Builder,
) -> None:
    a, b = [10.0] * 48 + [20.0] * 48, [20.0] * 48 + [5.0] * 48
    curve = pl.concat([make_curve("A", DAY, a), make_curve("B", DAY, b)])
    windows = pl.concat([make_windows("a1", "A", DAY, a), make_windows("b1", "B", DAY, b).head(48)])
    rows = loads(curve, customers, meter_versions, metering_settings, windows)
    assert (rows["*"]["p_max_kw"], rows["*"]["p_min_kw"]) == (30.0, 25.0)  # not 20 + 20: peaks do not coincide
    assert rows["*"]["energy_kwh"] == rows["A"]["energy_kwh"] + rows["B"]["energy_kwh"]
    assert [rows[c]["completeness"] for c in ("A", "B", "*")] == [1.0, 0.5, 0.75]


@pytest.fixture(scope="module")
def fine_meter_versions(customers: pl.DataFrame, make_meter_versions: Builder) -> pl.DataFrame:
    fine = {"customer_no": "A", "interval_s": 60}
    return make_meter_versions(customers, {"a1": fine, "a2": fine, "b1": {"customer_no": "B", "interval_s": 300}})


def test_demand_slides_by_a_minute(
    metering_settings: MeteringSettings, customers: pl.DataFrame, fine_meter_versions: pl.DataFrame, make_curve: Builder
) -> None:
    peak = [0.0] * 100 + [600.0] * 15 + [0.0] * 100  # 15 min that no block of 15 min holds whole
    readings = pl.concat([minutes("a1", peak), minutes("a2", [100.0] * 215), minutes("b1", [900.0] * 215)])
    found = sliding_demand(readings, fine_meter_versions, DAY, metering_settings)
    assert found.rows() == [("A", pytest.approx(700.0))]  # B reports every 5 min: no sliding mean
    curve = pl.concat([make_curve("A", DAY, [500.0] * 96), make_curve("B", DAY, [90.0] * 96)])
    rows = loads(curve, customers, fine_meter_versions, metering_settings, readings=readings)
    assert (rows["A"]["demand_max_kw"], rows["A"]["demand_basis"]) == (pytest.approx(700.0), "sliding")
    assert (rows["B"]["demand_max_kw"], rows["B"]["demand_basis"]) == (90.0, "block")
    assert (rows["*"]["demand_max_kw"], rows["*"]["demand_basis"]) == (590.0, "block")


@pytest.mark.parametrize("absurd", [1.7e308, -1.7e308, 1.7e298, 1e13])
def test_an_absurd_power_spoils_no_other_mean(
    metering_settings: MeteringSettings, make_customers: Builder, make_meter_versions: Builder, absurd: float
) -> None:
    """Neither those of the customer's later minutes, nor those of the customers that follow."""
    customers = make_customers({name: {} for name in "ABC"})
    meters = {f"{name.lower()}1": {"customer_no": name, "interval_s": 60} for name in "ABC"}
    meter_versions = make_meter_versions(customers, meters)
    spoilt = [50.0] * 20 + [absurd, absurd] + [80.0] * 40
    readings = pl.concat([minutes("a1", [10.0] * 60), minutes("b1", spoilt), minutes("c1", [20.0] * 30 + [30.0] * 30)])
    found = sliding_demand(readings, meter_versions, DAY, metering_settings).sort("customer_no")
    assert found.rows() == [("A", pytest.approx(10.0)), ("B", pytest.approx(80.0)), ("C", pytest.approx(30.0))]


def test_indices_of_absurd_curves_are_finite_or_null(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame, make_curve: Builder
) -> None:
    extremes = [1.7e308, -1.7e308] * 48
    curve = pl.concat([make_curve("A", DAY, extremes), make_curve("B", DAY, [90.0] * 96)])
    table = daily_load(curve, WINDOWS.empty(), DEMAND_DAILY.empty(), customers, meter_versions, DAY, metering_settings)
    floats = table.select(pl.col(pl.Float64))
    assert floats.select(pl.all().is_finite().all()).row(0) == (True,) * floats.width
    rows = {row["customer_no"]: row for row in table.to_dicts()}
    assert (rows["A"]["p_max_kw"], rows["A"]["peak_valley_kw"]) == (1.7e308, None)
    assert (rows["B"]["energy_kwh"], rows["B"]["load_factor"]) == (pytest.approx(2160.0), 1.0)


def test_one_coarse_meter_leaves_its_customer_without_a_sliding_mean(
    metering_settings: MeteringSettings, customers: pl.DataFrame, make_meter_versions: Builder
) -> None:
    """The fine meters alone would tell a part of the customer's demand as the whole of it."""
    meters = {"a1": {"customer_no": "A", "interval_s": 60}, "a2": {"customer_no": "A", "interval_s": 900}}
    meters["b1"] = {"customer_no": "B", "interval_s": 60}
    meter_versions = make_meter_versions(customers, meters)
    readings = pl.concat([minutes("a1", [100.0] * 40), minutes("b1", [7.0] * 40)])
    assert sliding_demand(readings, meter_versions, DAY, metering_settings).rows() == [("B", pytest.approx(7.0))]


def test_only_full_means_count(metering_settings: MeteringSettings, fine_meter_versions: pl.DataFrame) -> None:
    broken = [100.0] * 14 + [None] + [100.0] * 14
    readings = pl.concat([minutes("a1", broken), minutes("a2", [1.0] * 29)])
    assert sliding_demand(readings, fine_meter_versions, DAY, metering_settings).is_empty()
    one_short = pl.concat([minutes("a1", [100.0] * 29), minutes("a2", [1.0] * 14)])
    assert sliding_demand(one_short, fine_meter_versions, DAY, metering_settings).is_empty()
    assert sliding_demand(None, fine_meter_versions, DAY, metering_settings).is_empty()


def test_a_mean_reaches_back_over_midnight_but_ends_on_the_day(
    metering_settings: MeteringSettings, fine_meter_versions: pl.DataFrame
) -> None:
    before = START - timedelta(minutes=15)
    readings = pl.concat([minutes("a1", [300.0] * 15 + [0.0] * 30, before), minutes("a2", [0.0] * 45, before)])
    mid_month = replace(metering_settings, settlement=(replace(metering_settings.settlement[0], reset_day=15),))
    found = sliding_demand(readings, fine_meter_versions, DAY, mid_month)
    assert found.rows() == [("A", pytest.approx(300.0 * 14 / 15))]  # the full 15 min ended the day before
    # demand is reset as the month begins: a mean of it has 15 minutes of it
    assert sliding_demand(readings, fine_meter_versions, DAY, metering_settings).rows() == [("A", 0.0)]


def test_finer_readings_make_up_their_minutes(
    metering_settings: MeteringSettings, customers: pl.DataFrame, make_meter_versions: Builder
) -> None:
    meter_versions = make_meter_versions(customers, {"a1": {"customer_no": "A", "interval_s": 20}})
    readings = minutes("a1", [0.0, 30.0, 60.0] * 20, step_s=20)
    assert sliding_demand(readings, meter_versions, DAY, metering_settings).rows() == [("A", pytest.approx(30.0))]
    assert sliding_demand(readings.head(44), meter_versions, DAY, metering_settings).is_empty()


@given(p_kw=st.lists(st.floats(-1e6, 1e6), min_size=15, max_size=60))
def test_sliding_demand_is_the_largest_of_all_means(
    metering_settings: MeteringSettings, fine_meter_versions: pl.DataFrame, p_kw: list[float]
) -> None:
    readings = pl.concat([minutes("a1", list(p_kw)), minutes("a2", [0.0] * len(p_kw))])
    means = [sum(p_kw[i : i + 15]) / 15 for i in range(len(p_kw) - 14)]
    found = sliding_demand(readings, fine_meter_versions, DAY, metering_settings)["sliding_kw"].item()
    assert found == pytest.approx(max(means), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(("day", "points"), [(date(2016, 3, 27), 92), (date(2016, 10, 30), 100)])
def test_days_with_23_and_25_hours(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    make_meter_versions: Builder,
    make_curve: Builder,
    make_windows: Builder,
    day: date,
    points: int,
) -> None:
    settings = replace(metering_settings, timezone="Europe/Berlin")
    meter_versions = make_meter_versions(customers, {"a1": {"customer_no": "A"}}, settings)
    p_kw = [4.0] * points
    curve, windows = make_curve("A", day, p_kw, "Europe/Berlin"), make_windows("a1", "A", day, p_kw, "Europe/Berlin")
    row = daily_load(curve, windows, DEMAND_DAILY.empty(), customers, meter_versions, day, settings).filter(
        pl.col("customer_no") == "A"
    )
    assert row["energy_kwh"].item() == points
    assert row["completeness"].item() == 1.0
    assert row.select(pl.sum_horizontal(f"energy_{p}_kwh" for p in settings.periods)).item() == points


def test_an_empty_day_is_an_empty_table(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame
) -> None:
    assert loads(DAILY_CURVE.empty(), customers, meter_versions, metering_settings) == {}


def test_indices_agree_with_sql(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    make_curve: Builder,
    sql: Callable[..., list[tuple[Any, ...]]],
) -> None:
    values = [[float((k * k * 31 + i * 7) % 97) if (k + i) % 11 else None for k in range(96)] for i in range(2)]
    curve = pl.concat([make_curve("A", DAY, values[0]), make_curve("B", DAY, values[1])])
    theirs = sql(
        """
        with every as (
            select customer_no, window_end, p_kw, energy_kwh from curve
            union all
            select '*', window_end, sum(p_kw), sum(energy_kwh) from curve group by all
        )
        select customer_no, sum(energy_kwh), max(p_kw), arg_max(window_end, (p_kw, -epoch(window_end))),
               min(p_kw), arg_min(window_end, (p_kw, epoch(window_end))), avg(p_kw), avg(p_kw) / max(p_kw),
               min(p_kw) / max(p_kw), max(p_kw) - min(p_kw), 1 - min(p_kw) / max(p_kw)
        from every where p_kw is not null group by all order by all
        """,
        curve=curve,
    )
    ours = loads(curve, customers, meter_versions, metering_settings)
    numbers = ("energy_kwh", "p_max_kw", "p_min_kw", "p_mean_kw", "load_factor", "min_rate", "peak_valley_kw")
    for row in theirs:
        mine = ours[row[0]]
        assert [mine[c] for c in (*numbers, "peak_valley_rate")] == pytest.approx(
            [row[1], row[2], row[4], *row[6:11]], rel=1e-12
        )
        assert [mine[c].timestamp() for c in ("p_max_at", "p_min_at")] == [row[3].timestamp(), row[5].timestamp()]
    assert len(theirs) == len(ours) == 3


def test_energy_by_period_agrees_with_sql(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    make_curve: Builder,
    sql: Callable[..., list[tuple[Any, ...]]],
) -> None:
    assert quarter_hours(DAY, metering_settings.timezone).height == 96
    curve = make_curve("A", DAY, [float(k % 13) for k in range(96)])
    theirs = sql(
        """
        with clock as (
            select energy_kwh, hour((window_end - interval 15 minute) at time zone 'Asia/Shanghai') as h from curve
        )
        select case when h in (19, 20) then 'sharp' when h between 8 and 10 or h between 18 and 22 then 'peak'
                    when h < 7 or h = 23 then 'valley' else 'flat' end as period, sum(energy_kwh)
        from clock group by all order by all
        """,
        curve=curve,
    )
    row = loads(curve, customers, meter_versions, metering_settings)["A"]
    assert [(p, row[f"energy_{p}_kwh"]) for p in ("flat", "peak", "sharp", "valley")] == theirs


def test_a_running_day_is_as_complete_as_what_is_due_of_it(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    make_curve: Builder,
    make_windows: Builder,
) -> None:
    windows = pl.concat(
        [
            make_windows("a1", "A", DAY, [400.0] * 8 + [None] * 88),
            make_windows("b1", "B", DAY, [40.0] * 6 + [None] * 90),
        ]
    )
    curve = make_curve("A", DAY, [400.0] * 8 + [None] * 88).head(8)

    def completeness(minutes: int) -> dict[str, float | None]:
        until = START + timedelta(minutes=minutes)
        table = daily_load(
            curve, windows, DEMAND_DAILY.empty(), customers, meter_versions, DAY, metering_settings, until
        )
        return dict(table.select("customer_no", "completeness").iter_rows())

    assert completeness(127) == {"A": 1.0, "*": 14 / 16}
    assert completeness(0) == {"A": None, "*": None}


def test_what_is_drawn_and_what_is_fed_in_are_summed_apart(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame, make_curve: Builder
) -> None:
    solar = make_curve("A", DAY, [-40.0] * 48 + [100.0] * 48).with_columns(
        energy_kwh=pl.when(pl.col("p_kw") < 0).then(2.0).otherwise("energy_kwh"),
        export_kwh=pl.when(pl.col("p_kw") < 0).then(12.0).otherwise(0.0),
    )
    rows = loads(solar, customers, meter_versions, metering_settings)
    for customer in ("A", "*"):
        assert (rows[customer]["energy_kwh"], rows[customer]["export_kwh"]) == (48 * 2 + 48 * 25.0, 48 * 12.0)
        by_period = sum(rows[customer][f"energy_{p}_kwh"] for p in metering_settings.periods)
        assert by_period == pytest.approx(rows[customer]["energy_kwh"])


def test_check_and_sub_meters_do_not_add_to_demand(
    metering_settings: MeteringSettings, customers: pl.DataFrame, make_meter_versions: Builder
) -> None:
    fine = {"customer_no": "A", "interval_s": 60}
    meters = {"a1": fine, "a2": {**fine, "role": "check"}, "a3": {**fine, "role": "sub", "interval_s": 900}}
    readings = pl.concat([minutes("a1", [700.0] * 60), minutes("a2", [698.0] * 60)])
    found = sliding_demand(readings, make_meter_versions(customers, meters), DAY, metering_settings)
    assert found.rows() == [("A", pytest.approx(700.0))]
