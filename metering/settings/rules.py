"""Limit rules: what a row of `metering/events/rules.toml`, or of a home's `[[rules]]`, comes to.

Here: their shape, and which values are in force for a meter on a day. Not here: reading rows
(`metering.events.catalogue`), what a rule says to a reading (`metering.events.judge`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any

ABOVE, BELOW = 1, -1
SIDES = {"above": ABOVE, "below": BELOW}
ALWAYS = date.min
ALSO = "also."
"""What names of values of further conditions begin with: `also.<measure>.<field>`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmSettings:
    """How often a violation is told, and what is one storm.

    An update is told where the worst value has moved on by a step of `update_step` (fraction of the limit), at most one
    in each span of `update_s` seconds of event time. At least `storm_members` meters of a feeder, each at most
    `storm_gap_s` after the one before it, are a storm; `storm_id` names it by the span of `storm_span_s` that it began
    in.
    """

    update_step: float = 0.01
    update_s: float = 60.0
    storm_gap_s: float = 900.0
    storm_members: int = 3
    storm_span_s: float = 3600.0

    @property
    def update_us(self) -> int:
        """`update_s` in whole microseconds, at least one."""
        return max(1, round(self.update_s * 1e6))


USUAL_ALARMS = AlarmSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A rule is judged only where `measure` is beyond `limit`, a fraction of `base`, on `side` (above, below)."""

    measure: str
    side: str
    base: str
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Holds where `measure` is beyond `start`, a fraction of `base` (`none`: in the measure's own unit), on `side`.

    Over once inside the end value: `clear`, a fraction of base as start is, or else `clear_margin` of start inside it.
    """

    measure: str
    side: str
    base: str
    start: float
    clear: float | None = None
    clear_margin: float = 0.02

    @property
    def sign(self) -> int:
        """ABOVE or BELOW."""
        return SIDES[self.side]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One limit rule: its first condition, whose value and limit a violation has, and others that must hold as well
    (`also`). `start` 0 disables the rule.

    Raised once all conditions have held for `hold_s`; cleared once any has been over for `clear_hold_s`, or once one of
    the rules `unless` has begun, which says it better. What comes back up to `flicker_s` after it was cleared, and
    holds, is the same violation (0: another one). `phases`: those that are judged, of the first measure's.
    `storm`: violations of rules of one such group, at one time on one feeder, have one cause (none: they have not).
    `by_wiring`: names, texts and advice that are others for meters of a wiring.
    `fault`: what simulated faults set, each a measure with the least and the most of it: factors of the start of the
    rule's condition on it, or fractions of what such a measure is rated at; empty: there are none. `version` is
    published as `ruleset` with every violation.
    """

    id: str
    name_zh: str
    name_en: str
    measure: str
    side: str
    base: str
    start: float
    phases: tuple[str, ...]
    version: str
    clear: float | None = None
    clear_margin: float = 0.02
    also: tuple[Condition, ...] = ()
    unless: tuple[str, ...] = ()
    guard: Guard | None = None
    hold_s: float = 60.0
    clear_hold_s: float = 60.0
    flicker_s: float = 900.0
    severity: str = "warning"
    event_class: str = "limit_warning"
    storm: str = ""
    text_zh: str = ""
    text_en: str = ""
    withdrawn_zh: str = ""
    withdrawn_en: str = ""
    advice_zh: str = ""
    advice_en: str = ""
    by_wiring: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    clause: str = ""
    meaning: str = ""
    fault: tuple[tuple[str, float, float], ...] = ()

    @property
    def sign(self) -> int:
        """ABOVE or BELOW."""
        return SIDES[self.side]

    def said(self, wiring: str, field: str) -> str:
        """A name, text or advice, as it is for meters of a wiring."""
        own = dict(dict(self.by_wiring).get(wiring, ()))
        return own.get(field, str(getattr(self, field)))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All that must hold, the one that is the rule's own first."""
        first = Condition(
            measure=self.measure,
            side=self.side,
            base=self.base,
            start=self.start,
            clear=self.clear,
            clear_margin=self.clear_margin,
        )
        return (first, *self.also)

    def observable(self, interval_s: float) -> bool:
        """Whether readings that are so far apart [s] can show what lasts no longer than the hold time."""
        return interval_s <= max(self.hold_s, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Values that a rule has from a local date on, for meters in a scope: None is any segment, level or meter.

    `values` are fields of Rule; `guard` is then the limit of the rule's guard alone, and `also.i.start` a field of the
    condition on the measure `i`.
    """

    rule: str
    version: str
    values: tuple[tuple[str, Any], ...]
    effective_from: date = ALWAYS
    segment: str | None = None
    voltage_level_kv: float | None = None
    meter_id: str | None = None
    own: bool = True

    @property
    def scoped(self) -> bool:
        return any(scope is not None for scope in (self.segment, self.voltage_level_kv, self.meter_id))

    @property
    def precedence(self) -> tuple[bool, int, date]:
        """Those that come later override: a home's own before dates, a narrower scope before a wider one."""
        narrow = 4 * (self.meter_id is not None) + 2 * (self.segment is not None) + (self.voltage_level_kv is not None)
        return self.own, narrow, self.effective_from

    def holds(self, segment: str | None, voltage_level_kv: float | None, meter_id: str | None, day: date) -> bool:
        """Whether it is in force for a meter of that segment and voltage level on a local day."""
        return (
            self.effective_from <= day
            and self.segment in (None, segment)
            and self.voltage_level_kv in (None, voltage_level_kv)
            and self.meter_id in (None, meter_id)
        )


@dataclass(frozen=True, eq=False)
class Rulebook:
    """All rules, each once, and the overrides of them in the order in which they apply. Told apart by identity."""

    rules: tuple[Rule, ...]
    overrides: tuple[Override, ...] = ()

    @cached_property
    def by_id(self) -> dict[str, Rule]:
        return {rule.id: rule for rule in self.rules}

    @cached_property
    def in_use(self) -> tuple[Rule, ...]:
        """Rules that are not switched off for everybody, always."""
        return tuple(rule for rule in self.rules if self.starts(rule.id))

    @cached_property
    def overrides_of(self) -> dict[str, tuple[Override, ...]]:
        """The overrides of each rule that has any."""
        found: dict[str, list[Override]] = {}
        for override in self.overrides:
            found.setdefault(override.rule, []).append(override)
        return {name: tuple(overrides) for name, overrides in found.items()}

    @cached_property
    def longest_hold_s(self) -> float:
        """The longest that any rule, for anyone at any time, takes to raise or to clear [s]."""
        own = (value for o in self.overrides for name, value in o.values if name in ("hold_s", "clear_hold_s"))
        return max((*(max(rule.hold_s, rule.clear_hold_s) for rule in self.rules), *own), default=0.0)

    @cached_property
    def dates(self) -> tuple[date, ...]:
        """Local dates on which a value changes, in order."""
        return tuple(sorted({o.effective_from for o in self.overrides} - {ALWAYS}))

    @cached_property
    def meters(self) -> frozenset[str]:
        """Meters that an override names."""
        return frozenset(o.meter_id for o in self.overrides if o.meter_id is not None)

    def in_force(
        self, name: str, day: date, segment: str | None = None, voltage_level_kv: float | None = None,
        meter_id: str | None = None,
    ) -> Rule:  # fmt: skip
        """The rule `name` as it is for a meter on a local day; without a meter, as it is for most."""
        near = (*self._by_meter.get((name, None), ()), *self._by_meter.get((name, meter_id or ""), ()))
        holding = [o for o in near if o.holds(segment, voltage_level_kv, meter_id, day)]
        return overridden(self.by_id[name], sorted(holding, key=lambda o: o.precedence))

    @cached_property
    def _by_meter(self) -> dict[tuple[str, str | None], list[Override]]:
        """Overrides by rule and the meter that they name, for there may be one for each of very many meters."""
        found: dict[tuple[str, str | None], list[Override]] = {}
        for override in self.overrides:
            found.setdefault((override.rule, override.meter_id), []).append(override)
        return found

    def starts(self, name: str) -> tuple[float, ...]:
        """All values of `start` that the rule has for anyone at any time, but 0."""
        rule = self.by_id[name]
        values = [rule.start, *(dict(o.values).get("start", 0.0) for o in self.overrides_of.get(name, ()))]
        return tuple(dict.fromkeys(value for value in values if value))

    def limits(self, name: str, measure: str) -> tuple[float, ...]:
        """All values of start that the rule's further condition on `measure` has for anyone at any time."""
        key = f"{ALSO}{measure}.start"
        values = [condition.start for condition in self.by_id[name].also if condition.measure == measure]
        values += [value for o in self.overrides_of.get(name, ()) for k, value in o.values if k == key]
        return tuple(dict.fromkeys(values))

    def guard_limits(self, name: str) -> tuple[float, ...]:
        """All limits of the rule's guard."""
        guard = self.by_id[name].guard
        own = [dict(o.values).get("guard") for o in self.overrides_of.get(name, ())]
        return () if guard is None else (guard.limit, *(value for value in own if value is not None))

    def judged_as(self, name: str, version: str) -> Rule:
        """The rule as it was when `version` judged; as it is for most now where the settings no longer know that."""
        rule, overrides = self.by_id[name], {o.version: o for o in self.overrides_of.get(name, ())}
        if version == rule.version:
            return rule
        found = [overrides.get(part) for part in _parts(version, overrides)]
        known = [o for o in found if o is not None]
        if known and len(known) == len(found):
            return overridden(rule, known)
        return self.in_force(name, date.max)


def _parts(version: str, overrides: dict[str, Override]) -> list[str]:
    return [version] if version in overrides else version.split("+")


def overridden(rule: Rule, overrides: list[Override]) -> Rule:
    """`rule` with the values of overrides, the last counting; its version names those that still say something."""
    said_by: dict[str, str] = {}
    for override in overrides:
        values = dict(override.values)
        own = {name: value for name, value in values.items() if not name.startswith(ALSO)}
        if "guard" in own:
            own["guard"] = None if rule.guard is None else replace(rule.guard, limit=own["guard"])
        if len(own) < len(values):
            own["also"] = tuple(_changed(condition, values) for condition in rule.also)
        if "clear_margin" in own and "clear" not in own:
            own["clear"] = None
        rule = replace(rule, **own)
        said_by |= dict.fromkeys(values, override.version)
    versions = [o.version for o in overrides if o.version in said_by.values()]
    return replace(rule, version="+".join(dict.fromkeys(versions))) if versions else rule


def _changed(condition: Condition, values: dict[str, Any]) -> Condition:
    prefix = f"{ALSO}{condition.measure}."
    own = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    if "clear_margin" in own and "clear" not in own:
        own["clear"] = None
    return replace(condition, **own)
