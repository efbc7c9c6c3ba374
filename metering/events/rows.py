"""Rows of rules as they stand in TOML: what each says, checked value by value.

Here: the keys of a row, the rule that a row with a new id defines, the values that one with a known id overrides. Not
here: which rows there are, and in which order they count (`catalogue`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from metering.errors import SettingsError
from metering.events.measures import BASES, MEASURES, TOTAL
from metering.settings import ABOVE, Condition, Guard, Rule
from metering.settings.rules import ALSO, SIDES
from metering.tables.lake import SEVERITIES
from metering.tables.warehouse import WIRINGS

PLACEHOLDERS = {
    "who": "customer, voltage level and feeder",
    "customer": "customer's name",
    "feeder": "feeder",
    "meter_id": "meter",
    "quantity": "what is measured, where the name does not say it: `AB 线电压`",
    "phase": "phase",
    "name": "the rule's name",
    "state": "empty while it goes on; that it is over, or withdrawn",
    "extent": "how bad it is: worst value, in percent of nominal, and limit",
    "worst": "highest or lowest",
    "value": "worst value",
    "unit": "its unit",
    "percent": "worst value in percent of what limits are fractions of",
    "limit": "limit, in the unit",
    "when": "since when and for how long; from when to when",
    "since": "start, in local time",
    "until": "end, in local time",
    "duration": "how long it has lasted",
    "times": "how often it came, if more than once",
    "advice": "what to do, while it goes on",
}
"""What a text may name, each in braces."""
LONGEST_FLICKER_S = 21_601
"""Judging anew starts a day before what it is about: what was cleared long before is not opened again."""
TEXTS = ("name_zh", "name_en", "text_zh", "text_en", "withdrawn_zh", "withdrawn_en", "advice_zh", "advice_en")

Row = Mapping[str, Any]

_ID = re.compile(r"[a-z][a-z0-9_]*")
SCOPE = ("segment", "voltage_level_kv", "meter_id")
SCOPED = (*SCOPE, "effective_from")
NEEDED = ("name_zh", "name_en", "measure", "side", "base", "start")
_FIXED = ("measure", "side", "base", "phases")
_BY_SCOPE = (
    "start",
    "clear",
    "clear_margin",
    "also",
    "guard",
    "hold_s",
    "clear_hold_s",
    "flicker_s",
    "severity",
    "clause",
)
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
    "also": "other conditions that must hold, each `{ measure, side, base, start }` with its own `clear` or "
    "`clear_margin`; the violation ends once any is over; an override gives `{ measure, start }` of that on a measure",
    "unless": "rules that say it better: where one of them begins, on the phase or on any, this one ends",
    "guard": "judged only where `{ measure, side, base, limit }` holds; an override gives `{ limit }`",
    "hold_s": "seconds that a violation must last to be raised; default 60",
    "clear_hold_s": "seconds that it must be over to be cleared; default 60",
    "flicker_s": "back so soon after it was cleared, and held, it is the same violation; default 900, 0: another",
    "severity": "`info`, `warning` or `critical`; default warning",
    "event_class": "class of the message; default limit_warning",
    "storm": "group of rules whose violations, at one time on one feeder, have one cause; default: none",
    "text_zh": "what is said in Chinese, with the placeholders below",
    "text_en": "what is said in English",
    "withdrawn_zh": "what is said in Chinese where a violation is taken back",
    "withdrawn_en": "the same in English",
    "advice_zh": "what to do, in Chinese",
    "advice_en": "what to do, in English",
    "by_wiring": '`{ "3p3w" = { name_zh = ... } }`: names, texts and advice for meters of a wiring',
    "clause": "where the rule comes from",
    "meaning": "what it says of the supply or the metering, in one sentence",
    "fault": "what simulated faults do: two factors of start, or `{ measure = [least, most] }`, factors of that "
    "condition's start or fractions of what is rated; default: no faults",
    "version": "published as `ruleset`; default: the row's date and scope, or `home`",
    "effective_from": "local date from which the row holds; default: always",
    "segment": "customers of one segment: `large`, `sme` or `important`",
    "voltage_level_kv": "customers of one voltage level, as in the registry",
    "meter_id": "one meter",
}
"""The keys of a row."""
_PLAIN = tuple(key for key in FIELDS if key not in ("id", "also", "guard", *_FIXED, *SCOPED))
_LOOKS: dict[str, Iterable[str]] = {"measure": MEASURES, "side": SIDES, "base": BASES}
_ENDS = ("clear", "clear_margin")
_OF_CONDITION = (*_LOOKS, "start", *_ENDS)


@dataclass(frozen=True, slots=True)
class GivenRow:
    """A row as it stands, and where; every value is asked for by its kind."""

    where: str
    row: Row

    def wrong(self, key: str, problem: str) -> SettingsError:
        name = self.row.get("id")
        value = f" = {self.row[key]!r}" if key in self.row else ""
        return SettingsError(f"{self.where}{f' ({name})' if isinstance(name, str) else ''}: {key}{value}: {problem}")

    def rule_id(self) -> str:
        """The id, of a row whose keys are all known."""
        name = self.text("id")
        if name is None or not _ID.fullmatch(name):
            raise self.wrong("id", "must be a name such as over_current")
        if unknown := sorted(set(self.row) - set(FIELDS)):
            raise self.wrong(unknown[0], f"there is no such key; there are {', '.join(FIELDS)}")
        return name

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
        if value is not None and day_of(value) is None:
            raise self.wrong(key, "must be a date such as 2026-06-01, without quotes")
        return day_of(value)

    def phases(self, measure: str) -> tuple[str, ...]:
        there = MEASURES[measure].phases
        value = self.row.get("phases", there)
        if not isinstance(value, list | tuple) or not value or not set(map(str, value)) <= set(there):
            raise self.wrong("phases", f"must be a list of phases of {measure}: {', '.join(there)}")
        return tuple(phase for phase in there if phase in value)

    def fault(self) -> tuple[tuple[str, float, float], ...]:
        value = self.row["fault"]
        given = value if isinstance(value, Mapping) else {self.row["measure"]: value}
        if unknown := sorted(set(given) - set(MEASURES)):
            raise self.wrong("fault", f"there is no measure {unknown[0]}; there are {', '.join(MEASURES)}")
        found = []
        for measure, factors in given.items():
            if not isinstance(factors, list | tuple) or len(factors) != 2:
                raise self.wrong("fault", "must be two factors of start, such as [1.03, 1.08], or { u = ..., i = ... }")
            least, most = (self.amount("fault", factor) for factor in factors)
            found.append((measure, least, most))
        return tuple(found)

    def guard(self) -> Guard | None:
        value = self.row.get("guard")
        if value is None:
            return None
        if not isinstance(value, Mapping) or set(value) != {"measure", "side", "base", "limit"}:
            raise self.wrong("guard", "must be { measure = ..., side = ..., base = ..., limit = ... }")
        inner = GivenRow(f"{self.where}: guard", value)
        return Guard(**inner.looks(), limit=inner.amount("limit", value["limit"]))

    def looks(self) -> dict[str, Any]:
        """`measure`, `side` and `base` of a condition; nothing but what there is."""
        looks: dict[str, Any] = {key: self.one_of(key, allowed) for key, allowed in _LOOKS.items()}
        if missing := [key for key, value in looks.items() if value is None]:
            raise self.wrong(missing[0], f"is missing: a condition needs {', '.join((*_LOOKS, 'start'))}")
        return looks

    def inner(self, key: str, keys: Iterable[str]) -> tuple[GivenRow, ...]:
        """The tables of a list."""
        value = self.row.get(key, ())
        if not isinstance(value, list | tuple) or not all(isinstance(each, Mapping) for each in value):
            raise self.wrong(key, "must be a list of { measure = ..., side = ..., base = ..., start = ... }")
        rows = tuple(GivenRow(f"{self.where}: {key} {number}", each) for number, each in enumerate(value, 1))
        for row in rows:
            if unknown := sorted(set(row.row) - set(keys)):
                raise row.wrong(unknown[0], f"there is no such key; there are {', '.join(keys)}")
        return rows

    def also(self) -> tuple[Condition, ...]:
        conditions = []
        for row in self.inner("also", _OF_CONDITION):
            start = row.number("start")
            if start is None:
                raise row.wrong("start", f"is missing: a condition needs {', '.join((*_LOOKS, 'start'))}")
            own = {key: row.value(key) for key in _ENDS if key in row.row}
            condition = Condition(**row.looks(), start=start, **own)
            check_end(row, condition)
            conditions.append(condition)
        return tuple(conditions)

    def also_values(self, rule: Rule) -> dict[str, float]:
        """What a row overrides of further conditions, by the names that `Override` gives."""
        values: dict[str, float] = {}
        there = [condition.measure for condition in rule.also]
        for row in self.inner("also", ("measure", "start", *_ENDS)):
            measure = row.one_of("measure", there) if there else None
            if measure is None:
                can = f"must name one of {', '.join(there)}" if there else f"{rule.id} has no further conditions"
                raise row.wrong("measure", f"{can}; other conditions need a rule with an id of its own")
            own = {key: row.value(key) for key in ("start", *_ENDS) if key in row.row}
            if not own:
                raise row.wrong("measure", "nothing of the condition is changed; give it a start, or an end value")
            values |= {f"{ALSO}{measure}.{key}": value for key, value in own.items()}
        return values

    def guard_limit(self, rule: Rule) -> float:
        value = self.row["guard"]
        if rule.guard is None or not isinstance(value, Mapping) or set(value) != {"limit"}:
            can = "must be { limit = ... }" if rule.guard else f"{rule.id} has no guard"
            raise self.wrong("guard", f"{can}; what else a guard looks at needs a rule with an id of its own")
        return self.amount("guard", value["limit"])

    def names(self, key: str) -> tuple[str, ...]:
        value = self.row[key]
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
            raise self.wrong(key, "must be a list of ids of rules")
        return tuple(value)

    def by_wiring(self) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
        value = self.row["by_wiring"]
        if not isinstance(value, Mapping) or not all(isinstance(own, Mapping) for own in value.values()):
            raise self.wrong("by_wiring", 'must be { "3p3w" = { name_zh = ... } }')
        if unknown := sorted({*value} - {*WIRINGS}):
            raise self.wrong("by_wiring", f"there is no wiring '{unknown[0]}'; there are {', '.join(WIRINGS)}")
        found = []
        for wiring, own in value.items():
            row = GivenRow(f"{self.where}: by_wiring {wiring}", own)
            if unknown := sorted({*own} - {*TEXTS}):
                raise row.wrong(unknown[0], f"there is no such key; there are {', '.join(TEXTS)}")
            found.append((wiring, tuple((key, str(row.value(key))) for key in own)))
        return tuple(found)

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
            case "flicker_s":
                return self.number(key, below=LONGEST_FLICKER_S)
            case "by_wiring":
                return self.by_wiring()
            case "unless":
                return self.names(key)
            case "text_zh" | "text_en" | "withdrawn_zh" | "withdrawn_en":
                return self.template(key)
            case _:
                return self.text(key)


def day_of(value: object) -> date | None:
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


def new_rule(given: GivenRow, defaults: Row) -> Rule:
    """The rule that a row with an unknown id defines."""
    if missing := [key for key in NEEDED if given.row.get(key) in (None, "")]:
        needed = ", ".join(NEEDED)
        raise given.wrong(missing[0], f"is missing: there is no such rule yet, and a new one needs {needed}")
    looks = given.looks()
    plain = {key: given.value(key) for key in _PLAIN if key in given.row}
    rule = Rule(
        id=given.row["id"], **looks, phases=given.phases(looks["measure"]), guard=given.guard(), also=given.also(),
        **{**defaults, **plain},
    )  # fmt: skip
    others = [("guard", guard.measure) for guard in (rule.guard,) if guard]
    others += [("also", condition.measure) for condition in rule.also]
    for key, measure in others:
        if not {*rule.phases, TOTAL} & set(MEASURES[measure].phases):
            raise given.wrong(key, f"{measure} is by phase and {rule.measure} is not: look at one that is alike")
    if len({condition.measure for condition in rule.conditions}) <= len(rule.also):
        raise given.wrong("also", "each condition must look at a measure of its own")
    check_ends(given, rule)
    return rule


def overridden_values(given: GivenRow, rule: Rule) -> dict[str, Any]:
    """What a row with a known id overrides."""
    if fixed := [key for key in _FIXED if key in given.row]:
        raise given.wrong(fixed[0], f"{rule.id} cannot look at something else; give the rule an id of its own")
    keys = [key for key in (*_PLAIN, "also", "guard") if key in given.row and key != "version"]
    if not keys:
        raise given.wrong("id", f"the row changes nothing of {rule.id}; give it a value such as start")
    everywhere = [key for key in keys if key not in _BY_SCOPE]
    if everywhere and set(SCOPED) & set(given.row):
        raise given.wrong(
            everywhere[0], f"is the same for all meters and dates; give it in a row without {', '.join(SCOPED)}"
        )
    values = {key: given.value(key) for key in keys if key not in ("also", "guard")}
    if "guard" in keys:
        values["guard"] = given.guard_limit(rule)
    return values | (given.also_values(rule) if "also" in keys else {})


def check_ends(given: GivenRow, rule: Rule) -> None:
    """Refuse an end value that lies beyond its start, for such a violation would end while it goes on."""
    for condition in rule.conditions if rule.start else rule.also:
        check_end(given, condition)


def check_end(given: GivenRow, condition: Condition) -> None:
    if condition.clear is not None and (condition.clear - condition.start) * condition.sign > 0:
        side = "at or below" if condition.sign == ABOVE else "at or above"
        raise given.wrong("clear", f"the end value {condition.clear:g} must be {side} start, {condition.start:g}")
