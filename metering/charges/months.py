"""Which parts a customer's month has: days on which the same contract and the same prices hold.

Here: cutting the month by the registry's dated rows and by the prices' dates. Not here: amounts (`monthly`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import polars as pl

from metering.charges.basic import CAPACITY, CONTRACT
from metering.charges.prices import Paid, paid
from metering.charges.settlement import next_month
from metering.registry.customer_days import customer_days
from metering.settings import MeteringSettings

MOST_KVA = 1e8
"""More than any contract is for: a slip of the registry's must not keep other customers from being charged."""
_CONTRACT = ("contract_capacity_kva", "suspended_kva", "contract_demand_kw", "basis", "tariff")
_PRICED_BY = ("tariff", "supply_mode", "voltage_level_kv")


@dataclass(frozen=True, eq=False)
class MonthParts:
    """A month's days and parts: `days` (customer_no, date, part, contract), one row for each day that a customer has;
    `parts` (part, customer_no, contract, first, last, days and the contract's figures); `prices` by part.

    Parts of one `contract` differ in prices alone.
    """

    month: date
    days: pl.DataFrame
    parts: pl.DataFrame
    prices: Mapping[int, tuple[Paid, ...]]

    @cached_property
    def by_slot(self) -> pl.Series:
        """Customers some of whose prices go by the hour or the quarter-hour."""
        slotted = [part for part, own in self.prices.items() if any(p.by_slot for p in own)]
        return self.parts.filter(pl.col("part").is_in(slotted))["customer_no"].unique()


def month_parts(customers: pl.DataFrame, month: date, settings: MeteringSettings) -> MonthParts:
    """The parts of the month that starts on `month`, of every customer of the registry that is valid on a day of it."""
    dated = customer_days(customers, month, next_month(month) - timedelta(days=1)).with_columns(
        pl.col("suspended_kva").fill_null(0.0).clip(upper_bound=MOST_KVA),
        pl.col("contract_capacity_kva", "contract_demand_kw").clip(upper_bound=MOST_KVA),
        pl.col("supply_mode").fill_null("proxy"),
        pl.coalesce(
            "basic_charge",
            pl.when(pl.col("contract_demand_kw").is_not_null()).then(pl.lit(CONTRACT)).otherwise(pl.lit(CAPACITY)),
        ).alias("basis"),
    )
    kinds, plans = _plans(dated, settings)
    priced = dated.join(kinds, on=[*_PRICED_BY, "date"], maintain_order="left")
    keys = ("customer_no", *_CONTRACT)
    contracts = priced.select(keys).unique(maintain_order=True).with_row_index("contract")
    days = priced.join(contracts, on=keys, nulls_equal=True, maintain_order="left")
    parts = (
        days.group_by("contract", "plan", *keys, maintain_order=True)
        .agg(pl.col("date").min().alias("first"), pl.col("date").max().alias("last"), pl.len().alias("days"))
        .with_row_index("part")
    )
    numbered = days.join(parts.select("part", "contract", "plan"), on=["contract", "plan"], maintain_order="left")
    prices = {part: plans[plan] for part, plan in parts.select("part", "plan").iter_rows()}
    return MonthParts(month, numbered.select("customer_no", "date", "part", "contract"), parts, prices)


def _plans(dated: pl.DataFrame, settings: MeteringSettings) -> tuple[pl.DataFrame, list[tuple[Paid, ...]]]:
    """What each kind of customer pays on each day: `plan` by tariff, supply mode, voltage level and date."""
    kinds = dated.select(*_PRICED_BY, "date").unique(maintain_order=True)
    numbers: dict[tuple[tuple[int, int], ...], int] = {}
    plans: list[tuple[Paid, ...]] = []
    found: list[int] = []
    for tariff, mode, level_kv, day in kinds.iter_rows():
        own = paid(settings.prices, settings.tariffs, tariff, mode, level_kv, day)
        key = tuple((id(p.row), id(p.tariff)) for p in own)  # the settings' own rows, of which there is one each
        if key not in numbers:
            numbers[key] = len(plans)
            plans.append(own)
        found.append(numbers[key])
    return kinds.with_columns(pl.Series("plan", found, dtype=pl.Int64)), plans
