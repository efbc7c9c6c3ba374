"""What charges are made from: adjustment by power factor, time-of-use periods.

Not here: the formulae (`metering.supply.power_factor`, `metering.charges`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFactorStep:
    """Marginal adjustment, % for each 0.01, for shortfall points `above` < n <= the next step's `above`."""

    above: int
    pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFactorAdjustment:
    """Tariff adjustment by power factor: surcharge steps, discount rates and a cap for each standard."""

    effective_from: date
    surcharge: tuple[PowerFactorStep, ...]
    discount_pivot: float
    discount_below_pct: float
    discount_above_pct: float
    discount_cap_pct: dict[str, float]
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TariffHours:
    """A span of local clock time [start, end) in one period; `end` 24:00 is midnight. Later entries win."""

    period: str
    start: str
    end: str
    months: tuple[int, ...] = tuple(range(1, 13))
    holidays_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """Time-of-use periods of one tariff from a date on."""

    name: str
    effective_from: date
    default_period: str
    hours: tuple[TariffHours, ...] = ()
    clause: str = ""


def periods_of(tariffs: Iterable[Tariff]) -> tuple[str, ...]:
    """Time-of-use periods that `tariffs` name, in the order they are first named."""
    return tuple(dict.fromkeys(p for t in tariffs for p in (*(h.period for h in t.hours), t.default_period)))
