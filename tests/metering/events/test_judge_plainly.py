"""Judging, against an account of each reading by itself in plain Python, under rules drawn at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.events.catalogue import check_frame, rulebook, values_read
from metering.events.judge import END, NEITHER, START, judge, starts
from metering.settings import MeteringSettings, Override, Rule
from metering.tables.schema import TIMESTAMP

Row = dict[str, Any]
RULES = ("over_voltage", "under_voltage", "over_capacity", "low_power_factor")
METERS = [(f"3300000000{n:02}", wiring) for n, wiring in enumerate(("3p4w", "3p3w", "1p", "3p4w"))]
CUSTOMERS = [("large", 10.0), ("important", 10.0), ("important", 35.0), ("sme", 10.0)]
SINCE = [date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)]
PHASES = {"3p4w": "abc", "3p3w": "ac", "1p": "a"}
BASES = {"nominal_v": 220.0, "max_a": 6.0, "rated_a": 5.0, "contract_capacity_kva": 1000.0, "pf_standard": 0.9,
         "none": 1.0}  # fmt: skip
LOOKS = {"u": "nominal_v", "i": "max_a", "s_kva": "contract_capacity_kva", "p_kw": "none", "pf": "pf_standard"}
VOLTAGES = {"3p4w": 3.0, "3p3w": 3**0.5, "1p": 1.0}
OVER_PHASES = {"u_max": "nominal_v", "i_max": "max_a", "i_other": "rated_a", "u_other": "nominal_v",
               "u_unbalance": "none", "i_unbalance": "none"}  # fmt: skip
LINES = ("uab_v", "ubc_v", "uca_v")
BY_PHASE = ("u", "i", "i_other", "u_other")


@pytest.fixture(scope="module")
def meter_versions(make_customers: Callable[..., Any], make_meter_versions: Callable[..., Any]) -> pl.DataFrame:
    customers = {f"C{n}": {"segment": s, "voltage_level_kv": kv} for n, (s, kv) in enumerate(CUSTOMERS)}
    meters = {m: {"customer_no": f"C{n}", "wiring": wiring} for n, (m, wiring) in enumerate(METERS)}
    return make_meter_versions(make_customers(customers), meters)


def _rows(draw: random.Random) -> list[Row]:
    """New rules, and overrides of them and of those that Kilowatch brings."""
    rows: list[Row] = []
    looks = LOOKS | OVER_PHASES
    for number in range(draw.randint(0, 4)):
        measure = draw.choice(list(looks))
        row: Row = {
            "id": f"own_{number}", "name_zh": "x", "name_en": "x", "measure": measure, "base": looks[measure],
            "side": draw.choice(["above", "below"]), "start": draw.choice([0, 0.5, 0.9, 1.1]), "clear_margin": 0.1,
        }  # fmt: skip
        alike = [m for m in looks if m != measure and (measure in BY_PHASE or m not in BY_PHASE)]
        row["also"] = [
            {"measure": m, "base": looks[m], "side": draw.choice(["above", "below"]), "start": draw.choice([0.1, 0.9]),
             **draw.choice([{}, {"clear_margin": 0.5}])}
            for m in draw.sample(alike, draw.choice([0, 0, 1, 2]))
        ]  # fmt: skip
        row["unless"] = draw.sample([*RULES, *(f"own_{n}" for n in range(number))], draw.choice([0, 0, 1, 2]))
        if draw.random() < 0.4:
            by_phase = measure in ("u", "i") and draw.random() < 0.5
            look, base = ("i", "rated_a") if by_phase else ("s_kva", "contract_capacity_kva")
            row["guard"] = {"measure": look, "side": "above", "base": base, "limit": draw.choice([0.1, 0.5])}
        rows.append(row)
    ids = [*(row["id"] for row in rows), *RULES]
    conditions = {row["id"]: row["also"] for row in rows}
    for number in range(draw.randint(0, 8)):
        row = {"id": draw.choice(ids), "version": f"v{number}"}
        row |= {"start": draw.choice([0, 0.4, 0.8, 1.05, 1.2])} if draw.random() < 0.7 else {"hold_s": 300}
        if also := conditions.get(row["id"]):
            row["also"] = [{"measure": draw.choice(also)["measure"], "start": draw.choice([0.3, 0.6])}]
        scopes = {"segment": draw.choice(["important", "large"]), "voltage_level_kv": 10,
                  "meter_id": draw.choice(METERS)[0], "effective_from": draw.choice(SINCE)}  # fmt: skip
        rows.append(row | {key: value for key, value in scopes.items() if draw.random() < 0.4})
    return rows


def _readings(draw: random.Random) -> list[Row]:
    first = datetime(2026, 2, 28, 15, 58, tzinfo=UTC)  # two minutes before a local midnight
    values = {"u": [0.0, 100.0, 171.6, 200.0, 264.0, 280.0, None], "i": [0.0, 0.5, 3.0, 7.0, None],
              "line": [380.0, 370.0, 365.0, None], "p_kw": [0.0, 40.0, 600.0, -900.0, 1200.0, None],
              "q_kvar": [0.0, 30.0, 700.0, -700.0, None]}  # fmt: skip
    names = {
        **{f"u{p}_v": "u" for p in "abc"},
        **{f"i{p}_a": "i" for p in "abc"},
        **dict.fromkeys(LINES, "line"),
        "p_kw": "p_kw",
        "q_kvar": "q_kvar",
    }
    rows = []
    for number in range(draw.randint(1, 40)):
        meter = draw.randrange(len(METERS))
        ts = first + timedelta(days=draw.randint(0, 3), minutes=draw.choice([0, 2, 3]), milliseconds=number)
        rows.append({"meter": meter, "version": meter, "ts": ts - timedelta(milliseconds=number * draw.randint(0, 1)),
                     **{name: draw.choice(values[kind]) for name, kind in names.items()}})  # fmt: skip
    return rows


def _phases(reading: Row, kind: str, phases: str) -> list[float] | None:
    """Values of those of some phases that the meter has; None where one is missing, or there are none."""
    values = [_measured(reading, kind, phase) for phase in phases if phase in PHASES[METERS[reading["meter"]][1]]]
    known = [value for value in values if value is not None]
    return known if known and len(known) == len(values) else None


def _measured(reading: Row, measure: str, phase: str) -> float | None:
    p: float | None = reading["p_kw"]
    q: float | None = reading["q_kvar"]
    if measure in ("u", "i"):
        has = phase in PHASES[METERS[reading["meter"]][1]]
        value: float | None = reading[f"{measure}{phase}_{'v' if measure == 'u' else 'a'}"]
        return value if has else None
    if measure.startswith("register_"):
        return None  # these meters report none
    if measure in OVER_PHASES:
        others = "abc".replace(phase, "") if measure.endswith("other") else "abc"
        values = _phases(reading, measure[0], others)
        if values is None or not measure.endswith("unbalance"):
            return max(values) if values else None
        return (max(values) - min(values)) / max(values) if max(values) > 0 else None
    if measure == "u_negative_sequence":
        sides = [reading[name] for name in LINES]
        return None if None in sides else _negative_sequence(*sides)
    if p is not None and measure in ("p_kw", "p_export_kw"):
        return p if measure == "p_kw" else -p
    if p is None or q is None or measure in ("missing", "clock_ahead"):
        return None
    s = float((p * p + q * q) ** 0.5)
    if measure == "s_kva" or s == 0:
        return s if measure == "s_kva" else None
    other_way = (measure == "pf_lagging" and q <= 0) or (measure == "pf_leading" and q >= 0)
    return 1.0 if other_way else abs(p) / s


def _negative_sequence(a: float, b: float, c: float) -> float:
    root = max(0.0, 3 - 6 * (a**4 + b**4 + c**4) / (a * a + b * b + c * c) ** 2) ** 0.5
    return float(max(0.0, (1 - root) / (1 + root)) ** 0.5)


def _base(reading: Row, name: str) -> float | None:
    """What limits are fractions of; the customers have no contract demand."""
    if name in ("base_kva", "max_kva"):
        per_a = VOLTAGES[METERS[reading["meter"]][1]] * 220.0 * 100.0 * 20.0 / 1000
        return per_a * (5.0 if name == "base_kva" else 6.0)
    return BASES.get(name)


def _beyond(value: float, limit: float, side: str) -> bool:
    return value > limit if side == "above" else value < limit


class _InForce:
    """A rule as overrides make it for the meter of a reading, on its day."""

    def __init__(self, rule: Rule, reading: Row, settings: MeteringSettings) -> None:
        day = (reading["ts"] - timedelta(microseconds=1)).astimezone(ZoneInfo(settings.timezone)).date()
        segment, level = CUSTOMERS[reading["meter"]]
        self.rule, self.reading, self.hold = rule, reading, rule.hold_s
        self.starts = {condition.measure: condition.start for condition in rule.conditions}
        versions = {"start": rule.version, "hold_s": rule.version}

        def width(o: Override) -> tuple[int, int, int, date]:
            return o.meter_id is not None, o.segment is not None, o.voltage_level_kv is not None, o.effective_from

        for o in sorted((o for o in settings.rules.overrides if o.rule == rule.id), key=width):
            fits = o.segment in (None, segment) and o.voltage_level_kv in (None, level)
            if fits and o.meter_id in (None, METERS[reading["meter"]][0]) and o.effective_from <= day:
                for name, value in o.values:
                    if name == "hold_s":
                        self.hold = value
                    else:
                        self.starts[name.split(".")[1] if "." in name else rule.measure] = value
                    versions[name] = o.version
        named = [v for v in dict.fromkeys(versions.values()) if v != rule.version]
        self.version = "+".join(sorted(named)) or rule.version

    def said(self, phase: str) -> tuple[bool | None, bool | None]:
        """Whether all conditions hold, and whether any is over; None: not known."""
        holds, over = [], []
        for condition in self.rule.conditions:
            value, base = _measured(self.reading, condition.measure, phase), _base(self.reading, condition.base)
            if base is None:
                value = None
            limit = self.starts[condition.measure] * (base or 0.0)
            inside = limit * (1 - condition.clear_margin if condition.side == "above" else 1 + condition.clear_margin)
            inside = inside if condition.clear is None else condition.clear * (base or 0.0)
            holds.append(None if value is None else _beyond(value, limit, condition.side))
            over.append(None if value is None else value <= inside if condition.side == "above" else value >= inside)
        return (
            False if False in holds else None if None in holds else True,
            True if True in over else None if None in over else False,
        )

    def guarded_off(self, phase: str) -> bool:
        guard = self.rule.guard
        look = guard and _measured(self.reading, guard.measure, phase)
        return guard is not None and (look is None or not _beyond(look, guard.limit * BASES[guard.base], guard.side))

    def begins(self, phase: str) -> bool:
        off = not self.starts[self.rule.measure] or self.guarded_off(phase)
        return not off and self.said(phase)[0] is True


def _account(reading: Row, settings: MeteringSettings) -> Iterator[tuple[str, str, int, str, float]]:
    """(rule, phase, verdict, ruleset, hold) of one reading: each rule by each of its overrides in turn."""
    rules = {rule.id: _InForce(rule, reading, settings) for rule in settings.rules.rules}
    for name, rule in rules.items():
        for phase in rule.rule.phases:
            value = _measured(reading, rule.rule.measure, phase)
            if value is None or not rule.starts[rule.rule.measure] or rule.guarded_off(phase):
                continue
            better = [rules[other] for other in rule.rule.unless]
            holds, over = rule.said(phase)
            if any(b.begins(of) for b in better for of in b.rule.phases if of == phase or phase not in b.rule.phases):
                holds, over = False, True
            if holds:
                yield name, phase, START, rule.version, rule.hold
            elif over or (holds is not None and over is not None):
                yield name, phase, END if over else NEITHER, rule.version, rule.hold


@given(seed=st.integers(0, 10**9))
def test_as_each_reading_by_itself(
    meter_versions: pl.DataFrame, metering_settings: MeteringSettings, seed: int
) -> None:
    draw = random.Random(seed)
    settings = replace(metering_settings, rules=rulebook(_rows(draw), ()))
    rows = _readings(draw)
    schema = {"meter": pl.UInt32, "version": pl.UInt32, "ts": TIMESTAMP,
              **{name: pl.Float64 for name in rows[0] if name not in ("meter", "version", "ts")}}  # fmt: skip
    readings = pl.DataFrame(rows, schema=schema).select("meter", "version", "ts", *values_read(settings))
    names = check_frame(settings).select("code", "rule", "phase")
    judged = judge(readings, meter_versions, settings, names["code"]).join(names, on="code")
    plainly = [(row["meter"], row["ts"], *said) for row in rows for said in _account(row, settings)]
    found = judged.select("meter", "ts", "rule", "phase", "verdict", "ruleset", "hold_s").rows()
    ordered = [(*row[:5], "+".join(sorted(row[5].split("+"))), row[6]) for row in found]
    assert sorted(ordered) == sorted(plainly)
    begun = {(meter, rule, phase) for meter, _, rule, phase, verdict, *_ in plainly if verdict == START}
    pairs = starts(readings, meter_versions, settings).join(names, on="code")
    assert set(pairs.select("meter", "rule", "phase").rows()) == begun
