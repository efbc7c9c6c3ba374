"""The whole of the figures, as it is handed down.

Not here: the parts, each in the module of its subject.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from metering.settings.charges import BasicCharge, PowerFactorAdjustment, Price, Settlement, Tariff, periods_of
from metering.settings.control import ControlSettings
from metering.settings.forecast import ForecastSettings
from metering.settings.kpis import Kpi
from metering.settings.lists import ListSettings
from metering.settings.load import LoadRateBands
from metering.settings.meter_events import MeterEventSettings, MeteringFaultSettings
from metering.settings.readings import PlausibilitySettings, SlotSettings
from metering.settings.rules import AlarmSettings, Rulebook
from metering.settings.vee import VeeSettings
from metering.settings.voltage import VoltageLimits, VoltageQuality


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
    rules: Rulebook
    voltage: tuple[VoltageLimits, ...]
    voltage_quality: tuple[VoltageQuality, ...]
    power_factor: tuple[PowerFactorAdjustment, ...]
    tariffs: tuple[Tariff, ...]
    prices: tuple[Price, ...] = ()
    basic_charge: tuple[BasicCharge, ...] = ()
    settlement: tuple[Settlement, ...] = ()
    holidays: Mapping[date, str]
    workdays: Mapping[date, str]
    kpi: dict[str, Kpi]
    lists: ListSettings
    forecast: ForecastSettings = field(default_factory=ForecastSettings)
    load_rate: LoadRateBands = field(default_factory=LoadRateBands)
    control: ControlSettings = field(default_factory=ControlSettings)
    vee: VeeSettings = field(default_factory=VeeSettings)
    slots: SlotSettings = field(default_factory=SlotSettings)
    alarms: AlarmSettings = field(default_factory=AlarmSettings)
    plausibility: PlausibilitySettings = field(default_factory=PlausibilitySettings)
    meter_events: MeterEventSettings = field(default_factory=MeterEventSettings)
    metering_faults: MeteringFaultSettings = field(default_factory=MeteringFaultSettings)

    @property
    def periods(self) -> tuple[str, ...]:
        """Time-of-use periods of the tariffs."""
        return periods_of(self.tariffs)
