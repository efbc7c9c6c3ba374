"""What rules look at: each measure by its name, as an expression over a reading; and what limits are fractions of.

Here: a new kind of measurement is one row of MEASURES, a new base one of BASES. Not here: which rule looks at what
(`rules.toml`), judging (`judge`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from metering.events import registers
from metering.supply.power_factor import power_factor
from metering.supply.unbalance import negative_sequence
from metering.tables.lake import LINE_VOLTAGES, MEASURED, PHASES, REGISTERS

TOTAL = "total"
_P, _Q = pl.col("p_kw"), pl.col("q_kvar")
_PF = power_factor(_P, _Q)
_NOTHING = pl.lit(None, pl.Float64)


@dataclass(frozen=True, eq=False)
class Measure:
    """A measure in its unit ("1": a pure number): for each phase, or for `total`, an expression over a reading.

    Of phases that a meter's wiring has not, voltages and currents are null when they are looked at. `whole`: of several
    phases; there is none where a value of one that the meter has is missing. `near`: by side, a plainer measure that is
    beyond a limit (on some phase) wherever this one is. `of_steps`: of a reading against those before it
    (`metering.events.registers`). `apart`: no reading tells it by itself, for it depends on when readings came
    (`metering.events.silence`, `metering.events.clock`).
    """

    unit: str
    meaning: str
    values: Mapping[str, pl.Expr]
    whole: bool = False
    near: Mapping[str, str] = field(default_factory=dict)
    of_steps: bool = False
    apart: bool = False

    def unit_of(self, phase: str) -> str:
        """The unit of a phase: reactive registers count kvarh where active ones count kWh."""
        return self.unit.replace("kWh", "kvarh") if phase.endswith("kvarh") else self.unit

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


def _all(template: str) -> list[str]:
    return [template.format(phase) for phase in PHASES]


def _of_others(template: str) -> dict[str, pl.Expr]:
    return {phase: pl.max_horizontal(template.format(other) for other in PHASES if other != phase) for phase in PHASES}


def _unbalance(template: str) -> pl.Expr:
    """(max - min) / max of the phases; none where all are 0."""
    highest, lowest = pl.max_horizontal(_all(template)), pl.min_horizontal(_all(template))
    return pl.when(highest > 0).then((highest - lowest) / highest)


_HIGHEST_U, _HIGHEST_I = pl.max_horizontal(_all("u{}_v")), pl.max_horizontal(_all("i{}_a"))
_ANY_U, _ANY_I, _PF_NEAR = (
    dict.fromkeys(("above", "below"), "u"),
    dict.fromkeys(("above", "below"), "i"),
    {"below": "pf"},
)


def _by_register(what: str, names: Sequence[str]) -> dict[str, pl.Expr]:
    return {name: pl.col(registers.value(name, what)) for name in names}


MEASURES: dict[str, Measure] = {
    "u": Measure("V", "voltage of a phase, meter side (three-wire: a is uab, c is ucb)", _by_phase("u{}_v")),
    "i": Measure("A", "current of a phase, meter side", _by_phase("i{}_a")),
    "p_kw": Measure("kW", "active power, import positive", {TOTAL: _P}),
    "p_export_kw": Measure("kW", "active power, export positive", {TOTAL: -_P}),
    "q_kvar": Measure("kvar", "reactive power, import positive", {TOTAL: _Q}),
    "s_kva": Measure("kVA", "apparent power, sqrt(P^2 + Q^2)", {TOTAL: (_P.pow(2) + _Q.pow(2)).sqrt()}),
    "pf": Measure("1", "power factor, |P| / sqrt(P^2 + Q^2); none at P = Q = 0", {TOTAL: _PF}),
    "pf_lagging": Measure(
        "1", "power factor while reactive power is drawn (Q > 0), else 1; none at P = Q = 0",
        {TOTAL: pl.when(_Q > 0).then(_PF).when(_PF.is_not_null()).then(1.0)}, near=_PF_NEAR,
    ),
    "pf_leading": Measure(
        "1", "power factor while reactive power is fed back (Q < 0), else 1; none at P = Q = 0",
        {TOTAL: pl.when(_Q < 0).then(_PF).when(_PF.is_not_null()).then(1.0)}, near=_PF_NEAR,
    ),
    "u_max": Measure("V", "highest voltage of the phases, meter side", {TOTAL: _HIGHEST_U}, whole=True, near=_ANY_U),
    "u_other": Measure(
        "V", "highest voltage of the other phases, meter side", _of_others("u{}_v"), whole=True, near={"above": "u"}
    ),
    "i_max": Measure("A", "highest current of the phases, meter side", {TOTAL: _HIGHEST_I}, whole=True, near=_ANY_I),
    "i_other": Measure(
        "A", "highest current of the other phases, meter side", _of_others("i{}_a"), whole=True, near={"above": "i"}
    ),
    "u_unbalance": Measure(
        "1", "unbalance of the voltages as meters tell it, (max - min) / max", {TOTAL: _unbalance("u{}_v")}, whole=True
    ),
    "u_negative_sequence": Measure(
        "1", "negative over positive sequence of the line-to-line voltages; none where one of the three is missing",
        {TOTAL: negative_sequence(*(pl.col(name) for name in LINE_VOLTAGES))},
    ),
    "i_unbalance": Measure(
        "1", "unbalance of the currents as meters tell it, (max - min) / max", {TOTAL: _unbalance("i{}_a")}, whole=True
    ),
    "register_back": Measure(
        "kWh",
        "how far a register went back since the reading before, but for its rollover; 0 of a step that the meter can "
        "have made",
        _by_register(registers.BACK, REGISTERS),
        of_steps=True,
    ),
    "register_multiple": Measure(
        "1",
        "a step too long, as a multiple of power's integral over a block; without power, of a tenth of what the meter "
        "can make; 1 of a step that is sane",
        _by_register(registers.MULTIPLE, REGISTERS),
        of_steps=True,
    ),
    "register_ratio": Measure(
        "1",
        "what a register counted over a block as a multiple of power's integral",
        _by_register(registers.RATIO, registers.OF_POWER),
        of_steps=True,
    ),
    "register_apart": Measure(
        "1",
        "how far a register that counts is from power's integral over a block, as a fraction of that",
        _by_register(registers.APART, registers.OF_POWER),
        of_steps=True,
    ),
    "register_stood": Measure(
        "kWh",
        "power's integral over a block in which a register stood still; 0 where it counted",
        _by_register(registers.STOOD, registers.OF_POWER),
        of_steps=True,
    ),
    "missing": Measure(
        "1", "slots without a reading in a row: no reading tells, the stream counts", {TOTAL: _NOTHING}, apart=True
    ),
    "clock_ahead": Measure(
        "min",
        "how far a stamp, of readings and of rejects, is ahead of its message's time (in files: of when they are read)",
        {TOTAL: pl.col("ahead_min")},
        apart=True,
    ),
}  # fmt: skip

NO_BASE = "none"
BASES: dict[str, str] = {
    "nominal_v": "nominal voltage of the meter",
    "rated_a": "rated current of the meter, meter side",
    "max_a": "maximum current of the meter, meter side",
    "contract_capacity_kva": "contract capacity of the customer",
    "contract_demand_kw": "contract demand of the customer",
    "base_kva": "power of the meter at its rated current and nominal voltage, primary side",
    "max_kva": "power of the meter at its maximum current and nominal voltage, primary side",
    "pf_standard": "power-factor standard of the customer",
    NO_BASE: "nothing: limits are in the measure's own unit",
}
"""Columns of METER_VERSIONS that limits are fractions of."""
