"""Maximum demand of days and months: sources, resets, snapshots, contracts that change; plain Python beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.load.demand import demand_daily, demand_monthly, demand_of_day
from metering.settings import MeteringSettings
from metering.tables.batch import METER_CURVE
from metering.tables.charges import DEMAND_DAILY, DEMAND_MONTHLY
from metering.tables.lake import READINGS

Builder = Callable[..., pl.DataFrame]
DAY, MONTH = date(2026, 7, 8), date(2026, 7, 1)
START = datetime(2026, 7, 7, 16, tzinfo=UTC)
A = "310105200001"


def minutes(meter_id: str, p_kw: list[float], first: datetime = START) -> pl.DataFrame:
    ends = [first + timedelta(minutes=n + 1) for n in range(len(p_kw))]
    frame = pl.DataFrame({"ts": ends, "p_kw": p_kw}, schema={"ts": READINGS.schema["ts"], "p_kw": pl.Float64})
    return READINGS.conform(frame, meter_id=meter_id).with_columns(slot_end="ts", slot_s=pl.lit(60.0))


def of_meter(meter_id: str, curve: pl.DataFrame) -> pl.DataFrame:
    """METER_CURVE with the points of a customer's curve."""
    return METER_CURVE.conform(curve.with_columns(meter_id=pl.lit(meter_id)))


def days(*rows: tuple[str, date, int, float | None], s_max: float | None = None) -> pl.DataFrame:
    """DEMAND_DAILY: each source's, and where it is the only one that of all of them."""
    listed = [
        {
            "customer_no": no, "date": day, "source_no": source, "demand_kw": kw, "basis": "block",
            "demand_at": datetime(day.year, day.month, day.day, 4, tzinfo=UTC),
            "s_max_kva": None if source else s_max,
        }
        for no, day, source, kw in rows
    ]  # fmt: skip
    floats = {"demand_kw": pl.Float64, "s_max_kva": pl.Float64}
    return DEMAND_DAILY.conform(pl.DataFrame(listed, schema_overrides=floats) if listed else DEMAND_DAILY.empty())


def energy(kwh: float) -> pl.DataFrame:
    return pl.DataFrame({"customer_no": [A], "active_kwh": [kwh]})


def by_source(table: pl.DataFrame) -> dict[int, dict[str, Any]]:
    assert table.schema == DEMAND_DAILY.schema
    return {row["source_no"]: row for row in table.to_dicts()}


def test_sources_are_measured_apart_and_summed_where_the_settings_say_so(
    metering_settings: MeteringSettings, make_customers: Builder, make_meter_versions: Builder, make_curve: Builder
) -> None:
    versions = make_meter_versions(
        make_customers({A: {}}),
        {"m1": {"customer_no": A}, "m2": {"customer_no": A, "source_no": 2}, "c": {"customer_no": A, "role": "check"}},
    )
    one = make_curve(A, DAY, [100.0] * 40 + [300.0] * 16 + [100.0] * 40)
    two = make_curve(A, DAY, [250.0] * 20 + [50.0] * 76)
    both = one.with_columns((pl.col("p_kw") + two["p_kw"]).alias("p_kw"))
    meters = pl.concat([of_meter("m1", one), of_meter("m2", two), of_meter("c", one)])
    table = demand_daily(both, meters, None, versions, DAY, metering_settings)
    rows = by_source(table)
    assert {source: row["demand_kw"] for source, row in rows.items()} == {0: 350.0, 1: 300.0, 2: 250.0}
    assert rows[2]["demand_at"] == START + timedelta(minutes=15)
    assert demand_of_day(table, DAY, metering_settings).rows() == [(A, 550.0, "block")]
    together = replace(metering_settings, settlement=(replace(metering_settings.settlement[0], sources="together"),))
    assert demand_of_day(table, DAY, together).rows() == [(A, 350.0, "block")]


def test_it_slides_where_every_main_meter_reports_by_the_minute(
    metering_settings: MeteringSettings, make_customers: Builder, make_meter_versions: Builder, make_curve: Builder
) -> None:
    fine = {"customer_no": A, "interval_s": 60}
    coarse_check = {"customer_no": A, "interval_s": 900, "role": "check"}
    versions = make_meter_versions(make_customers({A: {}}), {"m1": fine, "k": coarse_check})
    peak = [0.0] * 100 + [600.0] * 15 + [0.0] * 100  # 15 min that no block of 15 min holds whole
    curve = make_curve(A, DAY, [500.0] * 96)
    found = by_source(demand_daily(curve, METER_CURVE.empty(), minutes("m1", peak), versions, DAY, metering_settings))
    assert (found[0]["demand_kw"], found[0]["basis"]) == (pytest.approx(600.0), "sliding")
    assert found[0]["demand_at"] == START + timedelta(minutes=115)
    assert found[1]["demand_kw"] == found[0]["demand_kw"]


def test_it_slides_over_the_exchange_of_a_meter_at_noon(
    metering_settings: MeteringSettings, make_customers: Builder, make_meter_versions: Builder, make_curve: Builder
) -> None:
    noon = START + timedelta(hours=12)
    customers = make_customers({A: {}})
    fine = {"customer_no": A, "interval_s": 60, "valid_to": date(2026, 7, 8)}
    later = {**fine, "valid_from": date(2026, 7, 8), "valid_to": None}
    versions = make_meter_versions(customers, {"old": fine, "new": later})
    at = pl.when(pl.col("meter_id") == "old")
    versions = versions.with_columns(
        at.then("valid_from").otherwise(pl.lit(noon).cast(pl.Datetime("us", "UTC"))).alias("valid_from"),
        at.then(pl.lit(noon).cast(pl.Datetime("us", "UTC"))).otherwise("valid_to").alias("valid_to"),
    )
    before = minutes("old", [10.0] * 712 + [400.0] * 8)
    readings = pl.concat([before, minutes("new", [400.0] * 7 + [10.0] * 713, noon)])
    curve = make_curve(A, DAY, [300.0] * 96)
    row = by_source(demand_daily(curve, METER_CURVE.empty(), readings, versions, DAY, metering_settings))[0]
    assert (row["demand_kw"], row["basis"]) == (pytest.approx(400.0), "sliding")
    assert row["demand_at"] == noon + timedelta(minutes=7)


def test_snapshots_give_no_demand_and_it_is_said(
    metering_settings: MeteringSettings, make_customers: Builder, make_meter_versions: Builder, make_curve: Builder
) -> None:
    meters = {"m1": {"customer_no": A, "sampling": "snapshot", "interval_s": 60}, "m2": {"customer_no": A}}
    versions = make_meter_versions(make_customers({A: {}}), meters)
    curve = make_curve(A, DAY, [500.0] * 96)
    table = demand_daily(curve, METER_CURVE.empty(), minutes("m1", [1.0] * 99), versions, DAY, metering_settings)
    row = by_source(table)[0]
    assert (row["demand_kw"], row["demand_at"], row["basis"]) == (None, None, None)
    assert row["reason"] == "snapshots give no demand: meter m1"
    month = demand_monthly(table, energy(1.0), make_customers({A: {}}), MONTH, metering_settings, DAY)
    assert month.select("demand_kw", "basis", "utilisation_hours", "reason").rows() == [
        (None, None, None, row["reason"])
    ]


def test_a_quarter_hour_that_is_an_estimate_is_said(
    metering_settings: MeteringSettings, make_customers: Builder, make_meter_versions: Builder, make_curve: Builder
) -> None:
    versions = make_meter_versions(make_customers({A: {}}), {"m1": {"customer_no": A}})
    curve = make_curve(A, DAY, [100.0] * 95 + [200.0]).with_columns(
        pl.when(pl.col("point") == 96).then(pl.lit("estimated")).otherwise("status").alias("status")
    )
    row = by_source(demand_daily(curve, METER_CURVE.empty(), None, versions, DAY, metering_settings))[0]
    assert (row["demand_kw"], row["reason"]) == (200.0, "the quarter-hour is estimated")


@settings(max_examples=30)
@given(
    kw=st.lists(st.tuples(st.integers(0, 40), st.sampled_from([1, 2]), st.floats(0, 1e5)), max_size=20),
    reset=st.sampled_from([1, 10, 25]),
    apart=st.booleans(),
)
def test_a_month_is_the_largest_of_its_days_from_reset_to_reset(
    metering_settings: MeteringSettings,
    make_customers: Builder,
    kw: list[tuple[int, int, float]],
    reset: int,
    apart: bool,
) -> None:
    rows = {(date(2026, 6, 20) + timedelta(days=n), source): value for n, source, value in kw}
    together: dict[date, float] = {}
    for (day, _), value in rows.items():
        together[day] = together.get(day, 0.0) + value
    table = days(
        *((A, day, source, v) for (day, source), v in rows.items()), *((A, day, 0, v) for day, v in together.items())
    )
    first, last = (
        (date(2026, 7, 1), date(2026, 7, 31)) if reset == 1 else (date(2026, 6, reset), date(2026, 7, reset - 1))
    )
    own = replace(metering_settings.settlement[0], reset_day=reset, sources="apart" if apart else "together")
    changed = replace(metering_settings, settlement=(own,))
    found = demand_monthly(table, energy(5e5), make_customers({A: {}}), MONTH, changed, last)
    assert found.schema == DEMAND_MONTHLY.schema
    inside = {(day, source): v for (day, source), v in rows.items() if first <= day <= last}
    parts = [[v for (_, of), v in inside.items() if of == source] for source in (1, 2)]
    if not apart:
        parts = [[v for day, v in together.items() if first <= day <= last]]
    expected = [max(values) for values in parts if values]
    assert found["demand_kw"].to_list() == ([pytest.approx(sum(expected))] if expected else [])
    assert set(found.select("period_from", "period_to").rows()) <= {(first, last)}


def test_each_day_is_judged_by_the_contract_of_that_day(
    metering_settings: MeteringSettings, make_customers: Builder
) -> None:
    old = {"contract_demand_kw": 400.0, "contract_capacity_kva": 500.0, "valid_to": date(2026, 7, 15)}
    new = {"contract_demand_kw": 900.0, "contract_capacity_kva": 1000.0, "valid_from": date(2026, 7, 16)}
    customers = pl.concat([make_customers({A: old}), make_customers({A: new})])
    early, late = date(2026, 7, 10), date(2026, 7, 20)
    table = pl.concat(
        [
            days((A, early, 1, 450.0), (A, early, 0, 450.0), s_max=475.0),
            days((A, late, 1, 850.0), (A, late, 0, 850.0), s_max=870.0),
        ]
    )
    row = demand_monthly(table, energy(85_000.0), customers, MONTH, metering_settings, date(2026, 7, 31)).row(
        0, named=True
    )
    assert (row["demand_kw"], row["demand_at"].date(), row["days"]) == (850.0, late, 2)
    assert (row["contract_demand_kw"], row["contract_capacity_kva"]) == (900.0, 1000.0)
    assert row["overrun_kw"] == 50.0  # of the 10th, above the 400 of that day
    assert row["max_load_rate"] == 0.95  # 475 / 500 is more than 870 / 1,000
    assert row["utilisation_hours"] == 100.0


def test_a_customer_without_a_contract_demand_has_no_overrun(
    metering_settings: MeteringSettings, make_customers: Builder
) -> None:
    table = days((A, DAY, 1, 450.0), (A, DAY, 0, 450.0))
    row = demand_monthly(table, energy(0.0), make_customers({A: {}}), MONTH, metering_settings, DAY).row(0, named=True)
    assert (row["overrun_kw"], row["max_load_rate"], row["utilisation_hours"]) == (None, None, 0.0)
