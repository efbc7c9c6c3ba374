"""Which phases a meter measures, by its wiring.

Not here: what their voltages mean (`voltage`, `metering.events`).
"""

from __future__ import annotations

import polars as pl

from metering.supply.voltage import PHASES_OF_WIRING
from metering.tables.lake import PHASES


def phase_voltages(readings: pl.DataFrame, facts: pl.DataFrame) -> list[pl.Series]:
    """Voltages [V] of the phases that a meter's wiring has; null for a phase that it has not.

    `readings`: `fact` (row in `facts`) and the voltages. A three-wire meter may still send something for the phase b it
    does not have.
    """
    wirings = facts["wiring"].unique().to_list()
    return [_of_wirings(readings, facts, phase, wirings) for phase in PHASES]


def _of_wirings(readings: pl.DataFrame, facts: pl.DataFrame, phase: str, wirings: list[str]) -> pl.Series:
    voltage = readings[f"u{phase}_v"]
    without = [wiring for wiring in wirings if phase not in PHASES_OF_WIRING[wiring]]
    return voltage.set(facts["wiring"].is_in(without).gather(readings["fact"]), None) if without else voltage
