"""Every event of the catalogue through the stream: what is raised for each situation, and that nothing else is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.events.catalogue import default_rules
from sinks.lake.reader import LakeReader, current

T0 = datetime(2026, 3, 1, 15, tzinfo=UTC)  # an hour before a local midnight, which lies within every fault
FIRST, LAST, MINUTES = 50, 75, 110
Row = dict[str, Any]
NORMAL = {"ua_v": 221.3, "ub_v": 219.8, "uc_v": 220.4, "ia_a": 2.1, "ib_a": 2.2, "ic_a": 2.3, "p_kw": 300.0,
          "q_kvar": 90.0}  # fmt: skip
"""Un 220 V, Ib 1.5 A, Imax 6 A, ratio 300, capacity 1000 kVA, contract demand 900 kW, standard 0.90."""
RULES = [rule.id for rule in default_rules().rules if rule.fault]
"""Those that one reading tells: others have tests of their own."""
NO_CURRENT = {"ia_a": 0.0, "ib_a": 0.0, "ic_a": 0.0}
UNKNOWN = dict.fromkeys(NO_CURRENT)
ALL_LOW, ALL_OFF = {"ua_v": 60.0, "ub_v": 55.0, "uc_v": 58.0}, {"ua_v": 2.0, "ub_v": 0.0, "uc_v": 1.0}
CASES: dict[str, tuple[str, Row, set[tuple[str, str]]]] = {
    "over-voltage": ("3p4w", {"ub_v": 270.0}, {("over_voltage", "b")}),
    "low, current not known": ("3p4w", {"ua_v": 165.0, **UNKNOWN}, {("under_voltage", "a")}),
    "low, unloaded": ("3p4w", {"ua_v": 165.0, **NO_CURRENT}, {("under_voltage", "a")}),
    "low, loaded": ("3p4w", {"uc_v": 165.0}, {("under_voltage", "c"), ("voltage_loss", "c")}),
    "fuse of a voltage transformer": (
        "3p4w", {"uc_v": 100.0}, {("under_voltage", "c"), ("voltage_loss", "c"), ("voltage_unbalance", "total")}),
    "no voltage at all on one": (
        "3p4w", {"ua_v": 8.0},
        {("under_voltage", "a"), ("voltage_loss", "a"), ("voltage_unbalance_severe", "total")}),
    "dead phase": ("3p4w", {"ub_v": 5.0, "ib_a": 0.0}, {("phase_loss", "b")}),
    "dead phase of three wires": ("3p3w", {"uc_v": 5.0, "ic_a": 0.0}, {("phase_loss", "c")}),
    "phase b of three wires": ("3p3w", {"ub_v": 5.0, "ib_a": 9.0}, set()),
    "all voltages lost": ("3p4w", ALL_LOW, {("total_voltage_loss", "total")}),
    "all voltages of three wires": ("3p3w", {**ALL_LOW, "ub_v": 220.0}, {("total_voltage_loss", "total")}),
    "outage": ("3p4w", {**ALL_OFF, **NO_CURRENT, "p_kw": 0.0, "q_kvar": 0.0}, {("power_off", "total")}),
    "current transformer open": (
        "3p4w", {"ia_a": 0.0}, {("current_loss", "a"), ("open_current", "a"), ("current_unbalance_severe", "total")}),
    "little current elsewhere": ("3p4w", {"ia_a": 0.0, "ib_a": 0.03, "ic_a": 0.03}, {("open_current", "a")}),
    "over-current": ("3p4w", {"ia_a": 6.5, "ib_a": 7.5, "ic_a": 6.6}, {("over_current", "b")}),
    "overload": (
        "3p4w", {"p_kw": 1450.0, "q_kvar": 400.0},
        {("overload", "total"), ("over_capacity", "total"), ("demand_limit", "total")}),
    "fed back": ("3p4w", {"p_kw": -50.0, "q_kvar": -5.0}, {("reverse_power", "total")}),
    "above demand": ("3p4w", {"p_kw": 950.0, "q_kvar": 100.0}, {("demand_limit", "total")}),
    "above capacity": (
        "3p4w", {"p_kw": 1020.0, "q_kvar": 100.0}, {("over_capacity", "total"), ("demand_limit", "total")}),
    "unbalanced voltages": ("3p4w", {"ua_v": 261.0, "ub_v": 175.0, "uc_v": 174.0}, {("voltage_unbalance", "total")}),
    "unbalanced currents": ("3p4w", {"ia_a": 0.9}, {("current_unbalance", "total")}),
    "very unbalanced currents": ("3p3w", {"ic_a": 0.1}, {("current_unbalance_severe", "total")}),
    "below standard": ("3p4w", {"q_kvar": 180.0}, {("low_power_factor", "total")}),
    "bank has tripped": (
        "3p4w", {"p_kw": 200.0, "q_kvar": 250.0},
        {("reactive_under_compensation", "total"), ("low_power_factor", "total")}),
    "bank left in": (
        "3p4w", {"p_kw": 200.0, "q_kvar": -250.0},
        {("reactive_over_compensation", "total"), ("low_power_factor", "total")}),
    "wrong connection": (
        "3p4w", {"p_kw": 50.0, "q_kvar": 300.0},
        {("power_factor_under_limit", "total"), ("reactive_under_compensation", "total"),
         ("low_power_factor", "total")}),
    "one phase, low": ("1p", {"ua_v": 165.0}, {("under_voltage", "a"), ("voltage_loss", "a")}),
    "one phase, off": ("1p", {"ua_v": 3.0, "ia_a": 0.0, "p_kw": 0.0, "q_kvar": 0.0}, {("power_off", "total")}),
    "one phase, no load": ("1p", {"ia_a": 0.0, "p_kw": 0.0, "q_kvar": 0.0}, set()),
    "on stand-by": ("3p4w", {**NO_CURRENT, "p_kw": 0.0, "q_kvar": 0.0}, set()),
    "little load": ("3p4w", {"ia_a": 0.05, "ib_a": 0.01, "ic_a": 0.02, "p_kw": 4.0, "q_kvar": 20.0}, set()),
    "nothing": ("3p4w", {}, set()),
}  # fmt: skip
TOTAL_AFTER_ONE = "330000109999"


def _meter(number: int) -> str:
    return f"3300001{number:05}"


def _rows() -> list[Row]:
    """In order of arrival: jittered, a few late by an hour or twice, two lost in the middle of a fault."""
    draw, rows = random.Random(11), []
    struck_by = {_meter(n): case[1] for n, case in enumerate(CASES.values())} | {TOTAL_AFTER_ONE: {"uc_v": 100.0}}
    for minute in range(1, MINUTES + 1):
        for meter, values in struck_by.items():
            at = T0 + timedelta(minutes=minute)
            struck = values if FIRST < minute <= LAST else {}
            if meter == TOTAL_AFTER_ONE and 60 < minute <= LAST:
                struck = ALL_LOW
            if meter == _meter(0) and minute in (58, 59):
                continue
            jitter = timedelta(milliseconds=draw.randint(0, 20_000))
            reading = {"meter_id": meter, "ts": int((at - jitter).timestamp() * 1000), **NORMAL, **struck}
            delay = 60 * draw.random() if draw.random() < 0.03 else draw.random()
            rows.append((minute + delay, reading))
            if draw.random() < 0.02:
                rows.append((minute + delay + 3, reading))
    return [row for _, row in sorted(rows, key=lambda item: item[0])]


@pytest.fixture(scope="module")
def raised(make_home: Callable[..., Any]) -> pl.DataFrame:
    """The last word on every violation that was not withdrawn."""
    customer = "100001,机械厂 001,large,machinery,10,1000,900,0.90,large_industry,true,10kV-01,城东供电所,true\n"
    wirings = {_meter(n): case[0] for n, case in enumerate(CASES.values())} | {TOTAL_AFTER_ONE: "3p4w"}
    meter = "{},100001,{},220,1,300,1.5,6,8,60,1,2020-01-01,\n"
    home = make_home(customer, "".join(meter.format(*item) for item in wirings.items()))
    (home.path / "telemetry").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in _rows())
    (home.path / "telemetry" / "2026-03-01.ndjson").write_text(lines, "utf-8")
    home.run("stream", "--source", home.path / "telemetry")
    last = current(LakeReader(home.path).scan("violations"), ("violation_id",)).collect()
    return last.filter(pl.col("state") != "withdrawn", pl.col("rule").is_in(RULES))


def _of(raised: pl.DataFrame, meter: str) -> set[tuple[str, str]]:
    return set(raised.filter(pl.col("meter_id") == meter).select("rule", "phase").rows())


@pytest.mark.parametrize("case", CASES)
def test_each_situation_raises_what_it_is(raised: pl.DataFrame, case: str) -> None:
    meter = _meter(list(CASES).index(case))
    assert _of(raised, meter) == CASES[case][2]
    own = raised.filter(pl.col("meter_id") == meter)
    assert own.filter(pl.col("state") != "cleared").is_empty()
    begin, end = T0 + timedelta(minutes=FIRST), T0 + timedelta(minutes=LAST)
    assert set(own.select("started_at", "ended_at").rows()) <= {(begin, end)}


def test_every_rule_has_a_situation() -> None:
    assert {rule for _, _, due in CASES.values() for rule, _ in due} == set(RULES)


def test_a_total_loss_closes_the_loss_of_one_phase(raised: pl.DataFrame) -> None:
    """The meter loses phase c, and ten minutes later all: what it said of c is over then."""
    own = raised.filter(pl.col("meter_id") == TOTAL_AFTER_ONE).sort("started_at", "rule")
    at = {minute: T0 + timedelta(minutes=minute) for minute in (FIRST, 60, LAST)}
    assert own.select("rule", "phase", "started_at", "ended_at").rows() == [
        ("under_voltage", "c", at[FIRST], at[60]), ("voltage_loss", "c", at[FIRST], at[60]),
        ("voltage_unbalance", "total", at[FIRST], at[60]), ("total_voltage_loss", "total", at[60], at[LAST]),
    ]  # fmt: skip
