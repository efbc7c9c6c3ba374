"""Cumulative registers: what was used between two readings of them, where the meter can have made that step.

Here: steps of one register, and energy of all of them held against rating, digits and power (domain handbook, section
9). Not here: which two readings (`windows`, `spread`), the figures (`metering.settings`).
"""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from metering.tables.lake import CHAIN, MOST_KWH, REGISTERS

_PLAUSIBLE_ROLLOVER = 0.1
_CHAINS = 1 << 40


def difference(start: pl.Expr, end: pl.Expr, modulus: pl.Expr) -> pl.Expr:
    """Energy between two register readings [kWh or kvarh]; null where either is unknown.

    A register rolls over at `modulus` (10 to its digits): a step back that is a small step forward across it, under a
    tenth of it, counts so. Any other step back is a restart (meter exchange, reset), after which the use is unknown.
    """
    step = end - start
    wrapped = step + modulus
    return pl.when(step >= 0).then(step).when(wrapped.is_between(0, _PLAUSIBLE_ROLLOVER * modulus)).then(wrapped)


def step(start: pl.Expr, end: pl.Expr, modulus: pl.Expr, most: pl.Expr) -> pl.Expr:
    """What a register counted between two readings of it [kWh or kvarh], where the meter can have: both within its
    digits, and at most `most` on, rolled over or not. Null otherwise, and where either is unknown.
    """
    shown = (start >= 0) & (start < modulus) & (end >= 0) & (end < modulus)
    on = difference(start, end, modulus)
    return pl.when(shown & (on <= most)).then(on)


def apart(net: pl.Expr, powered: pl.Expr, tolerance: pl.Expr, count: pl.Expr) -> pl.Expr:
    """Whether what registers counted is not near the integral of power over the same time (all kWh): neither within
    `tolerance`, a fraction of it, nor one count.
    """
    return (net - powered).abs() > pl.max_horizontal(powered.abs() * tolerance, count)


def uncounted(no_export: pl.Expr, net: pl.Expr, powered: pl.Expr, lowest: pl.Expr) -> pl.Expr:
    """Whether a meter without an export register has counted more than the integral of its power because that was
    negative at times: what is fed back it does not count.
    """
    return no_export & ((net > powered) & (lowest < 0)).fill_null(False)


def within_chain(rows: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    """`rows` (each register as `<name>_start`, `version`, `version_start`) without registers of another version of the
    meter at the start: no energy leads over the seam.
    """
    before = meter_versions["chain"].gather(rows["version_start"])
    other = before != meter_versions["chain"].gather(rows["version"])
    if not other.any():
        return rows
    return rows.with_columns(rows[f"{name}_start"].set(other.fill_null(False), None) for name in REGISTERS)


def chain_of() -> pl.Expr:
    """Within which registers are continuous, as one number: the `chain` of the meter's version, and CHAIN of readings,
    which registers made from interval energies have.
    """
    made = (pl.col(CHAIN).cast(pl.Int64, strict=False) % (_CHAINS - 1) + 1).fill_null(0)
    return (pl.col("chain").cast(pl.Int64) * _CHAINS + made).alias("chain")


def seams(readings: pl.DataFrame) -> pl.Series | None:
    """Which readings (sorted by meter and time) are of another chain of registers than the one before them; None where
    all are of their meters' own.
    """
    chain = readings[CHAIN]
    return None if chain.null_count() == len(chain) else chain.ne_missing(chain.shift(1))


def register_energy(rows: pl.DataFrame, powered: pl.Expr, lowest: pl.Expr) -> pl.DataFrame:
    """`rows` with what the registers say of the time between two readings: `registered` [kWh], import less export,
    `import_kvarh`, `export_kvarh`, and `reason`, why a step is not counted.

    `rows`: each register as `<name>_start` and `<name>_end`, `stamp_us_start` and `_end`, and of the meter's version
    `register_modulus`, `step_most_kw`, `step_tolerance`, `step_count_kwh`. `powered`: the integral of power over the
    same time [kWh], null where that is not known for all of it: registers are to be near it. A meter without an export
    register reports none at either edge; one that lost an edge does not know. Where it fed energy back (`lowest` power
    below 0) it counts no less for that.
    """
    hours = (pl.col("stamp_us_end") - pl.col("stamp_us_start")) / 3_600_000_000
    modulus = pl.col("register_modulus")
    most = pl.col("step_most_kw") * hours
    steps = [
        step(pl.col(f"{name}_start"), pl.col(f"{name}_end"), modulus, most).alias(f"{name}_step") for name in REGISTERS
    ]
    no_export = pl.col("export_kwh_start").is_null() & pl.col("export_kwh_end").is_null()
    net = pl.col("import_kwh_step") - pl.when(no_export).then(0.0).otherwise("export_kwh_step")
    stepped = rows.with_columns(steps).with_columns(net.alias("net"), powered.alias("integral"))
    far = apart(pl.col("net"), pl.col("integral"), pl.col("step_tolerance"), pl.col("step_count_kwh"))
    far = far.fill_null(False) & ~uncounted(no_export, pl.col("net"), pl.col("integral"), lowest)
    failed = pl.any_horizontal(
        far,
        *(
            pl.col(f"{name}_step").is_null()
            & pl.col(f"{name}_start").is_not_null()
            & pl.col(f"{name}_end").is_not_null()
            for name in REGISTERS
        ),
    )
    near = pl.col("net").abs() <= MOST_KWH
    judged = stepped.with_columns(
        pl.when(~far & near).then("net").alias("registered"),
        pl.col("import_kvarh_step").alias("import_kvarh"),
        pl.col("export_kvarh_step").alias("export_kvarh"),
        failed.alias("failed"),
        far.alias("apart"),
    )
    return judged.with_columns(_reasons(judged)).drop(
        "net", "integral", "failed", "apart", *(f"{name}_step" for name in REGISTERS)
    )


def _reasons(judged: pl.DataFrame) -> pl.Series:
    reason = pl.Series("reason", [None], dtype=pl.String).new_from_index(0, judged.height)
    at = judged["failed"].arg_true()
    if len(at) == 0:
        return reason
    return reason.scatter(at, [_reason(row) for row in judged[at].iter_rows(named=True)])


def _reason(row: dict[str, Any]) -> str:
    said = [text for name in REGISTERS if (text := _of_register(row, name)) is not None]
    if row["apart"]:
        said.append(f"register step {row['net']:,.10g} kWh, where power says {row['integral']:,.10g} kWh")
    return "; ".join(said)


def _of_register(row: dict[str, Any], name: str) -> str | None:
    start, end, modulus = row[f"{name}_start"], row[f"{name}_end"], row["register_modulus"]
    if row[f"{name}_step"] is not None or start is None or end is None:
        return None
    for value in (end, start):
        if not 0 <= value < modulus:
            return f"{name}: {value:,.10g} is not within the register's {round(math.log10(modulus))} digits"
    if end < start:
        return f"{name}: register went back from {start:,.10g} to {end:,.10g}"
    unit = name.partition("_")[2].replace("kwh", "kWh")
    return f"{name}: register step {end - start:,.10g} {unit} is more than the meter can have made"
