"""What readings of a meter say, as they come: by hand, and by chance; and what a plain machine makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import strategies as st

from metering.events.judge import END, JUDGED_SCHEMA, NEITHER, START
from metering.events.plain import Pair
from metering.events.stories import Change, Judged, Run, Story
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
FIVE_MINUTES, MINUTES = (AlarmSettings(update_step=0.05, update_s=update_s) for update_s in (300, 60))
ALARMS = st.sampled_from([USUAL_ALARMS, FIVE_MINUTES, MINUTES, AlarmSettings(update_step=0)])


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
