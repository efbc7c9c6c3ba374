"""Meters that fall silent leave the state, and everything ends as if they had stayed."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from pipelines.shard.environment import Environment
from pipelines.shard.idle_meters import dismiss, recall

from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from pipelines.shard.state import ShardState, load
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
    stream_log(tmp_path, index, log, range(50, len(log), 50), silent_s=86_400, stop=len(log) - 1)
    owner = take(tmp_path)
    try:
        record = CommitLog(tmp_path, owner).last("log")
    finally:
        owner.release()
    assert record is not None
    state = load(record.state, index)
    silent = index.code(pl.Series(["SILENT", "LATE", "GONE"]))
    assert state.meters_held == 1
    assert state.left_us is not None
    for frame in (state.days, state.emitted):
        assert frame.filter(pl.col("meter").is_in(silent.implode())).is_empty()
    assert set(state.pairs.filter("active")["meter"]) >= set(index.code(pl.Series(["SILENT", "GONE"])))
    assert state.pairs.filter(pl.col("meter").is_in(silent.implode()))["active"].all()


class _Past:
    """Knows readings of one meter."""

    def __init__(self, *at: datetime) -> None:
        self.rows = pl.DataFrame({"meter": [1] * len(at), "ts": at}).cast({"meter": pl.UInt32})

    def readings_since(self, meters: pl.Series, since: datetime) -> pl.DataFrame:
        return self.rows.filter(pl.col("meter").is_in(meters.implode()) & (pl.col("ts") > since))


@pytest.mark.parametrize(
    ("meter", "hours", "heard"),
    [(1, 1, 3), (1, 3, 3), (1, 4, 0), (1, 6, 0), (2, 1, 0), (0, 1, 9)],
    ids=["before", "at once", "after its last", "after all that left", "never heard", "still here"],
)
def test_when_a_meter_was_last_heard(
    meter: int, hours: int, heard: int, index: MeterIndex, metering_settings: MeteringSettings
) -> None:
    def us(hours: int) -> int:
        return int((SILENT_START + timedelta(hours=hours)).timestamp() * 1_000_000) if hours else 0

    env = Environment(index, metering_settings, 4, _Past(SILENT_START + timedelta(hours=3)))  # type: ignore[arg-type]
    seen = pl.Series("seen_us", [us(9), 0, 0, 0])
    rows = pl.DataFrame({"meter": [meter], "ts": [SILENT_START + timedelta(hours=hours)]}).cast({"meter": pl.UInt32})
    assert recall(seen, rows, us(5), env)[meter] == us(heard)
    assert recall(seen, rows, None, env)[meter] == seen[meter]
    assert seen.to_list() == [us(9), 0, 0, 0]


def test_nobody_leaves_before_windows_close(index: MeterIndex, metering_settings: MeteringSettings) -> None:
    env = Environment(index, metering_settings, 4, _Past())  # type: ignore[arg-type]
    state = ShardState(seen_us=pl.Series("seen_us", [1, 0, 0, 0]))
    assert dismiss(state, None, env) is state
