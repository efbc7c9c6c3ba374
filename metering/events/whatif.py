"""What if the rules were others: the alarms that readings in order give, and how two lots of alarms differ.

Here: the rules that a change touches, alarms as one row each, and which appear, vanish or move. Not here: reading the
lake (`pipelines.whatif`), judging (`judge`, `lifecycle`).

Readings are replayed in order of time, so what a late reading had raised and taken back again is in neither lot.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from metering.events.catalogue import checks
from metering.settings import MeteringSettings, Rulebook
from metering.tables.schema import TIMESTAMP, no_rows

SAME, MOVED, APPEARED, VANISHED = "same", "moved", "appeared", "vanished"
OUTCOMES = (SAME, MOVED, APPEARED, VANISHED)

ALARMS_SCHEMA = pl.Schema(
    {
        "meter_id": pl.String(),
        "customer_no": pl.String(),
        "rule": pl.String(),
        "phase": pl.String(),
        "started_at": TIMESTAMP,
        "ended_at": TIMESTAMP,
        "value": pl.Float64(),
    }
)
"""Alarms, one row each; `ended_at` null: open in the end."""
_PAIR = ("meter_id", "rule", "phase")
_NEVER_OVER = pl.datetime(9999, 1, 1, time_zone="UTC", time_unit="us")


def touched(before: Rulebook, after: Rulebook) -> set[str]:
    """Rules (ids) that are not the same in both, with those that give way to one of them."""
    names = {*before.by_id, *after.by_id}
    found = {
        name
        for name in names
        if before.by_id.get(name) != after.by_id.get(name)
        or before.overrides_of.get(name) != after.overrides_of.get(name)
    }
    while more := {
        rule.id
        for book in (before, after)
        for rule in book.rules
        if rule.id not in found and found.intersection(rule.unless)
    }:
        found |= more
    return found


def restricted(settings: MeteringSettings, names: set[str]) -> MeteringSettings:
    """The settings with only the rules `names` in use; those that they give way to are judged as well."""
    book, wanted = settings.rules, set(names)
    while more := {name for rule in book.rules if rule.id in wanted for name in rule.unless} - wanted:
        wanted |= more
    rules = tuple(rule for rule in book.rules if rule.id in wanted)
    overrides = tuple(override for override in book.overrides if override.rule in wanted)
    return replace(settings, rules=Rulebook(rules, overrides))


def alarms(changes: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """ALARMS_SCHEMA of changes (CHANGE_SCHEMA): the last word on each violation."""
    if changes.is_empty():
        return no_rows(ALARMS_SCHEMA)
    named = pl.DataFrame(
        [(check.code, check.rule, check.phase) for check in checks(settings)],
        schema={"code": pl.UInt32, "rule": pl.String, "phase": pl.String},
        orient="row",
    )
    last = changes.sort("revision").unique(("meter", "code", "started_at"), keep="last")
    last = last.filter(pl.col("state") != "withdrawn")
    told = last.with_columns(meter_versions[n].gather(last["version"]) for n in ("meter_id", "customer_no"))
    return told.join(named, on="code").select(ALARMS_SCHEMA.names()).sort("meter_id", "rule", "phase", "started_at")


def compared(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Alarms of both (ALARMS_SCHEMA), a row each, with its `outcome`; of one that is in both, `<column>_after`, and
    `moved` where it begins or ends at another time.

    Alarms of one meter, rule and phase are one where they overlap; of several that do, the first that is left.
    """
    left = before.sort(*_PAIR, "started_at").with_row_index("a")
    right = after.sort(*_PAIR, "started_at").with_row_index("b")
    end = pl.coalesce("ended_at", _NEVER_OVER)
    pairs = left.select("a", *_PAIR, "started_at", until=end).join(
        right.select("b", *_PAIR, "started_at", until=end), on=_PAIR, suffix="_after"
    )
    pairs = pairs.filter(pl.col("started_at") <= pl.col("until_after"), pl.col("started_at_after") <= pl.col("until"))
    pairs = pairs.sort("a", "b").unique("a", keep="first", maintain_order=True).unique("b", keep="first")
    both = left.join(pairs.select("a", "b"), on="a").join(right, on="b", suffix="_after")
    moved = pl.col("started_at").ne_missing(pl.col("started_at_after")) | pl.col("ended_at").ne_missing(
        pl.col("ended_at_after")
    )
    kept = ("started_at_after", "ended_at_after", "value_after")
    found = [
        both.select(*ALARMS_SCHEMA, *kept, outcome=pl.when(moved).then(pl.lit(MOVED)).otherwise(pl.lit(SAME))),
        left.join(pairs, on="a", how="anti").select(*ALARMS_SCHEMA, outcome=pl.lit(VANISHED)),
        right.join(pairs, on="b", how="anti").select(*ALARMS_SCHEMA, outcome=pl.lit(APPEARED)),
    ]
    return pl.concat(found, how="diagonal").sort(*_PAIR, "started_at")


def counted(found: pl.DataFrame, by: str, days: int) -> pl.DataFrame:
    """How many alarms there are before and after, by `rule` or `customer_no`, with those that differ and counts a day.

    Columns: `by`, before, after, OUTCOMES, before_a_day, after_a_day; those with the greatest difference first.
    """
    in_before, in_after = pl.col("outcome") != APPEARED, pl.col("outcome") != VANISHED
    counts = found.group_by(by).agg(
        in_before.sum().alias("before"),
        in_after.sum().alias("after"),
        *((pl.col("outcome") == outcome).sum().alias(outcome) for outcome in OUTCOMES),
    )
    a_day = [(pl.col(name) / days).alias(f"{name}_a_day") for name in ("before", "after")]
    differing = pl.col(APPEARED) + pl.col(VANISHED) + pl.col(MOVED)
    return counts.with_columns(a_day).sort(differing, pl.col("before"), by, descending=[True, True, False])
