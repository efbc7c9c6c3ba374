"""Workers that become more and fewer from one start to the next, some of which die before their first commit."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from metering.readings.decode import Messages
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from pipelines.flow.metrics import Metrics
from pipelines.flow.settings import StreamSettings
from pipelines.flow.worker import Sinks, Worker
from pipelines.shard.recovery import unreadable
from pipelines.shard.store import naming_of
from pipelines.sources.poll import Batch, Segment
from sinks.lake.commits import CommitLog
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader
from tests.pipelines.flow.flows import Fixed, log_of, same_in_the_end

TOPIC, PARTITIONS = "meter.readings.v1", 4
LOGGED_MS = int(datetime(2026, 1, 2, tzinfo=UTC).timestamp() * 1000)

Logs = list[list[bytes]]


def _shard(partition: int) -> str:
    return f"{TOPIC}-{partition}"


def _worker_of(shard: str, workers: int) -> int | None:
    return int(shard.rsplit("-", 1)[1]) % workers


def _batch(logs: Logs, spans: dict[int, tuple[int, int]]) -> Batch:
    """So much (first, last) of each partition's log, in one turn."""
    values = [value for partition, (first, last) in spans.items() for value in logs[partition][first:last]]
    offsets = [offset for first, last in spans.values() for offset in range(first, last)]
    segments = [Segment(_shard(p), TOPIC, p, last - first, {"offset": last}) for p, (first, last) in spans.items()]
    return Batch(Messages(values, offsets, [LOGGED_MS] * len(values), [b"k"] * len(values)), tuple(segments))


@pytest.fixture
def logs() -> Logs:
    """Six meters over four partitions, with what is broken spread among them."""
    lines = log_of(6, 240, seed=5)
    of_partition: Logs = [[] for _ in range(PARTITIONS)]
    for number, line in enumerate(lines):
        meter = next((meter for meter in range(6) if f'"M{meter}"'.encode() in line), number)
        of_partition[meter % PARTITIONS].append(line)
    return of_partition


Start = Callable[..., list[int]]


@pytest.fixture
def start(index: MeterIndex, metering_settings: MeteringSettings, logs: Logs) -> Start:
    """start(home, workers, turns, killed=(), step=...): gives how far each partition has been committed."""

    def go(home: Path, workers: int, turns: int, killed: tuple[int, ...] = (), step: int = 30) -> list[int]:
        owner = take(home)
        try:
            settings = StreamSettings(metering_settings, windows_kept=2, commit_interval_s=1e9, commit_rows=10**9)
            for number in range(workers):
                commits = CommitLog(home, owner, finish=number == 0)
                assert not unreadable(commits, naming_of(index, metering_settings)), "a meter in two states that count"
                sinks = Sinks(LakeReader(home), commits)
                worker = Worker(sinks, settings, Fixed(index), Metrics(), number, workers, _worker_of)
                at = {
                    partition: (worker.position(_shard(partition)) or {"offset": 0})["offset"]
                    for partition in range(PARTITIONS)
                    if partition % workers == number
                }
                for _ in range(turns):
                    spans = {p: (first, min(first + step, len(logs[p]))) for p, first in at.items()}
                    spans = {p: (first, last) for p, (first, last) in spans.items() if first < last}
                    if spans:
                        worker.deliver([worker.advance(worker.decode([_batch(logs, spans)]))])
                        at |= {p: last for p, (_, last) in spans.items()}
                if number not in killed:
                    worker.finish()
            commits = CommitLog(home, owner)
            return [(commits.position(_shard(p)) or {"offset": 0})["offset"] for p in range(PARTITIONS)]
        finally:
            owner.release()

    return go


def test_shards_are_shared_out_anew_and_nothing_is_lost(tmp_path: Path, start: Start, logs: Logs) -> None:
    home = tmp_path / "home"
    assert start(home, 1, turns=1) == [30] * 4
    assert start(home, 2, turns=1, killed=(0,)) == [30, 60, 30, 60]
    assert start(home, 4, turns=2, killed=(1, 3)) == [90, 60, 90, 60]
    assert start(home, 3, turns=1, killed=(0, 1, 2)) == [90, 60, 90, 60]
    assert start(home, 4, turns=1, killed=(0, 1, 2)) == [90, 60, 90, 90]
    assert start(home, 2, turns=1, killed=(1,)) == [120, 60, 120, 90]
    start(home, 1, turns=1000)
    start(tmp_path / "clean", 1, turns=1, step=10**6)
    same_in_the_end(home, tmp_path / "clean")


@pytest.mark.parametrize("seed", range(4))
def test_however_many_workers_and_whoever_dies(tmp_path: Path, start: Start, logs: Logs, seed: int) -> None:
    rng, home = random.Random(seed), tmp_path / "home"
    reached = [0] * PARTITIONS
    for _ in range(8):
        workers = rng.choice((1, 2, 3, 4))
        killed = tuple(number for number in range(workers) if rng.random() < 0.4)
        before, reached = reached, start(home, workers, rng.randint(1, 2), killed, rng.choice((1, 7, 40)))
        for partition, (then, now) in enumerate(zip(before, reached, strict=True)):
            assert (now > then) == (partition % workers not in killed)
            assert now >= then
    start(home, rng.choice((1, 2, 4)), turns=1000)
    start(tmp_path / "clean", 1, turns=1, step=10**6)
    same_in_the_end(home, tmp_path / "clean")
