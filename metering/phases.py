"""Which phases a meter measures, by its wiring.

Not here: what their voltages mean (`voltage`, `rules`).
"""

from __future__ import annotations

import polars as pl

from metering.tables.lake import PHASES
from metering.voltage import PHASES_OF_WIRING


def phase_voltages() -> list[pl.Expr]:
    """Voltages [V] of the phases that the wiring (column `wiring`) has; null for a phase that it has not.

    A three-wire meter may still send something for the phase b it does not have.
    """
    return [
        pl.when(pl.col("wiring").is_in([wiring for wiring, phases in PHASES_OF_WIRING.items() if phase in phases]))
        .then(f"u{phase}_v")
        .alias(f"u{phase}_v")
        for phase in PHASES
    ]
