"""What rules say of a reading, in the figures that are in force for its meter on its day.

Here: conditions and rules as expressions over a frame of `looks.looked_at`, overrides resolved case by case. Not here:
columns (`looks`), asking rules about readings (`judge`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import polars as pl

from metering.calendar import day_bounds
from metering.events.looks import beyond, of_base, value_of
from metering.settings import ABOVE, Condition, MeteringSettings, Rule, Rulebook

START, END, NEITHER = 1, -1, 0


@dataclass(frozen=True, slots=True)
class _Bounds:
    """A condition's values as expressions over a frame of `looked_at`: literals unless they depend on meter or date."""

    condition: Condition
    start: pl.Expr | float
    clear: pl.Expr | float | None
    kept: pl.Expr | float

    @property
    def limit(self) -> pl.Expr:
        return of_base(self.condition.base, self.start)

    def begins(self, value: pl.Expr) -> pl.Expr:
        return beyond(value, self.limit, self.condition.side)

    def ends(self, value: pl.Expr) -> pl.Expr:
        end = self.limit * self.kept
        if isinstance(self.clear, float):
            end = of_base(self.condition.base, self.clear)
        elif self.clear is not None:
            end = pl.coalesce(of_base(self.condition.base, self.clear), end)
        return value <= end if self.condition.sign == ABOVE else value >= end


@dataclass(frozen=True, slots=True)
class Figures:
    """A rule's values, as those of its conditions are, and the rules that say it better."""

    rule: Rule
    bounds: tuple[_Bounds, ...]
    guard: pl.Expr | float
    hold_s: pl.Expr | float
    clear_hold_s: pl.Expr | float
    flicker_s: pl.Expr | float
    version: pl.Expr | str
    unless: tuple[Figures, ...] = ()

    def value(self, phase: str) -> pl.Expr:
        """Null outside the guard."""
        value, guard = value_of(self.rule.measure, phase), self.rule.guard
        if guard is None:
            return value
        limit = of_base(guard.base, self.guard)
        return pl.when(beyond(value_of(guard.measure, phase), limit, guard.side)).then(value)

    @property
    def limit(self) -> pl.Expr:
        return self.bounds[0].limit

    @property
    def start(self) -> pl.Expr | float:
        return self.bounds[0].start

    def _values(self, phase: str) -> list[pl.Expr]:
        return [self.value(phase), *(value_of(condition.measure, phase) for condition in self.rule.also)]

    def holds(self, phase: str) -> pl.Expr:
        """Whether all conditions hold."""
        held = [bounds.begins(value) for bounds, value in zip(self.bounds, self._values(phase), strict=True)]
        held += [] if isinstance(self.start, float) else [self.start > 0]
        return pl.all_horizontal(held) if len(held) > 1 else held[0]

    def _said_better(self, phase: str) -> pl.Expr | None:
        """Whether a rule that says it better has begun: on this phase, or on any if the phases of the two differ."""
        better = [
            other.holds(of)
            for other in self.unless
            for of in ([phase] if phase in other.rule.phases else other.rule.phases)
        ]
        return pl.any_horizontal(better).fill_null(False) if better else None

    def begins(self, phase: str) -> pl.Expr:
        better = self._said_better(phase)
        return self.holds(phase) if better is None else self.holds(phase) & ~better

    def ends(self, phase: str) -> pl.Expr:
        over = [bounds.ends(value) for bounds, value in zip(self.bounds, self._values(phase), strict=True)]
        better = self._said_better(phase)
        return pl.any_horizontal(over if better is None else [*over, better])

    def verdict(self, phase: str) -> pl.Expr:
        """Null where the rule is switched off, and where a value that would tell is not known."""
        begins, ends = self.begins(phase), self.ends(phase)
        if self.rule.also or self.unless:
            known = begins.is_not_null() & ends.is_not_null()
            verdict = pl.when(begins).then(START).when(ends).then(END).when(known).then(NEITHER).cast(pl.Int8)
        else:
            verdict = begins.cast(pl.Int8) - ends.cast(pl.Int8)
        return verdict if isinstance(self.start, float) else pl.when(self.start > 0).then(verdict)


def _of_rules(rules: Sequence[Rule], by_case: bool) -> Figures:
    """Figures of a rule that is as `rules` say, case by case."""

    def figure(values: Sequence[Any]) -> Any:
        return pl.lit(pl.Series(values)).gather(pl.col("case")) if by_case else values[0]

    def bounds(conditions: Sequence[Condition]) -> _Bounds:
        clear = [condition.clear for condition in conditions]
        return _Bounds(
            condition=conditions[0],
            start=figure([condition.start for condition in conditions]),
            clear=None if all(value is None for value in clear) else figure(clear),
            kept=figure([1 - condition.sign * condition.clear_margin for condition in conditions]),
        )

    return Figures(
        rule=rules[0],
        bounds=tuple(bounds(conditions) for conditions in zip(*(rule.conditions for rule in rules), strict=True)),
        guard=figure([rule.guard.limit if rule.guard else 0.0 for rule in rules]),
        hold_s=figure([rule.hold_s for rule in rules]),
        clear_hold_s=figure([rule.clear_hold_s for rule in rules]),
        flicker_s=figure([rule.flicker_s for rule in rules]),
        version=figure([rule.version for rule in rules]),
    )


def figures_in_force(
    known: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings, asked: Iterable[str]
) -> tuple[pl.DataFrame, dict[str, Figures]]:
    """The figures of the rules that are judged, and readings with the `case` that they depend on, if they do."""
    rules = settings.rules
    used = with_better(asked, rules)
    cases: list[tuple[date, str | None, float | None, str | None]] = []
    if any(rule.id in rules.overrides_of for rule in used):
        known, cases = _cases(known, meter_versions, settings)
    figures = {}
    for rule in used:
        by_case = rule.id in rules.overrides_of
        in_force = [rules.in_force(rule.id, *case) for case in cases] if by_case else [rule]
        figures[rule.id] = _of_rules(in_force, by_case)
    better = {
        name: tuple(figures[other] for other in of.rule.unless if other in figures) for name, of in figures.items()
    }
    return known, {name: replace(of, unless=better[name]) for name, of in figures.items()}


def with_better(names: Iterable[str], rules: Rulebook) -> list[Rule]:
    """Rules by their names, and those in use that say it better."""
    named = [rules.by_id[name] for name in dict.fromkeys(names)]
    better = [other for rule in named for other in rule.unless if rules.starts(other)]
    return [rules.by_id[name] for name in dict.fromkeys([*(rule.id for rule in named), *better])]


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
