"""Hold times, gaps, extremes and revisions: by hand, against a reading-by-reading account, and in any split."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.events.judge import END, JUDGED_SCHEMA, NEITHER, START
from metering.events.lifecycle import CHANGE_SCHEMA, STATE_SCHEMA, advance
from metering.settings import ABOVE, BELOW

Frame = pl.DataFrame
Said = tuple[float, int, float]
"""Minute of a reading's end, what it says, the value."""

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOLD_S, CLEAR_S, GAP = 120.0, 180.0, 1.5
OVER = 1  # over-voltage, phase a
UNDER = 4  # under-voltage, phase a
SIDES = {OVER: ABOVE, UNDER: BELOW}


@pytest.fixture(scope="module")
def meter_versions(make_customers: Callable[..., Frame], make_meter_versions: Callable[..., Frame]) -> Frame:
    """Four meters: 1, 1 and 15 minutes, 10 seconds."""
    meters = {m: {"customer_no": "C1", "interval_s": s} for m, s in (("A", 60), ("B", 60), ("C", 900), ("D", 10))}
    return make_meter_versions(make_customers({"C1": {}}), meters)


def _judged(said: list[Said], code: int = OVER, meter: int = 0, hold_s: float = HOLD_S, **other: Any) -> Frame:
    rows = [
        {
            "meter": meter, "version": meter, "ts": T0 + timedelta(minutes=minute), "code": code,
            "side": SIDES[code], "verdict": says,
            "value": value, "limit_value": 264.0, "hold_s": hold_s, "clear_hold_s": CLEAR_S, "ruleset": "rules",
            "flicker_s": 0.0, **other,
        }
        for minute, says, value in said
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=JUDGED_SCHEMA)


def _none() -> Frame:
    return pl.DataFrame(schema=STATE_SCHEMA)


def _changes(meter_versions: Frame, said: list[Said], **kind: Any) -> list[tuple[Any, ...]]:
    _, changes = advance(_judged(said, **kind), _none(), meter_versions, GAP)
    minutes = [((pl.col(n) - T0).dt.total_seconds() / 60).alias(n) for n in ("started_at", "ended_at", "at")]
    return changes.select("state", "revision", minutes[0], minutes[1], "value", minutes[2]).rows()


def _up(first: int, last: int, value: float = 270.0) -> list[Said]:
    return [(minute, START, value) for minute in range(first, last + 1)]


def _down(first: int, last: int, value: float = 220.0) -> list[Said]:
    return [(minute, END, value) for minute in range(first, last + 1)]


# --- by hand --------------------------------------------------------------------------------------------------------


def test_raised_once_held_and_cleared_once_held(meter_versions: Frame) -> None:
    got = _changes(meter_versions, [*_down(1, 2), *_up(3, 6), *_down(7, 10)])
    assert got == [("raised", 0, 2.0, None, 270.0, 4.0), ("cleared", 1, 2.0, 6.0, 270.0, 9.0)]


@pytest.mark.parametrize(("last", "raised"), [(1, False), (2, True)])
def test_the_hold_time_is_the_sum_of_intervals(meter_versions: Frame, last: int, raised: bool) -> None:
    assert bool(_changes(meter_versions, _up(1, last))) is raised


def test_a_15_minute_meter_raises_at_one_reading(meter_versions: Frame) -> None:
    got = _changes(meter_versions, [(15, START, 270.0)], meter=2, hold_s=900.0)
    assert got == [("raised", 0, 0.0, None, 270.0, 15.0)]


def test_readings_that_say_neither_end_a_run(meter_versions: Frame) -> None:
    assert _changes(meter_versions, [*_up(1, 1), (2, NEITHER, 262.0), *_up(3, 3)]) == []
    wavering = [*_up(1, 2), *_down(3, 4), (5, NEITHER, 262.0), *_down(6, 7)]
    assert [change[0] for change in _changes(meter_versions, wavering)] == ["raised"]


def test_a_gap_ends_a_run_and_neither_raises_nor_clears(meter_versions: Frame) -> None:
    assert _changes(meter_versions, [*_up(1, 1), *_up(3, 3)]) == []
    assert [c[0] for c in _changes(meter_versions, [*_up(1, 1), (2.5, START, 270.0)])] == [
        "raised"
    ]  # 1.5 intervals are none
    still = [*_up(1, 2), *_down(3, 4), *_down(6, 7)]
    assert [c[0] for c in _changes(meter_versions, still)] == ["raised"]
    later = [*_up(1, 2), *_up(500, 501), *_down(502, 504)]
    assert _changes(meter_versions, later)[-1] == ("cleared", 1, 0.0, 501.0, 270.0, 504.0)


def test_the_start_is_that_of_the_run_that_raised(meter_versions: Frame) -> None:
    got = _changes(meter_versions, [*_up(1, 1), *_down(2, 2), *_up(3, 3), *_up(10, 11)])
    assert [(c[0], c[2]) for c in got] == [("raised", 9.0)]


def test_the_extreme_counts_from_the_runs_first_reading(meter_versions: Frame) -> None:
    got = _changes(meter_versions, [(1, START, 290.0), (2, START, 270.0)])
    assert got == [("raised", 0, 0.0, None, 290.0, 2.0)]


def test_each_new_extreme_that_matters_is_told(meter_versions: Frame) -> None:
    """A step is 1 % of 264 V: 270 V is in the third, 273 V in the fourth, 274 V still; the end says all of it."""
    said = [*_up(1, 2, 270.0), (3, START, 273.0), (4, START, 271.0), (5, START, 274.0), (6, START, 290.0)]
    got = _changes(meter_versions, [*said, (7, START, 290.1), *_down(8, 10)])
    assert got == [
        ("raised", 0, 0.0, None, 270.0, 2.0), ("updated", 1, 0.0, None, 273.0, 3.0),
        ("updated", 2, 0.0, None, 290.0, 6.0), ("cleared", 3, 0.0, 7.0, 290.1, 10.0),
    ]  # fmt: skip


def test_at_most_one_update_a_minute(meter_versions: Frame) -> None:
    """Of a meter that reports every 10 seconds: the first reading of each minute tells, also of those before it."""
    tenths = [(second / 60, START, 270.0 + second) for second in range(10, 250, 10)]
    judged = _judged(tenths, meter=3, hold_s=60.0)
    _, changes = advance(judged, _none(), meter_versions, GAP)
    told = changes.select("state", "value", (pl.col("at") - T0).dt.total_seconds().alias("s")).rows()
    assert told == [("raised", 330.0, 60), ("updated", 340.0, 70), ("updated", 400.0, 130), ("updated", 460.0, 190)]


@pytest.mark.parametrize(("flicker_s", "states"), [(60.0, 2), (59.0, 4), (0.0, 4)])
def test_one_that_comes_back_soon_is_counted_and_not_repeated(
    meter_versions: Frame, flicker_s: float, states: int
) -> None:
    """Cleared by minute 6, raised again by minute 9."""
    spells = [*_up(1, 3, 280.0), *_down(4, 7), *_up(8, 9, 290.0), *_down(10, 12)]
    _, changes = advance(_judged(spells, flicker_s=flicker_s), _none(), meter_versions, GAP)
    minutes = [((pl.col(n) - T0).dt.total_seconds() / 60).alias(n) for n in ("started_at", "ended_at")]
    rows = changes.select("state", "revision", *minutes, "value", "occurrences").rows()
    first = [("raised", 0, 0.0, None, 280.0, 1), ("cleared", 1, 0.0, 3.0, 280.0, 1)]
    if states == 2:
        assert rows == [*first, ("updated", 2, 0.0, None, 290.0, 2), ("cleared", 3, 0.0, 9.0, 290.0, 2)]
    else:
        assert rows == [*first, ("raised", 0, 7.0, None, 290.0, 1), ("cleared", 1, 7.0, 9.0, 290.0, 1)]


def test_what_may_come_back_is_kept_as_long_as_it_may(meter_versions: Frame) -> None:
    state, _ = advance(_judged([*_up(1, 2), *_down(3, 5)], flicker_s=60.0), _none(), meter_versions, GAP)
    assert state.select("active", "run", "occurrences").rows() == [(False, END, 1)]
    later, _ = advance(_judged(_down(6, 7), flicker_s=60.0), state, meter_versions, GAP)
    assert later.equals(state)
    gone, _ = advance(_judged(_down(8, 8), flicker_s=60.0), later, meter_versions, GAP)
    assert gone.is_empty()


def test_the_extreme_of_a_lower_limit_is_the_lowest(meter_versions: Frame) -> None:
    said: list[Said] = [(1, START, 150.0), (2, START, 160.0), (3, START, 140.0), (4, START, 155.0), *_down(5, 7)]
    got = _changes(meter_versions, said, code=UNDER)
    assert [(c[0], c[1], c[4]) for c in got] == [("raised", 0, 150.0), ("updated", 1, 140.0), ("cleared", 2, 140.0)]


def test_a_cleared_violation_comes_again_as_another(meter_versions: Frame) -> None:
    got = _changes(meter_versions, [*_up(1, 3, 280.0), *_down(4, 6), *_up(7, 8), *_down(9, 11)])
    assert [(c[0], c[1], c[2], c[4]) for c in got] == [
        ("raised", 0, 0.0, 280.0), ("cleared", 1, 0.0, 280.0), ("raised", 0, 6.0, 270.0), ("cleared", 1, 6.0, 270.0)
    ]  # fmt: skip


def test_the_limit_is_the_one_that_was_broken(meter_versions: Frame) -> None:
    before, after = _judged(_up(1, 2)), _judged(_up(3, 4, 300.0), ruleset="newer")
    after = after.with_columns(limit_value=pl.lit(250.0))
    state, changes = advance(pl.concat([before, after]), _none(), meter_versions, GAP)
    assert changes["limit_value"].to_list() == [264.0, 264.0]
    assert changes["ruleset"].unique().to_list() == ["rules"]
    assert state["limit_value"].to_list() == [264.0]


def test_what_neither_is_nor_may_become_a_violation_is_forgotten(meter_versions: Frame) -> None:
    state, _ = advance(_judged(_down(1, 5)), _none(), meter_versions, GAP)
    assert state.is_empty()
    state, _ = advance(_judged(_up(1, 1)), _none(), meter_versions, GAP)
    assert state.select("active", "run", "run_s").rows() == [(False, START, 60.0)]
    state, _ = advance(_judged(_down(2, 2)), state, meter_versions, GAP)
    assert state.is_empty()


def test_pairs_that_say_nothing_stay_as_they_are(meter_versions: Frame) -> None:
    first, _ = advance(_judged(_up(1, 3)), _none(), meter_versions, GAP)
    for kind in ({"code": UNDER}, {"meter": 1}):
        second, changes = advance(_judged(_up(1, 1), **kind), first, meter_versions, GAP)
        assert changes.is_empty()
        assert second.filter((pl.col("meter") == 0) & (pl.col("code") == OVER)).equals(first)
    same, changes = advance(pl.DataFrame(schema=JUDGED_SCHEMA), first, meter_versions, GAP)
    assert same.equals(first)
    assert changes.schema == CHANGE_SCHEMA


# --- against an account kept reading by reading ---------------------------------------------------------------------


def _account(said: list[Said], interval_s: float, side: int, flicker_s: float = 0.0) -> list[tuple[Any, ...]]:
    """Every change, one reading at a time: (state, revision, started, ended, value, occurrences), minutes since T0."""
    changes: list[tuple[Any, ...]] = []
    run, run_s, run_start, extreme, last = None, 0.0, 0.0, 0.0, None
    one: dict[str, Any] = {}
    step = interval_s / 60
    worse = max if side > 0 else min
    soon_s = flicker_s + HOLD_S if flicker_s else 0.0

    def tell(state: str, ended: float | None = None) -> None:
        one["revision"] += 1
        one["told"] = int(abs(one["value"] - 264.0) / 2.64)
        changes.append((state, one["revision"], one["start"], ended, one["value"], one["times"]))

    for minute, says, value in said:
        if last is None or minute - last > GAP * step or says != run:
            run, run_s, run_start, extreme = says, 0.0, minute - step, value
        run_s, extreme, last = run_s + interval_s, worse(extreme, value), minute
        if not one.get("open"):
            if run == START and run_s >= HOLD_S and one and minute - one["cleared"] <= soon_s / 60:
                one |= {"open": True, "times": one["times"] + 1, "value": worse(one["value"], extreme)}
                tell("updated")
            elif run == START and run_s >= HOLD_S:
                one = {"open": True, "revision": -1, "start": run_start, "value": extreme, "times": 1}
                tell("raised")
        elif run == END and run_s >= CLEAR_S:
            one |= {"open": False, "cleared": minute}
            tell("cleared", run_start)
        else:
            one["value"] = worse(one["value"], value)
            if int(abs(one["value"] - 264.0) / 2.64) > one["told"]:
                tell("updated")
    return changes


def _random_said(seed: int, step: float, side: int, count: int = 60) -> list[Said]:
    rng = random.Random(seed)
    minute, says, said = 0.0, END, []
    for _ in range(count):
        minute += step * rng.choice((1, 1, 1, 1, 1, 1, 1.5, 2, 5))
        says = rng.choice((START, END, NEITHER)) if rng.random() < 0.3 else says
        said.append((minute, says, 264.0 + side * (says * 10 + rng.choice((0.0, 1.0, 3.0, 9.0, 20.0)))))
    return said


def _final(changes: Frame) -> list[tuple[Any, ...]]:
    """The last change of each violation."""
    newest = (
        changes.sort("revision")
        .unique(("meter", "code", "started_at"), keep="last")
        .sort("meter", "code", "started_at")
    )
    minutes = [((pl.col(n) - T0).dt.total_milliseconds() / 60_000).alias(n) for n in ("started_at", "ended_at")]
    return newest.select("state", "revision", *minutes, "value", "occurrences").rows()


def _last_of_each(account: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted({change[2]: change for change in account}.values(), key=lambda change: change[2])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**9), code=st.sampled_from([OVER, UNDER]), meter=st.sampled_from([0, 2]),
    flicker_s=st.sampled_from([0.0, 300.0, 3600.0]),
)  # fmt: skip
def test_as_if_kept_reading_by_reading(
    meter_versions: Frame, seed: int, code: int, meter: int, flicker_s: float
) -> None:
    side = SIDES[code]
    interval_s = float(meter_versions["interval_s"][meter])
    said = _random_said(seed, interval_s / 60, side)
    judged = _judged(said, code=code, meter=meter, flicker_s=flicker_s)
    _, changes = advance(judged, _none(), meter_versions, GAP)
    assert _final(changes) == _last_of_each(_account(said, interval_s, side, flicker_s))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9), data=st.data())
def test_in_any_split_the_same(meter_versions: Frame, seed: int, data: st.DataObject) -> None:
    said = {
        (m, c): _random_said(seed + m * 10 + c, 15 if m == 2 else 1, 1 if c == OVER else -1)
        for m in range(3)
        for c in (OVER, UNDER)
    }
    flicker_s = data.draw(st.sampled_from([0.0, 300.0, 3600.0]))
    every = [_judged(s, code=c, meter=m, flicker_s=flicker_s) for (m, c), s in said.items()]
    judged = pl.concat(every).sort("ts", "meter", "code")
    order = ["meter", "code", "ts"]
    whole_state, whole = advance(judged.sort(order), _none(), meter_versions, GAP)
    state, told = _none(), [pl.DataFrame(schema=CHANGE_SCHEMA)]
    at = 0
    for cut in [*sorted(data.draw(st.sets(st.integers(1, judged.height - 1), max_size=12))), judged.height]:
        state, changes = advance(judged[at:cut].sort(order), state, meter_versions, GAP)
        told.append(changes)
        at = cut
    assert state.equals(whole_state)
    order = ["meter", "code", "at", "revision"]
    assert pl.concat(told).sort(order).equals(whole.sort(order))


def test_one_reading_at_a_time_tells_every_change(meter_versions: Frame) -> None:
    said = _random_said(4, 1.0, 1, count=240)
    judged, state, told = _judged(said, flicker_s=300.0), _none(), []
    for at in range(judged.height):
        state, changes = advance(judged[at : at + 1], state, meter_versions, GAP)
        told.append(changes)
    minutes = [((pl.col(n) - T0).dt.total_milliseconds() / 60_000).alias(n) for n in ("started_at", "ended_at")]
    rows = pl.concat(told).select("state", "revision", *minutes, "value", "occurrences").rows()
    assert rows == _account(said, 60.0, 1, 300.0)
    assert max(row[5] for row in rows) > 1
    assert {"raised", "updated", "cleared"} == {row[0] for row in rows}
