"""Labelled faults: which meter, which day, from when to when, and what they do to readings.

Here: the plan of a day (`plan`) and its effect on power and voltage (`strike_power`, `strike_voltages`). Faults of
kinds that have rules are as strong and as long as the settings' limits and hold times ask. Not here: labels of a run,
gaps and delays (`run`).
"""

from __future__ import annotations

from datetime import date

import polars as pl

from metering.settings import MeteringSettings, Rule, RuleSet, in_force
from metering.simulation.draws import between, choose, uniform
from metering.simulation.fleet import Fleet
from metering.tables.lake import RULES

MISSING, LATE = "reading_missing", "reading_late"
_OF_CAPACITY = ("over_capacity", "low_power_factor")
STRUCK_A_DAY = 0.12
EARLIEST_MIN, LATEST_MIN = 360, 1260
"""Faults lie between these minutes of a day, so that what arrives late still arrives on its day."""

PLAN = pl.Schema(
    {
        "meter": pl.UInt32(),
        "kind": pl.String(),
        "phase": pl.String(),
        "first": pl.Int64(),
        "last": pl.Int64(),
        "strength": pl.Float64(),
        "limit": pl.Float64(),
        "delay_s": pl.Int64(),
    }
)
"""`first` to `last`: the struck readings, by their number in the day (from 1). `strength`: voltage in parts of
nominal, apparent power in parts of contract capacity, or power factor, by kind; `limit` is the rule's, in the same.
`delay_s` is how long after the last struck reading late ones arrive."""


def plan(fleet: Fleet, day: date, interval_s: int, settings: MeteringSettings) -> pl.DataFrame:
    """The faults of one local day, at most one a meter, schema PLAN.

    About an eighth of the meters are struck, at least one for each kind where there are meters enough.
    """
    rules = in_force(settings.rulesets, day)
    kinds = [*(kind for kind in RULES if _fits(getattr(rules, kind), interval_s)), MISSING, LATE]
    number = day.toordinal()
    ranked = fleet.traits.select("meter", "wiring", "dual_supply", "pf_standard").sort(
        uniform(fleet.seed, "struck", fleet.traits["meter"], pl.Series([number]))
    )
    struck = ranked.head(max(len(kinds), round(STRUCK_A_DAY * ranked.height)))

    def u(stream: str) -> pl.Expr:
        return uniform(fleet.seed, stream, struck["meter"], pl.Series([number]))

    kind = pl.lit(pl.Series(kinds)).gather((pl.int_range(pl.len()) + number) % len(kinds))
    # a source of two carries too little of the customer's capacity for rules that compare with it
    too_little = pl.col("dual_supply") & pl.col("kind").is_in(_OF_CAPACITY)
    planned = (
        struck.with_columns(kind=kind)
        .with_columns(kind=pl.when(too_little).then(pl.lit(MISSING)).otherwise("kind"))
        .with_columns(limit=_limit(rules), length=_length(rules, interval_s, u("length")))
        .with_columns(phase=_phase(u("phase")), strength=_strength(u("strength")))
    )
    room = (LATEST_MIN - EARLIEST_MIN) * 60 // interval_s
    start = EARLIEST_MIN * 60 // interval_s + (u("at") * (room - pl.col("length"))).cast(pl.Int64)
    return planned.select(
        "meter",
        "kind",
        "phase",
        (start + 1).alias("first"),
        (start + pl.col("length")).alias("last"),
        "strength",
        "limit",
        pl.when(pl.col("kind") == LATE).then((u("delay") * 5400).cast(pl.Int64) + 60).alias("delay_s"),
    ).match_to_schema(PLAN)


def strike_power(capacity_limit: float) -> list[pl.Expr]:
    """`p_kw`, `q_kvar` under over_capacity (more of the same) and low_power_factor (the bank has tripped)."""
    p, q, capacity = pl.col("p_kw"), pl.col("q_kvar"), pl.col("contract_capacity_kva")
    more = pl.col("strength") * capacity / (p.pow(2) + q.pow(2)).sqrt()
    # load enough to be judged, and so little that apparent power stays below capacity
    carried = p.clip(0.15 * capacity, 0.6 * capacity * (capacity_limit or 1.0))
    lagging = carried * (1 / pl.col("strength").pow(2) - 1).sqrt()
    over, low = _now("over_capacity"), _now("low_power_factor")
    return [
        pl.when(over).then(p * more).when(low).then(carried).otherwise(p).alias("p_kw"),
        pl.when(over).then(q * more).when(low).then(lagging).otherwise(q).alias("q_kvar"),
    ]


def strike_voltages() -> list[pl.Expr]:
    """The struck phase's voltage under over_voltage and under_voltage; it still flickers as it did."""

    def struck(phase: str) -> pl.Expr:
        here = (_now("over_voltage") | _now("under_voltage")) & (pl.col("phase") == phase)
        level = pl.col("nominal_v") * pl.col("strength")
        flicker = 0.05 * (pl.col(f"u{phase}_v") / pl.col("nominal_v") - 1.0)
        return pl.when(here).then(level * (1 + flicker)).otherwise(f"u{phase}_v").alias(f"u{phase}_v")

    return [struck(phase) for phase in "abc"]


def _now(kind: str) -> pl.Expr:
    return pl.col("struck") & (pl.col("kind") == kind)


def _fits(rule: Rule, interval_s: int) -> bool:
    """Whether the rule is in use, and a fault of its hold time fits into a day."""
    return rule.limit > 0 and _needed(rule, interval_s) * interval_s <= (LATEST_MIN - EARLIEST_MIN) * 60 / 2


def _needed(rule: Rule, interval_s: int) -> int:
    """Readings until a rule has held for sure, and then some."""
    return int(2 * rule.hold_s // interval_s) + 3


def _limit(rules: RuleSet) -> pl.Expr:
    kind = pl.col("kind")
    plain = {name: getattr(rules, name).limit for name in RULES}
    limit = kind.replace_strict(plain, default=None, return_dtype=pl.Float64)
    return pl.when(kind == "low_power_factor").then(limit * pl.col("pf_standard")).otherwise(limit)


def _phase(number: pl.Expr) -> pl.Expr:
    wiring = pl.col("wiring")
    one = (
        pl.when(wiring == "3p4w")
        .then(choose(("a", "b", "c"), number))
        .when(wiring == "3p3w")
        .then(choose(("a", "c"), number))
        .otherwise(pl.lit("a"))
    )
    total = pl.col("kind").is_in(_OF_CAPACITY)
    return pl.when(pl.col("kind").str.ends_with("voltage")).then(one).when(total).then(pl.lit("total"))


def _strength(number: pl.Expr) -> pl.Expr:
    kind, limit = pl.col("kind"), pl.col("limit")
    return (
        pl.when(kind == "over_voltage")
        .then(limit * between(1.03, 1.08, number))
        .when(kind == "under_voltage")
        .then(limit * between(0.88, 0.95, number))
        .when(kind == "over_capacity")
        .then(limit * between(1.06, 1.20, number))
        .when(kind == "low_power_factor")
        .then(limit * between(0.85, 0.94, number))
    )


def _length(rules: RuleSet, interval_s: int, number: pl.Expr) -> pl.Expr:
    """Readings: what the rule needs, and up to an hour and a half more."""
    needed = {
        name: _needed(getattr(rules, name), interval_s) for name in RULES if _fits(getattr(rules, name), interval_s)
    }
    least = pl.col("kind").replace_strict(needed, default=3, return_dtype=pl.Int64)
    return least + (number * max(1, 5400 // interval_s)).cast(pl.Int64)
