"""Energies of intervals as readings have them: registers that sum them, and the power that is their mean.

Here: what tables (`convert`) and formats of the field (`interval_data`) have in common. Not here: which energies a file
has.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import polars as pl

from metering.tables.lake import CHAIN

POWER_OF = {"p_kw": ("import_kwh", "export_kwh"), "q_kvar": ("import_kvarh", "export_kvarh")}
"""Powers, and the energies whose difference they are the mean of."""
_FIRST_CHAINS = 1 << 39
"""Chains are numbered from a number below this on; doubles tell them apart."""


def mean_power(power: str, ways: tuple[str, str], energies: Sequence[str]) -> pl.Expr | None:
    """Mean power of each row's interval (`length_s`) from the energies of its two directions, import less export;
    null where one of them is not known. None where no energy tells of it.
    """
    signed = [pl.col(way) * sign for way, sign in zip(ways, (1.0, -1.0), strict=True) if way in energies]
    if not signed:
        return None
    return (pl.sum_horizontal(signed, ignore_nulls=False) * 3600 / pl.col("length_s")).round(9).alias(power)


def register(field: str) -> pl.Expr:
    """The cumulative register after each interval: the sum of the energies known so far.

    Of rows with the same meter and ts only the last counts. Rounded to 1e-9, so that sums of decimals stay short.
    """
    energy, again = pl.col(field), pl.col("again")
    counted = pl.when(again).then(0.0).otherwise(energy).fill_null(0.0).cum_sum().over("meter_id")
    own = pl.when(again).then(energy).otherwise(0.0)
    register = (counted + own).round(9)
    return pl.when(energy.is_not_null() & register.is_finite()).then(register).alias(field)


def chains(rows: pl.DataFrame, energies: Sequence[str]) -> pl.Series:
    """`chain_numbers` of rows (with `length_s`) of which those that stand `again` later do not count."""
    counted = rows.filter(~pl.col("again"))
    start = pl.col("ts") - pl.duration(seconds="length_s")
    chains = counted.select("meter_id", "ts", chain_numbers(counted, energies, start))
    return rows.join(chains, on=("meter_id", "ts"), how="left", maintain_order="left")[CHAIN]


def chain_numbers(rows: pl.DataFrame, energies: Sequence[str], start: pl.Expr) -> pl.Series:
    """The chain that the registers of each row belong to, which are sums of its interval energies.

    `rows`: `meter_id`, `ts` (the interval's end) and `energies`, one for each meter and ts, sorted by ts; `start`: the
    interval's start. A chain ends where an interval does not follow the one before it, or where active energy (of files
    without it: any) comes to be unknown, or known. Numbers follow from the energies, so that other energies are other
    chains, whatever file they are in, and the same ones the same.
    """
    active = [name for name in energies if name in POWER_OF["p_kw"]]
    known = [pl.col(name).is_not_null() for name in active or energies]
    apart = (start != pl.col("ts").shift().over("meter_id")).fill_null(True)
    changed = [(here != here.shift().over("meter_id")).fill_null(True) for here in known]
    begins = rows.select("meter_id", (apart | pl.any_horizontal(changed)).alias("begins"))
    number = begins.with_row_index().sort("meter_id", "index").select("index", pl.col("begins").cum_sum().alias("n"))
    content = io.BytesIO()
    rows.select("meter_id", "ts", *energies).write_csv(content)
    first = int.from_bytes(hashlib.sha256(content.getvalue()).digest()[:5]) % _FIRST_CHAINS
    return number.sort("index").select((first + pl.col("n")).cast(pl.Float64).alias(CHAIN)).to_series()
