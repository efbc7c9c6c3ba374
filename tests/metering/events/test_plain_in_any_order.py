"""The plain machine in any order, in any cut, and against the pass over readings in order."""

from __future__ import annotations

from unittest import mock

import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metering.events import plain
from metering.events.lifecycle import CHANGE_SCHEMA, STATE_SCHEMA, advance
from metering.events.plain import Pair
from metering.events.stories import Change, Emitted
from metering.settings import USUAL_ALARMS, AlarmSettings
from tests.metering.events.arrivals import (
    ABOVE,
    ALARMS,
    BELOW,
    FIVE_MINUTES,
    GAP,
    INTERVALS,
    MINUTES,
    NEVER_US,
    SEEDS,
    SIDES,
    _arrivals,
    _change_rows,
    _fed,
    _judged_frame,
    _log,
    _pair,
    _standing,
    _state_rows,
    _stories,
    _up,
)


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
@example(seed=12480, side=ABOVE, alarms=FIVE_MINUTES)  # it reached a step at a reading that came after it was told
@example(seed=553, side=BELOW, alarms=MINUTES)  # it became part of a violation with another limit
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
    for start, is_ in pair.emitted.items():
        assert (told[start].state, told[start].story[:5]) == (is_.state, is_.story[:5])  # the step is not told


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
@example(seed=7269, side=BELOW, alarms=USUAL_ALARMS)  # it became part of a violation with another limit
@example(seed=146, side=BELOW, alarms=FIVE_MINUTES)
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
