"""One row of the KPI table, as a frozen value.

Here: its shape. Not here: the rows (`metering/kpi/kpis.toml`, and a home's own in kilowatch.toml), what its expressions
may name (`metering.kpi.catalogue`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["at_least", "at_most"]
ScopeKind = Literal["customer", "segment", "feeder", "voltage_level_kv", "manager", "whole"]
GROUPS: tuple[ScopeKind, ...] = ("segment", "feeder", "voltage_level_kv", "manager")
"""Columns of the customers' registry that make scopes, written as `segment:large`."""
SCOPE_KINDS: tuple[ScopeKind, ...] = ("customer", *GROUPS, "whole")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kpi:
    """What a KPI counts, and how it is judged.

    `numerator`, `denominator` and `coverage` are SQL aggregates over the columns of the table `source`: its rows of one
    day (or month) and of one scope; they may also name `quarter_hours`, those of the local day. `dated_by` is the
    column that says which day or month a row belongs to ("": `date`, else `month`); a time counts by its local date. A
    value in % is numerator / denominator x 100, any other the quotient itself; `rounded` to `decimals`, half up, where
    a clause says so, else `decimals` are those it is printed with.

    The months of an `additive` KPI are the sums of their days. Those of another come from the month's rows of
    `month_source` ("": of `source`), by the same expressions; coverage is the mean of the days'. A `target` of None is
    never met or missed; `weight` is the KPI's share where several are put together.
    """

    name_zh: str
    name_en: str
    meaning: str
    unit: str
    source: str
    numerator: str
    denominator: str
    decimals: int = 2
    rounded: bool = False
    coverage: str = "1"
    dated_by: str = ""
    scopes: tuple[ScopeKind, ...] = SCOPE_KINDS
    additive: bool = True
    month_source: str = ""
    direction: Direction = "at_least"
    weight: float = 1.0
    target: float | None = None
    clause: str = ""
