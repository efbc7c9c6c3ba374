"""Which readings' register steps need a look: one pass over all, with a meter's last reading for what came before.

Here: a comparison that misses nothing, and what is kept of a meter for the next. Not here: what a step is
(`registers`), to which this is held by a property test.
"""

from __future__ import annotations

import polars as pl

from metering.events.registers import (
    OF_BLOCK,
    OF_POWER,
    OF_VERSION,
    SEED_SCHEMA,
    US_PER_HOUR,
    counted_kw,
    most_of,
    net_of,
    of_versions,
)
from metering.settings import MeteringSettings
from metering.tables.lake import REGISTERS


def screened(rows: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """`rows` with SEED_SCHEMA, and `wrong`: whether `registers.steps` may find a step to them, or to the one before,
    that cannot be counted.

    `rows`: as for `steps`, by `meter`, of which the first may be its last reading before, with SEED_SCHEMA (null: as of
    a reading that is none).
    """
    known = of_versions(rows, meter_versions)
    first = (pl.col("meter") != pl.col("meter").shift(1)).fill_null(True)
    same = ~first & (pl.col("chain") == pl.col("chain").shift(1))
    passed_us = pl.col("slot_us") - pl.col("slot_us").shift(1)
    goes_on = same & (passed_us <= pl.col("interval_s").cast(pl.Int64) * 1_500_000)
    here = (counted_kw() * passed_us / (US_PER_HOUR / 1_000_000)).round().cast(pl.Int64, strict=False)
    since_us = pl.col("stamp_us") - pl.col("stamp_us").shift(1)
    longest_us = int(settings.plausibility.step_days * 24 * US_PER_HOUR)
    most = most_of(since_us)
    modulus = pl.col("register_modulus")
    step_off = pl.any_horizontal(
        (
            ~(pl.col(name) - pl.col(name).shift(1)).is_between(0, most)
            | (pl.col(name) >= modulus)
            | (pl.col(name).shift(1) < 0)
            | (pl.col(name).shift(1) >= modulus)
        ).fill_null(False)
        for name in REGISTERS
    )
    told = known.select(
        (step_off & same & since_us.is_between(1, longest_us)).alias("off"),
        (pl.col("troubled").fill_null(False)).alias("was_off"),
        same.fill_null(False).alias("same"),
        pl.when(goes_on).then(here).when(first).then("kwh_e6").alias("kwh_e6"),
        (first & pl.col("edge_us").is_not_null()).alias("seeded"),
        first.alias("first"),
        (pl.col("slot_us") == pl.col("end_us")).alias("over"),
        pl.col("meter") != pl.col("meter").shift(-1),
    )
    told = told.rename({"meter": "last"}).with_columns(pl.col("last").fill_null(True))
    blocks = _blocks(known, told)
    off = told["off"] | told["was_off"]
    wrong = told["off"] | (off.shift(1).fill_null(False) & told["same"])
    apart_at = blocks.filter(pl.col("over") & pl.col("apart"))["row"]
    kept = blocks.filter(~pl.col("over") & pl.col("kwh_e6").is_not_null())
    return rows.drop(SEED_SCHEMA.names()).with_columns(
        wrong.scatter(apart_at, True).alias("wrong"),
        told["off"].alias("troubled"),
        *(_at(rows.height, kept["row"], kept[name]) for name in OF_BLOCK),
    )


def _at(height: int, at: pl.Series, values: pl.Series) -> pl.Series:
    return pl.Series(values.name, [None], dtype=values.dtype).new_from_index(0, height).scatter(at, values)


def _blocks(known: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """Of rows that end a block, or are their meter's last: `row`, `over`, OF_BLOCK (null where not known), `apart`."""
    sums = told.select(
        pl.col("kwh_e6").fill_null(0).cum_sum().alias("sum"),
        pl.col("kwh_e6").is_null().cast(pl.Int64).cum_sum().alias("unknown"),
        pl.when(pl.col("over") | pl.col("first")).then(pl.int_range(pl.len())).forward_fill().shift(1).alias("edge"),
    )
    at = (told["over"] | told["last"]).arg_true()
    own, edge = sums[at], sums["edge"].gather(at)
    edge = edge.set(told["first"].gather(at), None)
    seeded = told["seeded"].gather(edge) & ~told["over"].gather(edge)
    # of a seed that stands for its block so far, its own sum counts too
    sum_before = sums["sum"].gather(edge) - told["kwh_e6"].fill_null(0).gather(edge) * seeded.cast(pl.Int64)
    unknown_before = sums["unknown"].gather(edge) - told["kwh_e6"].is_null().gather(edge).cast(pl.Int64) * seeded.cast(
        pl.Int64
    )
    whole = (seeded | told["over"].gather(edge)) & (own["unknown"] == unknown_before)
    frame = known.select("meter", "stamp_us", *OF_POWER, *OF_VERSION)[at].with_columns(
        at.cast(pl.Int64).alias("row"),
        told["over"].gather(at).alias("over"),
        whole.fill_null(False).alias("whole"),
        (own["sum"] - sum_before).alias("kwh_e6"),
        known["stamp_us"]
        .gather(edge)
        .zip_with(~seeded.fill_null(False), known["edge_us"].gather(edge))
        .alias("edge_us"),
        *(
            known[name]
            .gather(edge)
            .zip_with(~seeded.fill_null(False), known[f"edge_{name}"].gather(edge))
            .alias(f"edge_{name}")
            for name in OF_POWER
        ),
    )
    frame = frame.with_columns(pl.when("whole").then(name).alias(name) for name in OF_BLOCK)
    _, apart = net_of("edge_us", "edge", pl.col("kwh_e6") / 1_000_000)
    return frame.with_columns(apart.fill_null(False).alias("apart"))
