"""Readings that do not come: told while nothing arrives, over once all have come; against a plain account."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.events.grouping import storms, with_storms
from metering.registry.index import MeterIndex
from metering.registry.meter_versions import meter_versions
from metering.settings import MeteringSettings
from metering.tables.warehouse import METERS as METER_ROWS
from pipelines.shard.chunks import NEVER
from pipelines.shard.silence import MISSING
from tests.pipelines.flow.flows import METER, customers_of
from tests.pipelines.turns import Turns

START = datetime(2026, 3, 1, 16, tzinfo=UTC)
METERS = {"310100000001": 60, "310100000002": 900, "310100000003": 10}
NEEDED = {"310100000001": 1, "310100000002": 1, "310100000003": 6}
"""Slots in a row that have to be missing: 60 s, and one at least."""
LATENESS_S = 300
END_S = 70 * 900
"""After all that is sent, and all that is due then."""

Made = Callable[..., Turns]


@pytest.fixture(scope="module")
def made(make_index: Callable[..., MeterIndex], metering_settings: MeteringSettings, tmp_path_factory: Any) -> Made:
    index = make_index(*METERS, **{name: {"interval_s": s} for name, s in METERS.items()})
    nowhere: Path = tmp_path_factory.mktemp("home")
    return lambda **given: Turns(index, metering_settings, nowhere, **given)


def reading(meter: str, slot: int) -> dict[str, Any]:
    at = START + timedelta(seconds=slot * METERS[meter])
    return {"meter_id": meter, "ts": int(at.timestamp() * 1000), "p_kw": 10.0}


def at_us(seconds: float) -> int:
    return int((START + timedelta(seconds=seconds)).timestamp() * 1_000_000)


def told(turns: Turns) -> list[tuple[str, int, float, str, int]]:
    """What was told last: meter, first missing slot, value, state, revision."""
    rows = turns.final()["violations"].filter(pl.col("rule") == "reading_missing")
    return [
        (meter, round((start - START).total_seconds()) // METERS[meter] + 1, value, state, revision)
        for meter, start, value, state, revision in rows.select(
            "meter_id", "started_at", "value", "state", "revision"
        ).iter_rows()
    ]


def runs(meter: str, slots: set[int]) -> list[tuple[int, int]]:
    """First and number of the slots that are missing in a row, for long enough, between those that came."""
    found, came = [], sorted(slots)
    for before, after in pairwise(came):
        if after - before - 1 >= NEEDED[meter]:
            found.append((before + 1, after - before - 1))
    return found


# --- by hand --------------------------------------------------------------------------------------------------------

A, B, C = METERS


def test_silence_is_told_without_a_reading_of_the_meter_and_over_once_all_have_come(made: Made) -> None:
    turns = made()
    turns.turn([(0, reading(A, n)) for n in range(1, 11)] + [(0, reading(B, 1))], caught_up={0: NEVER})
    assert told(turns) == []
    # the other meter goes on: A's 11th minute is due at 11:00, and 5 minutes are waited
    turns.turn([(0, reading(B, 2))], caught_up={0: NEVER})
    assert told(turns) == [(A, 11, 1.0, "raised", 0)]
    turns.turn([(0, reading(A, 31))], caught_up={0: NEVER})  # it speaks again
    assert told(turns) == [(A, 11, 20.0, "updated", 1)]
    turns.turn([(0, reading(A, n)) for n in range(12, 31)], caught_up={0: NEVER})
    assert told(turns) == [(A, 11, 20.0, "updated", 1)]
    turns.turn([(0, reading(A, 11))], caught_up={0: NEVER})
    assert told(turns) == [(A, 11, 20.0, "cleared", 2)]
    row = turns.final()["violations"].filter(pl.col("rule") == "reading_missing").row(0, named=True)
    assert (row["started_at"], row["ended_at"]) == (START + timedelta(minutes=10), START + timedelta(minutes=30))
    assert (row["limit_value"], row["severity"]) == (1.0, "warning")
    assert turns.state.frame(MISSING).is_empty()


def test_a_backlog_raises_nothing_that_it_fills_itself(made: Made) -> None:
    turns = made()
    turns.turn([(0, reading(A, n)) for n in range(1, 101)])  # one meter's file after the other
    turns.turn([(0, reading(B, n)) for n in (1, 2, 6)])
    turns.turn([(0, reading(B, n)) for n in (3, 4, 5)], ended={0})
    assert told(turns) == []


def test_while_nothing_arrives_at_all_the_clock_tells(made: Made) -> None:
    turns = made()
    turns.turn([(0, reading(A, 10)), (0, reading(B, 1)), (1, reading(C, 60))], caught_up={0: NEVER, 1: NEVER})
    turns.turn([], caught_up={0: at_us(660 + LATENESS_S - 1)})
    assert told(turns) == []
    turns.turn([], caught_up={0: at_us(660 + LATENESS_S)})
    turns.turn([], caught_up={0: at_us(900 + LATENESS_S)})
    assert told(turns) == [(A, 11, 1.0, "raised", 0)]
    turns.turn([], caught_up={0: at_us(1800 + LATENESS_S)})  # the other shard is not looked at
    assert told(turns) == [(A, 11, 1.0, "raised", 0), (B, 2, 1.0, "raised", 0)]


def test_what_is_sent_after_an_outage_piece_by_piece_is_one_gap(made: Made) -> None:
    turns = made()
    turns.turn([(0, reading(A, 10)), (0, reading(B, 1))], caught_up={0: NEVER})
    turns.turn([(0, reading(B, 4))], caught_up={0: NEVER})
    for first in range(11, 61, 5):
        turns.turn([(0, reading(A, n)) for n in range(first, first + 5)], caught_up={0: NEVER})
        turns.restart()
    assert told(turns) == [(A, 11, 1.0, "cleared", 1), (B, 2, 2.0, "raised", 0)]


def test_a_meter_that_the_registry_ends_is_not_missed(
    make_index: Callable[..., MeterIndex], metering_settings: MeteringSettings, tmp_path: Path
) -> None:
    index = make_index(A, B, **{A: {"interval_s": 60, "valid_to": date(2026, 3, 2)}, B: {"interval_s": 900}})
    turns = Turns(index, metering_settings, tmp_path)
    turns.turn([(0, reading(B, 96)), (0, reading(A, 1440))])
    turns.turn([(0, reading(B, n)) for n in range(97, 101)], ended={0})
    assert told(turns) == []


def test_a_concentrator_that_falls_silent_is_one_storm(metering_settings: MeteringSettings, tmp_path: Path) -> None:
    names = [f"3101000002{n:02d}" for n in range(20)]
    customers = customers_of().with_columns(feeder=pl.lit("10 kV 东一线"))
    meters = METER_ROWS.conform(pl.DataFrame([{**METER, "meter_id": name, "interval_s": 60} for name in names]))
    index = MeterIndex.of(meter_versions(customers, meters, metering_settings))
    turns = Turns(index, metering_settings, tmp_path)
    at = int(START.timestamp() * 1000)
    turns.turn([(0, {"meter_id": name, "ts": at + 1000 * n, "p_kw": 1.0}) for n, name in enumerate(names)])
    turns.turn([], caught_up={0: at_us(600)})
    alarms = turns.final()["violations"]
    assert (alarms.height, alarms["storm_id"].n_unique(), alarms["storm_id"].null_count()) == (20, 1, 0)
    grouped = with_storms(alarms, metering_settings.alarms)
    assert grouped["storm_id"].n_unique() == 1
    assert storms(grouped, customers, pl.col("started_at").dt.date())["members"].to_list() == [20]


# --- against the account --------------------------------------------------------------------------------------------


@st.composite
def logs(draw: st.DrawFn) -> list[list[tuple[str, int]]]:
    """Turns of slots that arrive in any order, some never, some twice."""
    sent = []
    for meter in METERS:
        slots = draw(st.lists(st.integers(1, 60), min_size=1, max_size=25))
        ranges = [(meter, n) for low in slots for n in range(low, low + draw(st.integers(1, 9)))]
        sent += ranges
    order = draw(st.permutations(sent)) if draw(st.booleans()) else sorted(sent, key=lambda it: it[1] * METERS[it[0]])
    cuts = sorted(draw(st.sets(st.integers(0, len(order)), max_size=12)))
    return [list(order[a:b]) for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]


def _after_the_first(turns_of: Sequence[Sequence[tuple[str, int]]]) -> dict[str, set[int]]:
    """Slots of each meter from the one on that was heard first."""
    came: dict[str, set[int]] = {}
    first: dict[str, int] = {}
    for sent in turns_of:
        for meter, slot in sent:
            if slot >= first.setdefault(meter, slot):
                came.setdefault(meter, set()).add(slot)
    return came


@settings(max_examples=20)
@given(log=logs(), restarts=st.booleans())
def test_what_is_missing_in_the_end_is_what_an_account_says(
    log: list[list[tuple[str, int]]], restarts: bool, made: Made
) -> None:
    turns = made()
    for sent in log:
        turns.turn([(0, reading(*item)) for item in sent])
        if restarts:
            turns.restart()
    turns.turn([], caught_up={0: at_us(END_S + LATENESS_S)})
    came = _after_the_first(log)
    expected = [(m, first, float(n), "raised", 0) for m in came for first, n in runs(m, came[m])]
    expected += [(m, max(came[m]) + 1, float(NEEDED[m]), "raised", 0) for m in came]
    assert sorted(told(turns)) == sorted(expected)


@settings(max_examples=20)
@given(
    log=logs(), looks=st.lists(st.booleans(), min_size=13, max_size=13), silent_s=st.sampled_from([1e9, 1800.0, 7200.0])
)
def test_however_often_it_is_looked_at_the_same_slots_are_missing_in_the_end(
    log: list[list[tuple[str, int]]], looks: list[bool], silent_s: float, made: Made
) -> None:
    turns = made(silent_s=silent_s)
    for sent, look in zip(log, looks, strict=False):
        turns.turn([(0, reading(*item)) for item in sent], caught_up={0: NEVER} if look else {})
        turns.restart()
    turns.turn([], caught_up={0: at_us(END_S + LATENESS_S)})
    open_ones = {(meter, first) for meter, first, _, state, _ in told(turns) if state != "cleared"}
    held = turns.state.frame(MISSING)
    assert held["revision"].null_count() == 0
    names = turns.index.names.gather(held["meter"])
    pieces: dict[str, set[int]] = {meter: set() for meter in METERS}
    for meter, start, stop in zip(names, held["from_us"], held["to_us"].fill_null(at_us(END_S)), strict=True):
        interval = METERS[meter]
        since, until = ((us - at_us(0)) // 1_000_000 for us in (start, stop))
        pieces[meter] |= set(range(since // interval + 1, -(-until // interval)))
    assert {(meter, (us - at_us(0)) // 1_000_000 // METERS[meter] + 1) for meter, us in
            zip(names, held["started_us"], strict=True)} == open_ones  # fmt: skip
    came = _after_the_first(log)
    for meter, slots in came.items():
        missing = {n for first, count in runs(meter, slots) for n in range(first, first + count)}
        inner = {n for n in pieces[meter] if n <= max(slots)}
        assert missing <= inner
        assert not inner & slots
    revisions = pl.concat([tables["violations"] for tables in turns.tables]).filter(pl.col("rule") == "reading_missing")
    for _, of_one in revisions.group_by("violation_id"):
        assert of_one["revision"].to_list() == list(range(of_one.height))
