"""The basic charge of a two-part tariff: by capacity, by contract demand, by actual demand.

Here: its lines under each basis, in decimal. Not here: which basis a customer has, prices (`prices`), the rest of the
bill (`monthly`).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from metering.charges.prices import Paid, half_up
from metering.settings import BasicCharge, Settlement
from metering.tables.charges import BASES

CAPACITY, CONTRACT, ACTUAL = BASES


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a bill. `amount` is rounded; None where its quantity is not known. `in_base`: of the power-factor
    adjustment. `item`: its name on the bill."""

    component: str
    name_zh: str
    quantity: Decimal | None
    unit: str
    price: Decimal | None
    amount: Decimal | None
    rule: str
    period: str | None = None
    in_base: bool = True
    item: str = ""


@dataclass(frozen=True, slots=True)
class Contract:
    """What a basic charge is counted from, on some days: kVA, kW; `demand_kw` is None where it is not known.

    `share` of the month that it holds for, and how that is said ("" for the whole month).
    """

    capacity_kva: Decimal
    suspended_kva: Decimal
    contract_kw: Decimal | None
    demand_kw: Decimal | None
    share: Decimal = Decimal(1)
    said: str = ""


@dataclass(frozen=True, slots=True)
class Counting:
    """By what the basic charge is counted: the rows in force, the prices of a kVA and of a kW (None: none), and whether
    capacity is fully used, so that demand costs less."""

    rules: BasicCharge
    rounding: Settlement
    capacity: Paid | None
    demand: Paid | None
    fully_used: bool


def basic_charge(basis: str, of: Contract, by: Counting) -> tuple[Line, ...] | None:
    """The lines under a basis; None where it is not possible: no such price, or no contract demand."""
    if basis == CAPACITY:
        return _by_capacity(of, by)
    if basis == CONTRACT:
        return _by_contract(of, by)
    return _by_actual(of, by)


def fully_used(kwh: Decimal, capacity_kva: Decimal, rules: BasicCharge) -> bool:
    """Whether a month's energy reaches the hours of use from which demand costs less (260 kWh a kVA)."""
    most = rules.full_use_kwh_per_kva
    return most > 0 and capacity_kva > 0 and kwh >= most * capacity_kva


def _by_capacity(of: Contract, by: Counting) -> tuple[Line, ...] | None:
    if by.capacity is None:
        return None
    less = f" less {_n(of.suspended_kva)} suspended" if of.suspended_kva else ""
    said = f"capacity {_n(of.capacity_kva)} kVA{less}"
    return (_line(by.capacity, of.capacity_kva - of.suspended_kva, by.capacity.price(), said, of, by),)


def _by_contract(of: Contract, by: Counting) -> tuple[Line, ...] | None:
    if by.demand is None or of.contract_kw is None:
        return None
    rules, decimals = by.rules, by.rounding.demand_decimals
    floor = half_up(rules.contract_floor * (of.capacity_kva - of.suspended_kva), decimals)
    charged = max(of.contract_kw, floor)
    said = f"contract demand {_n(of.contract_kw)} kW"
    if charged > of.contract_kw:
        said = f"{said}, counted as {_pct(rules.contract_floor)} of capacity, {_n(floor)} kW"
    allowed = half_up(rules.allowed_over * charged, decimals)
    if of.demand_kw is None:
        return (_demand_line(charged, f"{said}; demand is not known", of, by),)
    demand = half_up(of.demand_kw, decimals)
    limit = f"{_pct(rules.allowed_over)} of it, {_n(allowed)} kW"
    if demand <= allowed:
        return (_demand_line(charged, f"{said}; demand {_n(demand)} kW is within {limit}", of, by),)
    first = allowed if rules.excess_from == "allowed" else charged
    over = f"demand {_n(demand)} kW above {limit}, at {_n(rules.excess_rate)} times the price"
    return (
        _demand_line(first, f"{said}, charged to {_n(first)} kW", of, by),
        _demand_line(demand - allowed, over, of, by, times=rules.excess_rate, suffix="_excess"),
    )


def _by_actual(of: Contract, by: Counting) -> tuple[Line, ...] | None:
    if by.demand is None:
        return None
    if of.demand_kw is None:
        return (_demand_line(None, "actual demand is not known", of, by),)
    demand = max(half_up(of.demand_kw, by.rounding.demand_decimals), Decimal(0))
    return (_demand_line(demand, f"actual demand {_n(demand)} kW", of, by),)


def _demand_line(
    quantity: Decimal | None, said: str, of: Contract, by: Counting, times: Decimal = Decimal(1), suffix: str = ""
) -> Line:
    assert by.demand is not None
    price = by.demand.price() * times
    if by.fully_used:
        price *= by.rules.full_use_factor
        said = f"{said}; price x {_n(by.rules.full_use_factor)} from {_n(by.rules.full_use_kwh_per_kva)} kWh a kVA"
    return _line(by.demand, quantity, price, said, of, by, suffix)


def _line(
    paid: Paid, quantity: Decimal | None, price: Decimal, said: str, of: Contract, by: Counting, suffix: str = ""
) -> Line:
    rounded = half_up(price, by.rounding.price_decimals)
    amount = None if quantity is None else half_up(quantity * rounded * of.share, by.rounding.amount_decimals)
    return Line(
        component=f"{paid.row.component}{suffix}",
        name_zh=f"{paid.row.name_zh}{'（超限）' if suffix else ''}",
        quantity=quantity,
        unit=paid.row.per,
        price=rounded,
        amount=amount,
        rule="; ".join(text for text in (said, of.said, paid.row.clause, by.rules.clause) if text),
        in_base=paid.row.in_pf_base,
    )


def _n(value: Decimal) -> str:
    """A number as people write it."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _pct(fraction: Decimal) -> str:
    return f"{_n(fraction * 100)} %"
