"""The figures that rules and formulae use, as frozen values; import them from here.

Here: only their shape, one module a subject. The figures themselves, with the clause each comes from, are in
`orchestration/home/defaults.toml` (limit rules in `metering/events/rules.toml`), a utility's own in
`<home>/kilowatch.toml`. What is effective-dated carries `effective_from`, a local date; the newest one not after the
day in question is in force.
"""

from metering.settings.charges import BasicCharge as BasicCharge
from metering.settings.charges import PowerFactorAdjustment as PowerFactorAdjustment
from metering.settings.charges import PowerFactorStep as PowerFactorStep
from metering.settings.charges import Price as Price
from metering.settings.charges import Settlement as Settlement
from metering.settings.charges import Tariff as Tariff
from metering.settings.charges import TariffHours as TariffHours
from metering.settings.charges import periods_of as periods_of
from metering.settings.control import BaselineMethod as BaselineMethod
from metering.settings.control import ControlAlarm as ControlAlarm
from metering.settings.control import ControlSettings as ControlSettings
from metering.settings.dated import Dated as Dated
from metering.settings.dated import in_force as in_force
from metering.settings.forecast import ForecastSettings as ForecastSettings
from metering.settings.kpis import GROUPS as GROUPS
from metering.settings.kpis import Kpi as Kpi
from metering.settings.lists import ListCondition as ListCondition
from metering.settings.lists import ListProfile as ListProfile
from metering.settings.lists import ListSettings as ListSettings
from metering.settings.load import LoadRateBands as LoadRateBands
from metering.settings.meter_events import MeterEventCode as MeterEventCode
from metering.settings.meter_events import MeterEventSettings as MeterEventSettings
from metering.settings.meter_events import MeteringFaultSettings as MeteringFaultSettings
from metering.settings.notices import NoticeSettings as NoticeSettings
from metering.settings.readings import PlausibilitySettings as PlausibilitySettings
from metering.settings.readings import SlotSettings as SlotSettings
from metering.settings.rules import ABOVE as ABOVE
from metering.settings.rules import BELOW as BELOW
from metering.settings.rules import USUAL_ALARMS as USUAL_ALARMS
from metering.settings.rules import AlarmSettings as AlarmSettings
from metering.settings.rules import Condition as Condition
from metering.settings.rules import Guard as Guard
from metering.settings.rules import Override as Override
from metering.settings.rules import Rule as Rule
from metering.settings.rules import Rulebook as Rulebook
from metering.settings.vee import VeeSettings as VeeSettings
from metering.settings.voltage import TenMinuteMeans as TenMinuteMeans
from metering.settings.voltage import UnbalanceLimits as UnbalanceLimits
from metering.settings.voltage import VoltageClass as VoltageClass
from metering.settings.voltage import VoltageLimits as VoltageLimits
from metering.settings.voltage import VoltageQuality as VoltageQuality
from metering.settings.whole import MeteringSettings as MeteringSettings
