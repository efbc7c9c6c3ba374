"""Chains of register readings: which steps between quarter-hours' ends are energy, and which values were wrong.

Here: the same belief as in windows (`metering.load.registers`), over any time between two readings, and what the
readings on both sides of a value say of it (domain handbook, section 9). Not here: sharing out what a step leaves to
quarter-hours that are not known (`estimation`), one window's own two edges.
"""

from __future__ import annotations

import polars as pl

from metering.load.registers import step
from metering.tables.lake import REGISTERS

QUARTER_H = 0.25
_TOLERANCE_MIN = 0.01
_ACTIVE = {"import_kwh": "export_kwh", "export_kwh": "import_kwh"}
_LIMITS = ("register_modulus", "step_most_kw", "step_tolerance", "step_count_kwh")


def end_of(register: str) -> str:
    """Column of a register's reading at the end of a quarter-hour."""
    return f"{register}_end"


def steps(points: pl.DataFrame, register: str) -> pl.Series:
    """What `register` counted since the reading of it before, at quarter-hours at whose end it was read, where the
    meter can have made that step; null elsewhere.

    `points`: quarter-hours sorted by `meter` and `quarter`, with the registers at their ends, `chain`, `due_min`,
    `covered_min`, `p_mean_kw`, and what a step is believed by, as in `estimation.estimate`.
    """
    reads = _reads(points, register)
    counted = _pairs(reads, reads.select(pl.all().shift().over("meter")))
    none = pl.repeat(None, points.height, dtype=pl.Float64, eager=True)
    return none.scatter(reads["row"], counted).alias("step")


def counted(points: pl.DataFrame, start: pl.DataFrame, register: str) -> pl.DataFrame:
    """What the register says of a day, and what the day's quarter-hours do: of meters all of whose readings of it that
    day are one chain of steps that the meter can have made.

    `points` (see `steps`; `meter_id`) with the energies themselves; `start`: `meter_id`, the registers as read when the
    day starts. Columns: meter_id, `registered` (from the first reading to the last), `summed` (over the same time; null
    where some of it is not known).
    """
    named = points.with_columns(meter="meter_id")
    first = named.unique("meter_id", keep="first", maintain_order=True)
    ends = ["meter_id", *map(end_of, REGISTERS)]
    edge = first.drop(ends[1:]).join(start.select(ends), on="meter_id", maintain_order="left")
    edge = edge.with_columns(pl.col("quarter") - 1).select(named.columns)
    rows = pl.concat([edge, named]).sort("meter_id", "quarter")
    read = pl.col(end_of(register)).is_not_null()
    between = read.cum_sum().shift(fill_value=0).over("meter") > 0
    between &= read.reverse().cum_sum().reverse().over("meter") > 0
    value = pl.when(between).then(register)
    return (
        rows.with_columns(steps(rows, register), value.alias("value"), between.alias("between"))
        .group_by("meter_id", maintain_order=True)
        .agg(
            pl.when(pl.col("step").count() == read.sum() - 1, pl.col("step").count() > 0)
            .then(pl.col("step").sum())
            .alias("registered"),
            pl.when(pl.col("value").count() == pl.col("between").sum()).then(pl.col("value").sum()).alias("summed"),
        )
        .filter(pl.col("registered").is_not_null())
    )


def without_wrong(points: pl.DataFrame) -> pl.DataFrame:
    """`points` (see `steps`, and what `meter_curve` makes of windows) without wrong values of registers, and without
    the energies that lead to them and from them.

    A value, or the same one again and again, is wrong where the meter can have gone from the reading before to the one
    after, yet not both to that value and on from it: what the readings on both sides say is what was used. A step that
    led to a wrong value, or from it, is none, though the meter could have made it.
    """
    points = _started(points)
    for register in REGISTERS:
        if register != "export_kwh":
            points = _without_wrong(points, register)
    return points


def _started(points: pl.DataFrame) -> pl.DataFrame:
    """`points` in which a reading of the moment when a meter is exchanged is of the new one where the old one cannot
    have come to it, and the new one can have gone on from it.
    """
    ends = points["chain"] != points["chain"].shift(-1)
    ends &= points["meter"] == points["meter"].shift(-1)
    if not ends.any():
        return points
    reads = _reads(points, "import_kwh")
    at_end = ends.fill_null(False).gather(reads["row"])
    before = reads.select(pl.all().shift().over("meter"))
    after = reads.select(pl.all().shift(-1).over("meter"))
    begun = reads.with_columns(after["chain"])
    new = at_end & _pairs(reads, before).is_null() & _pairs(after, begun).is_not_null()
    at = reads["row"].filter(new)
    return points.with_columns(points["chain"].scatter(at, after["chain"].filter(new)))


def _without_wrong(points: pl.DataFrame, register: str) -> pl.DataFrame:
    wrong = _wrong(points, register)
    if not wrong.any():
        return points
    read = pl.when(pl.col(end_of(register)).is_not_null()).then("wrong")
    beside = (read.backward_fill().over("meter"), read.forward_fill().shift().over("meter"))
    rows = points.with_columns(wrong.alias("wrong")).with_columns(
        pl.any_horizontal(side.fill_null(False) for side in beside).alias("doubtful")
    )
    ends = [end_of(name) for name in ((register, _ACTIVE[register]) if register in _ACTIVE else (register,))]
    without = [rows[end].set(wrong, None) for end in ends]
    if register not in _ACTIVE:
        of_power = pl.col(f"q_{register}") * pl.when(pl.col("covered_min") > 0).then(
            pl.col("due_min") / pl.col("covered_min")
        )
        kept = pl.when("doubtful").then(of_power).otherwise(register).alias(register)
        return rows.with_columns(*without, kept).drop("doubtful", "wrong")
    revoked = pl.col("doubtful") & pl.col("registered")
    return rows.with_columns(
        *without,
        (pl.col("known") & ~revoked).alias("known"),
        pl.when(revoked).then("p_mean_kw").otherwise("p_kw").alias("p_kw"),
    ).drop("doubtful", "wrong")


def _wrong(points: pl.DataFrame, register: str) -> pl.Series:
    """Which points' registers are wrong."""
    reads = _reads(points, register)
    same = ("meter", "chain", "own", "other")
    runs = reads.with_columns(pl.struct(same).rle_id().alias("run"))
    firsts = runs.unique("run", keep="first", maintain_order=True)
    lasts = runs.unique("run", keep="last", maintain_order=True)
    before = lasts.select(pl.all().shift().over("meter"))
    after = firsts.select(pl.all().shift(-1).over("meter"))
    made = [_pairs(*pair[::-1]).is_not_null() for pair in ((before, firsts), (lasts, after), (before, after))]
    wrong = made[2] & ~(made[0] & made[1])
    rows = runs["row"].filter(runs["run"].is_in(firsts["run"].filter(wrong).implode()))
    return pl.repeat(False, points.height, eager=True).scatter(rows, True)


def _reads(points: pl.DataFrame, register: str) -> pl.DataFrame:
    """Points at whose end the register was read, with what power said up to there."""
    whole = (pl.col("covered_min") >= pl.col("due_min") - _TOLERANCE_MIN) & pl.col("p_mean_kw").is_not_null()
    measured = whole.fill_null(False)
    used = pl.when(measured).then(pl.col("p_mean_kw") * pl.col("due_min") / 60).otherwise(0.0)
    other = _ACTIVE.get(register)
    return points.select(
        pl.int_range(pl.len()).alias("row"),
        "meter", "quarter", "chain", *_LIMITS,
        pl.col(end_of(register)).alias("own"),
        (pl.col(end_of(other)) if other else pl.lit(None, pl.Float64)).alias("other"),
        (used.cum_sum().over("meter") if other else pl.lit(None, pl.Float64)).alias("powered"),
        (~measured).cum_sum().over("meter").alias("unpowered"),
        pl.lit(-1.0 if register == "export_kwh" else 1.0).alias("sign"),
    ).filter(pl.col("own").is_not_null())  # fmt: skip


def _pairs(to: pl.DataFrame, since: pl.DataFrame) -> pl.Series:
    """The step from each row of `since` to that of `to`, null where it is none."""
    both = to.with_columns(column.alias(f"{column.name}_since") for column in since.iter_columns())
    most = pl.col("step_most_kw") * (pl.col("quarter") - pl.col("quarter_since")) * QUARTER_H
    counted, other = (step(pl.col(f"{n}_since"), pl.col(n), pl.col("register_modulus"), most) for n in ("own", "other"))
    one_way = pl.col("other_since").is_null() & pl.col("other").is_null()
    seen = pl.col("other_since").is_not_null() & pl.col("other").is_not_null()
    net = (counted - pl.when(one_way).then(0.0).otherwise(other)) * pl.col("sign")
    integral = pl.when(pl.col("unpowered") == pl.col("unpowered_since")).then(
        pl.col("powered") - pl.col("powered_since")
    )
    allowed = pl.max_horizontal(integral.abs() * pl.col("step_tolerance"), "step_count_kwh")
    apart = ((net - integral).abs() > allowed).fill_null(False)
    believed = (pl.col("chain") == pl.col("chain_since")) & ~apart & ~(seen & other.is_null())
    return both.select(pl.when(believed).then(counted)).to_series()
