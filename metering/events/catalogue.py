"""The rules in force: rows that Kilowatch brings (`rules.toml`), with what a home says of its own.

Here: reading and checking rows, and what follows from them for everybody else (`checks`, `values_read`). Not here: the
shape of a rule (`metering.settings.rules`), judging (`judge`).

A row with an id that is not there yet is a new rule; one with a known id overrides single values of it, from a date on
(`effective_from`), or for some meters (`segment`, `voltage_level_kv`, `meter_id`). A home's rule sets of old
(`[[rulesets]]`) are read as overrides of every value; rules that they do not name are as Kilowatch brings them.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from metering.errors import SettingsError
from metering.events.measures import BASES, MEASURES, TOTAL
from metering.settings import ABOVE, Guard, MeteringSettings, Override, Rule, Rulebook
from metering.settings.rules import ALWAYS, SIDES, overridden
from metering.tables.lake import MEASURED, SEVERITIES
from metering.tables.warehouse import SEGMENTS

ROWS = Path(__file__).with_name("rules.toml")
PLACEHOLDERS = ("meter_id", "phase", "name", "state", "value", "limit", "unit", "since")

Row = Mapping[str, Any]

_ID = re.compile(r"[a-z][a-z0-9_]*")
_SCOPE = ("segment", "voltage_level_kv", "meter_id")
_SCOPED = (*_SCOPE, "effective_from")
_NEEDED = ("name_zh", "name_en", "measure", "side", "base", "start")
_FIXED = ("measure", "side", "base", "phases")
_BY_SCOPE = ("start", "clear", "clear_margin", "guard", "hold_s", "clear_hold_s", "severity", "clause")
FIELDS = {
    "id": "name of the rule, as published",
    "name_zh": "name in Chinese, as messages say it",
    "name_en": "name in English",
    "measure": "what is looked at",
    "phases": "the measure's phases that are judged; default: all (of those a meter has)",
    "side": "`above` or `below`: where it is a violation",
    "base": "what start, clear and the guard's limit are fractions of",
    "start": "a value beyond start is a violation; 0 switches the rule off",
    "clear": "own end value: inside it, the violation ends",
    "clear_margin": "or how far inside start the end value lies; default 0.02",
    "guard": "judged only where `{ measure, side, base, limit }` holds; an override gives `{ limit }`",
    "hold_s": "seconds that a violation must last to be raised; default 60",
    "clear_hold_s": "seconds that it must be over to be cleared; default 60",
    "severity": "`info`, `warning` or `critical`; default warning",
    "event_class": "class of the message; default limit_warning",
    "text_zh": "what is said in Chinese, with {meter_id}, {phase}, {name}, {state}, {value}, {limit}, {unit}, {since}",
    "text_en": "what is said in English",
    "advice_zh": "what to do, in Chinese",
    "advice_en": "what to do, in English",
    "clause": "where the rule comes from",
    "fault": "how far beyond start simulated faults go, as two factors of it; default: no faults",
    "version": "published as `ruleset`; default: the row's date and scope, or `home`",
    "effective_from": "local date from which the row holds; default: always",
    "segment": "customers of one segment: `large`, `sme` or `important`",
    "voltage_level_kv": "customers of one voltage level, as in the registry",
    "meter_id": "one meter",
}
"""The keys of a row."""
_PLAIN = tuple(key for key in FIELDS if key not in ("id", "guard", *_FIXED, *_SCOPED))
_OLD = {"limit": None, "hold_s": 60.0, "clear_hold_s": 60.0, "clear_margin": 0.02, "min_load": 0.0,
        "severity": "warning", "clause": ""}  # fmt: skip
"""A rule in `[[rulesets]]`, with the values of what it leaves out."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule on one phase. `code` numbers it within this process; elsewhere it is (rule, phase)."""

    code: int
    rule: str
    phase: str
    unit: str
    side: int


def checks(settings: MeteringSettings) -> tuple[Check, ...]:
    """All rules on each of their phases, numbered from 1."""
    return _checks(settings.rules)


def checks_in_use(settings: MeteringSettings) -> tuple[Check, ...]:
    """`checks` without those of rules that are switched off for everybody."""
    return _in_use(settings.rules)


def check_frame(settings: MeteringSettings) -> pl.DataFrame:
    """`checks` as a frame: code [UInt32], rule, phase, unit, side [Int8]."""
    return pl.DataFrame(
        [(c.code, c.rule, c.phase, c.unit, c.side) for c in checks(settings)],
        schema={"code": pl.UInt32, "rule": pl.String, "phase": pl.String, "unit": pl.String, "side": pl.Int8},
        orient="row",
    )


def values_read(settings: MeteringSettings) -> tuple[str, ...]:
    """The measured values of a reading that rules in use look at, in the order of MEASURED."""
    used = settings.rules.in_use
    names = {rule.measure for rule in used} | {rule.guard.measure for rule in used if rule.guard}
    read = frozenset[str]().union(*(MEASURES[name].reads for name in names))
    return tuple(name for name in MEASURED if name in read)


@lru_cache(maxsize=8)
def _checks(rules: Rulebook) -> tuple[Check, ...]:
    named = [(rule, phase) for rule in rules.rules for phase in rule.phases]
    return tuple(
        Check(code, rule.id, phase, MEASURES[rule.measure].unit_of(phase), rule.sign)
        for code, (rule, phase) in enumerate(named, 1)
    )


@lru_cache(maxsize=8)
def _in_use(rules: Rulebook) -> tuple[Check, ...]:
    used = {rule.id for rule in rules.in_use}
    return tuple(check for check in _checks(rules) if check.rule in used)


@cache
def default_rules() -> Rulebook:
    """The rules as Kilowatch brings them."""
    return rulebook((), ())


def rulebook(rows: Sequence[Row], rulesets: Sequence[Row]) -> Rulebook:
    """Kilowatch's rules under a home's own rows and its rule sets of old, both as they stand in TOML.

    Raises SettingsError naming the row and the key.
    """
    brought = tomllib.loads(ROWS.read_text("utf-8"))
    defaults = {key: brought[key] for key in ("version", "text_zh", "text_en")}
    book = _Book({}, [])
    for number, row in enumerate(brought["rules"], 1):
        book.take(_GivenRow(f"{ROWS.name}: rules {number}", row), defaults, own=False)
    for given, version in _of_rulesets(rulesets, book.rules):
        book.take(given, {"version": version}, own=True)
    texts = {key: defaults[key] for key in ("text_zh", "text_en")}
    for number, row in enumerate(rows, 1):
        book.take(_GivenRow(f"rules {number}", row), {"version": _version(row), **texts}, own=True)
    return book.closed()


def _version(row: Row) -> str:
    """The name of a row that has none: its date and its scope."""
    named = [str(row["effective_from"])] if "effective_from" in row else []
    return " ".join([*named, *(f"{key}={row[key]}" for key in _SCOPE if key in row)]) or "home"


def _of_rulesets(rulesets: Sequence[Row], rules: Mapping[str, Rule]) -> Iterator[tuple[_GivenRow, str]]:
    """Each rule of each set as a row that says everything; the oldest set holds always, so that history has rules."""
    for number, ruleset in enumerate(rulesets, 1):
        if not isinstance(ruleset.get("name"), str) or _day(ruleset.get("effective_from")) is None:
            raise SettingsError(f"rulesets {number}: a rule set needs a name and effective_from, a date")
    names = [ruleset["name"] for ruleset in rulesets]
    if len(set(names)) < len(names):
        raise SettingsError("rulesets: two rule sets have one name; give each its own")
    for number, ruleset in enumerate(sorted(rulesets, key=lambda item: item["effective_from"])):
        for name, values in ruleset.items():
            if name in ("name", "effective_from"):
                continue
            where = f"rulesets '{ruleset['name']}': {name}"
            if name not in rules or not isinstance(values, Mapping):
                raise SettingsError(f"{where}: there is no such rule; there are {', '.join(rules)}")
            if unknown := sorted(set(values) - set(_OLD)):
                raise SettingsError(f"{where}.{unknown[0]}: there is no such key; there are {', '.join(_OLD)}")
            if "limit" not in values:
                raise SettingsError(f"{where}: limit is missing")
            full = {**_OLD, **values}
            row = {"id": name, "start": full.pop("limit"), "guard": {"limit": full.pop("min_load")}, **full}
            if rules[name].guard is None:
                del row["guard"]
            if number:
                row["effective_from"] = ruleset["effective_from"]
            yield _GivenRow(where, row), ruleset["name"]


@dataclass(slots=True)
class _Book:
    rules: dict[str, Rule]
    overrides: list[Override]
    homes: set[str] = field(default_factory=set)
    """Rules that the home has defined."""
    versions: set[tuple[str, str]] = field(default_factory=set)
    """Versions of rules that overrides have."""

    def take(self, given: _GivenRow, defaults: Row, own: bool) -> None:
        """One more row: a new rule, or an override of one that is there.

        A home's row that says all that a rule needs stays the home's rule, also where Kilowatch brings one of that id.
        """
        name = given.text("id")
        if name is None or not _ID.fullmatch(name):
            raise given.wrong("id", "must be a name such as over_current")
        if unknown := sorted(set(given.row) - set(FIELDS)):
            raise given.wrong(unknown[0], f"there is no such key; there are {', '.join(FIELDS)}")
        if name not in self.rules or (own and name not in self.homes and set(_NEEDED) <= set(given.row)):
            self.rules[name] = _new_rule(given, defaults)
            if own:
                self.homes.add(name)
                self.overrides = [override for override in self.overrides if override.rule != name]
                self.versions = {version for version in self.versions if version[0] != name}
            values = {"start": self.rules[name].start}
            if not set(_SCOPED) & set(given.row):
                return
            # before its date, and for all others, it is off
            self.rules[name] = replace(self.rules[name], start=0.0)
        else:
            values = _values(given, self.rules[name])
        override = Override(
            rule=name,
            version=given.text("version") or defaults["version"],
            values=tuple(values.items()),
            effective_from=given.day("effective_from") or ALWAYS,
            segment=given.one_of("segment", SEGMENTS),
            voltage_level_kv=given.number("voltage_level_kv"),
            meter_id=given.text("meter_id"),
            own=own,
        )
        if (name, override.version) in self.versions:
            raise given.wrong("version", f"'{override.version}' is that of another row of {name}; give it its own")
        _inside(given, overridden(self.rules[name], [override]))
        self.overrides.append(override)
        self.versions.add((name, override.version))

    def closed(self) -> Rulebook:
        """The rulebook. What holds for everybody and always is part of the rule itself."""
        rules, left = [], []
        ordered = sorted(self.overrides, key=lambda override: override.precedence)
        for rule in self.rules.values():
            mine = [o for o in ordered if o.rule == rule.id]
            first = next((n for n, o in enumerate(mine) if o.scoped or o.effective_from != ALWAYS), len(mine))
            rules.append(overridden(rule, mine[:first]))
            left += mine[first:]
        return Rulebook(tuple(rules), tuple(left))


@dataclass(frozen=True, slots=True)
class _GivenRow:
    """A row as it stands, and where; every value is asked for by its kind."""

    where: str
    row: Row

    def wrong(self, key: str, problem: str) -> SettingsError:
        name = self.row.get("id")
        value = f" = {self.row[key]!r}" if key in self.row else ""
        return SettingsError(f"{self.where}{f' ({name})' if isinstance(name, str) else ''}: {key}{value}: {problem}")

    def text(self, key: str) -> str | None:
        value = self.row.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "must be a text in quotes")
        return value

    def one_of(self, key: str, allowed: Iterable[str]) -> str | None:
        value = self.text(key)
        if value is not None and value not in allowed:
            raise self.wrong(key, f"must be one of {', '.join(allowed)}")
        return value

    def number(self, key: str, below: float = math.inf) -> float | None:
        value = self.row.get(key)
        return None if value is None else self.amount(key, value, below)

    def amount(self, key: str, value: object, below: float = math.inf) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < below:
            bound = f" and below {below:g}" if below < math.inf else ""
            quoted = ", without quotes" if isinstance(value, str) else ""
            raise self.wrong(key, f"must be a number from 0{bound}{quoted}")
        return float(value)

    def day(self, key: str) -> date | None:
        value = self.row.get(key)
        if value is not None and _day(value) is None:
            raise self.wrong(key, "must be a date such as 2026-06-01, without quotes")
        return _day(value)

    def phases(self, measure: str) -> tuple[str, ...]:
        there = MEASURES[measure].phases
        value = self.row.get("phases", there)
        if not isinstance(value, list | tuple) or not value or not set(map(str, value)) <= set(there):
            raise self.wrong("phases", f"must be a list of phases of {measure}: {', '.join(there)}")
        return tuple(phase for phase in there if phase in value)

    def fault(self) -> tuple[float, float] | None:
        value = self.row.get("fault")
        if value is None:
            return None
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise self.wrong("fault", "must be two factors of start, such as [1.03, 1.08]")
        least, most = (self.amount("fault", item) for item in value)
        return least, most

    def guard(self) -> Guard | None:
        value = self.row.get("guard")
        if value is None:
            return None
        if not isinstance(value, Mapping) or set(value) != {"measure", "side", "base", "limit"}:
            raise self.wrong("guard", "must be { measure = ..., side = ..., base = ..., limit = ... }")
        inner = _GivenRow(f"{self.where}: guard", value)
        measure, side, base = (inner.one_of(k, v) for k, v in (("measure", MEASURES), ("side", SIDES), ("base", BASES)))
        assert measure is not None
        assert side is not None
        assert base is not None
        return Guard(measure=measure, side=side, base=base, limit=inner.amount("limit", value["limit"]))

    def guard_limit(self, rule: Rule) -> float:
        value = self.row["guard"]
        if rule.guard is None or not isinstance(value, Mapping) or set(value) != {"limit"}:
            can = "must be { limit = ... }" if rule.guard else f"{rule.id} has no guard"
            raise self.wrong("guard", f"{can}; what else a guard looks at needs a rule with an id of its own")
        return self.amount("guard", value["limit"])

    def template(self, key: str) -> str | None:
        value = self.text(key)
        if value is not None and (unknown := set(re.findall(r"{(.*?)}", value)) - set(PLACEHOLDERS)):
            raise self.wrong(key, f"{{{min(unknown)}}} is unknown; there are {', '.join(PLACEHOLDERS)}")
        return value

    def value(self, key: str) -> Any:
        """The value of one of Rule's plain fields."""
        match key:
            case "start" | "clear" | "hold_s" | "clear_hold_s":
                return self.number(key)
            case "clear_margin":
                return self.number(key, below=1)
            case "severity":
                return self.one_of(key, SEVERITIES)
            case "fault":
                return self.fault()
            case "text_zh" | "text_en":
                return self.template(key)
            case _:
                return self.text(key)


def _day(value: object) -> date | None:
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


def _new_rule(given: _GivenRow, defaults: Row) -> Rule:
    """The rule that a row with an unknown id defines."""
    if missing := [key for key in _NEEDED if given.row.get(key) in (None, "")]:
        needed = ", ".join(_NEEDED)
        raise given.wrong(missing[0], f"is missing: there is no such rule yet, and a new one needs {needed}")
    measure, side, base = (given.one_of(k, v) for k, v in (("measure", MEASURES), ("side", SIDES), ("base", BASES)))
    assert measure is not None
    assert side is not None
    assert base is not None
    plain = {key: given.value(key) for key in _PLAIN if key in given.row}
    rule = Rule(
        id=given.row["id"], measure=measure, side=side, base=base, phases=given.phases(measure), guard=given.guard(),
        **{**defaults, **plain},
    )  # fmt: skip
    if rule.guard and not {*rule.phases, TOTAL} & set(MEASURES[rule.guard.measure].phases):
        raise given.wrong("guard", f"{rule.guard.measure} is by phase and {measure} is not: guard by one that is alike")
    _inside(given, rule)
    return rule


def _values(given: _GivenRow, rule: Rule) -> dict[str, Any]:
    """What a row with a known id overrides."""
    if fixed := [key for key in _FIXED if key in given.row]:
        raise given.wrong(fixed[0], f"{rule.id} cannot look at something else; give the rule an id of its own")
    keys = [key for key in (*_PLAIN, "guard") if key in given.row and key != "version"]
    if not keys:
        raise given.wrong("id", f"the row changes nothing of {rule.id}; give it a value such as start")
    everywhere = [key for key in keys if key not in _BY_SCOPE]
    if everywhere and set(_SCOPED) & set(given.row):
        raise given.wrong(
            everywhere[0], f"is the same for all meters and dates; give it in a row without {', '.join(_SCOPED)}"
        )
    return {key: given.guard_limit(rule) if key == "guard" else given.value(key) for key in keys}


def _inside(given: _GivenRow, rule: Rule) -> None:
    """Refuse an end value that lies beyond the start, for such a violation would end while it goes on."""
    if rule.start and rule.clear is not None and (rule.clear - rule.start) * rule.sign > 0:
        side = "at or below" if rule.sign == ABOVE else "at or above"
        raise given.wrong("clear", f"the end value {rule.clear:g} must be {side} start, {rule.start:g}")
