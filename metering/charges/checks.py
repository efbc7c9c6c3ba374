"""What rows of tariffs, prices and settlement cannot be: said when settings are read, in words a user can act on.

Not here: what they mean (`metering.settings.charges`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from metering.settings import BasicCharge, Price, Settlement, Tariff

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]|24:00")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_LENGTHS = {"by_month": 12, "by_hour": 24, "by_quarter_hour": 96}
_OWN = ("power_factor_adjustment", "total")
"""Lines that are not price components."""


def charge_problems(
    rows: Sequence[Tariff | Price | BasicCharge | Settlement], tariffs: Sequence[Tariff]
) -> Iterator[str]:
    """What is wrong with rows of one kind; `tariffs`: those that prices are for."""
    for row in rows:
        if isinstance(row, Tariff):
            yield from _of_tariff(row)
        elif isinstance(row, Price):
            yield from (f"{row.component}: {problem}" for problem in _of_price(row, tariffs))
        elif isinstance(row, BasicCharge):
            yield from _of_basic_charge(row)
        else:
            yield from _of_settlement(row)
    if rows and isinstance(rows[0], Price):
        yield from _twice([row for row in rows if isinstance(row, Price)])


def _of_tariff(tariff: Tariff) -> Iterator[str]:
    for hours in tariff.hours:
        if not (_CLOCK.fullmatch(hours.start) and _CLOCK.fullmatch(hours.end)):
            yield f"{tariff.name}: '{hours.start}' to '{hours.end}' is no span from 00:00 to 24:00"
    periods = (*(hours.period for hours in tariff.hours), tariff.default_period)
    for period in periods:
        if not _NAME.fullmatch(period):
            yield f"{tariff.name}: period '{period}' must be a name such as deep_valley"
    for period, factor in tariff.factors.items():
        if period not in periods:
            yield f"{tariff.name}: factors names '{period}', which is none of its periods"
        if not factor.is_finite() or factor < 0:
            yield f"{tariff.name}: the factor of {period} must be a number from 0"


def _of_price(row: Price, tariffs: Sequence[Tariff]) -> Iterator[str]:
    if not _NAME.fullmatch(row.component) or row.component in _OWN:
        yield f"component must be a name such as line_loss, and none of {', '.join(_OWN)}"
    given = [n for n in ("price", "by_period", *_LENGTHS) if getattr(row, n) not in (None, (), {})]
    if len(given) != 1:
        yield f"give one of price, by_period, {', '.join(_LENGTHS)}; there are {', '.join(given) or 'none'}"
    for name, length in _LENGTHS.items():
        if getattr(row, name) and len(getattr(row, name)) != length:
            yield f"{name} needs {length} prices; there are {len(getattr(row, name))}"
    if row.per != "kWh" and (row.floats or row.by_period or row.by_hour or row.by_quarter_hour):
        yield f"only prices of kWh go by the time of use, not of {row.per}"
    if row.floats and (row.by_period or row.by_hour or row.by_quarter_hour):
        yield "what has prices by period, hour or quarter-hour does not float besides"
    own = [t for t in tariffs if not row.tariffs or t.name in row.tariffs]
    periods = {p for t in own for p in (*(h.period for h in t.hours), t.default_period)}
    if row.by_period and (without := sorted(periods - set(row.by_period))):
        yield f"by_period has no price of {', '.join(without)}"
    prices = (row.price, *row.by_period.values(), *row.by_month, *row.by_hour, *row.by_quarter_hour)
    if any(price is not None and (not price.is_finite() or abs(price) >= 10**6) for price in prices):
        yield "a price must be a number below 1,000,000"
    if not 0 <= row.min_kv <= row.max_kv:
        yield "min_kv and max_kv must be from 0, and in this order"


def _twice(rows: Sequence[Price]) -> Iterator[str]:
    """Rows of one component and date that apply to the same customers, of which it is not clear which counts."""
    for i, a in enumerate(rows):
        for b in rows[i + 1 :]:
            same = (a.component, a.effective_from, a.supply_mode) == (b.component, b.effective_from, b.supply_mode)
            tariffs = not a.tariffs or not b.tariffs or bool({*a.tariffs} & {*b.tariffs})
            if same and tariffs and a.min_kv <= b.max_kv and b.min_kv <= a.max_kv:
                yield f"{a.component}: two rows from {a.effective_from} on are for the same customers"


def _of_basic_charge(row: BasicCharge) -> Iterator[str]:
    if not 0 <= row.contract_floor <= 1:
        yield "contract_floor must be from 0 to 1"
    if not (row.allowed_over >= 1 and row.excess_rate >= 0 and row.full_use_kwh_per_kva >= 0):
        yield "allowed_over must be at least 1, excess_rate and full_use_kwh_per_kva at least 0"
    if not 0 <= row.full_use_factor <= 1:
        yield "full_use_factor must be from 0 to 1"
    if row.days_of_month not in range(32):
        yield "days_of_month must be from 1 to 31, or 0 for the month's own days"


def _of_settlement(row: Settlement) -> Iterator[str]:
    for name in ("reset_day", "close_day"):
        if getattr(row, name) not in range(1, 29):
            yield f"{name} must be from 1 to 28"
    most = {"energy_decimals": 4, "demand_decimals": 4, "price_decimals": 8, "amount_decimals": 2}
    for name, decimals in most.items():
        if getattr(row, name) not in range(decimals + 1):
            yield f"{name} must be from 0 to {decimals}"
    if not (row.frozen_within_s >= 0 and 0 <= row.frozen_tolerance <= 1 and row.bill_tolerance >= 0):
        yield "frozen_within_s and bill_tolerance must be at least 0, frozen_tolerance from 0 to 1"
