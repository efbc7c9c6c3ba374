"""Which phases a meter measures, by its wiring.

Not here: what their voltages mean (`voltage`, `metering.events`).
"""

from __future__ import annotations

import polars as pl

from metering.supply.voltage import PHASES_OF_WIRING
from metering.tables.lake import PHASES


def phase_voltages(readings: pl.DataFrame, meter_versions: pl.DataFrame) -> list[pl.Series]:
    """Voltages [V] of the phases that a meter's wiring has; null for a phase that it has not.

    `readings`: `version` (row in `meter_versions`) and the voltages. A three-wire meter may still send something for
    the phase b it does not have.
    """
    wirings = meter_versions["wiring"].unique().to_list()
    return [_of_wirings(readings, meter_versions, phase, wirings) for phase in PHASES]


def _of_wirings(readings: pl.DataFrame, meter_versions: pl.DataFrame, phase: str, wirings: list[str]) -> pl.Series:
    voltage = readings[f"u{phase}_v"]
    without = [wiring for wiring in wirings if phase not in PHASES_OF_WIRING[wiring]]
    return (
        voltage.set(meter_versions["wiring"].is_in(without).gather(readings["version"]), None) if without else voltage
    )
