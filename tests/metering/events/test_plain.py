"""The plain machine, late readings by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metering.events.judge import NEITHER, START
from metering.events.stories import Emitted, Story
from tests.metering.events.arrivals import (
    BELOW,
    Arrival,
    _after,
    _down,
    _fed,
    _pair,
    _rows,
    _said,
    _up,
    _us,
)


def test_a_late_reading_that_changes_nothing_emits_nothing() -> None:
    _, changes = _after([*_up(1, 2, 3), *_down(4, 5, 7)], *_down(6))
    assert changes == []


def test_the_same_reading_once_more_emits_nothing() -> None:
    _, changes = _after([*_up(1, 2, 3), *_down(4, 5)], *_up(2), *_down(5))
    assert changes == []


def test_a_late_reading_may_raise() -> None:
    pair, changes = _after(_up(1, 3), *_up(2))
    assert changes == [("raised", 0, 0, None, 270.0, 3)], "told as of the newest reading: it has lasted 3 minutes"
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
    assert changes == [("updated", 1, 0, None, 300.0, 4)]
    assert pair.now is not None
    assert pair.now.extreme == 300.0


def test_a_late_extreme_of_one_that_is_over_is_another_end_of_it() -> None:
    _, changes = _after([*_up(1, 2, 4), *_down(5, 6)], *_up(3, value=300.0))
    assert changes == [("cleared", 2, 0, 4, 300.0, 3)]


def test_an_extreme_that_is_taken_back_updates_too() -> None:
    _, changes = _after([*_up(1, 2), *_up(3, value=300.0), *_up(4)], *_up(3))
    assert changes == [("updated", 2, 0, None, 270.0, 4)]


def test_the_extreme_of_a_lower_limit_is_the_lowest() -> None:
    pair = _pair(BELOW)
    first = _fed(pair, [_said(1, START, 150.0), _said(2, START, 160.0), _said(4, START, 155.0)])
    assert _rows(first) == [("raised", 0, 0, None, -150.0, 2)]
    assert _rows(_fed(pair, [_said(3, START, 140.0)])) == [("updated", 1, 0, None, -140.0, 4)]


def test_a_late_reading_may_clear_and_move_the_end() -> None:
    _, changes = _after([*_up(1, 2), *_down(3, 5)], *_down(4))
    assert changes == [("cleared", 1, 0, 2, 270.0, 4)]
    # Minutes 4 and 5 were a run of their own, for minute 3 was missing.
    _, moved = _after([*_up(1, 2), *_down(4, 5)], *_down(3))
    assert moved == [("cleared", 2, 0, 2, 270.0, 3)]


def test_one_that_is_over_may_turn_out_to_go_on() -> None:
    _, changes = _after([*_up(1, 2), *_down(3, 4), *_up(5)], *_up(4))
    assert changes == [("updated", 2, 0, None, 270.0, 5)]


def test_two_violations_may_turn_out_to_be_one() -> None:
    """What comes later is withdrawn: the first never ended."""
    _, changes = _after([*_up(1, 2), *_down(3, 4), *_up(5, 6)], *_up(4))
    assert changes == [("updated", 2, 0, None, 270.0, 6), ("withdrawn", 1, 4, None, 270.0, 4)]


def test_a_late_reading_may_move_the_start() -> None:
    """The start names a violation: a new start is a new one, and the old one never was."""
    _, changes = _after(_up(2, 3), *_up(1, value=280.0))
    assert changes == [("raised", 0, 0, None, 280.0, 3), ("withdrawn", 1, 1, None, 270.0, 1)]


def test_what_was_open_at_the_base_keeps_its_name_and_count() -> None:
    before = _pair()
    _fed(before, _up(1, 2, 3, value=280.0))
    after = replace(_pair(base=before.now), emitted=before.emitted)
    assert _fed(after, _up(4, 6)) == []
    assert _rows(_fed(after, _up(5, value=290.0))) == [("updated", 1, 0, None, 290.0, 6)]
    assert _rows(_fed(after, _down(5, 6))) == [("updated", 2, 0, None, 280.0, 6), ("cleared", 3, 0, 4, 280.0, 6)]


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


def _flickers(arrivals: list[Arrival], flicker_s: float = 120.0) -> list[Arrival]:
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
    for flicker_s in (0.0, 119.0):
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
    assert _rows(joined) == [("updated", 2, 0, None, 270.0, 9), ("withdrawn", 1, 7, None, 270.0, 7)]
    assert joined[0].story.occurrences == 2
    apart = _fed(pair, _flickers(_down(7)))
    assert _rows(apart) == [("cleared", 3, 0, 2, 270.0, 7), ("raised", 2, 7, None, 270.0, 9)]
    assert apart[0].story.occurrences == 1
