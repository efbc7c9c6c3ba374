"""A worker whose brokers are away: nothing is committed before it is acknowledged, and reading is held."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from metering.errors import OperationError
from metering.readings.decode import Messages
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from pipelines.flow.metrics import Metrics
from pipelines.flow.settings import ResultTopics, StreamSettings
from pipelines.flow.worker import Sinks, Worker
from pipelines.shard.recovery import rebuild
from pipelines.shard.store import naming_of
from pipelines.sources.poll import Batch, Segment
from sinks.lake.commits import CommitLog
from sinks.lake.owner import Owner, take
from sinks.lake.reader import LakeReader
from tests.pipelines.turns import FixedRegistry

START = datetime(2026, 3, 1, tzinfo=UTC)
TOPICS = ResultTopics("windows", "violations", "compliance", "load_control", "rejected")


@dataclass
class Brokers:
    """Acknowledges everything at once, or while `away` nothing."""

    away: bool = False
    sent: list[tuple[str, object]] = field(default_factory=list)
    owed: int = 0
    asked: int = 0
    closed: bool = False

    def publish(
        self,
        topic: str,
        keys: list[str | None] | list[bytes | None],
        values: list[bytes],
        partition_keys: list[str | bytes | None],  # noqa: ARG002 - a publisher's signature
    ) -> None:
        self.sent += [(topic, key) for key in keys]
        self.owed += len(values)

    def settled(self, timeout_s: float) -> bool:  # noqa: ARG002
        self.asked += 1
        self.owed = self.owed if self.away else 0
        return self.owed == 0

    def poll(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def index(make_index: Callable[..., MeterIndex]) -> MeterIndex:
    return make_index("M1")


MakeWorker = Callable[..., Worker]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = take(tmp_path)
    yield owner
    owner.release()


@pytest.fixture
def make_worker(tmp_path: Path, owner: Owner, index: MeterIndex, metering_settings: MeteringSettings) -> MakeWorker:
    def make(brokers: Brokers, **figures: float) -> Worker:
        own = {"commit_interval_s": 1e9, "commit_rows": 1, "windows_kept": 8, "retry_s": 0.0, **figures}
        sinks = Sinks(LakeReader(tmp_path), CommitLog(tmp_path, owner), TOPICS, lambda _: brokers)
        settings = StreamSettings(metering_settings, **own)  # type: ignore[arg-type]
        return Worker(sinks, settings, FixedRegistry(index), Metrics())

    return make


def batch(first: int, count: int, gap: tuple[int, int] | None = None, ahead_min: int = 0) -> Batch:
    """So many minutes of one meter, a message each, that begin at offset and minute `first`; its clock is fast by so
    much.
    """
    offsets = list(range(first, first + count))
    at = [START + timedelta(minutes=offset) for offset in offsets]
    stamps = [(ts + timedelta(minutes=ahead_min)).isoformat() for ts in at]
    values = [json.dumps({"meter_id": "M1", "ts": stamp, "p_kw": 100.0}).encode() for stamp in stamps]
    content = Messages(values, offsets, [int(ts.timestamp() * 1000) for ts in at], [b"M1"] * count)
    end = first + count
    return Batch(content, (Segment("t-0", "t", 0, count, {"offset": end}, newest_offset=end - 1, gap=gap),))


def work(worker: Worker, *batches: Batch) -> None:
    worker.deliver([worker.advance(worker.decode(batches))])


def rows(home: Path, table: str = "readings") -> int:
    return LakeReader(home).scan(table).select(pl.len()).collect().item()


def test_nothing_is_committed_before_it_is_acknowledged(tmp_path: Path, make_worker: MakeWorker) -> None:
    brokers = Brokers()
    worker = make_worker(brokers)
    work(worker, batch(0, 40))
    assert (rows(tmp_path), worker.position("t-0"), worker.held) == (40, {"offset": 40}, False)
    brokers.away = True
    work(worker, batch(40, 40))
    for _ in range(3):
        worker.tick()
    assert (rows(tmp_path), worker.position("t-0"), worker.held) == (40, {"offset": 40}, True)
    assert worker.progress().unacknowledged_s > 0
    brokers.away = False
    worker.tick()
    assert (rows(tmp_path), worker.position("t-0"), worker.held) == (80, {"offset": 80}, False)
    assert worker.progress().unacknowledged_s == 0
    assert brokers.sent.count(("windows", "M1/2026-03-01T01:00:00Z")) == 1


def test_brokers_that_said_no_are_not_asked_again_at_once(make_worker: MakeWorker) -> None:
    brokers = Brokers(away=True)
    worker = make_worker(brokers, retry_s=60.0)
    work(worker, batch(0, 40))
    for _ in range(5):
        worker.tick()
    assert brokers.asked == 1


def test_no_more_is_published_or_read_before_the_brokers_have_settled(tmp_path: Path, make_worker: MakeWorker) -> None:
    brokers = Brokers(away=True)
    worker = make_worker(brokers, commit_rows=10**9)
    for first in range(0, 200, 40):
        work(worker, batch(first, 40))
    ends = [str(key) for topic, key in brokers.sent if topic == "windows"]
    assert 0 < len(ends) < 5
    assert worker.held
    brokers.away = False
    worker.tick()
    assert not worker.held
    worker.finish()
    assert rows(tmp_path) == 200
    ends = [str(key) for topic, key in brokers.sent if topic == "windows"]
    assert ends == sorted(set(ends)), "results keep their order, and none is published twice"


def test_a_stop_while_brokers_are_away_says_what_does_not_count(tmp_path: Path, make_worker: MakeWorker) -> None:
    brokers = Brokers()
    worker = make_worker(brokers)
    work(worker, batch(0, 40))
    brokers.away = True
    work(worker, batch(40, 30))
    with pytest.raises(OperationError, match="30 readings since the last commit do not count"):
        worker.finish()
    worker.close()
    assert brokers.closed
    assert (rows(tmp_path), worker.position("t-0")) == (40, {"offset": 40})

    again = make_worker(Brokers())
    work(again, batch(40, 30))
    assert rows(tmp_path) == 70


def test_an_accepted_gap_is_a_row_of_the_same_commit(tmp_path: Path, make_worker: MakeWorker) -> None:
    brokers = Brokers()
    worker = make_worker(brokers)
    work(worker, batch(0, 10))
    brokers.away = True
    work(worker, batch(25, 0, gap=(10, 24)))
    work(worker, batch(25, 5))
    assert (rows(tmp_path), rows(tmp_path, "gaps")) == (10, 0)
    brokers.away = False
    worker.tick()
    gap = LakeReader(tmp_path).scan("gaps").collect().row(0, named=True)
    assert [gap[name] for name in ("source", "source_partition", "missing_from", "missing_to")] == ["t", 0, 10, 24]
    assert (rows(tmp_path), rows(tmp_path, "gaps"), worker.position("t-0")) == (15, 1, {"offset": 30})


def test_what_is_due_is_told_by_the_clock_while_nothing_comes_of_a_live_partition(make_worker: MakeWorker) -> None:
    ago = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=20)
    first = int((ago - START) / timedelta(minutes=1))
    behind, live, old = make_worker(Brokers()), make_worker(Brokers()), make_worker(Brokers(), live_days=0)
    half = batch(first, 1)
    (segment,) = half.segments
    work(behind, Batch(half.content, (replace(segment, newest_offset=first + 1),)))
    work(live, half)
    work(old, half)
    assert behind.look() is None  # what is missing may stand in what has not been read
    assert old.look() is None
    found = live.look()
    assert found is not None
    (told,) = found.tables["violations"].to_dicts()
    assert (told["rule"], told["state"], told["started_at"]) == ("reading_missing", "raised", ago)
    assert live.look() is None  # once


# --- what comes of looking is published once it is committed --------------------------------------------------------


def fell_silent(worker: Worker) -> None:
    """The meter was last heard 20 min ago, and the worker looks."""
    first = int((datetime.now(UTC) - timedelta(minutes=20) - START) / timedelta(minutes=1))
    work(worker, batch(first, 1))
    found = worker.look()
    assert found is not None
    worker.deliver([found])


def alarms(brokers: Brokers) -> list[str]:
    return [str(key) for topic, key in brokers.sent if topic == "violations"]


def test_silence_is_published_once_it_is_committed(tmp_path: Path, make_worker: MakeWorker) -> None:
    brokers = Brokers()
    worker = make_worker(brokers, commit_rows=10**9)
    fell_silent(worker)
    worker.tick()
    assert alarms(brokers) == []
    worker.finish()
    assert alarms(brokers) == LakeReader(tmp_path).scan("violations").collect()["violation_id"].to_list()
    again = Brokers()
    make_worker(again).finish()
    assert again.sent == [], "a clean stop leaves nothing to publish"


def test_silence_that_was_not_committed_was_never_told(tmp_path: Path, make_worker: MakeWorker) -> None:
    """As after a kill: the next one may look when all has come."""
    brokers = Brokers()
    fell_silent(make_worker(brokers, commit_rows=10**9))
    again = Brokers()
    make_worker(again).tick()
    assert (alarms(brokers), alarms(again), rows(tmp_path, "violations")) == ([], [], 0)


@pytest.mark.parametrize("rebuilt", [False, True])
def test_silence_that_was_committed_and_not_published_is_published_by_the_next_start(
    tmp_path: Path, owner: Owner, make_worker: MakeWorker, index: MeterIndex, metering_settings: MeteringSettings,
    rebuilt: bool,
) -> None:  # fmt: skip
    killed = make_worker(brokers := Brokers(), commit_rows=0)
    first = int((datetime.now(UTC) - timedelta(minutes=20) - START) / timedelta(minutes=1))
    work(killed, batch(first, 1))
    found = killed.look()
    assert found is not None
    brokers.away = True
    killed.deliver([found])  # it commits, and dies before the brokers have the alarm
    (told,) = LakeReader(tmp_path).scan("violations").collect()["violation_id"].to_list()
    assert killed.held
    if rebuilt:
        naming = naming_of(index, metering_settings)
        rebuild(LakeReader(tmp_path), CommitLog(tmp_path, owner), naming, metering_settings, 8)

    next_brokers = Brokers(away=True)
    following = make_worker(next_brokers)
    assert following.held, "nothing is read before it is settled"
    following.tick()
    assert alarms(next_brokers) == [told]
    again = Brokers()
    last = make_worker(again)
    last.tick()
    assert alarms(again) == [told], "for nobody has said that the brokers have it"
    work(last, batch(first + 1, 1))
    last.finish()
    after = Brokers()
    make_worker(after).tick()
    assert alarms(after) == []


def test_what_is_sent_from_long_ago_is_looked_at_when_no_more_of_it_comes(make_worker: MakeWorker) -> None:
    """A replay sends one meter after the other, and is read to its end all the while: more is on its way."""
    quick, patient = make_worker(Brokers(), look_s=0.0), make_worker(Brokers())
    for worker in (quick, patient):
        work(worker, batch(0, 1))
        told = worker.advance(worker.decode([batch(20, 1)]))
        assert told.tables["violations"].is_empty()
    assert patient.look() is None
    found = quick.look()
    assert found is not None
    assert found.tables["violations"]["value"].to_list() == [19.0]
    assert quick.look() is None


def test_a_clock_is_judged_by_all_that_a_turn_reads(make_worker: MakeWorker) -> None:
    """Of several batches, only one of which has rejects."""
    worker = make_worker(Brokers())
    told = worker.advance(worker.decode([batch(0, 2), batch(2, 3, ahead_min=20), batch(5, 2)]))
    rows = told.tables["violations"].filter(pl.col("rule") == "clock_drift").select("state", "value", "started_at")
    assert rows.rows() == [(state, 20.0, START + timedelta(minutes=1)) for state in ("raised", "cleared")]
    assert told.tables["rejects"]["reason"].to_list() == ["future_time"] * 3
