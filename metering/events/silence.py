"""When a reading counts as missing: how much of a meter's slots has to be empty, and the gaps between those it filled.

Here: gaps as frames (`gaps`, `filled`), and what the rule `reading_missing` asks of each meter (`figures`). Not here:
who is silent now, and what is told of it (`pipelines.shard.silence`).

A gap is the time between two slots of a meter that were answered for and are not next to each other; what is missing
in it are the slots in between. It is told once these have been missing for as long as the rule holds, and is over once
each of them has come.
"""

from __future__ import annotations

from datetime import date

import polars as pl

from metering.settings import Rulebook

RULE = "reading_missing"
_SECOND_US = 1_000_000

GAP_SCHEMA = pl.Schema({"meter": pl.UInt32(), "from_us": pl.Int64(), "to_us": pl.Int64()})
"""Slots of `meter` between two that were answered for, which end at `from_us` and `to_us`."""


def gaps(slots: pl.DataFrame, before_us: pl.Series) -> pl.DataFrame:
    """Gaps (GAP_SCHEMA) that slots leave behind them. `slots`: `meter`, `slot_us`, `interval_us`, in the order of the
    log, each any number of times; `before_us`: for each the last slot of its meter that was answered for before them,
    0 for none.

    Slots that are not after that one leave no gap: they fill one, or say nothing new. Nor do those before the first
    that a meter was ever heard with.
    """
    meter, slot = pl.col("meter"), pl.col("slot_us")
    rows = slots.with_columns(before_us.alias("before_us"))
    if rows["meter"].n_unique() < rows.height:
        if (rows["before_us"] == 0).any():
            first = pl.when(pl.col("before_us") == 0).then(slot.first().over("meter")).otherwise("before_us")
            rows = rows.with_columns(first.alias("before_us"))
        rows = rows.sort("meter", maintain_order=True)
        back = (meter == meter.shift(1)) & (slot < slot.shift(1))
        if rows.select(back.any()).item():  # sorting by both costs a multiple, and most come in order
            rows = rows.sort("meter", "slot_us")
        previous = pl.when(meter == meter.shift(1)).then(slot.shift(1))
        rows = rows.with_columns(pl.max_horizontal("before_us", previous).alias("before_us"))
    else:
        rows = rows.filter(pl.col("before_us") != 0)
    wide = rows.filter(slot - pl.col("before_us") > pl.col("interval_us"))
    return wide.select("meter", from_us="before_us", to_us="slot_us")


def filled(gap: pl.DataFrame, slots: pl.DataFrame) -> pl.DataFrame:
    """What is left of gaps once slots have come. `gap`: `gap` (a number), `from_us`, `to_us`, `interval_us`; `slots`:
    `gap`, `slot_us`, those that came within it. Columns: `gap`, `from_us`, `to_us`.
    """
    edges = [gap.select("gap", us="from_us"), gap.select("gap", us="to_us"), slots.select("gap", us="slot_us")]
    at = pl.concat(edges).unique().sort("gap", "us")
    after = at.with_columns(
        pl.when(pl.col("gap") == pl.col("gap").shift(-1)).then(pl.col("us").shift(-1)).alias("to_us")
    )
    left = after.join(gap.select("gap", "interval_us"), on="gap")
    return left.filter(pl.col("to_us") - pl.col("us") > pl.col("interval_us")).select(
        "gap", from_us="us", to_us="to_us"
    )


def missing_slots() -> pl.Expr:
    """How many slots are missing in a gap (`from_us`, `to_us`, `interval_us`)."""
    return ((pl.col("to_us") - pl.col("from_us")) / pl.col("interval_us")).round().cast(pl.Int64) - 1


def figures(meter_versions: pl.DataFrame, rules: Rulebook, day: date) -> pl.DataFrame:
    """What `reading_missing` asks of each version of a meter on a local `day`: `needed_us`, how long slots must have
    been missing to be told of (the rule's hold time, and `start` intervals at least; null: it is switched off), and
    `ruleset`, the rule's version.
    """
    scope = ("segment", "voltage_level_kv", "meter_id")
    named = meter_versions["meter_id"].set(~meter_versions["meter_id"].is_in(list(rules.meters)), None)
    rows = meter_versions.select("segment", "voltage_level_kv", named, "interval_s")
    cases = rows.select(scope).unique(maintain_order=True)
    said = [rules.in_force(RULE, day, *case) for case in cases.iter_rows()]
    of_case = cases.with_columns(
        pl.Series("hold_s", [rule.hold_s if rule.start else None for rule in said], dtype=pl.Float64),
        pl.Series("start", [rule.start for rule in said], dtype=pl.Float64),
        pl.Series("ruleset", [rule.version for rule in said], dtype=pl.String),
    )
    of_each = rows.join(of_case, on=scope, how="left", nulls_equal=True, maintain_order="left")
    longest = pl.max_horizontal("hold_s", pl.col("start") * pl.col("interval_s"))
    needed = pl.when(pl.col("hold_s").is_not_null()).then((longest * _SECOND_US).cast(pl.Int64))
    return of_each.select(needed.alias("needed_us"), "ruleset")
