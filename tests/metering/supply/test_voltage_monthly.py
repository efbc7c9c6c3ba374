"""Months of voltage: meters, phases and groups add up to the same minutes; the spread; SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.supply.voltage_monthly import voltage_monthly
from metering.tables.supply import VOLTAGE_DAILY, VOLTAGE_MONTHLY

Builder = Callable[..., pl.DataFrame]
MONTH = date(2026, 2, 1)
METERS = {"110-1": ("H", "a"), "110-2": ("H", "a"), "10-1": ("A", "b"), "10-2": ("B", "c")}


@pytest.fixture(scope="module")
def customers(make_customers: Builder) -> pl.DataFrame:
    return make_customers(
        {
            "H": {"voltage_level_kv": 110.0, "feeder": "F1", "industry": "steel"},
            "A": {"feeder": "F1", "industry": "steel", "segment": "sme"},
            "B": {"feeder": "", "manager": "城东供电所"},
        }
    )


@pytest.fixture(scope="module")
def versions(customers: pl.DataFrame, make_meter_versions: Builder) -> pl.DataFrame:
    return make_meter_versions(customers, {meter: {"customer_no": no} for meter, (no, _) in METERS.items()})


def daily(rows: list[tuple[str, int, float, float, float]]) -> pl.DataFrame:
    """(meter, day of the month, over, under [min], deviation [%])"""
    made = [
        {
            "meter_id": meter,
            "customer_no": METERS[meter][0],
            "phase": METERS[meter][1],
            "date": MONTH + timedelta(days=day),
            "monitored_min": 1440.0,
            "over_min": over,
            "under_min": under,
            "u_min_pct": 100.0 - dev,
            "u_max_pct": 100.0 + dev / 2,
            "u_max_primary_v": 1000.0 + dev,
            "spread_pct": 1.5 * dev if meter.startswith("110") else None,
        }
        for meter, day, over, under, dev in rows
    ]
    return VOLTAGE_DAILY.conform(pl.DataFrame(made, infer_schema_length=None) if made else VOLTAGE_DAILY.empty())


def month(rows: pl.DataFrame, customers: pl.DataFrame, versions: pl.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    table = voltage_monthly(rows, customers, versions, date(2026, 2, 17))
    assert table.schema == VOLTAGE_MONTHLY.schema
    assert table.select(VOLTAGE_MONTHLY.key).is_unique().all()
    return {(row["scope"], row["phase"]): row for row in table.to_dicts()}


def test_meters_and_scopes(customers: pl.DataFrame, versions: pl.DataFrame) -> None:
    rows = month(
        daily(
            [("110-1", 0, 144.0, 0, 4.0), ("110-1", 1, 0, 0, 8.0), ("10-1", 0, 0, 72.0, 2.0), ("110-2", 40, 9, 9, 9)]
        ),
        customers,
        versions,
    )
    scopes = {"meter:110-1", "meter:10-1", "H", "A", "segment:large", "segment:sme", "industry:steel", "feeder:F1", "*"}
    assert {scope for scope, _ in rows} == scopes | {"voltage_level_kv:110", "voltage_level_kv:10"}
    assert [phase for scope, phase in rows if scope == "meter:110-1"] == ["a", "all"]
    meter, all_of_it = rows["meter:110-1", "a"], rows["*", "all"]
    assert (meter["qualification_rate"], meter["days"]) == (pytest.approx(95.0), 2)
    assert (meter["spread_pct"], meter["spread_verdict"]) == (pytest.approx(12.0), "fail")  # -8 %, +4 %
    assert rows["meter:10-1", "a" if ("meter:10-1", "a") in rows else "b"]["spread_verdict"] is None
    assert all_of_it["qualification_rate"] == pytest.approx((1 - 216 / 4320) * 100)
    assert (all_of_it["worst_meter_id"], all_of_it["meters"]) == ("10-1", 2)  # 95 % both: the first by id
    assert (meter["u_max_primary_v"], all_of_it["u_max_primary_v"]) == (1008.0, None)
    assert (all_of_it["u_min_pct"], all_of_it["spread_verdict"], rows["A", "all"]["spread_verdict"]) == (
        92.0,
        "fail",
        None,
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(METERS)),
            st.integers(0, 27),
            st.floats(0, 700),
            st.floats(0, 700),
            st.sampled_from([0.0, 1.0, 6.0, 7.0]),
        ),
        unique_by=lambda row: row[:2],
    )
)
def test_roll_ups_add_up(
    customers: pl.DataFrame, versions: pl.DataFrame, rows: list[tuple[str, int, float, float, float]]
) -> None:
    table = month(daily(rows), customers, versions)
    minutes: dict[str, float] = {}
    for (_, phase), row in table.items():
        if phase == "all":
            minutes[row["scope_kind"]] = minutes.get(row["scope_kind"], 0.0) + row["over_min"] + row["under_min"]
    whole = sum(row[2] + row[3] for row in rows)
    for kind in ("meter", "customer", "segment", "voltage_level_kv", "whole"):
        assert minutes.get(kind, 0.0) == pytest.approx(whole)
    for row in table.values():
        assert row["worst_rate"] <= row["qualification_rate"] + 1e-9
