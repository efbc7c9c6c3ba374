"""Where meters are, whose readings are late, and meters that fall silent: everything ends as if they had stayed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from pipelines.shard import compliance, events, windows
from pipelines.shard.advance import FRAMES
from pipelines.shard.chunks import NEVER
from pipelines.shard.meters import dismissed, moved, place, recalled, segments
from pipelines.shard.state import FLOORS, METERS, Shards, State, load
from pipelines.shard.store import HELD_SCHEMA, Context, naming_of
from sinks.lake.commits import CommitLog
from sinks.lake.owner import take
from tests.pipelines.logs import SILENT_METERS, SILENT_START, silent_log

StreamLog = Callable[..., dict[str, pl.DataFrame]]


@pytest.fixture(scope="module")
def index(make_index: Callable[..., MeterIndex]) -> MeterIndex:
    return make_index(*SILENT_METERS, **SILENT_METERS)


@pytest.mark.parametrize("seed", [1, 2])
def test_silence_changes_nothing(tmp_path: Path, seed: int, index: MeterIndex, stream_log: StreamLog) -> None:
    log = silent_log(seed)
    cuts = sorted(random.Random(seed).sample(range(1, len(log)), 40))
    stayed = stream_log(tmp_path / "stayed", index, log, [], kept=2000)
    left = stream_log(tmp_path / "left", index, log, cuts, kept=1, commit_rows=1 if seed == 1 else 300, silent_s=86_400)
    assert {"raised", "cleared"} <= set(stayed["violations"]["state"])
    for name, frame in stayed.items():
        assert frame.equals(left[name]), name


def test_who_is_silent_leaves_but_for_what_is_open(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    log = [row for row in silent_log(4) if row["ts"] < (SILENT_START + timedelta(days=7)).isoformat()]
    while log[-1]["meter_id"] != "STEADY":  # what comes of the others' past comes after this
        log.pop()
    stream_log(tmp_path, index, log, range(50, len(log), 50), silent_s=86_400, stop=len(log) - 1)
    owner = take(tmp_path)
    try:
        ((record, _),) = CommitLog(tmp_path, owner).counting()
    finally:
        owner.release()
    state = load(record.state, FRAMES, naming_of(index, metering_settings))
    silent = pl.col("meter").is_in(index.code(pl.Series(["SILENT", "LATE", "GONE"])).implode())
    assert state.meters_held == 1
    assert state.left_us is not None
    for frame in (compliance.DAYS, windows.EMITTED):
        assert state.frame(frame).filter(silent).is_empty()
    runs = state.frame(events.RUNS)
    assert set(runs.filter("active")["meter"]) >= set(index.code(pl.Series(["SILENT", "GONE"])))
    assert runs.filter(silent)["active"].all()
    assert set(state.meters(index).filter(pl.col("seen_us") == 0)["shard"]) == {1}  # where they were is known


class _Past:
    """Knows readings of one meter."""

    def __init__(self, *at: datetime) -> None:
        self.rows = pl.DataFrame({"meter": [1] * len(at), "ts": at}).cast({"meter": pl.UInt32})
        self.rows = self.rows.with_columns(slot_us=pl.col("ts").cast(pl.Datetime("us")).to_physical())

    def readings_since(self, meters: pl.Series, since: datetime) -> pl.DataFrame:
        return self.rows.filter(pl.col("meter").is_in(meters.implode()) & (pl.col("ts") > since))


def _us(hours: float) -> int:
    return int((SILENT_START + timedelta(hours=hours)).timestamp() * 1_000_000)


@pytest.fixture
def context(index: MeterIndex, metering_settings: MeteringSettings) -> Context:
    past = _Past(SILENT_START + timedelta(hours=3))
    return Context(naming_of(index, metering_settings), metering_settings, 4, past, 3600)  # type: ignore[arg-type]


def _state(seen_us: list[int], shard: list[int], names: Sequence[str] = ("a",), **given: Any) -> State:
    """Meters by code; shards of which none has come anywhere but by `max_us` and `closed_us`."""
    never = (NEVER,) * len(names)
    marks = {name: (NEVER, *given.pop(name, never)) for name in ("max_us", "closed_us")}
    meters = pl.DataFrame({"meter": range(len(shard)), "seen_us": seen_us, "shard": shard}, schema=METERS.schema)
    return State(Shards(("", *names), **marks), **given).having({METERS: meters})


@pytest.mark.parametrize(
    ("meter", "hours", "heard"),
    [(1, 1, 3), (1, 3, 3), (1, 4, 0), (1, 6, 0), (2, 1, 0), (0, 1, 9)],
    ids=["before", "at once", "after its last", "after all that left", "never heard", "still here"],
)
def test_when_a_meter_was_last_heard(meter: int, hours: int, heard: int, context: Context) -> None:
    state = _state([_us(9), 0, 0, 0], [1, 1, 0, 0], left_us=_us(5))
    rows = pl.DataFrame({"meter": [meter], "ts": [SILENT_START + timedelta(hours=hours)]}).cast({"meter": pl.UInt32})
    rows = rows.with_columns(slot_us=pl.col("ts").to_physical())
    assert recalled(state, rows, context)[meter] == (_us(heard) if heard else 0)
    assert recalled(replace(state, left_us=None), rows, context)[meter] == (_us(9) if meter == 0 else 0)
    assert state.meters(context.index)["seen_us"].to_list() == [_us(9), 0, 0, 0]


# --- in their places ------------------------------------------------------------------------------------------------


def _rows(context: Context, *rows: tuple[int, int, float]) -> pl.DataFrame:
    """Accepted readings of (shard, meter, hours after SILENT_START)."""
    held = {name: HELD_SCHEMA[name] for name in context.arriving_columns}
    frame = pl.DataFrame(
        [{"shard": shard, "meter": meter, "ts": SILENT_START + timedelta(hours=hours)} for shard, meter, hours in rows],
        schema={"shard": pl.UInt16, "meter": pl.UInt32, "ts": HELD_SCHEMA["ts"]},
    )
    frame = frame.with_columns(version="meter")
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in held.items() if name not in frame.columns]
    return frame.with_columns(missing).select(*held, "shard")


def _blocks(*ends: tuple[int, float]) -> pl.DataFrame:
    """Open blocks of (meter, hours after SILENT_START)."""
    rows = [{"meter": meter, "version": meter, "end_us": _us(hours)} for meter, hours in ends]
    return pl.DataFrame(rows, schema={"meter": pl.UInt32, "version": pl.UInt32, "end_us": pl.Int64})


def test_nobody_leaves_before_windows_close(context: Context) -> None:
    state = _state([1, 0, 0, 0], [1, 0, 0, 0])
    state, turn = place(state, _rows(context), (), _blocks(), context)
    assert dismissed(state, FRAMES, turn, context) is state


def test_who_speaks_stays_however_far_behind(context: Context) -> None:
    state = _state([_us(0), _us(0), _us(9), 0], [1, 1, 1, 0])
    state, turn = place(state, _rows(context, (1, 2, 9), (1, 1, 0.1)), (), _blocks(), context)
    state = dismissed(state, FRAMES, turn, context)
    assert state.meters(context.index)["seen_us"].to_list() == [0, _us(0), _us(9), 0]
    assert state.left_us == _us(0)


def test_lateness_is_that_of_the_reading_before_in_its_own_shard(context: Context) -> None:
    state = _state([0] * 4, [0] * 4, names=("a", "b"))
    rows = _rows(context, (1, 0, 1), (1, 1, 0.5), (1, 0, 1.25), (2, 2, 0.5), (2, 3, 0.25))
    state, turn = place(state, rows, (), _blocks(), context)
    assert turn.rows["late"].to_list() == [False, True, False, False, True]
    assert turn.rows["edge_late"].to_list() == [False, True, False, False, False]
    assert turn.rows["position"].to_list() == [0, 1, 2, 3, 4]
    assert not turn.rows["closed"].any()  # nothing had closed before this turn
    assert state.shards.max_us == (NEVER, _us(1.25), _us(0.5))
    assert state.shards.closed_us == (NEVER, _us(1), _us(0.25))
    assert state.meters(context.index)["shard"].to_list() == [1, 1, 2, 2]
    assert (turn.moves_on, turn.late, turn.closed) == (True, True, False)
    state, turn = place(state, _rows(context, (1, 0, 1), (1, 1, 1.2), (1, 0, -1)), (), _blocks(), context)
    assert turn.rows["closed"].to_list() == [True, False, True]
    assert turn.rows["held"].to_list() == [True, True, False]
    assert not turn.moves_on


def test_the_last_window_of_a_shard_that_is_over_closes(context: Context) -> None:
    state = _state([0] * 4, [0] * 4, names=("a", "b"))
    state, _ = place(state, _rows(context, (1, 0, 0.9), (2, 1, 0.9)), {1}, _blocks((0, 0.75)), context)
    assert state.shards.closed_us == (NEVER, _us(1), _us(0.75))
    state, _ = place(state, _rows(context), {1, 2}, _blocks((0, 1.5)), context)
    assert state.shards.closed_us == (NEVER, _us(1.5), _us(0.75))


# --- moving ---------------------------------------------------------------------------------------------------------


def test_a_segment_is_what_of_a_shard_stands_together(context: Context) -> None:
    rows = _rows(context, (2, 0, 0), (2, 1, 1), (1, 0, 2), (3, 3, 3))
    assert [(shard, part["meter"].to_list()) for shard, part in segments(rows)] == [(2, [0, 1]), (1, [0]), (3, [3])]
    assert list(segments(rows.clear())) == []


def test_a_meter_keeps_the_marks_of_the_shard_that_had_come_further(context: Context) -> None:
    """Until the one that it is in now has come as far."""
    state = _state([1] * 4, [1, 1, 2, 0], ("a", "b"), max_us=(_us(5), _us(1)), closed_us=(_us(4.75), _us(0.75)))
    assert moved(state, 1, _rows(context, (1, 0, 5), (1, 3, 5)), context) is state
    state = moved(state, 2, _rows(context, (2, 0, 1), (2, 3, 1)), context)
    assert state.meters(context.index)["shard"].to_list() == [2, 1, 2, 0]
    assert state.frame(FLOORS).rows() == [(0, _us(5), _us(4.75))]
    state, turn = place(state, _rows(context, (2, 0, 1.1), (2, 2, 1.1), (2, 0, 4.9)), (), _blocks(), context)
    assert turn.rows["late"].to_list() == [True, False, False]
    assert turn.before.of(pl.Series([0, 2], dtype=pl.UInt32)).to_list() == [_us(4.75), _us(0.75)]
    assert state.frame(FLOORS).height == 1
    state, turn = place(state, _rows(context, (2, 2, 5)), (), _blocks(), context)
    assert state.frame(FLOORS).is_empty()
    assert turn.moves_on
    assert turn.after.of(pl.Series([0], dtype=pl.UInt32)).to_list() == [_us(4.75)]


def test_a_meter_that_moves_ahead_needs_no_floor(context: Context) -> None:
    state = _state([1] * 4, [1, 1, 2, 0], ("a", "b"), max_us=(_us(5), _us(1)), closed_us=(_us(4.75), _us(0.75)))
    state = moved(state, 1, _rows(context, (1, 2, 5)), context)
    assert state.frame(FLOORS).is_empty()
    assert state.meters(context.index)["shard"].to_list() == [1, 1, 1, 0]


def test_of_several_moves_the_highest_marks_stay(context: Context) -> None:
    marks = {"max_us": (_us(5), _us(1), _us(3)), "closed_us": (_us(4.75), _us(0.75), _us(2.75))}
    state = _state([1] * 4, [1, 0, 0, 0], ("a", "b", "c"), **marks)
    for shard in (2, 3, 2):
        state = moved(state, shard, _rows(context, (shard, 0, 1)), context)
        assert state.frame(FLOORS).rows() == [(0, _us(5), _us(4.75))]
    state = moved(state, 1, _rows(context, (1, 0, 1)), context)
    assert state.frame(FLOORS).is_empty()
