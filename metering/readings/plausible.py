"""What is believed of a reading: what its meter can have measured (domain handbook, section 9).

Here: voltages, currents, powers. Raw readings are kept as they came; what is not believed is null here. Not here: steps
of registers (`metering.load.registers`), the figures (`metering.settings`).
"""

from __future__ import annotations

import polars as pl

from metering.tables.lake import CURRENTS, LINE_VOLTAGES, REGISTERS, VOLTAGES

_MOST = {
    **dict.fromkeys(VOLTAGES, "u_most_v"),
    **dict.fromkeys(LINE_VOLTAGES, "u_line_most_v"),
    **dict.fromkeys(CURRENTS, "i_most_a"),
} | dict.fromkeys(("p_kw", "q_kvar"), "p_most_kw")
_MAGNITUDES = (*VOLTAGES, *LINE_VOLTAGES)
"""Root mean squares: none is negative. A current may carry the sign of its power."""
_KINDS = {"u": ("voltage", "V"), "i": ("current", "A"), "p": ("active power", "kW"), "q": ("reactive power", "kvar")}
"""What is measured, and its unit, by the first letter of a name."""


def beyond(readings: pl.DataFrame, meter_versions: pl.DataFrame) -> dict[str, pl.Series]:
    """For each measured value in `readings` (with `version`) that some are beyond belief of: which."""
    version = readings["version"]
    nothing = _nothing_but_zeros(readings)
    limits: dict[str, pl.Series] = {}
    found = {}
    for name, most in _MOST.items():
        if name in readings.columns:
            limit = limits.get(most)
            if limit is None:
                limit = limits[most] = meter_versions[most].gather(version)
            over = readings[name].abs() > limit
            if name in _MAGNITUDES:
                over |= readings[name] < 0
            over = over.fill_null(False)
            if nothing is not None:
                over |= nothing & readings[name].is_not_null()
            if over.any():
                found[name] = over
    return found


def _nothing_but_zeros(readings: pl.DataFrame) -> pl.Series | None:
    """Which readings are 0 in all that they tell, their register and a voltage included: what a gateway sends that has
    not reached its meter. None: none, or registers are not looked at.
    """
    if "import_kwh" not in readings.columns or not (readings["import_kwh"] == 0).any():
        return None
    told = [name for name in (*_MOST, *REGISTERS) if name in readings.columns]
    zeros = [(pl.col(name) == 0).fill_null(True) for name in told]
    voltages = [pl.col(name).is_not_null() for name in VOLTAGES if name in told]
    if not voltages:
        return None
    found = readings.select(
        (pl.col("import_kwh") == 0).fill_null(False) & pl.any_horizontal(voltages) & pl.all_horizontal(zeros)
    ).to_series()
    return found if found.any() else None


def believed(readings: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    """`readings` (with `version`) with null for values beyond belief."""
    return without(readings, beyond(readings, meter_versions))


def without(readings: pl.DataFrame, over: dict[str, pl.Series]) -> pl.DataFrame:
    """`readings` with null where `over` says so."""
    return readings.with_columns(readings[name].set(mask, None) for name, mask in over.items()) if over else readings


def told(name: str, value: float) -> str:
    """What is said of a value beyond belief."""
    kind, unit = _KINDS[name[0]]
    if value == 0:
        return "a reading of nothing but zeros, its register too, tells nothing of the meter"
    if name in _MAGNITUDES and value < 0:
        return f"{kind} of {value:,.6g} {unit} is negative, which no voltage is"
    return f"{kind} of {value:,.6g} {unit} is more than the meter can have measured"
