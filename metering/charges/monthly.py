"""What a customer's month costs, line by line, exact in decimal.

Here: energy by price component and period, basic charge, power-factor adjustment, what another basis would cost, and
what a running month comes to. Not here: prices in force (`prices`), parts of a month (`months`), changes of a month
that is closed (`closing`).

Sums of quarter-hours are made in frames; what is left are some lines a customer and month, which are plain decimals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from metering.charges.basic import Contract, Counting, Line, basic_charge, fully_used
from metering.charges.measured import Customer, Measured, customers_of, grown
from metering.charges.months import MOST_KVA, MonthParts
from metering.charges.prices import SLOTS, Paid, exact, half_up, shared_out
from metering.charges.settlement import next_month
from metering.settings import BasicCharge, MeteringSettings, PowerFactorAdjustment, Settlement, in_force
from metering.tables.charges import BASES, CHARGES_MONTHLY, CLOSED, FINAL, RUNNING

PF_ITEM = "power_factor_adjustment"
_PF_NAME = "功率因数调整电费"
_NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class _Rules:
    month: date
    basic: BasicCharge
    settlement: Settlement
    adjustment: PowerFactorAdjustment
    prices: Mapping[int, tuple[Paid, ...]]


def charges_monthly(
    parts: MonthParts, measured: Measured, settings: MeteringSettings, *, over: bool, closed: bool
) -> pl.DataFrame:
    """CHARGES_MONTHLY of every customer that has something to pay, each line on its own.

    `over`: all of the month has come, so that nothing is projected; `closed`: from now on it changes by deltas alone.
    """
    rules = _Rules(
        parts.month,
        in_force(settings.basic_charge, parts.month),
        in_force(settings.settlement, parts.month),
        in_force(settings.power_factor, parts.month),
        parts.prices,
    )
    status = CLOSED if closed else FINAL if over else RUNNING
    rows: list[dict[str, Any]] = []
    for customer_no, customer in customers_of(parts, measured).items():
        lines = _bill(customer, rules)
        later = {} if over else {ln.item: ln.amount for ln in _bill(grown(customer), rules)[0]}
        for line, alternative in zip(*lines, strict=True):
            rows.append(_row(customer_no, line, alternative, status, later.get(line.item)))
    frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row") if rows else pl.DataFrame(schema=_SCHEMA)
    return CHARGES_MONTHLY.conform(frame, month=parts.month).sort(CHARGES_MONTHLY.key)


_SCHEMA = {name: dtype for name, dtype in CHARGES_MONTHLY.schema.items() if name != "month"}


@dataclass(frozen=True, slots=True)
class _Alternative:
    """What a line would be under the cheapest other basis, and the basic charge under all others."""

    amount: Decimal | None = None
    basis: str | None = None
    every: str | None = None


def _row(
    customer_no: str, line: Line, alternative: _Alternative, status: str, projected: Decimal | None
) -> dict[str, Any]:
    return {
        "customer_no": customer_no, "item": line.item, "name_zh": line.name_zh, "component": line.component,
        "period": line.period, "quantity": line.quantity, "unit": line.unit, "price": line.price,
        "amount": line.amount, "rule": line.rule, "alternative": alternative.amount,
        "alternative_basis": alternative.basis, "alternatives": alternative.every, "projected": projected,
        "status": status,
    }  # fmt: skip


# --- one customer's lines -------------------------------------------------------------------------------------------


def _bill(customer: Customer, rules: _Rules) -> tuple[list[Line], list[_Alternative]]:
    decimals = rules.settlement.energy_decimals
    energy, said = _energy(customer, decimals)
    kwh = sum(energy.values(), _NOTHING)
    lines = [*_energy_lines(customer, energy, said, rules), *_fixed_lines(customer, rules)]
    basic, others = _basic_lines(customer, kwh, rules)
    best = min(others, key=lambda basis: others[basis], default=None)
    alternatives = [_Alternative()] * len(lines)
    if best is not None:
        every = ", ".join(f"{basis} {others[basis]}" for basis in BASES if basis in others)
        alternatives += [_Alternative(others[best], best, every), *[_Alternative(_NOTHING, best)] * (len(basic) - 1)]
    else:
        alternatives += [_Alternative()] * len(basic)
    lines += basic
    adjusted = _adjustment(customer, lines, rules)
    if adjusted is not None:
        lines.append(adjusted)
        alternatives.append(_adjusted_alternative(customer, lines, basic, best, others, rules))
    return _named(lines), alternatives


def _energy(customer: Customer, decimals: int) -> tuple[dict[tuple[int, str], Decimal], str]:
    """Rounded energy by part and period, which adds up to the month's, and what it rests on.

    Where meters froze their registers, those count: by period where each rate is there, else the whole, shared as
    measured.
    """
    own = customer.energy
    if not customer.frozen or not own:
        total = customer.active_kwh if customer.active_kwh is not None else sum(own.values())
        return shared_out(own, total, decimals), ""
    whole = customer.frozen.get(None)
    measured: dict[str, float] = {}
    for (_, period), kwh in own.items():
        measured[period] = measured.get(period, 0.0) + kwh
    if whole is not None:
        scale = dict.fromkeys(measured, whole / sum(measured.values()))
        total, said = whole, "frozen registers of the month's first and last moment, shared by period as measured"
    else:
        known = {period: kwh for period, kwh in customer.frozen.items() if period is not None}
        scale = {period: known.get(period, 0.0) / kwh for period, kwh in measured.items()}
        total, said = sum(known.values()), "frozen registers of the month's first and last moment, by rate"
        own = {**own, **{(customer.parts[0]["part"], p): kwh for p, kwh in known.items() if p not in measured}}
    scaled = {(part, period): kwh * scale.get(period, 1.0) for (part, period), kwh in own.items()}
    return shared_out(scaled, total, decimals), said


def _energy_lines(
    customer: Customer, energy: Mapping[tuple[int, str], Decimal], said: str, rules: _Rules
) -> Iterable[Line]:
    """One line for each component, period and price: days of the same price are one line."""
    found: dict[tuple[str, str | None, Decimal, str], Line] = {}
    for part in customer.parts:
        own = {period: kwh for (number, period), kwh in energy.items() if number == part["part"]}
        for paid in rules.prices[part["part"]]:
            if paid.row.per != "kWh" or not own:
                continue
            for line in _of_component(paid, own, customer.slots.get(part["part"], {}), said, rules):
                key = (line.component, line.period, line.price or _NOTHING, line.rule)
                before = found.get(key)
                found[key] = line if before is None else _added(before, line, rules.settlement)
    return found.values()


def _of_component(
    paid: Paid, own: Mapping[str, Decimal], slots: Mapping[int, float], said: str, rules: _Rules
) -> Iterable[Line]:
    kwh = sum(own.values(), _NOTHING)
    if paid.by_slot:
        yield _slot_line(paid, kwh, slots, said, rules)
    elif paid.by_period:
        yield from (_kwh_line(paid, period, quantity, said, rules) for period, quantity in own.items() if quantity)
    else:
        yield _kwh_line(paid, None, kwh, said, rules)


def _kwh_line(paid: Paid, period: str | None, kwh: Decimal, said: str, rules: _Rules) -> Line:
    row, rounding = paid.row, rules.settlement
    price = half_up(paid.price(period), rounding.price_decimals)
    factor = f"x {paid.factor(period)} in {period}" if row.floats and period else ""
    in_base = row.in_pf_base and (not row.fund or rounding.funds_in_pf_base)
    clauses = (factor, said, row.clause, paid.tariff.clause if paid.tariff and period else "")
    return Line(
        component=row.component, name_zh=row.name_zh, quantity=kwh, unit=row.per, price=price,
        amount=half_up(kwh * price, rounding.amount_decimals), rule="; ".join(text for text in clauses if text),
        period=period, in_base=in_base,
    )  # fmt: skip


def _slot_line(paid: Paid, kwh: Decimal, slots: Mapping[int, float], said: str, rules: _Rules) -> Line:
    """One line of prices by the hour or quarter-hour: each slot's energy at its own price; the price is their mean."""
    line = _kwh_line(paid, None, kwh, said, rules)
    if not slots:
        return replace(line, price=None, amount=None, rule=f"the curve is not known; {line.rule}")
    shared = shared_out(slots, float(kwh), rules.settlement.energy_decimals)
    prices = paid.by_slot
    exact_yuan = sum((q * prices[slot] for slot, q in shared.items()), _NOTHING)
    mean = half_up(exact_yuan / kwh, rules.settlement.price_decimals) if kwh else _NOTHING
    count = len(paid.row.by_hour) or SLOTS
    amount = half_up(exact_yuan, rules.settlement.amount_decimals)
    return replace(line, price=mean, amount=amount, rule=f"{count} prices by the clock, their mean; {line.rule}")


def _added(before: Line, line: Line, rounding: Settlement) -> Line:
    quantity = (before.quantity or _NOTHING) + (line.quantity or _NOTHING)
    return replace(
        before, quantity=quantity, amount=half_up(quantity * (line.price or _NOTHING), rounding.amount_decimals)
    )


def _fixed_lines(customer: Customer, rules: _Rules) -> Iterable[Line]:
    """Components by the month, by the days of the month that they hold for."""
    for part in customer.parts:
        for paid in rules.prices[part["part"]]:
            if paid.row.per == "month":
                price = half_up(paid.price(), rules.settlement.price_decimals)
                days = (next_month(rules.month) - timedelta(days=1)).day
                share = Decimal(part["days"]) / days
                said = "" if part["days"] == days else f"{part['days']} of {days} days; "
                yield Line(
                    component=paid.row.component, name_zh=paid.row.name_zh, quantity=Decimal(1), unit="month",
                    price=price, amount=half_up(price * share, rules.settlement.amount_decimals),
                    rule=f"{said}{paid.row.clause}", in_base=paid.row.in_pf_base,
                )  # fmt: skip


def _basic_lines(customer: Customer, kwh: Decimal, rules: _Rules) -> tuple[list[Line], dict[str, Decimal]]:
    """The basic charge's lines, and what it would be in all under every other basis that is possible throughout."""
    contracts = {part["contract"]: part for part in reversed(customer.parts)}
    days = (next_month(rules.month) - timedelta(days=1)).day
    lines: list[Line] = []
    sums: dict[str, Decimal | None] = dict.fromkeys(BASES, _NOTHING)
    mixed = len({part["basis"] for part in contracts.values()}) > 1
    chosen = next(iter(contracts.values()))["basis"] if contracts else None
    for number, part in sorted(contracts.items(), key=lambda item: item[1]["first"]):
        own = sum(p["days"] for p in customer.parts if p["contract"] == number)
        of = _contract(customer, part, own, days, rules)
        prices = rules.prices[part["part"]]
        by = Counting(
            rules.basic,
            rules.settlement,
            next((p for p in prices if p.row.per == "kVA"), None),
            next((p for p in prices if p.row.per == "kW"), None),
            fully_used(kwh, of.capacity_kva, rules.basic),
        )
        for basis in BASES:
            found = basic_charge(basis, of, by)
            if basis == part["basis"]:
                lines += found or ()
            before = sums[basis]
            known = found is not None and all(line.amount is not None for line in found)
            total = sum((ln.amount or _NOTHING for ln in found or ()), _NOTHING)
            sums[basis] = before + total if before is not None and known else None
    others = {b: total for b, total in sums.items() if total is not None and (mixed or b != chosen)}
    return lines, others if lines else {}


def _contract(customer: Customer, part: Mapping[str, Any], own: int, days: int, rules: _Rules) -> Contract:
    whole = own == days
    of_month = rules.basic.days_of_month or days
    demand = customer.demand.get(None) if whole else customer.demand.get(part["contract"], customer.demand.get(None))
    said = "" if whole else f"{own} days of 1/{of_month} each"
    if whole and customer.frozen_kw is not None:
        demand, said = customer.frozen_kw, "demand as the meters froze it on the settlement day"
    contract = part["contract_demand_kw"]
    decimals = rules.settlement.demand_decimals
    return Contract(
        capacity_kva=exact(part["contract_capacity_kva"], decimals),
        suspended_kva=exact(part["suspended_kva"], decimals),
        contract_kw=None if contract is None else exact(contract, decimals),
        demand_kw=None if demand is None else exact(min(demand, MOST_KVA), decimals),
        share=Decimal(1) if whole else Decimal(own) / of_month,
        said=said,
    )


def _adjustment(customer: Customer, lines: Iterable[Line], rules: _Rules) -> Line | None:
    """The power-factor adjustment of what is in its base; None where there is no power factor, or capacity is small."""
    largest = max((part["contract_capacity_kva"] for part in customer.parts), default=0.0)
    inside = [line.amount or _NOTHING for line in lines if line.in_base]
    if customer.adjustment_pct is None or largest < rules.adjustment.min_kva or not inside:
        return None
    base = sum(inside, _NOTHING)
    pct = exact(customer.adjustment_pct, 4)
    rate = half_up(pct / 100, rules.settlement.price_decimals)
    said = f"power factor {customer.factor:.2f}, standard {customer.standard:.2f}: {pct.normalize():f} %"
    return Line(
        component=PF_ITEM, name_zh=_PF_NAME, quantity=base, unit="yuan", price=rate,
        amount=half_up(base * rate, rules.settlement.amount_decimals), rule=f"{said}; {rules.adjustment.clause}",
        in_base=False,
    )  # fmt: skip


def _adjusted_alternative(
    customer: Customer,
    lines: list[Line],
    basic: list[Line],
    best: str | None,
    others: Mapping[str, Decimal],
    rules: _Rules,
) -> _Alternative:
    """The adjustment if the basic charge were that of the other basis."""
    if best is None or not basic:
        return _Alternative()
    rest = [line for line in lines if line not in basic and line.component != PF_ITEM]
    other = _adjustment(customer, [*rest, replace(basic[0], amount=others[best])], rules)
    return _Alternative(other.amount if other else None, best)


def _named(lines: Iterable[Line]) -> list[Line]:
    """Lines with names of their own: component, period, and a number where a month has several prices of these."""
    seen: dict[str, int] = {}
    named = []
    for line in lines:
        name = line.component if line.period is None else f"{line.component}_{line.period}"
        seen[name] = seen.get(name, 0) + 1
        named.append(replace(line, item=name if seen[name] == 1 else f"{name}#{seen[name]}"))
    return named
