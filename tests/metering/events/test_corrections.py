"""Late readings and violations that have been told: what differs is told again, what never was is withdrawn."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.events.corrections import last_told, revise
from metering.events.judge import END, JUDGED_SCHEMA, NEITHER, START
from metering.events.lifecycle import CHANGE_SCHEMA, STATE_SCHEMA, advance

Frame = pl.DataFrame
Said = tuple[int, int, float]

T0 = datetime(2026, 1, 1, tzinfo=UTC)
GAP = 1.5


@pytest.fixture(scope="module")
def meter_versions(make_customers: Callable[..., Frame], make_meter_versions: Callable[..., Frame]) -> Frame:
    return make_meter_versions(make_customers({"C1": {}}), {"A": {"customer_no": "C1", "interval_s": 60}})


def _judged(said: list[Said]) -> Frame:
    rows = [
        {
            "meter": 0, "version": 0, "ts": T0 + timedelta(minutes=minute), "code": 1, "side": 1,
            "verdict": says, "value": value,
            "limit_value": 264.0, "hold_s": 120.0, "clear_hold_s": 120.0, "ruleset": "rules",
        }
        for minute, says, value in sorted(said)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=JUDGED_SCHEMA)


def _empty() -> Frame:
    return pl.DataFrame(schema=STATE_SCHEMA)


def _late(minute: int) -> Frame:
    return pl.DataFrame(
        {"meter": [0], "at": [T0 + timedelta(minutes=minute)]},
        schema={"meter": pl.UInt32, "at": CHANGE_SCHEMA["at"]},
    )


def _rows(changes: Frame) -> list[tuple[Any, ...]]:
    start, end, at = (((pl.col(n) - T0).dt.total_minutes()).alias(n) for n in ("started_at", "ended_at", "at"))
    return changes.sort("started_at").select("state", "revision", start, end, "value", at).rows()


def _after(meter_versions: Frame, in_time: list[Said], late: Said) -> tuple[Frame, Frame, list[tuple[Any, ...]]]:
    """State and told violations after a late reading, and what it had told."""
    _, told = advance(_judged(in_time), _empty(), meter_versions, GAP)
    state, changes = revise(_judged([*in_time, late]), _empty(), last_told(told), meter_versions, GAP, _late(late[0]))
    return state, last_told(pl.concat([told, changes])), _rows(changes)


def _up(*minutes: int, value: float = 270.0) -> list[Said]:
    return [(minute, START, value) for minute in minutes]


def _down(*minutes: int) -> list[Said]:
    return [(minute, END, 220.0) for minute in minutes]


def test_a_late_reading_that_changes_nothing_tells_nothing(meter_versions: Frame) -> None:
    _, _, changes = _after(meter_versions, [*_up(1, 2, 3), *_down(4, 5, 7)], (6, END, 220.0))
    assert changes == []


def test_a_late_reading_may_raise(meter_versions: Frame) -> None:
    state, _, changes = _after(meter_versions, _up(1, 3), (2, START, 270.0))
    assert changes == [("raised", 0, 0, None, 270.0, 2)]
    assert state.select("active", "revision").rows() == [(True, 0)]


def test_a_late_reading_may_withdraw(meter_versions: Frame) -> None:
    corrected = [*_up(1), (2, NEITHER, 262.0), *_down(3)]
    _, raised = advance(_judged([*_up(1, 2), *_down(3)]), _empty(), meter_versions, GAP)
    state, changes_frame = revise(_judged(corrected), _empty(), last_told(raised), meter_versions, GAP, _late(2))
    assert _rows(changes_frame) == [("withdrawn", 1, 0, None, 270.0, 2)]
    assert state.is_empty()


def test_a_withdrawn_violation_may_come_back_with_its_next_revision(meter_versions: Frame) -> None:
    _, raised = advance(_judged(_up(1, 2)), _empty(), meter_versions, GAP)
    told = last_told(raised)
    _, gone = revise(_judged([*_up(1), *_down(2)]), _empty(), told, meter_versions, GAP, _late(2))
    told = last_told(pl.concat([told, gone]))
    state, back = revise(_judged(_up(1, 2)), _empty(), told, meter_versions, GAP, _late(2))
    assert _rows(back) == [("raised", 2, 0, None, 270.0, 2)]
    assert state["revision"].to_list() == [2]
    _, again = revise(
        _judged([*_up(1), *_down(2)]), _empty(), last_told(pl.concat([told, back])), meter_versions, GAP, _late(2)
    )
    assert _rows(again) == [("withdrawn", 3, 0, None, 270.0, 2)]
    _, none = revise(
        _judged([*_up(1), *_down(2)]),
        _empty(),
        last_told(pl.concat([told, back, again])),
        meter_versions,
        GAP,
        _late(1),
    )
    assert _rows(none) == []


def test_a_late_extreme_updates(meter_versions: Frame) -> None:
    state, _, changes = _after(meter_versions, [*_up(1, 2), *_up(4)], (3, START, 300.0))
    assert changes == [("updated", 1, 0, None, 300.0, 3)]
    assert state.select("value", "revision").rows() == [(300.0, 1)]


def test_a_late_reading_may_clear_and_move_the_end(meter_versions: Frame) -> None:
    _, _, changes = _after(meter_versions, [*_up(1, 2), *_down(3, 5)], (4, END, 220.0))
    assert changes == [("cleared", 1, 0, 2, 270.0, 4)]
    # Minutes 4 and 5 were a run of their own, for minute 3 was missing.
    _, _, moved = _after(meter_versions, [*_up(1, 2), *_down(4, 5)], (3, END, 220.0))
    assert moved == [("cleared", 2, 0, 2, 270.0, 3)]


def test_a_late_reading_may_move_the_start(meter_versions: Frame) -> None:
    """The start names a violation: a new start is a new one, and the old one never was."""
    _, _, changes = _after(meter_versions, _up(1, 3, 4), (2, START, 280.0))
    assert changes == [("raised", 0, 0, None, 280.0, 2), ("withdrawn", 1, 2, None, 270.0, 2)]


def test_what_was_open_before_the_base_keeps_its_name_and_count(meter_versions: Frame) -> None:
    base, first = advance(_judged(_up(1, 2, 3, value=280.0)), _empty(), meter_versions, GAP)
    state, more = advance(_judged(_up(4, 6)), base, meter_versions, GAP)
    told = last_told(pl.concat([first, more]))
    state, changes = revise(_judged(_up(4, 5, 6, value=290.0)), base, told, meter_versions, GAP, _late(5))
    assert _rows(changes) == [("updated", 1, 0, None, 290.0, 5)]
    _, cleared = revise(
        _judged([*_up(4), *_down(5, 6)]), base, last_told(pl.concat([told, changes])), meter_versions, GAP, _late(5)
    )
    assert _rows(cleared) == [("cleared", 2, 0, 4, 280.0, 5)]
    assert state["revision"].to_list() == [1]


def _random_said(rng: random.Random) -> list[Said]:
    says, said = END, []
    for minute in range(1, 30):
        says = rng.choice((START, END, NEITHER)) if rng.random() < 0.3 else says
        if rng.random() < 0.9:
            said.append((minute, says, 264.0 + 10 * says + rng.choice((0.0, 1.0, 2.0))))
    return said


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_in_the_end_what_stands_is_what_order_would_have_told(meter_versions: Frame, seed: int) -> None:
    """Readings come in any order; each late one is a revision. Revisions only grow, and no violation is told twice."""
    rng = random.Random(seed)
    said = _random_said(rng)
    arrivals = [r for r in said if rng.random() < 0.7]
    arrivals += rng.sample(late := [r for r in said if r not in arrivals], len(late))
    state, told, here = _empty(), pl.DataFrame(schema=CHANGE_SCHEMA), list[Said]()
    every = [told]
    for reading in arrivals:
        if here and reading[0] < max(here)[0]:
            state, changes = revise(_judged([*here, reading]), _empty(), told, meter_versions, GAP, _late(reading[0]))
        else:
            state, changes = advance(_judged([reading]), state, meter_versions, GAP)
        here.append(reading)
        told = last_told(pl.concat([told, changes]))
        every.append(changes)
    told_all = pl.concat(every)
    assert told_all.select("meter", "code", "started_at", "revision").is_unique().all()
    steps = told_all.select(pl.col("revision").diff().over("started_at").drop_nulls() > 0).to_series()
    assert steps.all()
    whole_state, whole = advance(_judged(said), _empty(), meter_versions, GAP)
    kept = ["started_at", "ended_at", "value", "limit_value"]
    standing = told.filter(pl.col("state") != "withdrawn").sort("started_at").select(kept)
    assert standing.equals(last_told(whole).sort("started_at").select(kept))
    assert state.drop("revision").equals(whole_state.drop("revision"))
    counted = state.filter("active").join(told, on="started_at").select(pl.col("revision") == pl.col("revision_right"))
    assert counted.to_series().all()
