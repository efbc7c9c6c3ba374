"""A state made anew from the lake: the stream goes on from it as from the one that was lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metering.errors import OperationError
from metering.events.judge import JUDGED_SCHEMA
from metering.events.lifecycle import CHANGE_SCHEMA, STATE_SCHEMA, advance
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.lake import READINGS, REJECTS
from pipelines.shard import compliance, events, windows
from pipelines.shard.advance import FRAMES
from pipelines.shard.recovery import _as_emitted, rebuild, unreadable
from pipelines.shard.state import FLOORS, METERS, Frame, Shards, State, dump, load
from pipelines.shard.store import naming_of
from sinks.lake.commits import CommitLog, Record
from sinks.lake.owner import take
from sinks.lake.parts import parts
from sinks.lake.reader import LakeReader
from tests.pipelines.logs import LATE_METERS, LATE_START, SILENT_METERS, late_log, silent_log

StreamLog = Callable[..., dict[str, pl.DataFrame]]
MakeIndex = Callable[..., MeterIndex]
LOGS = {"late": (late_log, LATE_METERS), "silent": (silent_log, SILENT_METERS)}
SHARD = "log-0"


@contextmanager
def _commits(home: Path, salvage: bool = False) -> Iterator[CommitLog]:
    owner = take(home)
    try:
        yield CommitLog(home, owner, salvage=salvage)
    finally:
        owner.release()


def _record(home: Path) -> Record:
    """The only record that counts."""
    with _commits(home) as commits:
        ((record, _),) = commits.counting()
    return record


def _state(home: Path, index: MeterIndex, figures: MeteringSettings) -> State:
    return load(_record(home).state, FRAMES, naming_of(index, figures))


def _anew(home: Path, index: MeterIndex, figures: MeteringSettings, kept: int, salvage: bool = False) -> None:
    """As a start does with a state that it cannot go on with."""
    naming = naming_of(index, figures)
    with _commits(home, salvage) as commits:
        assert salvage or unreadable(commits, naming)
        rebuild(LakeReader(home), commits, naming, figures, kept)
        assert not unreadable(commits, naming)


def _rebuilt(home: Path, index: MeterIndex, figures: MeteringSettings, kept: int) -> None:
    with _commits(home) as commits:
        commits.commit(0, {SHARD: commits.position(SHARD) or {}}, b"cannot be read", {})
    _anew(home, index, figures, kept)


@pytest.mark.parametrize(
    ("log", "seed", "kept"), [("late", 1, 1), ("late", 2, 4), ("late", 3, 40), ("silent", 4, 1), ("silent", 5, 4)]
)
def test_the_stream_goes_on_as_if_nothing_had_been_lost(
    tmp_path: Path, log: str, seed: int, kept: int, make_index: MakeIndex, metering_settings: MeteringSettings,
    stream_log: StreamLog,
) -> None:  # fmt: skip
    make, meters = LOGS[log]
    rows, index, rng = make(seed), make_index(*meters, **meters), random.Random(seed)
    whole = stream_log(tmp_path / "whole", index, rows, kept=2000)
    home, lake = tmp_path / "home", LakeReader(tmp_path / "home")
    for stop in sorted(rng.sample(range(len(rows) // 4, len(rows)), 3)):
        cuts = rng.sample(range(1, len(rows)), 8)
        stream_log(home, index, rows, sorted(cuts), kept, commit_rows=100, silent_s=86_400, stop=stop)
        before = sorted(path.name for path in lake.folder("").rglob("*.parquet"))
        _rebuilt(home, index, metering_settings, kept)
        assert sorted(path.name for path in lake.folder("").rglob("*.parquet")) == before
        assert _record(home).positions == {SHARD: {"offset": stop}}
    end = stream_log(home, index, rows, (), kept, silent_s=86_400)
    for name, frame in whole.items():
        assert frame.equals(end[name]), name


def _content(state: State, recent: list[int]) -> dict[str, pl.DataFrame]:
    """What has to be the same, of meters heard of late: also the days, and where the checks stand."""
    found = {}
    for frame in (windows.OPEN, windows.CLOSED, windows.EMITTED, compliance.DAYS, events.RUNS, events.BASE):
        rows = pl.concat(state.chunks(frame).frames()) if frame.growing else state.frame(frame)
        rows = rows.drop("revision") if frame is events.BASE else rows  # nobody asks how often it had been told then
        found[frame.name] = rows.filter(pl.col("meter").is_in(recent)).sort(pl.all())
    return found


@pytest.mark.parametrize("seed", [6, 7])
def test_it_is_the_state_that_was_lost(
    tmp_path: Path, seed: int, make_index: MakeIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    rows, index = late_log(seed), make_index(*LATE_METERS, **LATE_METERS)
    stop = random.Random(seed).randrange(300, len(rows))
    stream_log(tmp_path, index, rows, range(50, stop, 50), 4, commit_rows=100, stop=stop)
    lost = _state(tmp_path, index, metering_settings)
    _rebuilt(tmp_path, index, metering_settings, 4)
    found = _state(tmp_path, index, metering_settings)
    assert found.shards == lost.shards
    heard, before = (state.meters(index).filter(pl.col("seen_us") != 0) for state in (found, lost))
    recent = heard["meter"].to_list()
    assert recent
    assert heard.equals(before.filter(pl.col("meter").is_in(recent)))
    content = _content(found, recent)
    for name, frame in _content(lost, recent).items():
        assert_frame_equal(content[name].select(frame.columns), frame, check_exact=True)
    assert found.frame(events.RUNS).height + found.frame(events.EVENTS).height > 0
    assert found.frame(FLOORS).is_empty()


@pytest.mark.parametrize(("counted", "started"), [(None, 20), (1, 0)])
def test_what_was_emitted_apart_goes_on_apart(
    counted: int | None, started: int, make_index: MakeIndex, metering_settings: MeteringSettings
) -> None:
    """A violation that came back soon, in a lake of a Kilowatch that did not count: open under a name of its own."""
    index, start = make_index("1", **{"1": {"interval_s": 60}}), datetime(2026, 1, 1, tzinfo=UTC)
    verdicts = {minute: 1 if minute <= 10 or minute > 20 else -1 for minute in range(1, 31)}
    judged = {"meter": 0, "version": 0, "code": 1, "side": 1, "value": 270.0, "limit_value": 264.0, "ruleset": "rules",
              "hold_s": 60.0, "clear_hold_s": 60.0, "flicker_s": 900.0}  # fmt: skip
    said = pl.DataFrame(
        [{**judged, "ts": start + timedelta(minutes=m), "verdict": v} for m, v in verdicts.items()],
        schema=JUDGED_SCHEMA,
    )
    emitted = {"meter": 0, "code": 1, "version": 0, "revision": 0, "value": 270.0, "limit_value": 264.0,
               "ruleset": "rules", "state": "raised", "occurrences": counted}  # fmt: skip
    times = ((0, 10), (20, None)) if counted is None else ((0, None),)
    known = pl.DataFrame(
        [
            {**emitted, "started_at": start + timedelta(minutes=begin), "at": start + timedelta(minutes=begin + 2),
             "ended_at": None if end is None else start + timedelta(minutes=end)}
            for begin, end in times
        ],
        schema=CHANGE_SCHEMA,
    )  # fmt: skip
    runs, _ = advance(_as_emitted(said, known), pl.DataFrame(schema=STATE_SCHEMA), index.meter_versions, 1.5)
    assert runs.select("active", "started_at").rows() == [(True, start + timedelta(minutes=started))]
    assert metering_settings.rules.by_id["over_voltage"].flicker_s > 0


def test_a_meter_further_closed_than_its_shard_keeps_that(
    tmp_path: Path, make_index: MakeIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    """As at the end of files, where windows close that the readings alone do not close."""
    rows, index = late_log(8), make_index(*LATE_METERS, **LATE_METERS)
    late = {**rows[0], "ts": (LATE_START + timedelta(minutes=16 * 60 - 2)).isoformat(), "p_kw": 77.0}
    found = []
    for lost in (False, True):
        home = tmp_path / str(lost)
        stream_log(home, index, rows, [100], 4)
        before = _state(home, index, metering_settings)
        if lost:
            _rebuilt(home, index, metering_settings, 4)
            state = _state(home, index, metering_settings)
            assert state.shards.closed_us < before.shards.closed_us
            every = pl.Series(range(3), dtype=pl.UInt32)
            assert state.frame(FLOORS).height > 0
            assert state.closed(index).of(every).max() == before.closed(index).of(every).max()
        found.append(stream_log(home, index, [*rows, late], (), 4))
    for name, frame in found[0].items():
        assert frame.equals(found[1][name]), name
    last = found[1]["windows"].filter(pl.col("meter_id") == late["meter_id"]).sort("window_end").tail(1)
    assert last.select("revision", "p_max_kw").row(0)[0] > 0


def test_a_shard_that_has_read_nothing_starts_empty(
    tmp_path: Path, make_index: MakeIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    index = make_index("A")
    stream_log(tmp_path, index, [{"meter_id": "unknown"}], stop=1)
    _rebuilt(tmp_path, index, metering_settings, 4)
    state = _state(tmp_path, index, metering_settings)
    assert (state.shards, state.meters_held, state.left_us) == (Shards(), 0, None)
    assert _record(tmp_path).positions == {SHARD: {"offset": 1}}


# --- what cannot be gone on with ------------------------------------------------------------------------------------


def _file(home: Path) -> Path:
    (path,) = home.glob("stream/*/commits/*.commit")
    return path


def _written(home: Path, index: MeterIndex, stream_log: StreamLog, stop: int = 300) -> list[dict[str, Any]]:
    rows = late_log(9)
    stream_log(home, index, rows, [100], 4, commit_rows=100, stop=stop)
    return rows


@pytest.fixture
def index(make_index: MakeIndex) -> MeterIndex:
    return make_index(*LATE_METERS, **LATE_METERS)


def _goes_on(home: Path, other: Path, index: MeterIndex, rows: list[dict[str, Any]], stream_log: StreamLog) -> None:
    end, whole = stream_log(home, index, rows, (), 4), stream_log(other, index, rows, (), 2000)
    for name, frame in whole.items():
        assert frame.equals(end[name]), name


def test_what_this_version_wrote_is_gone_on_with(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    _written(tmp_path, index, stream_log)
    with _commits(tmp_path) as commits:
        assert not unreadable(commits, naming_of(index, metering_settings))


def test_a_state_of_another_version_is_made_anew(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    home = tmp_path / "home"
    rows, naming = _written(home, index, stream_log), naming_of(index, metering_settings)
    older = [Frame(frame.name, frame.version - 1, frame.schema, frame.dated, frame.growing) for frame in FRAMES]
    with _commits(home) as commits:
        ((record, _),) = commits.counting()
        state = dump(load(record.state, FRAMES, naming), older, naming)
        commits.commit(0, record.positions, state, {})
    _anew(home, index, metering_settings, 4)
    _goes_on(home, tmp_path / "whole", index, rows, stream_log)


def test_a_damaged_state_is_made_anew_at_its_position(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    home = tmp_path / "home"
    rows = _written(home, index, stream_log)
    data = bytearray(_file(home).read_bytes())
    data[-9] ^= 1
    _file(home).write_bytes(data)
    _anew(home, index, metering_settings, 4)
    assert _record(home).positions == {SHARD: {"offset": 300}}
    _goes_on(home, tmp_path / "whole", index, rows, stream_log)


@pytest.mark.parametrize("at", [0, 5, 20], ids=["magic", "checksum", "header"])
def test_of_a_damaged_record_the_position_is_found_too(
    tmp_path: Path, at: int, index: MeterIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    home = tmp_path / "home"
    rows = _written(home, index, stream_log)
    data = bytearray(_file(home).read_bytes())
    data[at] ^= 1
    damaged = _file(home)
    damaged.write_bytes(data)
    with pytest.raises(OperationError, match=r"commit record .* is damaged: .* `kilowatch stream --rebuild`"):
        _record(home)
    _anew(home, index, metering_settings, 4, salvage=True)
    assert _record(home).positions == {SHARD: {"offset": 300}}
    _goes_on(home, tmp_path / "whole", index, rows, stream_log)


def test_two_states_that_know_one_meter_are_made_anew(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    """As after a time in which processes went on alone: a meter has one past, and one state."""
    _written(tmp_path, index, stream_log)
    naming = naming_of(index, metering_settings)
    with _commits(tmp_path) as commits:
        ((record, _),) = commits.counting()
        state = load(record.state, FRAMES, naming)
        other = replace(state, shards=replace(state.shards, names=("", "other-1")))
        commits.commit(1, {"other-1": {"offset": 7}}, dump(other, FRAMES, naming), {})
    _anew(tmp_path, index, metering_settings, 4)
    found = _record(tmp_path)
    assert found.positions == {SHARD: {"offset": 300}, "other-1": {"offset": 7}}
    heard = load(found.state, FRAMES, naming).frame(METERS).filter(pl.col("shard") != 0)
    assert heard.height == 3


def test_positions_in_folders_of_files_and_in_topics(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings
) -> None:
    """The last row of each file that the lake holds, accepted or not, and of each folder's log."""
    at = datetime(2026, 1, 30, 12, tzinfo=UTC)
    taken = [
        ("day/a.ndjson", 0, 40, 40), ("day/a.ndjson", 0, 41, 41), ("day/b.parquet", 0, 9, 51), ("c.ndjson", 0, 3, None),
        ("meter.readings.v1", 2, 7, 7),
    ]  # fmt: skip
    place = ("source", "source_partition", "source_offset", "log_offset")
    rows = pl.DataFrame([dict(zip(place, row, strict=True)) for row in taken])
    rows = rows.with_columns(meter_id=pl.lit("M1"), ts=pl.lit(at), p_kw=1.0, source_row=0, date=pl.lit(at.date()))
    refused = rows.filter(pl.col("source") == "day/b.parquet").with_columns(source_offset=10, log_offset=52)
    with _commits(tmp_path) as commits:
        tables = {"readings": [READINGS.conform(rows)], "rejects": [REJECTS.conform(refused)]}
        commits.commit(0, {"day": {}}, b"", parts(tables))
    _file(tmp_path).write_bytes(b"KWC2 damaged")
    _anew(tmp_path, index, metering_settings, 4, salvage=True)
    assert _record(tmp_path).positions == {
        "day": {"next": 53, "files": {"day/a.ndjson": {"row": 42}, "day/b.parquet": {"row": 11}}},
        ".": {"next": 4, "files": {"c.ndjson": {"row": 4}}},
        "meter.readings.v1-2": {"offset": 8},
    }
