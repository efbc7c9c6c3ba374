"""The state and its bytes: the same after a round trip, cut and joined, and under a registry that has changed."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from pipelines.shard import clock, compliance, control_live, control_warnings, events, windows
from pipelines.shard.advance import FRAMES
from pipelines.shard.state import (
    METERS,
    NEVER,
    Frame,
    Shards,
    State,
    StateVersionError,
    dump,
    load,
    of_shards,
    readable,
    rebased,
    united,
)
from tests.pipelines.turns import Sent, Turns

START = datetime(2026, 1, 1, tzinfo=UTC)
A, B, C = "330100000001", "330100000002", "330100000003"
SHARDS = ("meter.readings.v1-0", "meter.readings.v1-1")
MakeIndex = Callable[..., MeterIndex]
MakeTurns = Callable[..., Turns]
Named = dict[str, pl.DataFrame]


@pytest.fixture
def make_turns(make_index: MakeIndex, metering_settings: MeteringSettings, tmp_path: Path) -> MakeTurns:
    return lambda *names, **given: Turns(make_index(*names), metering_settings, tmp_path, **{"kept": 3, **given})


def _readings(minutes: Iterable[int], partitions: dict[str, int], seed: int = 0, **values: Any) -> list[Sent]:
    """A reading a minute of each meter, in its partition."""
    rng = random.Random(seed)
    return [
        (
            partition,
            {
                "meter_id": name, "ts": int((START + timedelta(minutes=minute)).timestamp() * 1000),
                "p_kw": rng.uniform(1, 1500), "q_kvar": 10.0, "ua_v": rng.choice((57.7, 75.0)), "ub_v": 57.7,
                "uc_v": 57.7, "import_kwh": float(minute), **values,
            },
        )
        for minute in minutes
        for name, partition in partitions.items()
    ]  # fmt: skip


@pytest.fixture
def full(make_turns: MakeTurns) -> Turns:
    """A state with something in every frame but those of plans (`test_control` has them): A and C in one shard, B in
    another, and A moved there from afar.
    """
    turns = make_turns(A, B, C)
    turns.turn(_readings(range(1, 80), {C: 0, A: 0, B: 1}))
    turns.turn(_readings(range(80, 140), {C: 0, B: 1}, seed=1))
    turns.turn(_readings(range(140, 200), {C: 0}, seed=2))
    turns.turn(_readings([81, 141], {A: 1}, seed=3))
    known = turns.state.meters(turns.index).select("meter", "shard")
    ahead = {
        "ts": START + timedelta(hours=5),
        "logged_at": START + timedelta(hours=4),
        "log_offset": 0,
        "source_row": 0,
    }
    fast = known.filter(turns.index.names == C).with_columns(**{k: pl.lit(v) for k, v in ahead.items()})
    turns.state, _ = clock.step(turns.state, fast.cast(clock.STAMPS_SCHEMA), turns.context)
    for frame in FRAMES:
        if frame in (control_live.LIVE, control_warnings.WARNINGS):
            continue
        assert (turns.state.chunks(frame) if frame.growing else turns.state.frame(frame)).height, frame.name
    return turns


def _rows(state: State, frame: Frame) -> pl.DataFrame:
    rows = pl.concat(state.chunks(frame).frames() or [frame.empty()]) if frame.growing else state.frame(frame)
    return rows.filter(pl.col("shard") != 0) if frame is METERS else rows


def _by_name(state: State, index: MeterIndex, without: tuple[str, ...] = ()) -> Named:
    """The state's content by meter id instead of code and shard by name, sorted; without some meters."""
    found = {}
    for frame in FRAMES:
        rows = _rows(state, frame)
        named = rows.with_columns(index.names.gather(rows["meter"]).alias("meter")).drop("version", strict=False)
        if "shard" in frame.schema:
            named = named.with_columns(pl.Series(state.shards.names).gather(rows["shard"]).alias("shard"))
        found[frame.name] = named.filter(~pl.col("meter").is_in(without)).sort(pl.all())
    return found


def _equal(found: Named, wanted: Named) -> None:
    for name, frame in wanted.items():
        assert_frame_equal(found[name], frame, check_exact=True)


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_an_empty_state_round_trips(make_turns: MakeTurns) -> None:
    naming = make_turns(A).naming
    data = dump(State(), FRAMES, naming)
    state = load(data, FRAMES, naming)
    assert (state.shards, state.left_us, state.meters_held, state.unknown) == (Shards(), None, 0, {})
    assert all(_rows(state, frame).is_empty() for frame in FRAMES)


def test_a_full_state_round_trips_to_the_same_bytes(full: Turns) -> None:
    data = dump(full.state, FRAMES, full.naming)
    again = load(data, FRAMES, full.naming)
    for frame in FRAMES:
        assert_frame_equal(_rows(again, frame), _rows(full.state, frame).select(_rows(again, frame).columns))
    assert (again.shards, again.left_us, again.meters_held) == (full.state.shards, full.state.left_us, 3)
    assert dump(full.state, FRAMES, full.naming) == data
    written = dump(again, FRAMES, full.naming)
    assert dump(load(written, FRAMES, full.naming), FRAMES, full.naming) == written


def test_rows_keep_the_order_they_came_in(full: Turns) -> None:
    again = load(dump(full.state, FRAMES, full.naming), FRAMES, full.naming)
    place = ["source_partition", "log_offset"]
    for frame in (windows.OPEN, windows.CLOSED):
        assert _rows(again, frame).select(place).equals(_rows(full.state, frame).select(place))


def test_when_a_meter_left_is_written(make_turns: MakeTurns) -> None:
    naming = make_turns(A).naming
    assert load(dump(State(left_us=5), FRAMES, naming), FRAMES, naming).left_us == 5


def _changed(data: bytes, **header: Any) -> bytes:
    (length,) = struct.unpack("<I", data[4:8])
    head = json.dumps({**json.loads(data[8 : 8 + length]), **header}).encode()
    return data[:4] + struct.pack("<I", len(head)) + head + data[8 + length :]


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda _: b"KW",
        lambda _: b"PK\x03\x04 something else altogether",
        lambda data: _changed(data, version=3),
        lambda data: _changed(data, version=None),
        lambda data: _changed(data, frames=[]),
        lambda data: _changed(data, frames=[[frame.name, frame.version + 1, 0] for frame in FRAMES]),
        lambda data: _changed(data, frames=[[frame.name, frame.version, 0] for frame in FRAMES[::-1]]),
    ],
)
def test_what_another_version_wrote_is_refused(full: Turns, change: Callable[[bytes], bytes]) -> None:
    data = dump(full.state, FRAMES, full.naming)
    assert readable(data, FRAMES)
    assert not readable(change(data), FRAMES)
    with pytest.raises(StateVersionError, match=r"of another version: .* `kilowatch stream --rebuild`"):
        load(change(data), FRAMES, full.naming)


# --- cut and joined -------------------------------------------------------------------------------------------------


def test_what_is_cut_into_workers_and_joined_is_the_same(full: Turns) -> None:
    parts = [of_shards(full.state, FRAMES, shard.__eq__, full.naming) for shard in SHARDS]
    assert [part.shards.names for part in parts] == [("", SHARDS[0]), ("", SHARDS[1])]
    assert [set(_by_name(part, full.index)["meters"]["meter"]) for part in parts] == [{C}, {A, B}]
    for part, (own, others) in zip(parts, ((C, (A, B)), ((A, B), (C,))), strict=True):
        _equal(_by_name(part, full.index), _by_name(full.state, full.index, without=others))
        assert part.left_us == full.state.left_us, own
    for states in (parts, parts[::-1]):
        joined = united(states, FRAMES, full.naming)
        _equal(_by_name(joined, full.index), _by_name(full.state, full.index))
        marks = {name: joined.shards.max_us[n] for n, name in enumerate(joined.shards.names)}
        assert marks == dict(zip(full.state.shards.names, full.state.shards.max_us, strict=True))


def test_none_and_one_are_joined_too(full: Turns) -> None:
    assert united([], FRAMES, full.naming) == State()
    assert united([full.state], FRAMES, full.naming) is full.state
    nobody = of_shards(full.state, FRAMES, lambda _: False, full.naming)
    assert (nobody.shards, nobody.meters_held) == (Shards(), 0)


def test_of_a_shard_in_two_states_the_higher_marks_count(make_turns: MakeTurns) -> None:
    naming = make_turns(A).naming
    one, two = (
        Shards(("", "x", "y"), (NEVER, 5, 7), (NEVER, 1, 2)),
        Shards(("", "y", "z"), (NEVER, 9, 3), (NEVER, 1, 0)),
    )
    joined = united([State(one, 4), State(two)], FRAMES, naming)
    assert joined.shards == Shards(("", "x", "y", "z"), (NEVER, 5, 9, 3), (NEVER, 1, 2, 0))
    assert joined.left_us == 4


# --- another registry -----------------------------------------------------------------------------------------------


def test_another_order_of_the_registry_changes_codes_and_nothing_else(full: Turns, make_index: MakeIndex) -> None:
    before, old = full.state, full.index
    more = _readings(range(200, 230), {A: 1, B: 1, C: 0}, seed=4)
    full.turn(more)
    after_old = full.state
    # further main meters would change what is due of their customer, and which meter it goes by
    names = ("0 comes first", A, "330100000001B", B, C, "Z")
    new = make_index(*names, **{name: {"role": "main" if name in (A, B, C) else "check"} for name in names})
    full.state = before
    full.under(new)
    _equal(_by_name(full.state, new), _by_name(before, old))
    rows = _rows(full.state, windows.OPEN)
    assert (
        new.meter_versions["meter_id"].gather(rows["version"]).equals(new.names.gather(rows["meter"]), null_equal=True)
    )
    assert full.state.meters(new).height == 6
    del full.tables[-1]
    full.offsets = {partition: full.offsets[partition] - sum(p == partition for p, _ in more) for partition in (0, 1)}
    full.turn(more)
    _equal(_by_name(full.state, new), _by_name(after_old, old))


def test_a_meter_missing_for_one_look_is_kept_by_name(full: Turns, make_index: MakeIndex) -> None:
    before, old = full.state, full.index
    full.under(make_index(A, C))
    _equal(_by_name(full.state, full.index), _by_name(before, old, without=(B,)))
    assert full.state.meters_held == 2
    assert {name: set(rows["meter_id"]) for name, rows in full.state.unknown.items()}["open"] == {B}
    full.restart()  # a start in between does not lose it
    full.under(old)
    _equal(_by_name(full.state, old), _by_name(before, old))
    assert full.state.unknown == {}


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("minutes", [20, 90], ids=["within the window", "beyond what is held"])
def test_an_open_window_and_a_violation_go_on_once_a_meter_is_known_again(
    make_turns: MakeTurns, make_index: MakeIndex, restarts: bool, minutes: int
) -> None:
    """The window that should have closed meanwhile closes with all its readings and its start edge."""
    found = []
    for missing in (False, True):
        turns = make_turns(A, B)
        turns.turn(_readings(range(1, 46), {A: 0, B: 0}, ua_v=75.0, p_kw=60.0))
        if missing:
            turns.under(make_index(B))
        turns.turn(_readings(range(46, 46 + minutes), {B: 0}, ua_v=57.7, p_kw=60.0))
        if restarts:
            turns.restart()
        if missing:
            turns.under(make_index(A, B))
        turns.turn(_readings([45 + minutes], {A: 0}, ua_v=57.7, p_kw=50.0))
        turns.turn(_readings(range(46 + minutes, 150 + minutes), {A: 0, B: 0}, ua_v=57.7, p_kw=60.0), ended={0})
        found.append(turns.final())
    for name, frame in found[0].items():
        assert found[1][name].equals(frame), name
    over_voltage = found[1]["violations"].filter((pl.col("meter_id") == A) & (pl.col("rule") == "over_voltage"))
    assert over_voltage["state"].to_list() == ["cleared"]
    third = found[1]["windows"].filter(pl.col("meter_id") == A).sort("window_end")["energy_basis", "n"].row(2)
    assert third == ("registers", 15)


def test_a_late_reading_finds_a_window_that_is_overdue(make_turns: MakeTurns, make_index: MakeIndex) -> None:
    """It comes in the very turn in which the window closes, and counts as one revision."""
    found = []
    for missing in (False, True):
        turns = make_turns(A, B)
        turns.turn(_readings(range(1, 39), {A: 0, B: 0}))
        if missing:
            turns.under(make_index(B))
        turns.turn(_readings(range(39, 60), {B: 0}))
        turns.under(make_index(A, B))
        turns.turn(_readings([39], {A: 0}, p_kw=5.0))
        turns.turn([], ended={0})
        found.append(turns.final()["windows"])
    assert found[1].equals(found[0])
    assert found[1].filter(pl.col("meter_id") == A)["n", "revision"].rows() == [(15, 0), (15, 0), (9, 1)]


def test_who_is_unknown_for_long_is_let_go_and_its_past_found_again(
    make_turns: MakeTurns, make_index: MakeIndex
) -> None:
    turns, stayed = (make_turns(A, B, silent_s=silent_s) for silent_s in (3600, 1e9))
    for each in (turns, stayed):
        each.turn(_readings(range(1, 39), {A: 0, B: 0}))
        each.under(make_index(B))
        each.turn(_readings(range(39, 400, 5), {B: 0}))
        each.turn(_readings(range(400, 800, 5), {B: 0}))
    assert (turns.state.unknown, set(stayed.state.unknown["days"]["meter_id"])) == ({}, {A})
    for each in (turns, stayed):
        each.under(make_index(A, B))
        each.turn(_readings(range(800, 900), {A: 0, B: 0}), ended={0})
    found, wanted = turns.final(), stayed.final()
    day = pl.col("meter_id") == A
    left_open = found["windows"].filter(day).height - wanted["windows"].filter(day).height
    assert left_open == -1  # the window that was open went with it
    assert found["compliance"].filter(day)["revision"].item() == wanted["compliance"].filter(day)["revision"].item() - 1


def test_rows_of_times_without_a_version_come_back_with_it(full: Turns, make_index: MakeIndex) -> None:
    before, old = full.state, full.index
    full.under(make_index(A, B, C, **{B: {"valid_from": date(2026, 6, 1)}}))
    assert set(_by_name(full.state, full.index)["closed"]["meter"]) == {A, C}
    assert B in set(_by_name(full.state, full.index)["meters"]["meter"])
    full.under(old)
    _equal(_by_name(full.state, old), _by_name(before, old))


def test_versions_of_a_meter_are_found_anew(full: Turns, make_index: MakeIndex) -> None:
    full.under(make_index(A, B, C, **{B: {"interval_s": 300}}))
    rows = _rows(full.state, windows.CLOSED)
    by_meter = dict(zip(rows["meter"], full.index.meter_versions["interval_s"].gather(rows["version"]), strict=True))
    assert by_meter == {0: 60, 1: 300, 2: 60}


def test_a_check_that_there_is_no_more_is_left_out(full: Turns) -> None:
    naming = full.naming
    fewer = type(naming)(naming.index, naming.checks.filter(pl.col("rule") != "over_voltage"), naming.measured)
    state = rebased(full.state, FRAMES, naming, fewer)
    over = naming.checks.filter(pl.col("rule") == "over_voltage")["code"].implode()
    assert full.state.frame(events.EVENTS).filter(pl.col("code").is_in(over)).height
    kept = full.state.frame(events.EVENTS).filter(~pl.col("code").is_in(over))
    assert_frame_equal(state.frame(events.EVENTS), kept, check_row_order=False)
    assert_frame_equal(state.frame(compliance.DAYS), full.state.frame(compliance.DAYS))
