"""What a reading answers for, and what is believed of it.

Not here: slots themselves (`metering.readings.slots`), the checks (`metering.readings.plausible`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSettings:
    """A stamp up to `tolerance` (fraction of the interval, at most `tolerance_s` seconds) after a slot's end still
    belongs to that slot.
    """

    tolerance: float = 0.1
    tolerance_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlausibilitySettings:
    """What a meter can have measured; anything else is kept and told, and not counted.

    A register step is at most `step_factor` times rated power times time, and, where power is there too, within
    `power_tolerance` (fraction) or one count of power's integral. A count is `count_kwh` on the meter's side, and at
    least 1 kWh. Over more than `step_days` days nothing is said of a step, and of power's integral up to
    `least_expected_kwh` neither. Voltages are at most `voltage_factor` times nominal voltage, currents `current_factor`
    times maximum current, powers `power_factor` times rated power. Rated power is that of maximum current at nominal
    voltage.
    """

    step_factor: float = 1.2
    power_tolerance: float = 0.2
    count_kwh: float = 0.01
    step_days: float = 7.0
    least_expected_kwh: float = 0.01
    voltage_factor: float = 2.0
    current_factor: float = 2.0
    power_factor: float = 2.0
