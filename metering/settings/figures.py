"""The figures that rules and formulae use, as frozen values.

Here: only their shape. The figures themselves, with the clause each comes from, are in
`orchestration/home/defaults.toml`, and a utility's own in `<home>/kilowatch.toml`. What is effective-dated carries
`effective_from`, a local date; the newest one not after the day in question is in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol, TypeVar

from metering.settings.kpis import Kpi


class Dated(Protocol):
    @property
    def effective_from(self) -> date: ...


D = TypeVar("D", bound=Dated)


def in_force(items: Iterable[D], day: date) -> D:
    """The newest of `items` effective on `day`; the oldest when none is yet (so that history has a rule).

    Raises ValueError when there are none at all.
    """
    ordered = sorted(items, key=lambda item: item.effective_from)
    if not ordered:
        raise ValueError("nothing is configured")
    return next((item for item in reversed(ordered) if item.effective_from <= day), ordered[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One limit rule. `limit` is a fraction of the base that the rule is judged against; 0 disables the rule.

    Raised once the start condition has held for `hold_s`; cleared once the value has been `clear_margin` of the
    limit inside it for `clear_hold_s`. `min_load` (fraction of capacity) is where judging begins, if the rule has one.
    """

    limit: float
    hold_s: float = 60.0
    clear_hold_s: float = 60.0
    clear_margin: float = 0.02
    min_load: float = 0.0
    severity: str = "warning"
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """All limit rules in force from a date. `name` is published with every violation it judges."""

    name: str
    effective_from: date
    over_voltage: Rule
    under_voltage: Rule
    over_capacity: Rule
    low_power_factor: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class VoltageClass:
    """Limits of supply-voltage deviation for one class of connection, fractions of Un.

    A meter belongs to the first class whose `wirings` hold its wiring and whose `max_kv` is at least its
    customer's voltage level. `spread` is the limit on |+dev| + |-dev|, 0 where the class has none.
    """

    name: str
    wirings: tuple[str, ...]
    max_kv: float
    upper: float
    lower: float
    spread: float = 0.0
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoltageLimits:
    effective_from: date
    band_lower: float
    band_upper: float
    classes: tuple[VoltageClass, ...]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastSettings:
    """`history_days` are looked at, `min_train_days` are needed before a learner is trained at all."""

    history_days: int = 56
    min_train_days: int = 14
    left_out_below: float = 0.01
    seed: int = 1
    max_iter: int = 120
    learning_rate: float = 0.05
    max_leaf_nodes: int = 8
    min_samples_leaf: int = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class VeeSettings:
    """Estimation: gaps up to `linear_gap_min` are drawn straight; longer ones stay missing."""

    linear_gap_min: int = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringSettings:
    """Everything that `metering` functions take their figures from.

    `holidays` are local days off by decree, weekends that they join included; `workdays` are weekend days that are
    worked instead; both with their names.
    """

    timezone: str
    lateness_s: int
    future_tolerance_s: int
    gap_intervals: float
    rulesets: tuple[RuleSet, ...]
    voltage: tuple[VoltageLimits, ...]
    power_factor: tuple[PowerFactorAdjustment, ...]
    tariffs: tuple[Tariff, ...]
    holidays: Mapping[date, str]
    workdays: Mapping[date, str]
    kpi: dict[str, Kpi]
    forecast: ForecastSettings = field(default_factory=ForecastSettings)
    vee: VeeSettings = field(default_factory=VeeSettings)

    @property
    def periods(self) -> tuple[str, ...]:
        """Time-of-use periods of the tariffs."""
        return periods_of(self.tariffs)
