"""Leaving out readings that change nothing changes nothing: for the plain machine, and for the pass in order."""

from __future__ import annotations

from unittest import mock

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.events import lifecycle, plain
from metering.events.judge import END, NEITHER, START
from metering.events.lifecycle import STATE_SCHEMA, advance, of_consequence
from tests.metering.events.arrivals import (
    ABOVE,
    GAP,
    INTERVALS,
    SEEDS,
    SIDES,
    T0_US,
    Arrival,
    _arrivals,
    _down,
    _fed,
    _judged_frame,
    _log,
    _pair,
    _said,
    _standing,
    _up,
)

VERSIONS = pl.DataFrame({"interval_s": INTERVALS}, schema={"interval_s": pl.Int32})


def _kept(arrivals: list[Arrival], side: int) -> list[Arrival]:
    """Those of consequence; one that says nothing is of none, unless another of its time came before it."""
    times = [us for us, _ in arrivals]
    highest, rows = -(1 << 62), []
    for position, (us, said) in enumerate(arrivals):
        alone = times.count(us) == 1
        if said is not None:
            rows.append((position, us, alone, alone and us > highest, said))
        highest = max(highest, us)
    rows.sort(key=lambda row: (row[1], row[0]))
    frame = _judged_frame([said for *_, said in rows], side).with_columns(
        pl.Series("interval_s", [said.interval_s for *_, said in rows], dtype=pl.Int32),
        pl.Series("alone", [row[2] for row in rows], dtype=pl.Boolean),
        pl.Series("timely", [row[3] for row in rows], dtype=pl.Boolean),
    )
    telling = of_consequence(frame, GAP, pl.col("timely"), pl.col("alone"))
    positions = {row[0] for row, is_ in zip(rows, telling, strict=True) if is_}
    return [
        (us, said)
        for position, (us, said) in enumerate(arrivals)
        if position in positions or (said is None and times.count(us) > 1)
    ]


@settings(max_examples=400)
@given(seed=SEEDS, side=SIDES)
def test_the_plain_machine_tells_the_same(seed: int, side: int) -> None:
    arrivals = _arrivals(seed, side)
    kept = _kept(arrivals, side)
    whole, fewer = _pair(side), _pair(side)
    assert _fed(fewer, kept) == _fed(whole, arrivals)
    assert fewer.emitted == whole.emitted
    fewer.heard_us = max(said.ts_us for said in _standing(arrivals))
    assert plain._alike(fewer.now, whole.now)
    for us, _ in arrivals:
        assert plain._alike(plain.heard_at(fewer.at(us), us), plain.heard_at(whole.at(us), us))


@settings(max_examples=200)
@given(seed=SEEDS, side=SIDES, data=st.data())
def test_the_pass_in_order_tells_the_same(seed: int, side: int, data: st.DataObject) -> None:
    readings = _standing(_log(seed, side))
    cut = data.draw(st.integers(0, len(readings) - 1))
    none = pl.DataFrame(schema=STATE_SCHEMA)
    before, _ = advance(_judged_frame(readings[:cut], side), none, VERSIONS, GAP)
    after = _judged_frame(readings[cut:], side)
    whole = advance(after, before, VERSIONS, GAP)
    with mock.patch.object(lifecycle, "_MANY_ROWS", 1):
        fewer = advance(after, before, VERSIONS, GAP)
    assert fewer[0].rows() == whole[0].rows()
    assert fewer[1].rows() == whole[1].rows()


def test_a_long_quiet_day_is_left_out() -> None:
    """Kept: what ends what may have been open before, the violation, and what ends that."""
    quiet = [*_down(*range(1, 700)), *_up(700, 701, 702), *_down(*range(703, 1_400))]
    assert [round((us - T0_US) / 6e7) for us, _ in _kept(quiet, ABOVE)] == [1, 2, 700, 701, 702, 703, 704]


def test_a_late_start_keeps_what_ends_it() -> None:
    arrivals = [*_down(*range(1, 50)), *_up(20.5), *_down(*range(50, 60))]
    kept = [(us - T0_US) / 6e7 for us, _ in _kept(arrivals, ABOVE)]
    assert kept == [1, 2, 21, 22, 20.5]


def test_late_readings_and_those_between_limits_prove_no_end() -> None:
    """Of two readings for the end only the timely one is sure to be there when the next is judged."""
    late = _down(3)
    arrivals = [*_up(1, 2), _said(4, END, 220.0), *late, _said(5, NEITHER, 262.0), *_down(6, 7, 8)]
    assert {said.verdict for _, said in _kept(arrivals, ABOVE) if said is not None} == {START, END, NEITHER}
    assert [round((us - T0_US) / 6e7) for us, _ in _kept(arrivals, ABOVE)] == [1, 2, 4, 3, 5, 6, 7]
