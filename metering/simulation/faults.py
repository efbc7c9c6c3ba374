"""Labelled faults: which meter, which day, from when to when, and what they do to readings.

Here: the plan of a day (`plan`) and its effect on power, voltage, current and registers (`strike_power`,
`strike_voltages`, `strike_currents`, `strike_registers`), and what is sent before its correction (`uncorrected`).
Which rules have faults, how strong and how long, their rows say (`fault`, start, hold time); a new measure needs its
effect here. Not here: labels of a run, gaps and delays (`run`).
"""

from __future__ import annotations

from datetime import date
from typing import Any

import polars as pl

from metering.events.measures import MEASURES, NO_BASE
from metering.settings import MeteringSettings, Rule, Rulebook
from metering.simulation.draws import choose, uniform
from metering.simulation.fleet import EXCHANGED, OWN_INTERVALS_S, Fleet
from metering.tables.lake import CURRENTS, VOLTAGES

MISSING, LATE = "reading_missing", "reading_late"
GLITCH, CORRECTION, EXCHANGE = "register_glitch", "correction", "meter_exchange"
ALL_ONES_KWH = 2.0**32 - 1
"""More than any register of the fleet can show."""
MOST_WRONG = 0.04
"""What a correction takes back, as a share of contract capacity: with it no limit is broken."""
_DRIVEN = (("u", "above"), ("u", "below"), ("i", "above"), ("i", "below"), ("s_kva", "above"), ("pf", "below"))
"""The measures that faults act on, and to which side."""
_OF_SUPPLY = ("s_kva", "pf")
_BASES = ("nominal_v", "rated_a", "max_a", "contract_capacity_kva", "pf_standard", NO_BASE)
STRUCK_A_DAY = 0.12
EARLIEST_MIN, LATEST_MIN = 360, 1260
"""Faults lie between these minutes of a day, so that what arrives late still arrives on its day."""

PLAN = pl.Schema(
    {
        "meter": pl.UInt32(),
        "kind": pl.String(),
        "measure": pl.String(),
        "phase": pl.String(),
        "first": pl.Int64(),
        "last": pl.Int64(),
        "strength": pl.Float64(),
        "limit": pl.Float64(),
        "delay_s": pl.Int64(),
    }
)
"""`first` to `last`: the struck readings, by their number in the day (from 1). `kind` is the rule's id, `measure` what
it looks at; `strength` and `limit` are in the measure's own unit.
`delay_s` is how long after the last struck reading late ones arrive."""


def plan(fleet: Fleet, day: date, interval_s: int, settings: MeteringSettings) -> pl.DataFrame:
    """The faults of one local day, at most one a meter, schema PLAN.

    About an eighth of the meters are struck, at least one for each kind where there are meters enough. Then one more:
    in three days its register shows 0 once, shows all ones once, and an hour of it is corrected.
    """
    ruled = [rule.id for rule in _in_force(settings.rules, day) if _driven(rule) and _fits(rule, interval_s)]
    kinds = [*ruled, MISSING, LATE]
    number = day.toordinal()
    meters = _meters(fleet)
    ranked = meters.sort(uniform(fleet.seed, "struck", meters["meter"], pl.Series([number])))
    count = max(len(kinds), round(STRUCK_A_DAY * ranked.height))
    struck = ranked.head(count)

    def u(stream: str) -> pl.Expr:
        return uniform(fleet.seed, stream, struck["meter"], pl.Series([number]))

    kind = pl.lit(pl.Series(kinds)).gather((pl.int_range(pl.len()) + number) % len(kinds))
    # a source of two carries too little of the customer's capacity for rules that compare with it
    too_little = pl.col("dual_supply") & pl.col("measure").is_in(_OF_SUPPLY)
    off = pl.col("start") == 0
    planned = (
        _ruled(struck.with_columns(kind=kind), settings.rules, day, interval_s)
        .with_columns(kind=pl.when(too_little | off).then(pl.lit(MISSING)).otherwise("kind"))
        .with_columns(measure=pl.when(~too_little & ~off).then("measure"))
        .with_columns(
            limit=pl.when(pl.col("measure").is_not_null()).then(pl.col("start") * _base()),
            least=pl.when(pl.col("measure").is_not_null()).then("least").otherwise(3),
        )
        .with_columns(length=pl.col("least") + (u("length") * max(1, 5400 // interval_s)).cast(pl.Int64))
        .with_columns(
            phase=_phase(u("phase")),
            strength=pl.col("limit") * (pl.col("weakest") + (pl.col("strongest") - pl.col("weakest")) * u("strength")),
        )
    )
    room = (LATEST_MIN - EARLIEST_MIN) * 60 // interval_s
    start = EARLIEST_MIN * 60 // interval_s + (u("at") * (room - pl.col("length"))).cast(pl.Int64)
    faults = planned.select(
        "meter",
        "kind",
        "measure",
        "phase",
        (start + 1).alias("first"),
        (start + pl.col("length")).alias("last"),
        "strength",
        "limit",
        pl.when(pl.col("kind") == LATE).then((u("delay") * 5400).cast(pl.Int64) + 60).alias("delay_s"),
    ).match_to_schema(PLAN)
    return pl.concat([faults, _of_registers(ranked.slice(count, 1), fleet.seed, number, interval_s)])


def _of_registers(struck: pl.DataFrame, seed: int, number: int, interval_s: int) -> pl.DataFrame:
    """What happens to registers on day `number`, to the one meter `struck`, or to none."""

    def u(stream: str) -> pl.Expr:
        return uniform(seed, stream, struck["meter"], pl.Series([number]))

    is_correction = number % 3 == 2
    quarter, hour = max(1, 900 // interval_s), max(1, 3600 // interval_s)
    room = (LATEST_MIN - EARLIEST_MIN) * 60 // interval_s
    start = EARLIEST_MIN * 60 // interval_s + (u("glitch at") * (room - hour)).cast(pl.Int64)
    # a wrong register does harm at the end of a quarter-hour
    first = start + 1 if is_correction else (start // quarter + 1) * quarter
    wrong_kw = (MOST_WRONG * pl.col("contract_capacity_kva") * (0.5 + 0.5 * u("wrong by"))).round(3)
    return struck.select(
        "meter",
        pl.lit(CORRECTION if is_correction else GLITCH).alias("kind"),
        pl.lit(None, pl.String).alias("measure"),
        pl.lit(None, pl.String).alias("phase"),
        first.alias("first"),
        (first + (hour - 1 if is_correction else 0)).alias("last"),
        (wrong_kw if is_correction else pl.lit((0.0, ALL_ONES_KWH)[number % 3])).alias("strength"),
        pl.lit(None, pl.Float64).alias("limit"),
        ((u("delay") * 5400).cast(pl.Int64) + 60 if is_correction else pl.lit(None, pl.Int64)).alias("delay_s"),
    ).match_to_schema(PLAN)


def least_capacity(rules: Rulebook, day: date) -> float:
    """The least part of contract capacity that a rule on apparent power starts at; 1 where there is none."""
    starts = [r.start for r in _in_force(rules, day) if (r.measure, r.base) == ("s_kva", "contract_capacity_kva")]
    return min((start for start in starts if start), default=1.0)


def strike_power(capacity_limit: float) -> list[pl.Expr]:
    """`p_kw`, `q_kvar` under faults of apparent power (more of the same) and power factor (the bank has tripped)."""
    p, q, capacity = pl.col("p_kw"), pl.col("q_kvar"), pl.col("contract_capacity_kva")
    more = pl.col("strength") / (p.pow(2) + q.pow(2)).sqrt()
    # load enough to be judged, and so little that apparent power stays below capacity
    carried = p.clip(0.15 * capacity, 0.6 * capacity * capacity_limit)
    lagging = carried * (1 / pl.col("strength").pow(2) - 1).sqrt()
    over, low = _now("s_kva"), _now("pf")
    return [
        pl.when(over).then(p * more).when(low).then(carried).otherwise(p).alias("p_kw"),
        pl.when(over).then(q * more).when(low).then(lagging).otherwise(q).alias("q_kvar"),
    ]


def strike_voltages() -> list[pl.Expr]:
    """The struck phase's voltage; it still flickers as it did."""

    def struck(name: str) -> pl.Expr:
        flicker = 0.05 * (pl.col(name) / pl.col("nominal_v") - 1.0)
        here = _now("u") & (pl.col("phase") == name[1])
        return pl.when(here).then(pl.col("strength") * (1 + flicker)).otherwise(name).alias(name)

    return [struck(name) for name in VOLTAGES]


def strike_currents() -> list[pl.Expr]:
    """The struck phase's current, whatever its power is: as of a meter's input that has gone wrong."""
    here = {name: _now("i") & (pl.col("phase") == name[1]) for name in CURRENTS}
    return [pl.when(struck).then("strength").otherwise(name).alias(name) for name, struck in here.items()]


def strike_registers() -> pl.Expr:
    """`import_kwh`, once read wrongly."""
    return pl.when(struck_by(GLITCH)).then("strength").otherwise("import_kwh").alias("import_kwh")


def uncorrected(rows: pl.DataFrame, interval_s: int) -> pl.DataFrame:
    """What is sent first of `rows` (`import_ws` counted) that a correction replaces: too much power, and registers that
    have counted it since the correction's first reading.
    """
    wrong = rows.filter(struck_by(CORRECTION))
    slots = pl.col("slot").cast(pl.Int64) - pl.col("first") + 1
    too_much_w = (pl.col("strength") * 1000).round().cast(pl.Int64)
    return wrong.with_columns(
        (pl.col("p_kw") + pl.col("strength")).round(3).alias("p_kw"),
        (pl.col("import_ws") + slots * interval_s * too_much_w).alias("import_ws"),
    )


def struck_by(kind: str) -> pl.Expr:
    """Whether a reading is struck by a fault of that kind."""
    return pl.col("struck") & (pl.col("kind") == kind).fill_null(False)


def _now(measure: str) -> pl.Expr:
    return pl.col("struck") & (pl.col("measure") == measure)


def _in_force(rules: Rulebook, day: date) -> list[Rule]:
    return [rules.in_force(rule.id, day) for rule in rules.rules]


def _driven(rule: Rule) -> bool:
    """Whether there is a fault that breaks the rule."""
    whole = rule.phases == MEASURES[rule.measure].phases
    return rule.fault is not None and (rule.measure, rule.side) in _DRIVEN and rule.base in _BASES and whole


def _fits(rule: Rule, interval_s: int) -> bool:
    """Whether the rule is in use, and a fault of its hold time fits into a day."""
    return rule.start > 0 and _needed(rule, interval_s) * interval_s <= (LATEST_MIN - EARLIEST_MIN) * 60 / 2


def _needed(rule: Rule, interval_s: int) -> int:
    """Readings until a rule has held for sure, and then some."""
    return int(2 * rule.hold_s // interval_s) + 3


def _meters(fleet: Fleet) -> pl.DataFrame:
    """What faults and rules look at, of each meter that faults strike: none of those that are special anyhow."""
    customers = fleet.customers.select("customer_no", "segment", "voltage_level_kv")
    rated = fleet.meters.select("meter_id", "rated_a", "max_a").unique("meter_id", maintain_order=True)
    names = ("meter", "meter_id", "customer_no", "wiring", "dual_supply", "nominal_v", "contract_capacity_kva")
    ordinary = fleet.traits.filter(~pl.col("n").is_in([EXCHANGED, *OWN_INTERVALS_S]))
    meters = ordinary.select(*names, "pf_standard").join(customers, on="customer_no", maintain_order="left")
    return meters.join(rated, on="meter_id", maintain_order="left")


def _ruled(struck: pl.DataFrame, rules: Rulebook, day: date, interval_s: int) -> pl.DataFrame:
    """Adds what the rule that a fault breaks says of the meter struck: nothing for faults that break none."""
    on = ("kind", "segment", "voltage_level_kv", "named")
    named = pl.when(pl.col("meter_id").is_in(list(rules.meters))).then("meter_id")
    struck = struck.with_columns(named=named)
    cases = struck.filter(pl.col("kind").is_in(list(rules.by_id))).select(on).unique()

    def said(kind: str, *scope: Any) -> tuple[Any, ...]:
        rule = rules.in_force(kind, day, *scope)
        return (
            kind,
            *scope,
            rule.measure,
            rule.base,
            rule.start,
            *(rule.fault or (None, None)),
            _needed(rule, interval_s),
        )

    schema = {
        "kind": pl.String, "segment": pl.String, "voltage_level_kv": pl.Float64, "named": pl.String,
        "measure": pl.String, "base": pl.String, "start": pl.Float64,
        "weakest": pl.Float64, "strongest": pl.Float64, "least": pl.Int64,
    }  # fmt: skip
    figures = pl.DataFrame([said(*case) for case in cases.iter_rows()], schema=schema, orient="row")
    return struck.join(figures, on=on, how="left", nulls_equal=True, maintain_order="left")


def _base() -> pl.Expr:
    """What the rule's start is a fraction of."""
    columns = [pl.when(pl.col("base") == name).then(name) for name in _BASES if name != NO_BASE]
    return pl.coalesce(*columns, pl.lit(1.0))


def _phase(number: pl.Expr) -> pl.Expr:
    wiring, measure = pl.col("wiring"), pl.col("measure")
    one = (
        pl.when(wiring == "3p4w")
        .then(choose(("a", "b", "c"), number))
        .when(wiring == "3p3w")
        .then(choose(("a", "c"), number))
        .otherwise(pl.lit("a"))
    )
    return pl.when(measure.is_in(_OF_SUPPLY)).then(pl.lit("total")).when(measure.is_not_null()).then(one)
