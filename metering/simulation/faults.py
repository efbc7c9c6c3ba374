"""Labelled faults: which meter, which day, from when to when, and what they do to readings.

Here: the plan of a day (`plan`) and its effect on power, voltage, current and registers (`strike_power`,
`strike_voltages`, `strike_currents`, `strike_registers`), and what is sent before its correction (`uncorrected`).
Which rules have faults, how strong and how long, their rows say (`fault`, start, hold time); a new measure needs its
effect here. Not here: labels of a run, gaps and delays (`run`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import date
from math import ceil
from typing import Any

import polars as pl

from metering.events.catalogue import default_rules
from metering.events.measures import BASES, MEASURES, NO_BASE, TOTAL
from metering.registry.meter_versions import meter_versions
from metering.settings import Condition, MeteringSettings, Rule, Rulebook
from metering.simulation.draws import uniform
from metering.simulation.fleet import EXCHANGED, OWN_INTERVALS_S, Fleet
from metering.supply.phases import PHASES_OF_WIRING
from metering.tables.lake import CURRENTS, VOLTAGES

MISSING, LATE = "reading_missing", "reading_late"
CORRECTION, EXCHANGE = "correction", "meter_exchange"
ALL_ONES_KWH = 2.0**32 - 1
"""More than any register of the fleet can show."""
GLITCHES = {"register_decrease": 0.0, "runaway": ALL_ONES_KWH}
"""What a register is misread as, by the rule that tells it."""
MOST_WRONG = 0.04
"""What a correction takes back, as a share of contract capacity: with it no limit is broken."""
NEAR_MISS = "near_miss"
DRIVEN = {
    **dict.fromkeys(("u", "u_other", "u_max"), "nominal_v"), **dict.fromkeys(("i", "i_other", "i_max"), "rated_a"),
    **dict.fromkeys(("s_kva", "p_kw", "p_export_kw"), "contract_capacity_kva"),
    **dict.fromkeys(("pf", "pf_lagging", "pf_leading"), NO_BASE),
}  # fmt: skip
"""The measures that faults act on, with what such a measure is rated at."""
_OF_SUPPLY = frozenset(("s_kva", "p_kw", "p_export_kw", "pf", "pf_lagging", "pf_leading"))
_OF_PHASES = frozenset(("u_other", "i_other", "u_unbalance", "i_unbalance"))
"""There are none with one phase."""


def setting(measure: str) -> str:
    """The column of what a measure is set to."""
    return f"set_{measure}"


NEAREST, NEAR = 0.005, 0.015
"""How far inside a limit near misses stay: beyond what flickers."""
STRUCK_A_DAY = 0.12
USUAL = 4
"""The first rules of the catalogue, which have a fault every day."""
EARLIEST_MIN, LATEST_MIN = 360, 1260
"""Faults lie between these minutes of a day, so that what arrives late still arrives on its day."""

PLAN = pl.Schema(
    {
        "meter": pl.UInt32(),
        "kind": pl.String(),
        "rule": pl.String(),
        "phase": pl.String(),
        "struck_phase": pl.String(),
        "first": pl.Int64(),
        "last": pl.Int64(),
        "strength": pl.Float64(),
        "delay_s": pl.Int64(),
        "detail": pl.String(),
        **dict.fromkeys(map(setting, DRIVEN), pl.Float64()),
    }
)
"""`first` to `last`: the struck readings, by their number in the day (from 1). `kind` is what the label says: the id of
the `rule` that is broken, or nearly. What is set, in the measure's own unit, is in a column for each measure. `delay_s`
is how long after the last struck reading late ones arrive."""


def plan(fleet: Fleet, day: date, interval_s: int, settings: MeteringSettings) -> pl.DataFrame:
    """The faults of one local day, at most one a meter, schema PLAN.

    About an eighth of the meters are struck, more in small fleets: by each of the usual kinds, and by others in turn.
    Then one more: in three days its register shows 0 once, shows all ones once, and an hour of it is corrected.
    """
    number = day.toordinal()
    meters = _meters(fleet, settings)
    ranked = meters.sort(uniform(fleet.seed, "struck", meters["meter"], pl.Series([number])))
    usual, others = _kinds(settings.rules, day, interval_s)
    in_turn = max(round(STRUCK_A_DAY * ranked.height) - len(usual), min(len(others), ranked.height // 5))
    struck = ranked.head(len(usual) + in_turn)
    draws = [
        uniform(fleet.seed, stream, struck["meter"], pl.Series([number])).alias(f"u {stream}")
        for stream in ("length", "phase", "at", "strength", "delay")
    ]
    turn = number * in_turn % len(others)
    queues = deque(usual), deque(others[turn:] + others[:turn])
    planned = [
        _planned(row, queues[place >= len(usual)], settings.rules, day, interval_s)
        for place, row in enumerate(struck.with_columns(draws).iter_rows(named=True))
    ]
    faults = pl.DataFrame(planned, schema=PLAN, orient="row")
    return pl.concat([faults, _of_registers(ranked.slice(struck.height, 1), fleet.seed, number, interval_s)])


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of fault: of a rule, or one that is none's. `near`: nearly one, `inside` a limit or for too `short`."""

    name: str
    near: str | None = None


def _kinds(rules: Rulebook, day: date, interval_s: int) -> tuple[list[_Kind], list[_Kind]]:
    """Those of every day, which the first rules and a home's own are among, and the others."""
    ruled = [rules.in_force(rule.id, day) for rule in rules.in_use if _driven(rule)]
    brought = {rule.id: rule.version for rule in default_rules().rules}
    first = [
        rule.id for n, rule in enumerate(ruled) if n < USUAL or rules.by_id[rule.id].version != brought.get(rule.id)
    ]
    of_readings = [_Kind(MISSING), _Kind(LATE)]
    inside = [_Kind(rule.id, "inside") for rule in ruled if _inside(rule)]
    short = [_Kind(rule.id, "short") for rule in ruled if rule.hold_s > interval_s]
    others = [_Kind(rule.id) for rule in ruled if rule.id not in first]
    return [*map(_Kind, first), *of_readings], [*others, *inside, *short, *of_readings]


def _driven(rule: Rule) -> bool:
    """Whether there is a fault that breaks the rule, on whatever phase."""
    driven = {measure for measure, *_ in rule.fault} <= set(DRIVEN)
    return bool(rule.fault) and driven and rule.phases == MEASURES[rule.measure].phases


def _inside(rule: Rule) -> Condition | None:
    """The condition that a near miss stays inside of: one that the fault sets, and not to 0."""
    least = {measure: least for measure, least, _ in rule.fault}
    return next((c for c in rule.conditions if least.get(c.measure, 0) > 0), None)


def _planned(row: dict[str, Any], queue: deque[_Kind], rules: Rulebook, day: date, interval_s: int) -> dict[str, Any]:
    """The fault of one meter: of the kind that is next in the queue, and that its wiring and supply can have."""
    scope = row["segment"], row["voltage_level_kv"], row["meter_id"]
    for kind in tuple(queue):
        rule = None if kind.name in (MISSING, LATE) else rules.in_force(kind.name, day, *scope)
        if rule is None or _can_have(row, rule, kind, interval_s):
            break
    queue.remove(kind)
    queue.append(kind)
    length = _length(rule, kind, row["u length"], interval_s)
    room = (LATEST_MIN - EARLIEST_MIN) * 60 // interval_s
    start = EARLIEST_MIN * 60 // interval_s + int(row["u at"] * (room - length))
    found: dict[str, Any] = dict.fromkeys(PLAN)
    found |= {"meter": row["meter"], "kind": kind.name, "first": start + 1, "last": start + length}
    if rule is None:
        return found | {"delay_s": int(row["u delay"] * 5400) + 60 if kind.name == LATE else None}
    values = _values(row, rule, kind)
    phases = PHASES_OF_WIRING[row["wiring"]]
    struck_phase = phases[int(row["u phase"] * len(phases))]
    told = ", ".join(f"{measure} {value:.5g} {MEASURES[measure].unit}".removesuffix(" 1") for measure, value in values)
    near = {None: "", "inside": f"{rule.id} nearly: ", "short": f"{rule.id} for less than {rule.hold_s:g} s: "}
    return found | {
        "kind": NEAR_MISS if kind.near else rule.id,
        "rule": rule.id,
        "phase": TOTAL if rule.phases == (TOTAL,) else struck_phase,
        "struck_phase": struck_phase,
        "detail": f"{near[kind.near]}{told}",
        **{setting(measure): value for measure, value in values},
    }


def _can_have(row: dict[str, Any], rule: Rule, kind: _Kind, interval_s: int) -> bool:
    looks = {measure for measure, *_ in rule.fault} | {condition.measure for condition in rule.conditions}
    if row["dual_supply"] and looks & _OF_SUPPLY:
        return False  # a source of two carries too little of the customer's capacity for rules that compare with it
    if row["wiring"] == "1p" and (looks & _OF_PHASES or rule.unless):
        return False  # what is lost on its one phase is lost on all
    known = all(condition.base == NO_BASE or row[condition.base] is not None for condition in rule.conditions)
    room_s = (LATEST_MIN - EARLIEST_MIN) * 60 / 2
    long_enough = kind.near != "short" or rule.hold_s > interval_s
    return rule.start > 0 and known and long_enough and _least(rule, interval_s) * interval_s <= room_s


def _least(rule: Rule | None, interval_s: int) -> int:
    """Readings until a rule has held."""
    return 3 if rule is None else max(1, ceil(rule.hold_s / interval_s))


def _length(rule: Rule | None, kind: _Kind, number: float, interval_s: int) -> int:
    """Every fourth lasts no longer than it must; a short one misses that by one reading."""
    least = _least(rule, interval_s)
    if kind.near == "short":
        return least - 1
    return least if number < 0.25 else least + int(number * max(3, 5400 // interval_s))


def _values(row: dict[str, Any], rule: Rule, kind: _Kind) -> list[tuple[str, float]]:
    """What is set, in the measures' units."""
    conditions = {condition.measure: condition for condition in rule.conditions}
    inside = _inside(rule) if kind.near == "inside" else None
    found = []
    for measure, least, most in rule.fault:
        condition = conditions.get(measure)
        base = condition.base if condition else DRIVEN[measure]
        rated = (1.0 if base == NO_BASE else row[base]) * (condition.start if condition else 1.0)
        factor = least + (most - least) * row["u strength"]
        if condition is not None and condition == inside:
            factor = 1 - condition.sign * (NEAREST + (NEAR - NEAREST) * row["u strength"])
        found.append((measure, rated * factor))
    return found


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
    glitch, shown = list(GLITCHES.items())[number % 3 % len(GLITCHES)]
    wrong_kw = (MOST_WRONG * pl.col("contract_capacity_kva") * (0.5 + 0.5 * u("wrong by"))).round(3)
    return struck.select(
        "meter",
        pl.lit(CORRECTION if is_correction else glitch).alias("kind"),
        pl.lit(None if is_correction else "import_kwh", pl.String).alias("phase"),
        first.alias("first"),
        (first + (hour - 1 if is_correction else 0)).alias("last"),
        (wrong_kw if is_correction else pl.lit(shown)).alias("strength"),
        ((u("delay") * 5400).cast(pl.Int64) + 60 if is_correction else pl.lit(None, pl.Int64)).alias("delay_s"),
    ).match_to_schema(PLAN, missing_columns="insert")


def least_capacity(rules: Rulebook, day: date) -> float:
    """The least part of contract capacity that a rule on apparent power starts at; 1 where there is none."""
    starts = [r.start for r in _in_force(rules, day) if (r.measure, r.base) == ("s_kva", "contract_capacity_kva")]
    return min((start for start in starts if start), default=1.0)


def strike_power(capacity_limit: float) -> list[pl.Expr]:
    """`p_kw`, `q_kvar` under faults of apparent power (more of the same), of active power, and of power factor."""
    p, q, capacity = pl.col("p_kw"), pl.col("q_kvar"), pl.col("contract_capacity_kva")
    more = _set("s_kva") / (p.pow(2) + q.pow(2)).sqrt()
    drawn = pl.coalesce(_set("p_kw"), -_set("p_export_kw"))
    # so little may be fed back that currents vanish: those of reactive power do not
    beside = pl.max_horizontal(
        _set("p_export_kw") * 0.1, pl.when(_set("p_export_kw").is_not_null()).then(0.03 * capacity)
    )
    factor = pl.coalesce(*(_set(measure) for measure in ("pf", "pf_lagging", "pf_leading")))
    # load enough to be judged, and so little that apparent power stays below capacity
    most = 0.9 * capacity * capacity_limit
    s_kva = pl.min_horizontal(p.clip(0.15 * capacity, 0.6 * capacity * capacity_limit) / factor, most)
    sign = pl.when(_set("pf_leading").is_null()).then(1).otherwise(-1)
    return [
        pl.coalesce(p * more, drawn, s_kva * factor, p).alias("p_kw"),
        pl.coalesce(q * more, _set("p_kw") * 0.1, beside, s_kva * (1 - factor.pow(2)).sqrt() * sign, q).alias("q_kvar"),
    ]


def strike_voltages() -> list[pl.Expr]:
    """The struck phases' voltages; they still flicker as they did."""

    def struck(name: str) -> pl.Expr:
        flicker = 0.05 * (pl.col(name) / pl.col("nominal_v") - 1.0)
        return _where_measured(name, _of_phase("u", name) * (1 + flicker))

    return [struck(name) for name in VOLTAGES]


def strike_currents() -> list[pl.Expr]:
    """The struck phases' currents, whatever their power is: as of a meter's input that has gone wrong."""
    return [_where_measured(name, _of_phase("i", name)) for name in CURRENTS]


def _where_measured(name: str, value: pl.Expr) -> pl.Expr:
    return pl.when(pl.col(name).is_not_null()).then(pl.coalesce(value, name)).alias(name)


def strike_registers() -> pl.Expr:
    """`import_kwh`, once read wrongly."""
    return pl.when(struck_by(*GLITCHES)).then("strength").otherwise("import_kwh").alias("import_kwh")


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


def struck_by(*kinds: str) -> pl.Expr:
    """Whether a reading is struck by a fault of these kinds."""
    return pl.col("struck") & pl.col("kind").is_in(kinds).fill_null(False)


def _set(measure: str) -> pl.Expr:
    """What a measure is set to; null where it is not."""
    return pl.when("struck").then(setting(measure))


def _of_phase(measure: str, name: str) -> pl.Expr:
    """What a phase's voltage or current, named like ua_v, is set to."""
    struck = pl.col("struck_phase") == name[1]
    own = pl.when(struck).then(_set(measure)).otherwise(_set(f"{measure}_other"))
    return pl.coalesce(own, _set(f"{measure}_max"))


def _in_force(rules: Rulebook, day: date) -> list[Rule]:
    return [rules.in_force(rule.id, day) for rule in rules.rules]


def _meters(fleet: Fleet, settings: MeteringSettings) -> pl.DataFrame:
    """What faults and rules look at, of each meter that faults strike: none of those that are special anyhow."""
    versions = meter_versions(fleet.customers, fleet.meters, settings).unique("meter_id", maintain_order=True)
    bases = [name for name in BASES if name != NO_BASE]
    rated = versions.select("meter_id", "wiring", "segment", "voltage_level_kv", *bases)
    ordinary = fleet.traits.filter(~pl.col("n").is_in([EXCHANGED, *OWN_INTERVALS_S]))
    return ordinary.select("meter", "meter_id", "dual_supply").join(rated, on="meter_id", maintain_order="left")
