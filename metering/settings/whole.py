"""The whole of the figures, as it is handed down.

Not here: the parts, each in the module of its subject.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from metering.settings.charges import PowerFactorAdjustment, Tariff
from metering.settings.forecast import ForecastSettings
from metering.settings.kpi import KpiTarget
from metering.settings.rules import Rulebook
from metering.settings.vee import VeeSettings
from metering.settings.voltage import VoltageLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringSettings:
    """Everything that `metering` functions take their figures from."""

    timezone: str
    lateness_s: int
    future_tolerance_s: int
    gap_intervals: float
    rules: Rulebook
    voltage: tuple[VoltageLimits, ...]
    power_factor: tuple[PowerFactorAdjustment, ...]
    tariffs: tuple[Tariff, ...]
    holidays: tuple[date, ...]
    kpi: dict[str, KpiTarget]
    forecast: ForecastSettings = field(default_factory=ForecastSettings)
    vee: VeeSettings = field(default_factory=VeeSettings)

    @property
    def periods(self) -> tuple[str, ...]:
        """Time-of-use periods that the tariffs name, in the order they are first named."""
        named = (p for t in self.tariffs for p in (*(h.period for h in t.hours), t.default_period))
        return tuple(dict.fromkeys(named))
