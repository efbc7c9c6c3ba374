"""What rules look at in a reading: measures worked out, bases, and which readings any rule may start at.

Here: columns and comparisons. Not here: what a rule makes of them (`figures`), verdicts (`judge`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import polars as pl

from metering.events.measures import MEASURES, NO_BASE
from metering.settings import Rule, Rulebook
from metering.supply.phases import missing_values, phase_values
from metering.tables.lake import CURRENTS, VOLTAGES

Look = tuple[str, str]
"""Measure and base."""
_Need = tuple[str, str, str]
"""Measure, side and base of something that must be beyond a limit."""


def looks_of(rules: Iterable[Rule]) -> list[Look]:
    """Measures and bases of all that rules look at."""
    looks = [(condition.measure, condition.base) for rule in rules for condition in rule.conditions]
    return looks + [(guard.measure, guard.base) for rule in rules if (guard := rule.guard)]


def of_steps(rule: Rule) -> bool:
    """Whether a rule looks at what registers did since the readings before."""
    return any(MEASURES[measure].of_steps for measure, _ in looks_of([rule]))


def looked_at(
    readings: pl.DataFrame, meter_versions: pl.DataFrame, looks: Sequence[Look], closely: bool = True
) -> pl.DataFrame:
    """Readings with the bases that are looked at, values by phase where the meter has the phase, and measures worked
    out: `closely`, those over phases are null where a phase is missing.
    """
    measures = dict.fromkeys(measure for measure, _ in looks)
    read = frozenset[str]().union(*(MEASURES[name].reads for name in measures))
    by_phase = [name for name in (*VOLTAGES, *CURRENTS) if name in read]
    bases = dict.fromkeys(base for _, base in looks if base != NO_BASE)
    known = readings.with_columns(
        *(meter_versions[name].gather(readings["version"]) for name in bases),
        *phase_values(readings, meter_versions, by_phase),
    )
    values = [(m, phase, value) for m in measures for phase, value in MEASURES[m].worked_out.items()]
    if closely and any(MEASURES[m].whole for m, *_ in values):
        missing = dict(zip(by_phase, missing_values(readings, meter_versions, by_phase), strict=True))
        values = [(m, phase, _whole(value, missing) if MEASURES[m].whole else value) for m, phase, value in values]
    worked_out = [value.alias(_name(m, phase)) for m, phase, value in values]
    return known.with_columns(worked_out) if worked_out else known


def _whole(value: pl.Expr, missing: Mapping[str, pl.Series]) -> pl.Expr:
    return pl.when(~pl.any_horizontal(missing[name] for name in value.meta.root_names())).then(value)


def _name(measure: str, phase: str) -> str:
    return f"{measure}/{phase}"


def value_of(measure: str, phase: str) -> pl.Expr:
    """A measure of a phase in a frame of `looked_at`; a measure without phases is the same for all of them."""
    values = MEASURES[measure].values
    phase = phase if phase in values else next(iter(values))
    return pl.col(_name(measure, phase)) if phase in MEASURES[measure].worked_out else values[phase]


def of_base(base: str, fraction: pl.Expr | float) -> pl.Expr:
    of_nothing = pl.lit(fraction) if isinstance(fraction, float) else fraction
    return of_nothing if base == NO_BASE else pl.col(base) * fraction


def beyond(value: pl.Expr, limit: pl.Expr, side: str) -> pl.Expr:
    return value > limit if side == "above" else value < limit


@lru_cache(maxsize=8)
def any_start(rules: Rulebook) -> tuple[pl.Expr, list[Look]]:
    """Whether any rule may start at a reading, and what that looks at.

    A rule needs each of its conditions to hold on some phase, by its loosest limit; rules that need the same are one
    comparison, and one that needs what another does, and more, is no comparison at all.
    """
    alike: dict[frozenset[_Need], list[dict[_Need, float]]] = {}
    for rule in (rule for rule in rules.in_use if not of_steps(rule) and not MEASURES[rule.measure].apart):
        needs = _needs(rule, rules)
        alike.setdefault(frozenset(needs), []).append(needs)
    loosest = [{need: _looser(need, [needs[need] for needs in group]) for need in group[0]} for group in alike.values()]
    left = [needs for needs in loosest if not any(_implied(needs, other) for other in loosest if other is not needs)]
    looks = [(measure, base) for needs in left for measure, _, base in needs]
    return pl.any_horizontal(pl.all_horizontal(_holds(*need) for need in needs.items()) for needs in left), looks


def _needs(rule: Rule, rules: Rulebook) -> dict[_Need, float]:
    """What must hold on some phase where the rule starts, for anyone at any time."""
    found: dict[_Need, float] = {}
    limits = [rules.starts(rule.id), *(rules.limits(rule.id, condition.measure) for condition in rule.also)]
    given = [(c.measure, c.side, c.base, values) for c, values in zip(rule.conditions, limits, strict=True)]
    if guard := rule.guard:
        given.append((guard.measure, guard.side, guard.base, rules.guard_limits(rule.id)))
    for measure, side, base, values in given:
        need = (MEASURES[measure].near.get(side, measure), side, base)
        limit = _looser(need, values)
        found[need] = _tighter(need, [limit, found.get(need, limit)])
    return found


def _looser(need: _Need, limits: Iterable[float]) -> float:
    return min(limits) if need[1] == "above" else max(limits)


def _tighter(need: _Need, limits: Iterable[float]) -> float:
    return max(limits) if need[1] == "above" else min(limits)


def _implied(needs: dict[_Need, float], other: dict[_Need, float]) -> bool:
    """Whether where these hold the others do."""
    return all(need in needs and _looser(need, [limit, needs[need]]) == limit for need, limit in other.items())


def _holds(need: _Need, limit: float) -> pl.Expr:
    measure, side, base = need
    bound = of_base(base, limit)
    return pl.any_horizontal(beyond(value_of(measure, phase), bound, side) for phase in MEASURES[measure].values)
