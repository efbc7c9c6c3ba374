"""Rules of several conditions: who speaks for start and end, phases that a meter has not, rows that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from metering.errors import SettingsError
from metering.events.catalogue import check_frame, rulebook
from metering.events.judge import END, NEITHER, START, judge, starts
from metering.settings import MeteringSettings
from metering.tables.lake import MEASURED
from metering.tables.schema import TIMESTAMP

Frame = pl.DataFrame
Row = dict[str, Any]
T0 = datetime(2026, 3, 1, 1, tzinfo=UTC)
METERS = {"330000000021": "3p4w", "330000000022": "3p3w", "330000000023": "1p"}
"""Un 220 V, Ib 5 A, Imax 6 A."""
NAMES = {"name_zh": "x", "name_en": "x"}
LOW_U = {**NAMES, "measure": "u", "side": "below", "base": "nominal_v", "start": 0.78, "clear": 0.85}
CARRIES = {"measure": "i", "side": "above", "base": "rated_a", "start": 0.005, "clear": 0.004}
LOSS = {"id": "own_loss", **LOW_U, "also": [CARRIES]}
ALL_LOW = {"id": "own_total", **LOW_U, "measure": "u_max", "start": 0.6}


@pytest.fixture(scope="module")
def meter_versions(make_customers: Callable[..., Frame], make_meter_versions: Callable[..., Frame]) -> Frame:
    meters = {meter: {"customer_no": "C1", "wiring": wiring} for meter, wiring in METERS.items()}
    return make_meter_versions(make_customers({"C1": {}}), meters)


@pytest.fixture
def said(meter_versions: Frame, metering_settings: MeteringSettings) -> Callable[..., list[int | None]]:
    """What one rule of some rows says to each reading, on a phase; None: nothing."""

    def judged(rows: list[Row], rule: str, phase: str, *readings: Row) -> list[int | None]:
        settings = replace(metering_settings, rules=rulebook(rows, ()))
        full = [{**dict.fromkeys(MEASURED), "meter": 0, "ts": T0, **row, "log": n} for n, row in enumerate(readings)]
        schema = {"meter": pl.UInt32, "ts": TIMESTAMP, **dict.fromkeys(MEASURED, pl.Float64), "log": pl.Int64}
        frame = pl.DataFrame(full, schema=schema).with_columns(
            version="meter", ts=pl.col("ts") + pl.duration(minutes="log")
        )
        checks = check_frame(settings)
        found = judge(frame, meter_versions, settings, checks["code"]).join(checks, on="code")
        found = found.filter(rule=rule, phase=phase)
        begun = starts(frame, meter_versions, settings).join(checks, on="code").filter(rule=rule, phase=phase)
        assert set(begun["meter"]) == set(found.filter(verdict=START)["meter"])
        return frame.join(found, on=("meter", "ts"), how="left", maintain_order="left")["verdict"].to_list()

    return judged


def test_all_conditions_begin_it_and_any_ends_it(said: Callable[..., list[int | None]]) -> None:
    """78 % and 85 % of 220 V are 171.6 and 187 V; 0.5 % and 0.4 % of 5 A are 25 and 20 mA."""
    cases = {
        (171.5, 0.0251): START, (171.6, 3.0): NEITHER, (171.5, 0.025): NEITHER, (186.9, 3.0): NEITHER,
        (187.0, 3.0): END, (0.0, 0.02): END, (0.0, 0.0201): NEITHER, (220.0, 0.0): END,
    }  # fmt: skip
    readings = [{"ub_v": u, "ib_a": i} for u, i in cases]
    assert said([LOSS], "own_loss", "b", *readings) == list(cases.values())


def test_what_is_not_known_begins_nothing_and_may_end_nothing(said: Callable[..., list[int | None]]) -> None:
    readings = [{"ua_v": 100.0}, {"ua_v": 180.0}, {"ua_v": 190.0}, {"ia_a": 0.0}, {"ia_a": 3.0}]
    assert said([LOSS], "own_loss", "a", *readings) == [None, None, END, None, None]


def test_a_value_beyond_belief_is_not_known(said: Callable[..., list[int | None]]) -> None:
    assert said([LOSS], "own_loss", "a", {"ua_v": 100.0, "ia_a": 12.5}, {"ua_v": 100.0, "ia_a": 11.5}) == [None, START]


def test_over_phases_means_those_that_a_meter_has(said: Callable[..., list[int | None]]) -> None:
    """A three-wire meter has no b, whatever it sends for it; a single-phase meter has one."""
    low = {"ua_v": 100.0, "ub_v": 220.0, "uc_v": 100.0}
    readings = [{**low, "meter": 0}, {**low, "meter": 1}, {**low, "uc_v": 220.0, "meter": 2}]
    assert said([ALL_LOW], "own_total", "total", *readings) == [END, START, START]


def test_over_phases_there_is_nothing_where_one_is_missing(said: Callable[..., list[int | None]]) -> None:
    low = {"ua_v": 100.0, "ub_v": 100.0}
    readings = [low, {**low, "uc_v": 120.0}, {**low, "uc_v": 900.0}, {**low, "ub_v": None, "uc_v": 100.0, "meter": 1}]
    assert said([ALL_LOW], "own_total", "total", *readings) == [None, START, None, START]


def test_the_other_phases_are_looked_at_without_the_phase_itself(said: Callable[..., list[int | None]]) -> None:
    lost = {"measure": "i_other", "side": "above", "base": "rated_a", "start": 0.05}
    rule = {**NAMES, "id": "own_lost", "measure": "i", "side": "below", "base": "rated_a", "start": 0.005}
    readings = [
        {"ia_a": 0.0, "ib_a": 0.3, "ic_a": 0.0}, {"ia_a": 0.0, "ib_a": 0.0, "ic_a": 0.0}, {"ia_a": 0.0, "ic_a": 0.3},
        {"ia_a": 0.0, "ic_a": 0.3, "meter": 1}, {"ia_a": 0.0, "ib_a": 9.0, "ic_a": 0.0, "meter": 1},
        {"ia_a": 0.0, "meter": 2},
    ]  # fmt: skip
    verdicts = [START, END, None, START, END, None]
    assert said([{**rule, "also": [lost]}], "own_lost", "a", *readings) == verdicts


def test_a_rule_gives_way_to_one_that_says_it_better(said: Callable[..., list[int | None]]) -> None:
    """At the level of what a reading says; where the better one does not begin, or is off, this one stands."""
    loss = {**LOSS, "unless": ["own_total"]}
    one, all_ = {"ua_v": 100.0, "ub_v": 220.0, "uc_v": 220.0, "ia_a": 3.0}, {"ub_v": 100.0, "uc_v": 100.0}
    band = {"ub_v": 132.0, "uc_v": 100.0}
    readings = [one, one | all_, one | band]
    assert said([loss, ALL_LOW], "own_loss", "a", *readings) == [START, END, START]
    assert said([loss, ALL_LOW], "own_total", "total", *readings) == [END, START, NEITHER]
    off = [{"id": "own_total", "start": 0, "voltage_level_kv": 10}]
    assert said([loss, ALL_LOW, *off], "own_loss", "a", *readings) == [START, START, START]
    assert said([loss, {**ALL_LOW, "start": 0}], "own_loss", "a", *readings) == [START, START, START]


def test_a_rule_of_the_whole_gives_way_to_one_of_any_phase(said: Callable[..., list[int | None]]) -> None:
    unbalance = {**NAMES, "id": "own_unbalance", "measure": "u_unbalance", "side": "above", "base": "none",
                 "start": 0.3, "unless": ["own_loss"]}  # fmt: skip
    lost = {"ua_v": 220.0, "ub_v": 100.0, "uc_v": 220.0}
    readings = [{**lost, "ib_a": 3.0}, {**lost, "ib_a": 0.0}, {**lost, "ib_a": 0.0, "ub_v": 154.1}]
    assert said([LOSS, unbalance], "own_unbalance", "total", *readings) == [END, START, NEITHER]


def test_a_further_condition_is_overridden_by_its_measure(said: Callable[..., list[int | None]]) -> None:
    reading = {"ua_v": 100.0, "ia_a": 0.06}
    assert said([LOSS], "own_loss", "a", reading) == [START]
    for values, verdict in (({"start": 0.02, "clear": 0.01}, NEITHER), ({"start": 0.02, "clear_margin": 0.1}, END)):
        row = {"id": "own_loss", "meter_id": "330000000021", "also": [{"measure": "i", **values}]}
        assert said([LOSS, row], "own_loss", "a", reading, {**reading, "meter": 1}) == [verdict, START]
    looser = {"id": "own_loss", "segment": "large", "also": [{"measure": "i", "start": 0.001, "clear": 0.0005}]}
    assert said([LOSS, looser], "own_loss", "a", {"ua_v": 100.0, "ia_a": 0.006}) == [START]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({**LOSS, "also": CARRIES}, "rules 1 (own_loss): also = {"),
        ({**LOSS, "also": ["i"]}, "must be a list of { measure = ..., side = ..., base = ..., start = ... }"),
        ({**LOSS, "also": [{"measure": "i"}]}, "rules 1: also 1: start: is missing: a condition needs measure, side,"),
        ({**LOSS, "also": [{"start": 1}]}, "rules 1: also 1: measure: is missing: a condition needs measure, side,"),
        ({**LOSS, "also": [{**CARRIES, "hold_s": 3}]}, "also 1: hold_s = 3: there is no such key; there are measure,"),
        ({**LOSS, "also": [{**CARRIES, "measure": "x"}]}, "also 1: measure = 'x': must be one of u, i, p_kw"),
        ({**LOSS, "also": [{**CARRIES, "start": -1}]}, "also 1: start = -1: must be a number from 0"),
        ({**LOSS, "also": [{**CARRIES, "clear": 0.006}]}, "clear = 0.006: the end value 0.006 must be at or below"),
        ({**LOSS, "also": [{**LOW_U, **CARRIES}]}, "also 1: name_en = 'x': there is no such key"),
        ({**LOSS, "also": [CARRIES, CARRIES]}, "each condition must look at a measure of its own"),
        ({**LOSS, "also": [{**CARRIES, "measure": "u"}]}, "each condition must look at a measure of its own"),
        ({**ALL_LOW, "also": [CARRIES]}, "i is by phase and u_max is not: look at one that is alike"),
        ({**LOSS, "unless": "under_voltage"}, "unless = 'under_voltage': must be a list of ids of rules"),
        ({**LOSS, "unless": ["under_volt"]}, "rules (own_loss): unless names under_volt: there is no such other rule"),
        ({**LOSS, "unless": ["own_loss"]}, "rules (own_loss): unless names own_loss: there is no such other rule"),
        ({"id": "over_voltage", "also": [{"measure": "i", "start": 1}]}, "over_voltage has no further conditions"),
        ({"id": "over_voltage", "unless": [], "segment": "sme"}, "unless = []: is the same for all meters and dates"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_used_is_refused(row: Row, problem: str) -> None:
    with pytest.raises(SettingsError) as raised:
        rulebook([row], ())
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"measure": "u", "start": 1}, "measure = 'u': must be one of i"),
        ({"start": 1}, "also 1: measure: must name one of i; other conditions need a rule with an id of its own"),
        ({"measure": "i"}, "also 1: measure = 'i': nothing of the condition is changed"),
        ({"measure": "i", "side": "below"}, "side = 'below': there is no such key; there are measure, start, clear,"),
        ({"measure": "i", "clear": 0.006}, "clear: the end value 0.006 must be at or below start, 0.005"),
        ({"measure": "i", "start": 0.003}, "clear: the end value 0.004 must be at or below start, 0.003"),
    ],
    ids=str,
)
def test_an_override_that_cannot_be_used_is_refused(values: Row, problem: str) -> None:
    with pytest.raises(SettingsError) as raised:
        rulebook([LOSS, {"id": "own_loss", "also": [values]}], ())
    assert problem in str(raised.value)
