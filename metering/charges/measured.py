"""What a month's charges are counted from: frames of sums, and each customer's few figures of them.

Here: from frames to plain values. Not here: the lines of a bill (`monthly`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import polars as pl

from metering.charges.months import MonthParts

MOST_KWH = 1e10
"""More than any customer draws in a month: beyond it energy is not known, as a decimal would not hold its price."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What a month's charges are counted from.

    `loads`: customer_no, date and energy_<period>_kwh [kWh] of daily_load; `slots`: customer_no, date, slot (from 0: a
    quarter-hour by the clock) and energy_kwh, of customers priced by the hour; `power_factor`: POWER_FACTOR_MONTHLY;
    `demand`: customer_no, contract (None: of the month), demand_kw; `frozen`: customer_no, period (null: all),
    frozen_kwh; `frozen_demand`: customer_no, frozen_kw; `elapsed`: date, share of the day that is over.
    """

    loads: pl.DataFrame
    slots: pl.DataFrame
    power_factor: pl.DataFrame
    demand: pl.DataFrame
    frozen: pl.DataFrame
    frozen_demand: pl.DataFrame
    elapsed: Mapping[date, float]


@dataclass(slots=True)
class Customer:
    """One customer's month as plain values: energy [kWh] by part and period, and by part and slot."""

    parts: list[dict[str, Any]] = field(default_factory=list)
    energy: dict[tuple[int, str], float] = field(default_factory=dict)
    slots: dict[int, dict[int, float]] = field(default_factory=dict)
    demand: dict[int | None, float | None] = field(default_factory=dict)
    frozen: dict[str | None, float] = field(default_factory=dict)
    frozen_kw: float | None = None
    active_kwh: float | None = None
    factor: float | None = None
    adjustment_pct: float | None = None
    standard: float | None = None
    growth: float = 1.0


def customers_of(parts: MonthParts, measured: Measured) -> dict[str, Customer]:
    """Every customer that is valid on a day of the month, with what is known of it."""
    found: dict[str, Customer] = {}
    for part in parts.parts.sort("customer_no", "first").iter_rows(named=True):
        found.setdefault(part["customer_no"], Customer()).parts.append(part)
    for customer_no, part, period, kwh in _by_period(parts, measured.loads).iter_rows():
        found[customer_no].energy[part, period] = kwh
    for customer_no, part, slot, kwh in _by_slot(parts, measured.slots).iter_rows():
        found[customer_no].slots.setdefault(part, {})[slot] = kwh
    figures = ("active_kwh", "power_factor", "adjustment_pct", "pf_standard")
    for customer, kwh, factor, pct, standard in _each(found, measured.power_factor, *figures):
        customer.active_kwh, customer.factor = kwh, factor
        customer.adjustment_pct, customer.standard = pct, standard
    for customer, contract, kw in _each(found, measured.demand, "contract", "demand_kw"):
        customer.demand[contract] = kw
    for customer, period, kwh in _each(found, measured.frozen, "period", "frozen_kwh"):
        customer.frozen[period] = kwh
    for customer, kw in _each(found, measured.frozen_demand, "frozen_kw"):
        customer.frozen_kw = kw
    for customer_no, growth in _growth(parts, measured).iter_rows():
        found[customer_no].growth = growth
    for customer in found.values():
        if not _credible(customer):
            customer.energy, customer.slots, customer.frozen = {}, {}, {}
            customer.active_kwh = customer.adjustment_pct = None
    return found


def _each(found: Mapping[str, Customer], rows: pl.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    """The customer and those columns of each row of one that is there."""
    for customer_no, *values in rows.select("customer_no", *columns).iter_rows():
        if customer_no in found:
            yield found[customer_no], *values


def _credible(customer: Customer) -> bool:
    known = [*customer.energy.values(), *customer.frozen.values(), customer.active_kwh or 0.0]
    return all(abs(kwh) * customer.growth <= MOST_KWH for kwh in known)


def _by_period(parts: MonthParts, loads: pl.DataFrame) -> pl.DataFrame:
    """Energy of each customer's part and period; periods without any, and what is not known, have no row."""
    named = {name: name.removeprefix("energy_").removesuffix("_kwh") for name in loads.columns if name[:7] == "energy_"}
    periods = {name: period for name, period in named.items() if period != "kwh"}
    sums = (
        loads.join(parts.days, on=["customer_no", "date"], maintain_order="left")
        .group_by("customer_no", "part", maintain_order=True)
        .agg(pl.col(list(periods)).sum())
        .rename(periods)
    )
    long = sums.unpivot(index=["customer_no", "part"], variable_name="period", value_name="kwh")
    return long.filter(pl.col("kwh") != 0, pl.col("kwh").is_finite()).sort("customer_no", "part")


def _by_slot(parts: MonthParts, slots: pl.DataFrame) -> pl.DataFrame:
    return (
        slots.join(parts.days, on=["customer_no", "date"])
        .sort("customer_no", "date", "slot")
        .group_by("customer_no", "part", "slot", maintain_order=True)
        .agg(pl.col("energy_kwh").sum())
        .filter(pl.col("energy_kwh").is_finite())
    )


def _growth(parts: MonthParts, measured: Measured) -> pl.DataFrame:
    """What a running month's energy is multiplied by to reach its end: its days over those that are over so far."""
    so_far = pl.DataFrame(
        {"date": list(measured.elapsed), "over": list(measured.elapsed.values())},
        schema={"date": pl.Date, "over": pl.Float64},
    )
    came = measured.loads.select("customer_no", "date").unique().join(so_far, on="date")
    over = came.group_by("customer_no").agg(pl.col("over").sum())
    due = parts.days.group_by("customer_no").agg(pl.len().alias("days"))
    growth = pl.col("days") / pl.col("over")
    return due.join(over, on="customer_no").filter(pl.col("over") > 0).select("customer_no", growth)


def grown(customer: Customer) -> Customer:
    """The customer at the month's end, if energy goes on as so far."""
    g = customer.growth
    return replace(
        customer,
        energy={key: kwh * g for key, kwh in customer.energy.items()},
        slots={part: {slot: kwh * g for slot, kwh in own.items()} for part, own in customer.slots.items()},
        frozen={},
        active_kwh=None if customer.active_kwh is None else customer.active_kwh * g,
    )
