"""Which phases a meter measures, by its wiring.

Not here: what their voltages and currents mean (`voltage`, `metering.events`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from metering.tables.lake import PHASES, VOLTAGES

PHASES_OF_WIRING = {"3p4w": PHASES, "3p3w": ("a", "c"), "1p": ("a",)}
"""Phases that a meter of a wiring measures; a three-wire meter reports uab as a, ucb as c, and has no b."""


def phase_voltages(readings: pl.DataFrame, meter_versions: pl.DataFrame) -> list[pl.Series]:
    """Voltages [V] of the phases that a meter's wiring has; null for a phase that it has not.

    `readings`: `version` (row in `meter_versions`) and the voltages. A three-wire meter may still send something for
    the phase b it does not have.
    """
    return phase_values(readings, meter_versions, VOLTAGES)


def phase_values(readings: pl.DataFrame, meter_versions: pl.DataFrame, names: Sequence[str]) -> list[pl.Series]:
    """Values of phases, named like ua_v and ia_a; null for a phase that a meter's wiring has not."""
    absent = dict(_absent(readings, meter_versions))
    values = [(name, readings[name]) for name in names]
    return [value.set(absent[name[1]], None) if name[1] in absent else value for name, value in values]


def missing_values(readings: pl.DataFrame, meter_versions: pl.DataFrame, names: Sequence[str]) -> list[pl.Series]:
    """Of values of phases, named like ua_v: whether a reading lacks one of a phase that its meter's wiring has."""
    absent = dict(_absent(readings, meter_versions))
    missing = [(name, readings[name].is_null()) for name in names]
    return [lacks & ~absent[name[1]] if name[1] in absent else lacks for name, lacks in missing]


def _absent(readings: pl.DataFrame, meter_versions: pl.DataFrame) -> Iterator[tuple[str, pl.Series]]:
    """For each phase that a wiring lacks, whether a reading's meter lacks it; at the cost of the fewer of the two."""
    wiring, version = meter_versions["wiring"], readings["version"]
    few = readings.height < meter_versions.height
    wiring = wiring.gather(version) if few else wiring
    wirings = wiring.unique().to_list()
    for phase in PHASES:
        without = [name for name in wirings if phase not in PHASES_OF_WIRING[name]]
        if without:
            lacks = wiring.is_in(without)
            yield phase, lacks if few else lacks.gather(version)
