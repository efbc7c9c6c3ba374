"""A state made anew from the lake: the stream goes on from it as from the one that was lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from pipelines.flow.settings import StreamSettings
from pipelines.shard.recovery import rebuild
from pipelines.shard.state import ShardState, load, rows_of
from pipelines.sources.files import FileSource
from pipelines.sources.kafka import KafkaSource
from sinks.lake.commits import CommitLog, Record
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader
from tests.pipelines.logs import LATE_METERS, SILENT_METERS, late_log, silent_log

StreamLog = Callable[..., dict[str, pl.DataFrame]]
LOGS = {"late": (late_log, LATE_METERS), "silent": (silent_log, SILENT_METERS)}


@contextmanager
def _commits(home: Path) -> Iterator[CommitLog]:
    owner = take(home)
    try:
        yield CommitLog(home, owner)
    finally:
        owner.release()


def _record(home: Path) -> Record:
    with _commits(home) as commits:
        record = commits.last("log")
    assert record is not None
    return record


def _rebuilt(home: Path, index: MeterIndex, figures: MeteringSettings, kept: int) -> None:
    with _commits(home) as commits:
        before = commits.last("log")
        assert before is not None
        commits.commit("log", before.position, b"cannot be read", {})
        settings = StreamSettings(figures, windows_kept=kept, commit_interval_s=1e9, commit_rows=1, silent_days=1)
        rebuild(LakeReader(home), commits, lambda shard: (shard, 0), settings, index)


@pytest.mark.parametrize(
    ("log", "seed", "kept"), [("late", 1, 1), ("late", 2, 4), ("late", 3, 40), ("silent", 4, 1), ("silent", 5, 4)]
)
def test_the_stream_goes_on_as_if_nothing_had_been_lost(
    tmp_path: Path, log: str, seed: int, kept: int, make_index: Callable[..., MeterIndex],
    metering_settings: MeteringSettings, stream_log: StreamLog,
) -> None:  # fmt: skip
    make, meters = LOGS[log]
    rows, index, rng = make(seed), make_index(*meters, **meters), random.Random(seed)
    whole = stream_log(tmp_path / "whole", index, rows, kept=2000)
    home, parts = tmp_path / "home", LakeReader(tmp_path / "home")
    for stop in sorted(rng.sample(range(len(rows) // 4, len(rows)), 3)):
        cuts = rng.sample(range(1, len(rows)), 8)
        stream_log(home, index, rows, sorted(cuts), kept, commit_rows=100, silent_s=86_400, stop=stop)
        lake = sorted(path.name for path in parts.folder("").rglob("*.parquet"))
        _rebuilt(home, index, metering_settings, kept)
        assert sorted(path.name for path in parts.folder("").rglob("*.parquet")) == lake
        assert _record(home).position == {"row": stop}
    end = stream_log(home, index, rows, (), kept, silent_s=86_400)
    for name, frame in whole.items():
        assert frame.equals(end[name]), name


def _content(state: ShardState, recent: set[int]) -> dict[str, pl.DataFrame]:
    """What has to be the same, of meters heard of late: also the days, and where the checks stand."""
    frames = {
        "open": rows_of(state.open), "closed": rows_of(state.closed), "emitted": state.emitted, "days": state.days,
        "pairs": state.pairs, "base": state.base.drop("revision"),
    }  # fmt: skip
    return {name: frame.filter(pl.col("meter").is_in(recent)).sort(pl.all()) for name, frame in frames.items()}


@pytest.mark.parametrize("seed", [6, 7])
def test_it_is_the_state_that_was_lost(
    tmp_path: Path, seed: int, make_index: Callable[..., MeterIndex], metering_settings: MeteringSettings,
    stream_log: StreamLog,
) -> None:  # fmt: skip
    rows, index = late_log(seed), make_index(*LATE_METERS, **LATE_METERS)
    stop = random.Random(seed).randrange(300, len(rows))
    stream_log(tmp_path, index, rows, range(50, stop, 50), 4, commit_rows=100, stop=stop)
    lost = load(_record(tmp_path).state, index)
    _rebuilt(tmp_path, index, metering_settings, 4)
    found = load(_record(tmp_path).state, index)
    assert (found.max_us, found.closed_us) == (lost.max_us, lost.closed_us)
    recent = (
        set(found.seen_us.arg_true()) if found.seen_us.dtype == pl.Boolean else set((found.seen_us != 0).arg_true())
    )
    assert recent
    assert found.seen_us.filter(found.seen_us != 0).equals(lost.seen_us.filter(found.seen_us != 0))
    for name, frame in _content(lost, recent).items():
        assert_frame_equal(_content(found, recent)[name], frame, check_exact=True)
    assert found.pairs.height + found.told.height > 0


def test_a_shard_that_has_read_nothing_starts_empty(
    tmp_path: Path, make_index: Callable[..., MeterIndex], metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    index = make_index("A")
    stream_log(tmp_path, index, [{"meter_id": "unknown"}], stop=1)
    _rebuilt(tmp_path, index, metering_settings, 4)
    state = load(_record(tmp_path).state, index)
    assert (state.max_us, state.meters_held, _record(tmp_path).position) == (None, 0, {"row": 1})


def test_shards_of_another_source_are_left_alone(
    tmp_path: Path, make_index: Callable[..., MeterIndex], metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    index, rows = make_index(*LATE_METERS, **LATE_METERS), late_log(1)[:50]
    stream_log(tmp_path, index, rows)
    before = _record(tmp_path)
    with _commits(tmp_path) as commits:
        settings = StreamSettings(metering_settings, windows_kept=4, commit_interval_s=1e9, commit_rows=1)
        rebuild(LakeReader(tmp_path), commits, lambda _: None, settings, index)
    assert _record(tmp_path) == before


def test_whose_shard_it_is(tmp_path: Path) -> None:
    topic = KafkaSource({}, "meter.readings.v1", 1, 1)
    assert topic.origin("meter.readings.v1-12") == ("meter.readings.v1", 12)
    assert [topic.origin(name) for name in ("meter.readings.v1", "meter.readings.v1-x", "a.ndjson")] == [None] * 3
    (tmp_path / "a.ndjson").touch()
    files = FileSource(tmp_path, 1)
    assert (files.origin("a.ndjson"), files.origin("b.ndjson")) == (("a.ndjson", 0), None)
