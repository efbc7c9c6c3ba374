"""Bills that came: every difference has its cause, and quantity and price make it up."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.charges.bills import bill_check
from metering.charges.closing import with_deltas
from metering.settings import MeteringSettings
from metering.tables.charges import BILL_CHECK
from metering.tables.records import SERVICE
from tests.metering.charges.bill import MONTH, charged, customers

D = Decimal
NO = "310105200001"
AT = datetime(2026, 4, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def ours(metering_settings: MeteringSettings) -> pl.DataFrame:
    energy = {NO: {date(2026, 3, 4): {"peak": 6000.0, "flat": 7000.0}}}
    return charged(metering_settings, customers(), energy, pf={NO: 0.88}, demand={NO: 520.0})


Lines = dict[str, tuple[D | None, D | None, D]]


def of(rows: pl.DataFrame) -> Lines:
    return {i: (q, p, a) for i, q, p, a in rows.select("item", "quantity", "price", "amount").iter_rows()}


def bill(lines: Lines | None, amount: D | None = None, event_id: str = "b1", at: datetime = AT) -> pl.DataFrame:
    listed = None if lines is None else [
        {"item": item, "quantity": q, "price": p, "amount": a} for item, (q, p, a) in lines.items()
    ]  # fmt: skip
    row = {
        "event_id": event_id, "customer_no": NO, "at": at, "month": MONTH, "lines": listed,
        "amount": sum((a for *_, a in (lines or {}).values()), D(0)) if amount is None else amount,
    }  # fmt: skip
    return pl.DataFrame([row], schema={name: SERVICE.table.schema[name] for name in row}, orient="row")


def causes(bills: pl.DataFrame, ours: pl.DataFrame, settings: MeteringSettings) -> dict[str, tuple[str, Any]]:
    rows = bill_check(bills, ours, MONTH, settings, {NO: "of 2976 quarter-hours 8 estimated"})
    assert rows.schema == BILL_CHECK.schema
    return {r["item"]: (r["cause"], r["difference"]) for r in rows.to_dicts() if r["cause"] != "equal"}


def test_a_bill_like_ours_is_equal(ours: pl.DataFrame, metering_settings: MeteringSettings) -> None:
    rows = bill_check(bill(of(ours)), ours, MONTH, metering_settings, {})
    assert set(rows["cause"]) == {"equal"}
    assert rows.height == ours.height + 1
    total = rows.filter(item="total").row(0, named=True)
    assert (total["amount"], total["difference"]) == (ours["amount"].sum(), 0)


def test_each_cause(ours: pl.DataFrame, metering_settings: MeteringSettings) -> None:
    lines = of(ours)
    lines["purchase_peak"] = (D(6100), D("0.66448"), D("4053.33"))
    lines["purchase_flat"] = (D(7000), D("0.42"), D("2940.00"))
    lines["line_loss"] = (D(13100), D("0.017"), D("222.70"))
    lines["system_operation"] = (D(13000), D("0.0342"), D("444.62"))
    lines["transmission"] = (D(13000), D("0.1435"), D("1900.00"))
    del lines["funds"]
    lines["违约金"] = (None, None, D("12.00"))
    lines["basic_demand"] = (D(520), D(35), D(18200))
    del lines["basic_capacity"]
    rate, base = D("0.015"), lines["power_factor_adjustment"][0]
    lines["力调电费"] = (base, rate, (base * rate).quantize(D("0.01")) if base else D(0))
    del lines["power_factor_adjustment"]
    found = causes(bill(lines), ours, metering_settings)
    assert {item: cause for item, (cause, _) in found.items()} == {
        "purchase_peak": "quantity", "purchase_flat": "price", "line_loss": "quantity_and_price",
        "system_operation": "rounding", "transmission": "arithmetic", "funds": "not_on_bill", "违约金": "not_ours",
        "basic_demand": "basis", "basic_capacity": "basis", "power_factor_adjustment": "power_factor",
        "total": "follows",
    }  # fmt: skip
    assert found["purchase_peak"][1] == D("66.45")
    assert found["total"][1] == sum(off for item, (_, off) in found.items() if item != "total")


@settings(max_examples=30)
@given(dq=st.integers(-50000, 50000), dp=st.integers(-5000, 5000))
def test_quantity_and_price_make_up_the_difference(
    ours: pl.DataFrame, metering_settings: MeteringSettings, dq: int, dp: int
) -> None:
    lines = of(ours)
    quantity, price = D(13000) + D(dq) / 100, D("0.1435") + D(dp) / 100000
    lines["transmission"] = (quantity, price, (quantity * price).quantize(D("0.01")))
    rows = bill_check(bill(lines), ours, MONTH, metering_settings, {})
    row = rows.filter(item="transmission").row(0, named=True)
    by_quantity = (quantity - 13000) * D("0.1435")
    by_price = (price - D("0.1435")) * quantity
    assert abs(by_quantity + by_price - row["difference"]) <= D("0.01")
    expected = {(True, True): "quantity_and_price", (True, False): "quantity", (False, True): "price"}
    if abs(row["difference"]) > D("0.05"):
        assert row["cause"] == expected[abs(by_quantity) >= D("0.005"), abs(by_price) >= D("0.005")]


def test_the_last_bill_of_a_month_counts(ours: pl.DataFrame, metering_settings: MeteringSettings) -> None:
    later = bill(of(ours), event_id="b2", at=datetime(2026, 4, 9, tzinfo=UTC))
    rows = bill_check(pl.concat([later, bill(None, D(1))]), ours, MONTH, metering_settings, {})
    assert set(rows["event_id"]) == {"b2"}
    assert set(rows["cause"]) == {"equal"}


def test_a_bill_without_lines_and_one_that_does_not_add_up(
    ours: pl.DataFrame, metering_settings: MeteringSettings
) -> None:
    whole = ours["amount"].sum()
    assert causes(bill(None, whole + 3), ours, metering_settings) == {"total": ("no_lines", D("3.00"))}
    assert causes(bill(None, whole), ours, metering_settings) == {}
    assert causes(bill(of(ours), whole + 3), ours, metering_settings) == {"total": ("arithmetic", D("3.00"))}
    assert bill_check(bill(of(ours)).clear(), ours, MONTH, metering_settings, {}).is_empty()


def test_deltas_count_with_their_lines(ours: pl.DataFrame, metering_settings: MeteringSettings) -> None:
    energy = {NO: {date(2026, 3, 4): {"peak": 6100.0, "flat": 7000.0}}}
    now = charged(metering_settings, customers(), energy, pf={NO: 0.88}, demand={NO: 520.0})
    rows = bill_check(bill(of(now)), with_deltas(now, ours, AT, "later"), MONTH, metering_settings, {})
    assert set(rows["cause"]) == {"equal"}
