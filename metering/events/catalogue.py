"""The rules in force: rows that Kilowatch brings (`rules.toml`), with what a home says of its own.

Here: putting rows together, and what follows from them for everybody else (`checks`, `values_read`). Not here: reading
a row (`rows`), the shape of a rule (`metering.settings.rules`), judging (`judge`).

A row with an id that is not there yet is a new rule; one with a known id overrides single values of it, from a date on
(`effective_from`), or for some meters (`segment`, `voltage_level_kv`, `meter_id`). A home's rule sets of old
(`[[rulesets]]`) are read as overrides of every value; rules that they do not name are as Kilowatch brings them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path

import polars as pl

from metering.errors import SettingsError
from metering.events import rows as given_rows
from metering.events.measures import MEASURES
from metering.events.rows import NEEDED, SCOPE, SCOPED, GivenRow, Row, day_of
from metering.settings import MeteringSettings, Override, Rule, Rulebook
from metering.settings.rules import ALWAYS, overridden
from metering.tables.lake import MEASURED
from metering.tables.warehouse import SEGMENTS

ROWS = Path(__file__).with_name("rules.toml")
_TEXTS = ("text_zh", "text_en", "withdrawn_zh", "withdrawn_en")
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
    """`checks` that readings are judged by: without those of rules that are switched off for everybody."""
    return _in_use(settings.rules)


def told_apart(rules: Rulebook) -> tuple[str, ...]:
    """Ids of rules that no reading is judged by: what is told of them depends on when readings came."""
    return tuple(rule.id for rule in rules.rules if MEASURES[rule.measure].apart)


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
    names = {condition.measure for rule in used for condition in rule.conditions}
    names |= {rule.guard.measure for rule in used if rule.guard}
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
    used = {rule.id for rule in rules.in_use} - {*told_apart(rules)}
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
    defaults = {key: brought[key] for key in ("version", *_TEXTS)}
    book = _Book({}, [])
    for number, row in enumerate(brought["rules"], 1):
        book.take(GivenRow(f"{ROWS.name}: rules {number}", row), defaults, own=False)
    for given, version in _of_rulesets(rulesets, book.rules):
        book.take(given, {"version": version}, own=True)
    texts = {key: defaults[key] for key in _TEXTS}
    for number, row in enumerate(rows, 1):
        book.take(GivenRow(f"rules {number}", row), {"version": _version(row), **texts}, own=True)
    return book.closed()


def _version(row: Row) -> str:
    """The name of a row that has none: its date and its scope."""
    named = [str(row["effective_from"])] if "effective_from" in row else []
    return " ".join([*named, *(f"{key}={row[key]}" for key in SCOPE if key in row)]) or "home"


def _of_rulesets(rulesets: Sequence[Row], rules: Mapping[str, Rule]) -> Iterator[tuple[GivenRow, str]]:
    """Each rule of each set as a row that says everything; the oldest set holds always, so that history has rules."""
    for number, ruleset in enumerate(rulesets, 1):
        if not isinstance(ruleset.get("name"), str) or day_of(ruleset.get("effective_from")) is None:
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
            yield GivenRow(where, row), ruleset["name"]


@dataclass(slots=True)
class _Book:
    rules: dict[str, Rule]
    overrides: list[Override]
    homes: set[str] = field(default_factory=set)
    """Rules that the home has defined."""
    versions: set[tuple[str, str]] = field(default_factory=set)
    """Versions of rules that overrides have."""

    def take(self, given: GivenRow, defaults: Row, own: bool) -> None:
        """One more row: a new rule, or an override of one that is there.

        A home's row that says all that a rule needs stays the home's rule, also where Kilowatch brings one of that id.
        """
        name = given.rule_id()
        if name not in self.rules or (own and name not in self.homes and set(NEEDED) <= set(given.row)):
            self.rules[name] = given_rows.new_rule(given, defaults)
            if own:
                self.homes.add(name)
                self.overrides = [override for override in self.overrides if override.rule != name]
                self.versions = {version for version in self.versions if version[0] != name}
            values = {"start": self.rules[name].start}
            if not set(SCOPED) & set(given.row):
                return
            # before its date, and for all others, it is off
            self.rules[name] = replace(self.rules[name], start=0.0)
        else:
            values = given_rows.overridden_values(given, self.rules[name])
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
        given_rows.check_ends(given, overridden(self.rules[name], [override]))
        self.overrides.append(override)
        self.versions.add((name, override.version))

    def closed(self) -> Rulebook:
        """The rulebook. What holds for everybody and always is part of the rule itself."""
        for rule in self.rules.values():
            if unknown := sorted(set(rule.unless) - (set(self.rules) - {rule.id})):
                raise SettingsError(f"rules ({rule.id}): unless names {unknown[0]}: there is no such other rule")
        rules, left = [], []
        ordered = sorted(self.overrides, key=lambda override: override.precedence)
        for rule in self.rules.values():
            mine = [o for o in ordered if o.rule == rule.id]
            first = next((n for n, o in enumerate(mine) if o.scoped or o.effective_from != ALWAYS), len(mine))
            rules.append(overridden(rule, mine[:first]))
            left += mine[first:]
        return Rulebook(tuple(rules), tuple(left))
