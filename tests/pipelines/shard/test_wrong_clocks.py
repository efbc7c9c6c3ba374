"""A meter whose clock is a day ahead or behind: to the others it changes nothing, live or in a replay of history."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metering.registry.index import MeterIndex
from metering.tables.lake import REJECTS
from sinks.lake.reader import LakeReader
from tests.pipelines.logs import LATE_METERS, Rows, late_log

StreamLog = Callable[..., dict[str, pl.DataFrame]]

WRONG = "WRONG"
DAY_S = 86_400


@pytest.fixture(scope="module")
def index(make_index: Callable[..., MeterIndex]) -> MeterIndex:
    return make_index(*LATE_METERS, WRONG, **LATE_METERS, **{WRONG: {"interval_s": 300}})


def logs(seed: int, clock_s: int) -> tuple[Rows, Rows, list[int]]:
    """A log, the same with readings of one more meter among the others' whose clock is off by so much, and when each of
    the latter was logged if each came as soon as it could: the others' newest time so far.
    """
    others = late_log(seed)
    both: Rows = []
    logged_ms: list[int] = []
    for reading in others:
        at = _ms(reading)
        now_ms = max(at, logged_ms[-1] if logged_ms else at)
        wrong = {**reading, "meter_id": WRONG, "ts": now_ms + clock_s * 1000, "ua_v": 80.0}
        new = [reading, wrong] if random.Random(at).random() < 0.3 else [reading]
        both += new
        logged_ms += [now_ms] * len(new)
    return others, both, logged_ms


def _ms(reading: dict[str, Any]) -> int:
    return int(datetime.fromisoformat(reading["ts"]).timestamp() * 1000)


def of_others(results: dict[str, pl.DataFrame], *without: str) -> dict[str, pl.DataFrame]:
    return {name: frame.filter(pl.col("meter_id") != WRONG).drop(without) for name, frame in results.items()}


def assert_same(results: dict[str, pl.DataFrame], wanted: dict[str, pl.DataFrame]) -> None:
    for name, frame in wanted.items():
        assert frame.height > 0
        assert results[name].equals(frame), name


@pytest.mark.parametrize("clock_s", [DAY_S, -DAY_S], ids=["ahead", "behind"])
def test_in_a_replay_of_history_the_others_end_with_the_same_values(
    tmp_path: Path, clock_s: int, index: MeterIndex, stream_log: StreamLog
) -> None:
    others, both, _ = logs(3, clock_s)
    cuts = sorted(random.Random(3).sample(range(1, len(both)), 25))
    alone = stream_log(tmp_path / "alone", index, others, [], 1)
    beside = stream_log(tmp_path / "beside", index, both, cuts, 1, 100)
    unlike = ("revision",) if clock_s > 0 else ()  # what comes after the clock that is ahead counts as late
    assert_same(of_others(beside, *unlike), of_others(alone, *unlike))
    assert set(beside["windows"]["meter_id"]) == {*LATE_METERS, WRONG}


@pytest.mark.parametrize("clock_s", [DAY_S, -DAY_S], ids=["ahead", "behind"])
def test_live_the_others_end_the_same_to_the_revision(
    tmp_path: Path, clock_s: int, index: MeterIndex, stream_log: StreamLog
) -> None:
    others, both, logged_ms = logs(4, clock_s)
    alone = stream_log(tmp_path / "alone", index, others)
    beside = stream_log(tmp_path / "beside", index, both, range(50, len(both), 50), logged_ms=logged_ms)
    assert_same(of_others(beside), of_others(alone))
    rejects = LakeReader(tmp_path / "beside").scan(REJECTS.name).collect()
    assert (
        set(rejects["meter_id"])
        == set(rejects["reason"].replace("future_time", WRONG))
        == ({WRONG} if clock_s > 0 else set())
    )
    assert rejects.height == (len(both) - len(others) if clock_s > 0 else 0)
