"""Which price components a customer pays on a day, and at what price a kilowatt-hour.

Here: choosing rows of the settings by tariff, supply mode, voltage level and date. Not here: quantities, and the
lines of a bill (`monthly`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import TypeVar

from metering.settings import Price, Tariff, in_force

K = TypeVar("K", bound=Hashable)
SLOTS = 96
"""Quarter-hours that prices by hour or quarter-hour are given for."""


@dataclass(frozen=True, slots=True)
class Paid:
    """One component as it is paid on some days: its row, and of what floats the tariff's version then."""

    row: Price
    tariff: Tariff | None
    month: int

    @property
    def by_slot(self) -> tuple[Decimal, ...]:
        """96 prices by the clock; empty where the price does not depend on the hour by itself."""
        return self.row.by_quarter_hour or tuple(price for price in self.row.by_hour for _ in range(4))

    @property
    def by_period(self) -> bool:
        return bool(self.row.by_period) or self.row.floats

    def price(self, period: str | None = None) -> Decimal:
        """Yuan for each unit, in a time-of-use period."""
        row = self.row
        if row.by_period:
            return row.by_period.get(period or "", Decimal(0))
        base = row.by_month[self.month - 1] if row.by_month else row.price or Decimal(0)
        return base * self.factor(period)

    def factor(self, period: str | None) -> Decimal:
        if self.tariff is None or not self.row.floats:
            return Decimal(1)
        return self.tariff.factors.get(period or "", Decimal(1))


def paid(
    prices: Sequence[Price], tariffs: Iterable[Tariff], tariff: str, mode: str, level_kv: float, day: date
) -> tuple[Paid, ...]:
    """The components that a customer of a tariff, supply mode and voltage level [kV] pays on the local `day`.

    Of each component the newest row in force counts, and of these one that names the supply mode goes before one that
    does not; where none is in force yet, the oldest does. In the order in which the settings name components first.
    """
    mine = [
        row
        for row in prices
        if (not row.tariffs or tariff in row.tariffs)
        and row.supply_mode in ("", mode)
        and row.min_kv <= level_kv <= row.max_kv
    ]
    versions = [t for t in tariffs if t.name == tariff]
    found = []
    for component in dict.fromkeys(row.component for row in mine):
        rows = [row for row in mine if row.component == component]
        own = [row for row in rows if row.supply_mode]
        row = in_force([r for r in own if r.effective_from <= day] or [r for r in rows if r not in own] or own, day)
        floating = in_force(versions, day) if row.floats and versions else None
        found.append(Paid(row, floating, day.month))
    return tuple(found)


def half_up(value: Decimal, decimals: int) -> Decimal:
    """`value` rounded half up, away from zero."""
    return value.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)


def exact(value: float, decimals: int) -> Decimal:
    """A measured quantity rounded half up: what sums of floats are off by, under a millionth, does not count."""
    return half_up(Decimal(f"{value:.6f}"), decimals)


def shared_out(parts: Mapping[K, float], total: float, decimals: int) -> dict[K, Decimal]:
    """`parts` rounded, so that they add up to the rounded `total`: the largest part bears what rounding leaves over."""
    rounded = {key: exact(value, decimals) for key, value in parts.items()}
    if rounded:
        largest = max(rounded, key=lambda key: rounded[key])
        rounded[largest] += exact(total, decimals) - sum(rounded.values())
    return rounded
