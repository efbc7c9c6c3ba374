"""Limit rules: what each reading says to each rule.

Here: for each rule and phase, the value that is judged, its limit, and whether a reading speaks for the start or for
the end of a violation. Not here: the rules (`catalogue`), hold times, gaps, what has been raised (`lifecycle`).

A reading speaks for the end once it is inside the rule's end value; between limit and end value it speaks for neither.
A reading without the value, or outside the rule's guard, says nothing at all; neither does a value that is not believed
(`metering.readings.plausible`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

import polars as pl

from metering.calendar import day_bounds
from metering.events import registers
from metering.events.catalogue import Check, checks_in_use
from metering.events.measures import MEASURES, NO_BASE, TOTAL
from metering.readings.plausible import believed
from metering.settings import ABOVE, MeteringSettings, Rule, Rulebook
from metering.supply.phases import phase_values
from metering.tables.lake import CURRENTS, VOLTAGES
from metering.tables.schema import TIMESTAMP, no_rows

START, END, NEITHER = 1, -1, 0

JUDGED_SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32(),
        "version": pl.UInt32(),
        "ts": TIMESTAMP,
        "code": pl.UInt32(),
        "side": pl.Int8(),
        "verdict": pl.Int8(),
        "value": pl.Float64(),
        "limit_value": pl.Float64(),
        "hold_s": pl.Float64(),
        "clear_hold_s": pl.Float64(),
        "ruleset": pl.String(),
    }
)
"""`code` is that of `catalogue.checks`, `side` ABOVE or BELOW, `ruleset` the version of the rule that judged."""

STARTS_SCHEMA = pl.Schema({"meter": pl.UInt32(), "code": pl.UInt32()})


def judge(
    readings: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings, codes: pl.Series
) -> pl.DataFrame:
    """What the readings say to the checks named by `codes` [UInt32]: a row for each reading and check that has a value.

    `readings`: `meter`, `version`, `ts` and measured values. Returns JUDGED_SCHEMA, sorted by meter, code, ts.
    """
    return _judge(readings, meter_versions, settings, dict.fromkeys(codes.to_list()), ())


def judge_pairs(
    readings: pl.DataFrame,
    meter_versions: pl.DataFrame,
    settings: MeteringSettings,
    pairs: pl.DataFrame,
    carried: Sequence[str] = (),
) -> pl.DataFrame:
    """As `judge`, for some pairs (`meter`, `code`) only, and with columns of the readings that are `carried` along."""
    by_code = pairs.partition_by("code", as_dict=True)
    asked = {int(code): of_code["meter"].implode() for (code,), of_code in by_code.items()}
    return _judge(readings, meter_versions, settings, asked, carried)


def _judge(
    readings: pl.DataFrame,
    meter_versions: pl.DataFrame,
    settings: MeteringSettings,
    asked: Mapping[int, pl.Series | None],
    carried: Sequence[str],
) -> pl.DataFrame:
    """`asked`: codes of checks, each with the meters that it is asked about (None: all)."""
    judged = [check for check in checks_in_use(settings) if check.code in asked]
    if readings.is_empty() or not judged:
        return no_rows(JUDGED_SCHEMA).with_columns(pl.lit(None, readings.schema[name]).alias(name) for name in carried)
    rules = settings.rules
    if any(of_steps(rules.by_id[check.rule]) for check in judged) and registers.VALUES[0] not in readings.columns:
        readings = registers.told_by_themselves(readings, meter_versions, settings)
    readings = believed(readings, meter_versions)
    known = _known(readings, meter_versions, [rules.by_id[check.rule] for check in judged])
    known, figures = _figures(known, meter_versions, settings, judged)
    parts = [_one(check, _of(asked[check.code], known), figures[check.rule], carried) for check in judged]
    return pl.concat(parts).sort("meter", "code", "ts")


def _of(meters: pl.Series | None, known: pl.DataFrame) -> pl.DataFrame:
    return known if meters is None else known.filter(pl.col("meter").is_in(meters))


def of_steps(rule: Rule) -> bool:
    """Whether a rule looks at what registers did since the readings before."""
    return MEASURES[rule.measure].of_steps or (rule.guard is not None and MEASURES[rule.guard.measure].of_steps)


def step_checks(settings: MeteringSettings) -> tuple[Check, ...]:
    """The checks in use of such rules."""
    return tuple(check for check in checks_in_use(settings) if of_steps(settings.rules.by_id[check.rule]))


def starts(readings: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """The (meter, code) pairs for which any reading speaks by itself for a start: the few that need a closer look.

    One pass over all rules together finds the readings that any rule may start at; only these are judged by each.
    """
    rules = [rule for rule in settings.rules.in_use if not of_steps(rule)]
    if readings.is_empty() or not rules:
        return no_rows(STARTS_SCHEMA)
    near = readings.filter(_known(readings, meter_versions, rules).select(_any_start(settings.rules)).to_series())
    judged = [check for check in checks_in_use(settings) if not of_steps(settings.rules.by_id[check.rule])]
    return _starts(near, meter_versions, settings, judged)


def step_starts(readings: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """The (meter, code) pairs for which a reading (with `registers.VALUES`) speaks for a start by its steps."""
    return _starts(readings, meter_versions, settings, step_checks(settings))


def _starts(
    near: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings, judged: Sequence[Check]
) -> pl.DataFrame:
    if near.is_empty() or not judged:
        return no_rows(STARTS_SCHEMA)
    rules = [settings.rules.by_id[check.rule] for check in judged]
    near = _known(believed(near, meter_versions), meter_versions, rules)
    near, figures = _figures(near, meter_versions, settings, judged)
    begins = [figures[check.rule].begins(check.phase).alias(str(check.code)) for check in judged]
    by_meter = near.select("meter", *begins).group_by("meter").agg(pl.all().any())
    pairs = by_meter.unpivot(index="meter", variable_name="code", value_name="begins").filter("begins")
    return pairs.select("meter", pl.col("code").cast(pl.UInt32))


# --- what is looked at ------------------------------------------------------------------------------------------------


def _known(readings: pl.DataFrame, meter_versions: pl.DataFrame, rules: Iterable[Rule]) -> pl.DataFrame:
    """Readings with the bases of the rules, values by phase where the meter has the phase, and measures worked out."""
    looks = [(rule.measure, rule.base) for rule in rules]
    looks += [(guard.measure, guard.base) for rule in rules if (guard := rule.guard)]
    measures = dict.fromkeys(measure for measure, _ in looks)
    read = frozenset[str]().union(*(MEASURES[name].reads for name in measures))
    by_phase = [name for name in (*VOLTAGES, *CURRENTS) if name in read]
    bases = dict.fromkeys(base for _, base in looks if base != NO_BASE)
    known = readings.with_columns(
        *(meter_versions[name].gather(readings["version"]) for name in bases),
        *phase_values(readings, meter_versions, by_phase),
    )
    worked_out = [value.alias(_name(m, phase)) for m in measures for phase, value in MEASURES[m].worked_out.items()]
    return known.with_columns(worked_out) if worked_out else known


def _name(measure: str, phase: str) -> str:
    return f"{measure}/{phase}"


def _value(measure: str, phase: str) -> pl.Expr:
    """A measure of a phase in a frame of `_known`; a measure without phases is the same for all of them."""
    values = MEASURES[measure].values
    phase = phase if phase in values else next(iter(values))
    return pl.col(_name(measure, phase)) if phase in MEASURES[measure].worked_out else values[phase]


def _of_base(base: str, fraction: pl.Expr | float) -> pl.Expr:
    of_nothing = pl.lit(fraction) if isinstance(fraction, float) else fraction
    return of_nothing if base == NO_BASE else pl.col(base) * fraction


def _beyond(value: pl.Expr, limit: pl.Expr, side: str) -> pl.Expr:
    return value > limit if side == "above" else value < limit


@lru_cache(maxsize=8)
def _any_start(rules: Rulebook) -> pl.Expr:
    """Whether any rule may start at a reading: rules that look alike are one comparison, with the loosest limit."""
    alike: dict[tuple[Any, ...], list[Rule]] = {}
    for rule in (rule for rule in rules.in_use if not of_steps(rule)):
        guard = rule.guard and (rule.guard.measure, rule.guard.side, rule.guard.base)
        alike.setdefault((rule.measure, rule.phases, rule.side, rule.base, guard), []).append(rule)
    return pl.any_horizontal(_may_start(group, rules) for group in alike.values())


def _may_start(alike: Sequence[Rule], rules: Rulebook) -> pl.Expr:
    first = alike[0]
    loosest = min if first.sign == ABOVE else max
    limit = _of_base(first.base, loosest(start for rule in alike for start in rules.starts(rule.id)))
    begins = pl.any_horizontal(_beyond(_value(first.measure, phase), limit, first.side) for phase in first.phases)
    guard = first.guard
    if guard is None or MEASURES[guard.measure].phases != (TOTAL,):
        return begins  # by phase, the guard is left to the closer look
    least = (min if guard.side == "above" else max)(g for rule in alike for g in rules.guard_limits(rule.id))
    return begins & _beyond(_value(guard.measure, TOTAL), _of_base(guard.base, least), guard.side)


# --- what it is judged by ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Figures:
    """A rule's values as expressions over a frame of `_known`: literals, unless they depend on meter or date."""

    rule: Rule
    start: pl.Expr | float
    clear: pl.Expr | float | None
    kept: pl.Expr | float
    guard: pl.Expr | float
    hold_s: pl.Expr | float
    clear_hold_s: pl.Expr | float
    version: pl.Expr | str

    def value(self, phase: str) -> pl.Expr:
        """Null outside the guard."""
        value, guard = _value(self.rule.measure, phase), self.rule.guard
        if guard is None:
            return value
        limit = _of_base(guard.base, self.guard)
        return pl.when(_beyond(_value(guard.measure, phase), limit, guard.side)).then(value)

    @property
    def limit(self) -> pl.Expr:
        return _of_base(self.rule.base, self.start)

    def begins(self, phase: str) -> pl.Expr:
        begins = _beyond(self.value(phase), self.limit, self.rule.side)
        return begins if isinstance(self.start, float) else begins & (self.start > 0)

    def ends(self, phase: str) -> pl.Expr:
        end = self.limit * self.kept
        if isinstance(self.clear, float):
            end = _of_base(self.rule.base, self.clear)
        elif self.clear is not None:
            end = pl.coalesce(_of_base(self.rule.base, self.clear), end)
        return self.value(phase) <= end if self.rule.sign == ABOVE else self.value(phase) >= end

    def verdict(self, phase: str) -> pl.Expr:
        """Null where the rule is switched off."""
        verdict = self.begins(phase).cast(pl.Int8) - self.ends(phase).cast(pl.Int8)
        return verdict if isinstance(self.start, float) else pl.when(self.start > 0).then(verdict)


def _of_rules(rules: Sequence[Rule], by_case: bool) -> _Figures:
    """Figures of a rule that is as `rules` say, case by case."""

    def figure(values: Sequence[Any]) -> Any:
        return pl.lit(pl.Series(values)).gather(pl.col("case")) if by_case else values[0]

    clear = [rule.clear for rule in rules]
    return _Figures(
        rule=rules[0],
        start=figure([rule.start for rule in rules]),
        clear=None if all(value is None for value in clear) else figure(clear),
        kept=figure([1 - rule.sign * rule.clear_margin for rule in rules]),
        guard=figure([rule.guard.limit if rule.guard else 0.0 for rule in rules]),
        hold_s=figure([rule.hold_s for rule in rules]),
        clear_hold_s=figure([rule.clear_hold_s for rule in rules]),
        version=figure([rule.version for rule in rules]),
    )


def _figures(
    known: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings, judged: Iterable[Check]
) -> tuple[pl.DataFrame, dict[str, _Figures]]:
    """The figures of the rules that are judged, and readings with the `case` that they depend on, if they do."""
    rules = settings.rules
    names = dict.fromkeys(check.rule for check in judged)
    if not any(name in rules.overrides_of for name in names):
        return known, {name: _of_rules([rules.by_id[name]], by_case=False) for name in names}
    known, cases = _cases(known, meter_versions, settings)
    figures = {}
    for name in names:
        by_case = name in rules.overrides_of
        figures[name] = _of_rules(
            [rules.in_force(name, *case) for case in cases] if by_case else [rules.by_id[name]], by_case
        )
    return known, figures


def _cases(
    known: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings
) -> tuple[pl.DataFrame, list[tuple[date, str | None, float | None, str | None]]]:
    """Readings numbered by what overrides depend on, and what that is: local day, segment, voltage level, meter."""
    rules, version = settings.rules, known["version"]
    changes = [day_bounds(day, settings.timezone)[0] for day in rules.dates]
    meter_id = meter_versions["meter_id"].gather(version)
    on = known.select(
        pl.sum_horizontal(pl.lit(0, pl.UInt32), *((pl.col("ts") > at).cast(pl.UInt32) for at in changes)).alias("span"),
        meter_versions["segment"].gather(version),
        meter_versions["voltage_level_kv"].gather(version),
        meter_id.set(~meter_id.is_in(list(rules.meters)), None),
    )
    cases = on.unique(maintain_order=True)
    numbered = on.join(cases.with_row_index("case"), on=on.columns, how="left", nulls_equal=True, maintain_order="left")
    days = (date.min, *rules.dates)
    return known.with_columns(numbered["case"]), [(days[span], *scope) for span, *scope in cases.iter_rows()]


def _one(check: Check, known: pl.DataFrame, figures: _Figures, carried: Sequence[str]) -> pl.DataFrame:
    def literal(value: Any) -> pl.Expr:
        return value if isinstance(value, pl.Expr) else pl.lit(value)

    return known.select(
        "meter",
        "version",
        "ts",
        *carried,
        code=pl.lit(check.code, pl.UInt32),
        side=pl.lit(check.side, pl.Int8),
        verdict=figures.verdict(check.phase),
        value=figures.value(check.phase),
        limit_value=figures.limit,
        hold_s=literal(figures.hold_s),
        clear_hold_s=literal(figures.clear_hold_s),
        ruleset=literal(figures.version),
    ).filter(pl.col("value").is_finite() & pl.col("verdict").is_not_null())
