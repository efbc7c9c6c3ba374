"""What rules look at: each measure by its name, as an expression over a reading; and what limits are fractions of.

Here: a new kind of measurement is one row of MEASURES, a new base one of BASES. Not here: which rule looks at what
(`rules.toml`), judging (`judge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from metering.supply.power_factor import power_factor
from metering.tables.lake import MEASURED, PHASES

TOTAL = "total"
_P, _Q = pl.col("p_kw"), pl.col("q_kvar")
_NOTHING = pl.lit(None, pl.Float64)


@dataclass(frozen=True, eq=False)
class Measure:
    """A measure in its unit ("1": a pure number): for each phase, or for `total`, an expression over a reading.

    Of phases that a meter's wiring has not, voltages and currents are null when they are looked at.
    """

    unit: str
    meaning: str
    values: Mapping[str, pl.Expr]

    @property
    def phases(self) -> tuple[str, ...]:
        return tuple(self.values)

    @cached_property
    def worked_out(self) -> dict[str, pl.Expr]:
        """The values that are more than a column of a reading."""
        return {phase: value for phase, value in self.values.items() if not value.meta.eq(pl.col(_root(value)))}

    @cached_property
    def reads(self) -> frozenset[str]:
        """The measured values of a reading that it is made from."""
        names = {name for value in self.values.values() for name in value.meta.root_names()}
        return frozenset(names.intersection(MEASURED))


def _root(value: pl.Expr) -> str:
    return next(iter(value.meta.root_names()), "")


def _by_phase(template: str) -> dict[str, pl.Expr]:
    return {phase: pl.col(template.format(phase)) for phase in PHASES}


MEASURES: dict[str, Measure] = {
    "u": Measure("V", "voltage of a phase, meter side (three-wire: a is uab, c is ucb)", _by_phase("u{}_v")),
    "i": Measure("A", "current of a phase, meter side", _by_phase("i{}_a")),
    "p_kw": Measure("kW", "active power, import positive", {TOTAL: _P}),
    "q_kvar": Measure("kvar", "reactive power, import positive", {TOTAL: _Q}),
    "s_kva": Measure("kVA", "apparent power, sqrt(P^2 + Q^2)", {TOTAL: (_P.pow(2) + _Q.pow(2)).sqrt()}),
    "pf": Measure("1", "power factor, |P| / sqrt(P^2 + Q^2); none at P = Q = 0", {TOTAL: power_factor(_P, _Q)}),
    "missing": Measure("1", "slots without a reading in a row: no reading tells, the stream counts", {TOTAL: _NOTHING}),
}

NO_BASE = "none"
BASES: dict[str, str] = {
    "nominal_v": "nominal voltage of the meter",
    "rated_a": "rated current of the meter, meter side",
    "max_a": "maximum current of the meter, meter side",
    "contract_capacity_kva": "contract capacity of the customer",
    "contract_demand_kw": "contract demand of the customer",
    "pf_standard": "power-factor standard of the customer",
    NO_BASE: "nothing: limits are in the measure's own unit",
}
"""Columns of METER_VERSIONS that limits are fractions of."""
