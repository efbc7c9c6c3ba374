"""The basic charge against plain Python written from the rules, and what must hold whatever the figures."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.charges.basic import Contract, Counting, basic_charge, fully_used
from metering.charges.prices import Paid
from metering.settings import MeteringSettings

D = Decimal
FLOOR, OVER = D("0.40"), D("1.05")
KW = st.integers(0, 10_000_000).map(lambda n: D(n) / 100)


def counting(settings: MeteringSettings, *, used: bool = False, excess_from: str = "contract") -> Counting:
    rows = {row.per: row for row in settings.prices if row.per in ("kVA", "kW")}
    rules = replace(settings.basic_charge[0], excess_from=excess_from)
    kva, kw = (Paid(rows[per], None, 1) for per in ("kVA", "kW"))
    return Counting(rules, settings.settlement[0], kva, kw, used)


def by_hand(capacity: D, suspended: D, contract: D, demand: D, *, used: bool, allowed: bool) -> D:
    """Domain handbook: floor 40 % of capacity less suspended; to 105 % the contract value; above it twice the price."""
    price = D("31.5") if used else D(35)
    c = max(contract, (FLOOR * (capacity - suspended)).quantize(D("0.01"), ROUND_HALF_UP))
    limit = (OVER * c).quantize(D("0.01"), ROUND_HALF_UP)
    if demand <= limit:
        return (c * price).quantize(D("0.01"), ROUND_HALF_UP)
    whole = ((limit if allowed else c) * price).quantize(D("0.01"), ROUND_HALF_UP)
    return whole + ((demand - limit) * 2 * price).quantize(D("0.01"), ROUND_HALF_UP)


@given(capacity=KW, share=st.integers(0, 100), contract=KW, demand=KW, used=st.booleans(), allowed=st.booleans())
def test_contract_demand_as_by_hand(
    metering_settings: MeteringSettings,
    capacity: D,
    share: int,
    contract: D,
    demand: D,
    used: bool,
    allowed: bool,
) -> None:
    suspended = (capacity * share / 100).quantize(D("0.01"))
    by = counting(metering_settings, used=used, excess_from="allowed" if allowed else "contract")
    lines = basic_charge("contract_demand", Contract(capacity, suspended, contract, demand), by)
    assert lines is not None
    total = sum(line.amount for line in lines if line.amount is not None)
    assert total == by_hand(capacity, suspended, contract, demand, used=used, allowed=allowed)
    actual = basic_charge("actual_demand", Contract(capacity, suspended, contract, demand), by)
    assert actual is not None
    assert actual[0].amount == (demand * (D("31.5") if used else 35)).quantize(D("0.01"), ROUND_HALF_UP)


@given(contract=KW, low=KW, high=KW)
def test_more_demand_never_costs_less(metering_settings: MeteringSettings, contract: D, low: D, high: D) -> None:
    for basis in ("contract_demand", "actual_demand", "capacity"):
        costs = []
        for demand in sorted((low, high)):
            lines = basic_charge(basis, Contract(D(1000), D(0), contract, demand), counting(metering_settings))
            costs.append(sum(line.amount or 0 for line in lines or ()))
        assert costs[0] <= costs[1]


def test_the_best_declaration_in_contract_mode_is_near_demand_over_105_percent(
    metering_settings: MeteringSettings,
) -> None:
    def cost(contract: int) -> D:
        lines = basic_charge(
            "contract_demand", Contract(D(2000), D(0), D(contract), D(1050)), counting(metering_settings)
        )
        return sum((line.amount or D(0) for line in lines or ()), D(0))

    assert min(range(800, 1200), key=cost) == 1000


@pytest.mark.parametrize(
    ("kwh", "kva", "used"), [("260000", "1000", True), ("259999.99", "1000", False), ("1", "0", False)]
)
def test_full_use_begins_at_260_kwh_a_kva(metering_settings: MeteringSettings, kwh: str, kva: str, used: bool) -> None:
    rules = metering_settings.basic_charge[0]
    assert fully_used(D(kwh), D(kva), rules) == used
    assert not fully_used(D(kwh), D(kva), replace(rules, full_use_kwh_per_kva=D(0)))


def test_a_basis_without_its_price_or_contract_is_not_possible(metering_settings: MeteringSettings) -> None:
    by = counting(metering_settings)
    of = Contract(D(1000), D(0), None, D(500))
    assert basic_charge("contract_demand", of, by) is None
    assert basic_charge("capacity", of, replace(by, capacity=None)) is None
    assert basic_charge("actual_demand", of, replace(by, demand=None)) is None


def test_the_rule_says_each_figure(metering_settings: MeteringSettings) -> None:
    lines = basic_charge("contract_demand", Contract(D(2000), D(0), D(1000), D(1100)), counting(metering_settings))
    assert lines is not None
    assert lines[0].rule.startswith("contract demand 1000 kW, charged to 1000 kW; ")
    assert lines[1].rule.startswith("demand 1100 kW above 105 % of it, 1050 kW, at 2 times the price; ")
    assert all(metering_settings.basic_charge[0].clause in line.rule for line in lines)
    assert date(2026, 1, 1) > metering_settings.basic_charge[0].effective_from
