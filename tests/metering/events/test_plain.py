"""The plain machine: late readings by hand; in any order, in any cut, and against the pass over readings in order."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.events import plain
from metering.events.judge import END, JUDGED_SCHEMA, NEITHER, START
from metering.events.lifecycle import CHANGE_SCHEMA, STATE_SCHEMA, advance
from metering.events.plain import Change, Emitted, Judged, Pair, Run, Story
from metering.settings import USUAL_ALARMS, AlarmSettings

T0 = datetime(2026, 1, 1, tzinfo=UTC)
T0_US = int(T0.timestamp() * 1_000_000)
MINUTE_US = 60_000_000
GAP = 1.5
NEVER_US = -(1 << 62)
ABOVE, BELOW = 1, -1
CODES = {ABOVE: 1, BELOW: 4}  # over-voltage and under-voltage, phase a
INTERVALS = (60, 60, 120)
"""Seconds that readings of each version of the meter stand for."""

Arrival = tuple[int, Judged | None]
"""A reading as it comes: its time [us], and what it says; None: nothing any more."""


def _us(minute: float) -> int:
    return T0_US + round(minute * MINUTE_US)


def _said(minute: float, verdict: int, value: float, **other: Any) -> Arrival:
    said = Judged(_us(minute), verdict, value, 264.0, 120.0, 120.0, "rules", 0, 60, 0.0)
    return said.ts_us, said._replace(**other)


def _up(*minutes: float, value: float = 270.0) -> list[Arrival]:
    return [_said(minute, START, value) for minute in minutes]


def _down(*minutes: float) -> list[Arrival]:
    return [_said(minute, END, 220.0) for minute in minutes]


def _pair(
    side: int = ABOVE, base: Run | None = None, settled_us: int = NEVER_US, alarms: AlarmSettings = USUAL_ALARMS
) -> Pair:
    return Pair(side, GAP, base, {}, settled_us, alarms)


def _fed(pair: Pair, arrivals: Iterable[Arrival]) -> list[Change]:
    return [change for arrival in arrivals for change in pair.put(*arrival)]


def _minute(us: int | None) -> float | None:
    return None if us is None else (us - T0_US) / MINUTE_US


def _rows(changes: Iterable[Change]) -> list[tuple[Any, ...]]:
    """State, revision, start, end, extreme, and the time of the reading that caused it; times in minutes."""
    return [
        (c.state, c.revision, _minute(c.started_us), _minute(c.story.ended_us), c.story.extreme, _minute(c.at_us))
        for c in changes
    ]


def _after(in_time: list[Arrival], *late: Arrival) -> tuple[Pair, list[tuple[Any, ...]]]:
    """The machine after readings in order and late ones, and what the late ones changed."""
    pair = _pair()
    _fed(pair, in_time)
    return pair, _rows(_fed(pair, late))


# --- by hand --------------------------------------------------------------------------------------------------------


def test_a_late_reading_that_changes_nothing_emits_nothing() -> None:
    _, changes = _after([*_up(1, 2, 3), *_down(4, 5, 7)], *_down(6))
    assert changes == []


def test_the_same_reading_once_more_emits_nothing() -> None:
    _, changes = _after([*_up(1, 2, 3), *_down(4, 5)], *_up(2), *_down(5))
    assert changes == []


def test_a_late_reading_may_raise() -> None:
    pair, changes = _after(_up(1, 3), *_up(2))
    assert changes == [("raised", 0, 0, None, 270.0, 2)]
    assert pair.now is not None
    assert pair.now.active


def test_a_late_reading_may_raise_and_clear_at_once() -> None:
    _, changes = _after([*_up(1, 3), *_down(4, 5)], *_up(2))
    assert changes == [("raised", 0, 0, None, 270.0, 2), ("cleared", 1, 0, 3, 270.0, 2)]


def test_a_reading_replaced_may_withdraw() -> None:
    pair, changes = _after([*_up(1, 2), *_down(3)], _said(2, NEITHER, 262.0))
    assert changes == [("withdrawn", 1, 0, None, 270.0, 2)]
    assert pair.now is None


def test_a_value_that_vanishes_may_withdraw() -> None:
    pair, changes = _after([*_up(1, 2), *_down(3)], (_us(2), None))
    assert changes == [("withdrawn", 1, 0, None, 270.0, 2)]
    assert pair.now is None
    assert _fed(pair, [(_us(2), None), (_us(9), None)]) == []


def test_what_is_withdrawn_was_not_ended() -> None:
    """Nothing is told of an end of what never began."""
    _, changes = _after([*_up(1, 2), *_down(3, 4)], _said(2, NEITHER, 262.0))
    assert changes == [("withdrawn", 2, 0, None, 270.0, 2)]


def test_a_withdrawn_violation_may_come_back_with_its_next_revision() -> None:
    pair, changes = _after(_up(1, 2), *_down(2))
    assert changes == [("withdrawn", 1, 0, None, 270.0, 2)]
    assert _rows(_fed(pair, _up(2))) == [("raised", 2, 0, None, 270.0, 2)]
    assert _rows(_fed(pair, _down(2))) == [("withdrawn", 3, 0, None, 270.0, 2)]
    assert _fed(pair, _up(1)) == []


def test_one_that_comes_back_may_have_ended_meanwhile() -> None:
    pair, _ = _after([*_up(1, 2), *_down(3, 4)], *_down(2))
    assert _rows(_fed(pair, _up(2))) == [("cleared", 3, 0, 2, 270.0, 2)]


def test_a_late_extreme_updates() -> None:
    pair, changes = _after([*_up(1, 2), *_up(4)], *_up(3, value=300.0))
    assert changes == [("updated", 1, 0, None, 300.0, 3)]
    assert pair.now is not None
    assert pair.now.extreme == 300.0


def test_a_late_extreme_of_one_that_is_over_is_another_end_of_it() -> None:
    _, changes = _after([*_up(1, 2, 4), *_down(5, 6)], *_up(3, value=300.0))
    assert changes == [("cleared", 2, 0, 4, 300.0, 3)]


def test_an_extreme_that_is_taken_back_updates_too() -> None:
    _, changes = _after([*_up(1, 2), *_up(3, value=300.0), *_up(4)], *_up(3))
    assert changes == [("updated", 2, 0, None, 270.0, 3)]


def test_the_extreme_of_a_lower_limit_is_the_lowest() -> None:
    pair = _pair(BELOW)
    first = _fed(pair, [_said(1, START, 150.0), _said(2, START, 160.0), _said(4, START, 155.0)])
    assert _rows(first) == [("raised", 0, 0, None, -150.0, 2)]
    assert _rows(_fed(pair, [_said(3, START, 140.0)])) == [("updated", 1, 0, None, -140.0, 3)]


def test_a_late_reading_may_clear_and_move_the_end() -> None:
    _, changes = _after([*_up(1, 2), *_down(3, 5)], *_down(4))
    assert changes == [("cleared", 1, 0, 2, 270.0, 4)]
    # Minutes 4 and 5 were a run of their own, for minute 3 was missing.
    _, moved = _after([*_up(1, 2), *_down(4, 5)], *_down(3))
    assert moved == [("cleared", 2, 0, 2, 270.0, 3)]


def test_one_that_is_over_may_turn_out_to_go_on() -> None:
    _, changes = _after([*_up(1, 2), *_down(3, 4), *_up(5)], *_up(4))
    assert changes == [("updated", 2, 0, None, 270.0, 4)]


def test_two_violations_may_turn_out_to_be_one() -> None:
    """What comes later is withdrawn: the first never ended."""
    _, changes = _after([*_up(1, 2), *_down(3, 4), *_up(5, 6)], *_up(4))
    assert changes == [("updated", 2, 0, None, 270.0, 4), ("withdrawn", 1, 4, None, 270.0, 4)]


def test_a_late_reading_may_move_the_start() -> None:
    """The start names a violation: a new start is a new one, and the old one never was."""
    _, changes = _after(_up(2, 3), *_up(1, value=280.0))
    assert changes == [("raised", 0, 0, None, 280.0, 1), ("withdrawn", 1, 1, None, 270.0, 1)]


def test_what_was_open_at_the_base_keeps_its_name_and_count() -> None:
    before = _pair()
    _fed(before, _up(1, 2, 3, value=280.0))
    after = replace(_pair(base=before.now), emitted=before.emitted)
    assert _fed(after, _up(4, 6)) == []
    assert _rows(_fed(after, _up(5, value=290.0))) == [("updated", 1, 0, None, 290.0, 5)]
    assert _rows(_fed(after, _down(5, 6))) == [("updated", 2, 0, None, 280.0, 5), ("cleared", 3, 0, 4, 280.0, 6)]


def test_what_began_before_it_can_be_judged_is_let_be() -> None:
    pair = _pair(settled_us=_us(5))
    first = [*_up(1, 2), *_down(3, 4), *_up(6, 7), *_down(8, 9)]
    pair.start(reading for _, reading in first if reading is not None)
    story = Story(None, 270.0, 264.0, "rules")
    pair.emitted = {start: Emitted("raised", 0, story, 0) for start in (_us(-3), _us(0), _us(5))}
    assert _fed(pair, _down(2)) == []  # would withdraw that of minute 0
    assert _rows(_fed(pair, _down(7))) == [("withdrawn", 1, 5, None, 270.0, 7)]


def test_where_it_stood_at_a_time() -> None:
    pair = _pair()
    _fed(pair, [*_up(1, 2), *_down(3, 4)])
    runs = [pair.at(_us(minute)) for minute in (0, 1, 1.5, 2, 3, 4, 9)]
    assert [run.active if run else None for run in runs] == [None, False, False, True, True, None, None]
    assert runs[1] == runs[2]


@pytest.mark.parametrize("minutes", [(1, 3), (1, 2.6)])
def test_a_gap_ends_a_run(minutes: tuple[float, float]) -> None:
    pair = _pair()
    assert _fed(pair, _up(*minutes)) == []
    assert [state for state, *_ in _rows(_fed(_pair(), _up(1, 2.5)))] == ["raised"]


def test_a_late_extreme_that_nobody_would_act_on_is_left_to_the_end() -> None:
    """A step is 1 % of the limit, 2.64 V: 270 and 271 V are in the third."""
    pair, changes = _after([*_up(1, 2), *_up(4)], *_up(3, value=271.0))
    assert changes == []
    assert _rows(_fed(pair, _down(5, 6))) == [("cleared", 1, 0, 4, 271.0, 6)]


def _flickers(arrivals: list[Arrival], flicker_s: float = 240.0) -> list[Arrival]:
    return [(us, said and said._replace(flicker_s=flicker_s)) for us, said in arrivals]


def test_one_that_comes_back_soon_is_the_same_once_more() -> None:
    """Cleared by the reading of minute 4, raised again by that of minute 8."""
    spells = [*_up(1, 2), *_down(3, 4), *_up(7, 8, value=280.0), *_down(9, 10)]
    pair = _pair()
    changes = _fed(pair, _flickers(spells))
    assert _rows(changes) == [
        ("raised", 0, 0, None, 270.0, 2), ("cleared", 1, 0, 2, 270.0, 4),
        ("updated", 2, 0, None, 280.0, 8), ("cleared", 3, 0, 8, 280.0, 10),
    ]  # fmt: skip
    assert [change.story.occurrences for change in changes] == [1, 1, 2, 2]
    for flicker_s in (0.0, 239.0):
        rows = _rows(_fed(_pair(), _flickers(spells, flicker_s)))
        assert [(state, start) for state, _, start, *_ in rows] == [
            ("raised", 0), ("cleared", 0), ("raised", 6), ("cleared", 6)
        ]  # fmt: skip


def test_a_late_reading_may_show_that_one_came_back_soon() -> None:
    """Without minute 7 it was raised by minute 9, too late to be the same; and the other way round."""
    first = [*_up(1, 2), *_down(3, 4), *_up(8, 9)]
    pair, late = _pair(), _flickers(_up(7))
    _fed(pair, _flickers(first))
    joined = _fed(pair, late)
    assert _rows(joined) == [("updated", 2, 0, None, 270.0, 7), ("withdrawn", 1, 7, None, 270.0, 7)]
    assert joined[0].story.occurrences == 2
    apart = _fed(pair, _flickers(_down(7)))
    assert _rows(apart) == [("cleared", 3, 0, 2, 270.0, 7), ("raised", 2, 7, None, 270.0, 7)]
    assert apart[0].story.occurrences == 1


# --- in any order ---------------------------------------------------------------------------------------------------


def _log(seed: int, side: int, count: int = 60) -> list[Arrival]:
    """What a meter's readings say in order of time: spells over a limit, gaps, another version and rules midway."""
    rng = random.Random(seed)
    flicker_s = rng.choice((0.0, 240.0, 900.0, 3600.0))
    minute, verdict, found = 0.0, END, []
    kinds: list[dict[str, Any]] = [
        {"hold_s": hold_s, "clear_hold_s": clear_s, "ruleset": ruleset, "version": version, "limit_value": limit,
         "interval_s": INTERVALS[version], "flicker_s": flicker_s}
        for hold_s, clear_s, ruleset, version, limit in (
            (180.0, 180.0, "rules", 0, 264.0), (60.0, 120.0, "newer", 1, 262.0), (480.0, 240.0, "newer", 2, 262.0)
        )
    ]  # fmt: skip
    for number in range(count):
        kind = kinds[number * 3 // count]
        step = INTERVALS[kind["version"]] / 60
        minute += step * rng.choice((1, 1, 1, 1, 1, 1, 1.5, 2, 5))
        verdict = rng.choice((START, END, NEITHER)) if rng.random() < 0.3 else verdict
        value = 264.0 + side * (10 * verdict + rng.choice((0.0, 1.0, 2.0, 3.0, 9.0, 20.0)))
        found.append(_said(minute, verdict, value, **kind))
    return found


def _arrivals(seed: int, side: int) -> list[Arrival]:
    """The same as it may come: most in order, some much later, some more than once, with another value or none."""
    rng = random.Random(seed)
    at: list[tuple[float, Arrival]] = []
    for number, (us, said) in enumerate(_log(seed, side)):
        late = rng.choice((0.0, 0.0, 0.0, rng.uniform(0, 3), rng.uniform(0, 60)))
        at.append((number + late, (us, said)))
        while said is not None and rng.random() < 0.2:
            value = 264.0 + side * (
                10 * (verdict := rng.choice((START, END, NEITHER))) + rng.choice((0.0, 1.0, 4.0, 30.0))
            )
            again = rng.choice((said, None, said._replace(verdict=verdict, value=value)))
            at.append((number + rng.uniform(0, 60), (us, again)))
    return [arrival for _, arrival in sorted(at, key=lambda item: item[0])]


def _standing(arrivals: Sequence[Arrival]) -> list[Judged]:
    """What counts in the end, in order of time: of each time what came last."""
    return [said for _, said in sorted(dict(arrivals).items()) if said is not None]


def _stories(pair: Pair) -> dict[int, Story]:
    return {started: told.story for started, told in pair.emitted.items() if told.state != "withdrawn"}


SEEDS = st.integers(0, 10**9)
SIDES = st.sampled_from([ABOVE, BELOW])
ALARMS = st.sampled_from([USUAL_ALARMS, AlarmSettings(update_step=0.05, update_s=300), AlarmSettings(update_step=0)])


def _at(us: int | None) -> datetime | None:
    return None if us is None else T0 + timedelta(microseconds=us - T0_US)


def _judged_frame(readings: Sequence[Judged], side: int) -> pl.DataFrame:
    of = {"meter": 0, "code": CODES[side], "side": side}
    rows = [said._asdict() | of | {"ts": _at(said.ts_us)} for said in readings]
    return pl.DataFrame(rows, schema=JUDGED_SCHEMA)


def _change_rows(changes: Iterable[Change], side: int) -> list[tuple[Any, ...]]:
    """As rows of CHANGE_SCHEMA."""
    return [
        (
            0, CODES[side], c.version, c.state, c.revision, _at(c.started_us), _at(c.story.ended_us),
            c.story.extreme * side, c.story.limit_value, c.story.ruleset, _at(c.at_us), c.story.occurrences,
        )
        for c in changes
    ]  # fmt: skip


def _state_rows(pair: Pair, side: int) -> list[tuple[Any, ...]]:
    """As rows of STATE_SCHEMA."""
    if (run := pair.now) is None:
        return []
    named: tuple[Any, ...] = (None, None, None, None, 0, None, None)
    if run.violation is not None:
        revision = pair.emitted[run.started_us].revision
        started_us, limit_value, ruleset = run.named
        extreme = run.extreme * side
        named = (_at(started_us), extreme, limit_value, ruleset, revision, run.step, run.occurrences)
    named = (*named, _at(run.ended_us), _at(run.reopens_until_us))
    going_on = (run.verdict, _at(run.run_start_us), run.run_s, run.run_extreme * side, _at(run.last_us))
    return [(0, CODES[side], run.active, *named, *going_on)]


@settings(max_examples=60)
@given(seed=SEEDS, side=SIDES, alarms=ALARMS, data=st.data())
def test_in_order_it_is_the_vectorised_pass(seed: int, side: int, alarms: AlarmSettings, data: st.DataObject) -> None:
    meter_versions = pl.DataFrame({"interval_s": INTERVALS}, schema={"interval_s": pl.Int32})
    readings = _standing(_log(seed, side))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(readings) - 1), max_size=12)))
    pair, state = _pair(side, alarms=alarms), pl.DataFrame(schema=STATE_SCHEMA)
    for start, stop in zip([0, *cuts], [*cuts, len(readings)], strict=True):
        state, changes = advance(_judged_frame(readings[start:stop], side), state, meter_versions, GAP, alarms)
        plainly = _fed(pair, ((said.ts_us, said) for said in readings[start:stop]))
        assert changes.schema == CHANGE_SCHEMA
        assert changes.rows() == _change_rows(plainly, side)
        assert state.rows() == _state_rows(pair, side)


@settings(max_examples=150)
@given(seed=SEEDS, side=SIDES, alarms=ALARMS)
def test_in_any_order_the_stories_end_as_in_order(seed: int, side: int, alarms: AlarmSettings) -> None:
    """Of each violation revisions go up by one, and nothing is told once more that was told as it is."""
    arrivals = _arrivals(seed, side)
    pair, in_order = _pair(side, alarms=alarms), _pair(side, alarms=alarms)
    changes = _fed(pair, arrivals)
    _fed(in_order, ((said.ts_us, said) for said in _standing(arrivals)))
    stories, wanted = _stories(pair), _stories(in_order)
    assert stories.keys() == wanted.keys()
    assert all(story.alike(wanted[started]) for started, story in stories.items())
    assert plain._alike(pair.now, in_order.now)
    told: dict[int, Change] = {}
    for change in changes:
        before = told.get(change.started_us)
        assert change.revision == (0 if before is None else before.revision + 1)
        if before is not None and (before.state == "withdrawn") == (change.state == "withdrawn"):
            # Only of several readings a span one that came late may have told what the first of the next one tells.
            assert before.story != change.story or alarms.update_s > 60
        told[change.started_us] = change
    assert told.keys() == pair.emitted.keys()
    assert all((told[start].state, told[start].story) == (is_.state, is_.story) for start, is_ in pair.emitted.items())


@settings(max_examples=100)
@given(seed=SEEDS, side=SIDES, alarms=ALARMS, data=st.data())
def test_revisions_do_not_depend_on_cuts_into_turns(
    seed: int, side: int, alarms: AlarmSettings, data: st.DataObject
) -> None:
    """In each turn the machine begins anew with what is known by then, from a base that moves on."""
    arrivals = _arrivals(seed, side)
    whole, wanted = _pair(side, alarms=alarms), []
    cuts = sorted(data.draw(st.sets(st.integers(1, len(arrivals) - 1), max_size=12)))
    emitted, base, base_us, changes = dict[int, Emitted](), None, NEVER_US, list[Change]()
    for start, stop in zip([0, *cuts], [*cuts, len(arrivals)], strict=True):
        wanted += _fed(whole, arrivals[start:stop])
        pair = Pair(side, GAP, base, emitted, NEVER_US, alarms)
        pair.start(said for said in _standing(arrivals[:start]) if said.ts_us > base_us)
        changes += _fed(pair, arrivals[start:stop])
        assert pair.now is None or whole.now is not None
        assert plain._alike(pair.now, whole.now)
        later = min((us for us, _ in arrivals[stop:]), default=base_us)
        if later > base_us and data.draw(st.booleans()):
            base, base_us = pair.at(later - 1), later - 1
    assert changes == wanted
    assert emitted == whole.emitted


@settings(max_examples=100)
@given(seed=SEEDS, side=SIDES, alarms=ALARMS)
def test_stopping_where_it_stood_before_changes_nothing(seed: int, side: int, alarms: AlarmSettings) -> None:
    """Against a machine that always goes on to its last reading."""
    arrivals = _arrivals(seed, side)
    pair, to_the_end = _pair(side, alarms=alarms), _pair(side, alarms=alarms)
    found = _fed(pair, arrivals)
    with mock.patch.object(plain, "_alike", return_value=False):
        wanted = _fed(to_the_end, arrivals)
    assert found == wanted
    assert pair.emitted == to_the_end.emitted


def test_it_stops_soon() -> None:
    """A late reading among 20,000 in order costs a few steps, not all of them."""
    pair = _pair()
    pair.start(said for minute in range(1, 20_001) if minute != 7_000 for _, said in _up(minute) if said is not None)
    with mock.patch.object(plain, "step", wraps=plain.step) as steps:
        assert _fed(pair, _up(7_000)) == []
    assert steps.call_count < 5


def test_readings_that_come_newest_first_cost_a_few_steps_each() -> None:
    """A head-end empties its buffer backwards, of a meter in violation all the time: each reading is a new start."""
    pair = _pair()
    with mock.patch.object(plain, "step", wraps=plain.step) as steps:
        for minute in reversed(range(1, 2_001)):
            _fed(pair, _up(minute))
    assert steps.call_count < 20 * 2_000
    assert [told.state for told in pair.emitted.values() if told.state != "withdrawn"] == ["raised"]
