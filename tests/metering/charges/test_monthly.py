"""A month's lines: energy adds up to the last digit, parts of a month, prices by the hour, projection, alternatives."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from metering.settings import MeteringSettings, Price
from metering.tables.charges import CHARGES_MONTHLY
from tests.metering.charges.bill import MONTH, charged, customers

NO = "310105200001"
D = Decimal
DAY = date(2026, 3, 4)


def by_item(rows: pl.DataFrame) -> dict[str, dict[str, Any]]:
    assert rows.schema == CHARGES_MONTHLY.schema
    return {row["item"]: row for row in rows.to_dicts()}


def with_price(settings: MeteringSettings, **row: Any) -> MeteringSettings:
    given = {"name_zh": "附加", "effective_from": date(2000, 1, 1), "per": "kWh", "clause": "notice", **row}
    return replace(settings, prices=(*settings.prices, Price(**given)))


@hypothesis(max_examples=30)
@given(
    energy=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(["sharp", "peak", "flat", "valley"]), st.floats(0, 1e5)),
        min_size=1,
        max_size=40,
    ),
    changed=st.integers(2, 30),
)
def test_each_components_energy_adds_up_to_the_months_to_the_last_digit(
    metering_settings: MeteringSettings, energy: list[tuple[int, str, float]], changed: int
) -> None:
    days: dict[date, dict[str, float]] = {}
    for n, period, kwh in energy:
        own = days.setdefault(MONTH + timedelta(days=n), {})
        own[period] = own.get(period, 0.0) + kwh
    rows = customers(
        {"valid_to": date(2026, 3, changed - 1)},
        {"valid_from": date(2026, 3, changed), "tariff": "large_industry", "contract_capacity_kva": 630.0},
    )
    table = charged(metering_settings, rows, {NO: days}, pf={NO: 0.9}, demand={NO: 100.0})
    total = D(f"{sum(sum(own.values()) for own in days.values()):.6f}").quantize(D("0.01"), ROUND_HALF_UP)
    energies = table.filter(pl.col("unit") == "kWh").group_by("component").agg(pl.col("quantity").sum())
    assert set(energies["quantity"]) <= {total}
    assert energies.height == 5 or total == 0
    priced = table.filter(pl.col("unit") == "kWh")
    for quantity, price, amount in priced.select("quantity", "price", "amount").iter_rows():
        assert amount == (quantity * price).quantize(D("0.01"), ROUND_HALF_UP)


def test_halves_of_a_fen_are_rounded_up_each_line_on_its_own(metering_settings: MeteringSettings) -> None:
    settings = replace(metering_settings, prices=())
    settings = with_price(with_price(settings, component="a", price=D("0.005")), component="b", price=D("-0.005"))
    lines = by_item(charged(settings, customers(), {NO: {DAY: {"flat": 3.0}}}))
    assert (lines["a"]["amount"], lines["b"]["amount"]) == (D("0.02"), D("-0.02"))


def test_a_price_that_changes_within_the_month_is_two_lines(metering_settings: MeteringSettings) -> None:
    settings = with_price(metering_settings, component="line_loss", price=D("0.02"), effective_from=date(2026, 3, 16))
    energy = {NO: {date(2026, 3, 15): {"peak": 100.0, "flat": 50.0}, date(2026, 3, 16): {"flat": 30.0}}}
    lines = by_item(charged(settings, customers(), energy))
    assert (lines["line_loss"]["quantity"], lines["line_loss"]["amount"]) == (150, D("2.52"))
    assert (lines["line_loss#2"]["quantity"], lines["line_loss#2"]["amount"]) == (30, D("0.60"))
    assert lines["purchase_flat"]["quantity"] == 80  # the same price: one line
    # prices alone have changed: the basic charge is that of a whole month
    assert lines["basic_capacity"]["amount"] == D("21900.00")
    assert "basic_capacity#2" not in lines


def test_a_supply_mode_changes_from_a_day_on(metering_settings: MeteringSettings) -> None:
    rows = customers({"valid_to": date(2026, 3, 10)}, {"valid_from": date(2026, 3, 11), "supply_mode": "retail"})
    energy = {NO: {date(2026, 3, 10): {"peak": 100.0}, date(2026, 3, 11): {"peak": 100.0, "valley": 20.0}}}
    lines = by_item(charged(metering_settings, rows, energy))
    assert (lines["purchase_peak"]["quantity"], lines["purchase_peak"]["price"]) == (100, D("0.66448"))
    assert (lines["purchase"]["quantity"], lines["purchase"]["price"]) == (120, D("0.401"))
    assert lines["basic_capacity"]["amount"] == D("21900.00")  # the contract is the same all month


def test_prices_by_the_hour_take_each_hour_at_its_own(metering_settings: MeteringSettings) -> None:
    rows = customers({"supply_mode": "wholesale"})
    slots = tuple((NO, DAY, slot, 10.0) for slot in range(96))
    lines = by_item(charged(metering_settings, rows, {NO: {DAY: {"flat": 960.0}}}, slots=slots))
    hourly = next(p for p in metering_settings.prices if p.supply_mode == "wholesale").by_hour
    assert lines["purchase"]["amount"] == sum(40 * price for price in hourly).quantize(D("0.01"), ROUND_HALF_UP)
    assert lines["purchase"]["quantity"] == 960
    assert "24 prices" in lines["purchase"]["rule"]
    without = by_item(charged(metering_settings, rows, {NO: {DAY: {"flat": 960.0}}}))
    assert (without["purchase"]["amount"], without["purchase"]["price"]) == (None, None)


def test_prices_by_quarter_hour_by_period_and_by_month(metering_settings: MeteringSettings) -> None:
    settings = replace(metering_settings, prices=())
    quarters = tuple(D(n) / 100 for n in range(96))
    settings = with_price(settings, component="spot", by_quarter_hour=quarters)
    settings = with_price(
        settings, component="use", by_period=dict.fromkeys(settings.periods, D("0.1")) | {"peak": D("0.3")}
    )
    settings = with_price(settings, component="monthly", by_month=tuple(D(n) for n in range(1, 13)))
    slots = ((NO, DAY, 0, 6.0), (NO, DAY, 95, 4.0))
    lines = by_item(charged(settings, customers(), {NO: {DAY: {"peak": 7.0, "flat": 3.0}}}, slots=slots))
    assert lines["spot"]["amount"] == D("3.80")
    assert (lines["use_peak"]["amount"], lines["use_flat"]["amount"]) == (D("2.10"), D("0.30"))
    assert lines["monthly"]["amount"] == D("30.00")  # March is the third


def test_a_component_by_the_month_goes_by_its_days(metering_settings: MeteringSettings) -> None:
    settings = with_price(metering_settings, component="service", per="month", price=D("310"))
    whole = by_item(charged(settings, customers(), {NO: {DAY: {"flat": 1.0}}}))
    part = by_item(
        charged(settings, customers({"valid_from": date(2026, 3, 22)}), {NO: {date(2026, 3, 25): {"flat": 1.0}}})
    )
    assert (whole["service"]["amount"], part["service"]["amount"]) == (D("310.00"), D("100.00"))


def test_government_funds_are_in_the_base_where_the_settlement_says_so(metering_settings: MeteringSettings) -> None:
    energy = {NO: {DAY: {"flat": 100000.0}}}
    out = by_item(charged(metering_settings, customers(), energy, pf={NO: 0.8}))["power_factor_adjustment"]
    settlement = replace(metering_settings.settlement[0], funds_in_pf_base=True)
    within = replace(metering_settings, settlement=(settlement,))
    into = by_item(charged(within, customers(), energy, pf={NO: 0.8}))["power_factor_adjustment"]
    assert into["quantity"] - out["quantity"] == D("2910.00")
    assert (out["price"], out["amount"]) == (
        D("0.05"),
        (out["quantity"] * D("0.05")).quantize(D("0.01"), ROUND_HALF_UP),
    )


def test_small_capacity_and_no_power_factor_are_not_adjusted(metering_settings: MeteringSettings) -> None:
    energy = {NO: {DAY: {"flat": 100.0}}}
    small = charged(metering_settings, customers({"contract_capacity_kva": 99.0}), energy, pf={NO: 0.5})
    unknown = charged(metering_settings, customers(), energy)
    assert not {"power_factor_adjustment"} & {*small["item"], *unknown["item"]}


def test_the_alternative_is_the_cheapest_other_basis_and_the_adjustment_follows(
    metering_settings: MeteringSettings,
) -> None:
    rows = customers({"contract_demand_kw": 500.0})
    table = charged(metering_settings, rows, {NO: {DAY: {"flat": 1000.0}}}, pf={NO: 0.8}, demand={NO: 450.0})
    lines = by_item(table)
    basic = lines["basic_demand"]
    assert (basic["amount"], basic["alternative"], basic["alternative_basis"]) == (D(17500), D(15750), "actual_demand")
    assert basic["alternatives"] == "capacity 21900.00, actual_demand 15750.00"
    adjustment = lines["power_factor_adjustment"]
    assert adjustment["amount"] - adjustment["alternative"] == D("87.50")  # 5 % of what the basic charge is less


def test_a_running_month_is_projected_and_a_month_that_is_over_is_not(metering_settings: MeteringSettings) -> None:
    energy = {NO: {MONTH + timedelta(days=n): {"flat": 1000.0, "peak": 500.0} for n in range(10)}}
    elapsed = {MONTH + timedelta(days=n): 1.0 if n < 10 else 0.0 for n in range(31)}
    running = by_item(charged(metering_settings, customers(), energy, pf={NO: 0.8}, elapsed=elapsed, over=False))
    assert {row["status"] for row in running.values()} == {"running"}
    assert running["transmission"]["amount"] == D("2152.50")
    assert running["transmission"]["projected"] == D("6672.75")  # 15,000 kWh x 31 / 10 x 0.1435
    assert running["basic_capacity"]["projected"] == running["basic_capacity"]["amount"] == D("21900.00")
    assert running["power_factor_adjustment"]["projected"] > running["power_factor_adjustment"]["amount"]
    over = charged(metering_settings, customers(), energy, pf={NO: 0.8})
    assert over["projected"].null_count() == over.height
    assert set(over["status"]) == {"final"}


def test_a_demand_that_is_not_known_is_said(metering_settings: MeteringSettings) -> None:
    actual = charged(
        metering_settings, customers({"basic_charge": "actual_demand"}), {NO: {DAY: {"flat": 1.0}}}, demand={NO: None}
    )
    line = by_item(actual)["basic_demand"]
    assert (line["amount"], line["quantity"]) == (None, None)
    assert "not known" in line["rule"]
    assert (line["alternative"], line["alternative_basis"]) == (D("21900.00"), "capacity")
    contract = charged(
        metering_settings, customers({"contract_demand_kw": 500.0}), {NO: {DAY: {"flat": 1.0}}}, demand={NO: None}
    )
    assert by_item(contract)["basic_demand"]["amount"] == D("17500.00")


def test_each_contract_of_a_month_has_its_own_demand(metering_settings: MeteringSettings) -> None:
    rows = customers(
        {"valid_to": date(2026, 3, 20), "contract_demand_kw": 500.0},
        {"valid_from": date(2026, 3, 21), "contract_demand_kw": 800.0},
    )
    lines = by_item(
        charged(
            metering_settings,
            rows,
            {NO: {DAY: {"flat": 1.0}}},
            demand={NO: 820.0},
            contract_demand=((NO, 0, 510.0), (NO, 1, 820.0)),
        )
    )
    assert lines["basic_demand"]["amount"] == D("11666.67")  # 500 x 35 x 20/30
    assert lines["basic_demand#2"]["amount"] == D("10266.67")  # 800 x 35 x 11/30; 820 is within 105 %
    assert "basic_demand_excess" not in lines


def test_frozen_registers_go_before_our_own_sums(metering_settings: MeteringSettings) -> None:
    energy = {NO: {DAY: {"peak": 100.0, "flat": 300.0}}}
    rated = by_item(
        charged(
            metering_settings,
            customers(),
            energy,
            frozen=((NO, "peak", 101.5), (NO, "flat", 299.0), (NO, "valley", 2.0)),
        )
    )
    assert [rated[f"purchase_{p}"]["quantity"] for p in ("peak", "flat", "valley")] == [D("101.5"), 299, 2]
    assert rated["transmission"]["quantity"] == D("402.5")
    assert "frozen registers" in rated["transmission"]["rule"]
    whole = by_item(charged(metering_settings, customers(), energy, frozen=((NO, None, 404.0),)))
    assert [whole[f"purchase_{p}"]["quantity"] for p in ("peak", "flat")] == [101, 303]
    assert "shared" in whole["purchase_peak"]["rule"]
    demand = charged(
        metering_settings,
        customers({"basic_charge": "actual_demand"}),
        energy,
        demand={NO: 90.0},
        frozen_kw=((NO, 95.5),),
    )
    assert by_item(demand)["basic_demand"]["quantity"] == D("95.5")
    assert "froze" in by_item(demand)["basic_demand"]["rule"]


def test_a_customer_without_energy_still_pays_for_its_capacity(metering_settings: MeteringSettings) -> None:
    assert charged(metering_settings, customers(), {})["item"].to_list() == ["basic_capacity"]


def test_no_price_no_line(metering_settings: MeteringSettings) -> None:
    assert charged(replace(metering_settings, prices=()), customers(), {NO: {DAY: {"flat": 1.0}}}).is_empty()


@pytest.mark.parametrize("days", [30, 0])
def test_a_customer_who_leaves_pays_its_days(metering_settings: MeteringSettings, days: int) -> None:
    settings = replace(
        metering_settings, basic_charge=(replace(metering_settings.basic_charge[0], days_of_month=days),)
    )
    lines = by_item(charged(settings, customers({"valid_to": date(2026, 3, 10)}), {NO: {DAY: {"flat": 1.0}}}))
    assert lines["basic_capacity"]["amount"] == (D("7300.00") if days else D("7064.52"))


@pytest.mark.parametrize("kwh", [1e11, 1e200, 1.7e308])
def test_one_customers_absurd_month_keeps_nobody_else_from_being_charged(
    metering_settings: MeteringSettings, kwh: float
) -> None:
    other = "310105200002"
    absurd = {"contract_capacity_kva": 1e200, "contract_demand_kw": 1e15, "suspended_kva": 1e199}
    rows = customers(absurd, {"customer_no": other})
    energy = {NO: {DAY: {"flat": kwh}}, other: {DAY: {"flat": 1.0}}}
    for over in (True, False):
        table = charged(metering_settings, rows, energy, pf={NO: 0.5, other: 0.9}, demand={NO: 1e30}, over=over)
        alone = charged(
            metering_settings, customers({"customer_no": other}), {other: energy[other]}, pf={other: 0.9}, over=over
        )
        assert table.filter(pl.col("customer_no") == other).equals(alone)
        assert set(table.filter(customer_no=NO)["component"]) <= {"basic_demand", "basic_demand_excess"}
