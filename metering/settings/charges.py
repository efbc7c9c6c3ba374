"""What charges are made from: adjustment by power factor, time-of-use periods, prices, basic charge, settlement.

Not here: the formulae (`metering.supply.power_factor`, `metering.charges`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFactorStep:
    """Marginal adjustment, % for each 0.01, for shortfall points `above` < n <= the next step's `above`."""

    above: int
    pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFactorAdjustment:
    """Tariff adjustment by power factor: surcharge steps, discount rates and a cap for each standard.

    `reactive`: Q is |import| + |export|, or |import - export|. `active`: P is what is drawn from the grid, or that less
    what is fed into it. Below `min_kva` of contract capacity nothing is charged for it.
    """

    effective_from: date
    surcharge: tuple[PowerFactorStep, ...]
    discount_pivot: float
    discount_below_pct: float
    discount_above_pct: float
    discount_cap_pct: dict[str, float]
    reactive: Literal["absolute", "net"] = "absolute"
    active: Literal["import", "net"] = "import"
    min_kva: float = 0.0
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
    """Time-of-use periods of one tariff from a date on.

    `factors`: what the price of a component that floats is multiplied by in a period (1 where none is named).
    """

    name: str
    effective_from: date
    default_period: str
    hours: tuple[TariffHours, ...] = ()
    factors: dict[str, Decimal] = field(default_factory=dict)
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A price component from a date on: yuan for each `per`, of those it applies to.

    It applies to customers of `tariffs` (none named: of all), of `supply_mode` ("": of any; a row that names a mode
    goes before one that does not) and of a voltage level from `min_kv` to `max_kv`. One of 0 is charged no more.

    One of these says how much: `price`; `by_period`; `by_month` (12, from January); `by_hour` (24) or `by_quarter_hour`
    (96), by the local clock time at which a quarter-hour starts. What `floats` is multiplied by the tariff's factor of
    the period. `in_pf_base`: the power-factor adjustment is charged on it; of a `fund` only where the
    settlement says so.
    """

    component: str
    name_zh: str
    effective_from: date
    per: Literal["kWh", "kVA", "kW", "month"]
    clause: str
    tariffs: tuple[str, ...] = ()
    supply_mode: Literal["", "proxy", "retail", "wholesale"] = ""
    min_kv: float = 0.0
    max_kv: float = 10_000.0
    price: Decimal | None = None
    by_period: dict[str, Decimal] = field(default_factory=dict)
    by_month: tuple[Decimal, ...] = ()
    by_hour: tuple[Decimal, ...] = ()
    by_quarter_hour: tuple[Decimal, ...] = ()
    floats: bool = False
    in_pf_base: bool = True
    fund: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicCharge:
    """How the basic charge of a two-part tariff is counted, from a date on.

    Contract demand C counts as at least `contract_floor` of the capacity less what is suspended; up to `allowed_over` C
    is charged as C, and what demand is above that at `excess_rate` times the price, beside C (`excess_from` =
    "contract") or beside allowed_over C ("allowed"). From `full_use_kwh_per_kva` a kVA and month (0: never) demand's
    price is multiplied by `full_use_factor`. In a month within which capacity, demand or basis change each day is 1 /
    `days_of_month` of the month's charge; 0: of the month's own days.
    """

    effective_from: date
    contract_floor: Decimal
    allowed_over: Decimal
    excess_rate: Decimal
    excess_from: Literal["contract", "allowed"]
    full_use_kwh_per_kva: Decimal
    full_use_factor: Decimal
    days_of_month: int
    clause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """When and how a month is settled, from a date on.

    Demand is reset at 00:00 of local day `reset_day`: 1, demand's month is the calendar month; n, it ends as day n
    begins. Supply sources are measured apart and summed (`sources` = "apart") or together. Changes after local day
    `close_day` of the next month are deltas. Quantities are rounded to `energy_decimals` and `demand_decimals`, prices
    to `price_decimals`, amounts to `amount_decimals`, all half up.

    Frozen registers count that are at most `frozen_within_s` from when a month begins or ends; our own figures may
    differ from them by `frozen_tolerance` (a fraction). `rates` are meters' names of rates, and what period each is;
    `bill_items` names of lines on bills, and what line of ours each is. Amounts of a bill that differ by at most
    `bill_tolerance` [yuan] differ by rounding.
    """

    effective_from: date
    clause: str
    reset_day: int = 1
    sources: Literal["apart", "together"] = "apart"
    close_day: int = 5
    energy_decimals: int = 2
    demand_decimals: int = 2
    price_decimals: int = 8
    amount_decimals: int = 2
    funds_in_pf_base: bool = False
    frozen_within_s: int = 900
    frozen_tolerance: float = 0.005
    bill_tolerance: Decimal = Decimal("0.05")
    rates: dict[str, str] = field(default_factory=dict)
    bill_items: dict[str, str] = field(default_factory=dict)


def periods_of(tariffs: Iterable[Tariff]) -> tuple[str, ...]:
    """Time-of-use periods that `tariffs` name, in the order they are first named."""
    return tuple(dict.fromkeys(p for t in tariffs for p in (*(h.period for h in t.hours), t.default_period)))
