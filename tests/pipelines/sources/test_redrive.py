"""Rejects that are read again after a fix: everything ends as if they had never been rejected, however often."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metering.readings.decode import Messages
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.lake import LAKE, READINGS
from pipelines.flow.dataflow import Run, build, run_flow
from pipelines.flow.settings import StreamSettings
from pipelines.flow.worker import Sinks
from pipelines.sources.poll import Batch, OwnShard, Positions, Segment
from pipelines.sources.redrive import AtRest, Replayed
from pipelines.sources.redrive_requests import Requests
from sinks.lake.commits import CommitLog
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader, current
from sinks.lake.rejects import by_reason, newest_open
from tests.pipelines.turns import standing

START = datetime(2026, 1, 30, 10, tzinfo=UTC)  # 18:00 in Shanghai: the log runs over a midnight and the end of a month
STEPS = (5, 5, 15)
TOPIC = "t"
FINAL = {
    "windows": [name for name in LAKE["windows"].names if name != "revision"],
    "compliance": [name for name in LAKE["compliance"].names if name != "revision"],
    "violations": ["violation_id", "started_at", "ended_at", "value", "limit_value", "severity", "ruleset"],
}


@pytest.fixture(scope="module")
def whole(make_index: Callable[..., MeterIndex]) -> MeterIndex:
    return make_index("M0", "M1", "M2", **{f"M{i}": {"interval_s": step * 60} for i, step in enumerate(STEPS)})


@pytest.fixture(scope="module")
def wanting(make_index: Callable[..., MeterIndex]) -> MeterIndex:
    """A registry without M1, and one day late for M2."""
    return make_index("M0", "M2", M0={"interval_s": 300}, M2={"interval_s": 900, "valid_from": date(2026, 1, 31)})


def _log(seed: int) -> list[bytes]:
    """12 hours of three meters in order of arrival; some readings come hours late, some are corrected, some useless."""
    rng = random.Random(seed)
    arrivals: list[tuple[float, float, bytes]] = []
    for meter, step in enumerate(STEPS):
        for minute in range(step, 12 * 60, step):
            reading = {
                "meter_id": f"M{meter}", "ts": (START + timedelta(minutes=minute)).isoformat(),
                "ua_v": rng.choice((rng.uniform(52, 64), 75.0)), "ub_v": 57.7, "uc_v": rng.uniform(42, 64),
                "p_kw": rng.choice((rng.uniform(1, 500), 1100.0)), "q_kvar": rng.uniform(-50, 100),
                "import_kwh": float(minute), "import_kvarh": minute / 2, "export_kvarh": 0.0,
            }  # fmt: skip
            late = rng.choice((12.0, 90.0, 400.0)) if rng.random() < 0.05 else 0.0
            arrivals.append((minute + late, rng.random(), json.dumps(reading).encode()))
            if rng.random() < 0.05:
                corrected = json.dumps({**reading, "p_kw": 7.0, "ua_v": None}).encode()
                arrivals.append((minute + rng.uniform(0, 600), rng.random(), corrected))
            if rng.random() < 0.03:
                arrivals.append((minute, rng.random(), rng.choice((b"not json", b'{"meter_id": "M1"}'))))
    return [line for *_, line in sorted(arrivals)]


class Registry:
    """In force is what it is told."""

    def __init__(self, index: MeterIndex) -> None:
        self.known = index

    def index(self) -> MeterIndex:
        return self.known


class Script:
    """A topic's only partition: its polls, cut at `cuts`, and what happens before each."""

    stale_since = None

    def __init__(self, log: Sequence[bytes], cuts: Sequence[int], before: Callable[[int], None]) -> None:
        self._log, self._before = log, before
        self._spans = list(enumerate(pairwise([0, *cuts, len(log)])))

    def worker_of(self, _: str, __: int) -> int | None:
        return 0

    def open(self, _: int, __: int, positions: Positions) -> Script:
        position = positions(f"{TOPIC}-0") or {"offset": 0}
        self._spans = [span for span in self._spans if span[1][0] >= position["offset"]]
        return self

    def poll(self) -> list[Batch]:
        if self.finished:
            return []
        number, (first, after) = self._spans.pop(0)
        self._before(number)
        offsets = range(first, after)
        logged = [int((START + timedelta(days=2)).timestamp() * 1000)] * len(offsets)
        content = Messages(self._log[first:after], offsets, logged, [b"key"] * len(offsets))
        return [Batch(content, (Segment(f"{TOPIC}-0", TOPIC, 0, len(offsets), {"offset": after}),))]

    @property
    def finished(self) -> bool:
        return not self._spans

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        return OwnShard(f"{TOPIC}-0", over=False) if (source, partition) == (TOPIC, 0) else None

    def close(self) -> None: ...


Stream = Callable[..., Run]


@pytest.fixture
def stream(metering_settings: MeteringSettings) -> Stream:
    """stream(home, source, registry, refresh=..., batch_rows=..., kept=..., commit_rows=...)"""

    def go(
        home: Path, source: Any, registry: Registry, refresh: Callable[[], None] = lambda: None,
        batch_rows: int = 37, kept: int = 1, commit_rows: int = 100, run: Run | None = None,
    ) -> Run:  # fmt: skip
        run = run or Run()
        owner = take(home)
        try:
            settings = StreamSettings(
                metering_settings, windows_kept=kept, commit_interval_s=1e9, commit_rows=commit_rows
            )
            replayed = Replayed(source, LakeReader(home), Requests(home), refresh, batch_rows, look_every_s=0)
            run_flow(build(replayed, Sinks(LakeReader(home), CommitLog(home, owner)), settings, registry, run), run)
        finally:
            owner.release()
        return run

    return go


def _final(home: Path) -> dict[str, pl.DataFrame]:
    """What stands in the end: final values, and every reading, which must be there once."""
    lake = LakeReader(home)
    found = {}
    for name, columns in FINAL.items():
        rows = lake.scan(name).collect()
        assert rows.select(*LAKE[name].key, "revision").is_unique().all(), name
        last = current(rows.lazy(), LAKE[name].key).collect()
        found[name] = (standing(last) if name == "violations" else last).select(columns)
    readings = lake.scan("readings").collect()
    assert readings.select(READINGS.key).is_unique().all()
    return found | {"readings": readings.sort(READINGS.key)}


def _same(a: dict[str, pl.DataFrame], b: dict[str, pl.DataFrame]) -> None:
    for name, frame in a.items():
        assert frame.height > 0
        assert_frame_equal(frame, b[name], check_exact=True)


def _parts(home: Path) -> list[Path]:
    return sorted(home.glob("lake/*/*/*.parquet"))


@pytest.mark.parametrize("kept", [1, 1000], ids=["state-forgets", "state-holds"])
@pytest.mark.parametrize("seed", [1, 2])
def test_while_the_stream_runs_all_ends_as_under_the_right_registry(
    tmp_path: Path, seed: int, kept: int, whole: MeterIndex, wanting: MeterIndex, stream: Stream
) -> None:
    rng, log = random.Random(seed), _log(seed)
    cuts = sorted(rng.sample(range(1, len(log)), 15))
    mended, asked = sorted(rng.sample(range(4, 15), 2))  # rejects of both before and after the fix was taken up
    stream(tmp_path / "clean", Script(log, cuts, lambda _: None), Registry(whole), kept=kept)

    home, registry = tmp_path / "home", Registry(wanting)

    def before(poll: int) -> None:
        if poll == mended:
            registry.known = whole
        if poll == asked:
            Requests(home).ask()

    stream(home, Script(log, cuts, before), registry, kept=kept, commit_rows=rng.choice((1, 150, 10**9)))
    counts = by_reason(LakeReader(home)).rows_by_key("reason", unique=True)
    assert counts["unknown_meter"][0] == counts["unknown_meter"][1] > 50
    assert counts["unparsable"] == (counts["unparsable"][0], 0)
    assert newest_open(LakeReader(home), 10**6)["reason"].is_in(["unparsable", "missing_time"]).all()
    _same(_final(tmp_path / "clean"), _final(home))


def test_at_rest_and_again_nothing_is_taken_twice(
    tmp_path: Path, whole: MeterIndex, wanting: MeterIndex, stream: Stream
) -> None:
    log = _log(4)
    stream(tmp_path / "clean", Script(log, [], lambda _: None), Registry(whole))
    home = tmp_path / "home"
    stream(home, Script(log, [], lambda _: None), Registry(wanting))
    registry = Registry(wanting)
    asked = Requests(home).ask()
    run = stream(home, AtRest(TOPIC, files=False), registry, refresh=lambda: setattr(registry, "known", whole))
    assert Requests(home).answered(asked)
    assert (run.metrics.readings, run.metrics.rejects) == (0, 0)  # nothing new was received
    _same(_final(tmp_path / "clean"), _final(home))
    parts = _parts(home)
    for _ in range(2):  # the same request, and a new one
        stream(home, AtRest(TOPIC, files=False), registry)
        assert Requests(home).answered(Requests(home).asked() or "")
        assert _parts(home) == parts
        Requests(home).ask()


def test_a_stream_that_dies_leaves_the_request_to_the_next(
    tmp_path: Path, whole: MeterIndex, wanting: MeterIndex, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _log(5)
    stream(tmp_path / "clean", Script(log, [], lambda _: None), Registry(whole))
    home = tmp_path / "home"
    stream(home, Script(log, [], lambda _: None), Registry(wanting))
    asked = Requests(home).ask()
    commits, deaths = 0, 0

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal commits
        commits += 1
        if commits % 2 == 0:
            raise OSError("the process dies here")
        return committed(*arguments, **named)

    committed = CommitLog.commit
    monkeypatch.setattr(CommitLog, "commit", dying)
    while not Requests(home).answered(asked):
        try:
            stream(home, AtRest(TOPIC, files=False), Registry(whole), commit_rows=1)
        except OSError:
            deaths += 1
    assert deaths > 3
    _same(_final(tmp_path / "clean"), _final(home))


def test_only_shards_that_the_stream_reads_are_replayed(
    tmp_path: Path, whole: MeterIndex, wanting: MeterIndex, stream: Stream
) -> None:
    stream(tmp_path, Script(_log(6), [], lambda _: None), Registry(wanting))
    before = by_reason(LakeReader(tmp_path))
    for source in (AtRest(TOPIC, files=True), AtRest("another", files=False), AtRest("another", files=True)):
        asked = Requests(tmp_path).ask()
        stream(tmp_path, source, Registry(whole))
        assert Requests(tmp_path).answered(asked)
        assert by_reason(LakeReader(tmp_path)).equals(before)


def test_a_request_is_answered_once_every_worker_is_done(tmp_path: Path) -> None:
    from pipelines.sources.redrive_requests import Answer

    requests = Requests(tmp_path)
    assert requests.asked() is None
    asked = requests.ask()
    assert requests.asked() == asked
    requests.answer(Answer(asked, 0, 2, 5, 5, done=True))
    requests.answer(Answer(asked, 1, 2, 3, 9, done=False))
    requests.answer(Answer("an older one", 0, 1, 3, 9, done=True))
    assert not requests.answered(asked)
    assert sum(answer.looked_at for answer in requests.answers(asked)) == 8
    requests.answer(Answer(asked, 1, 2, 9, 9, done=True))
    assert requests.answered(asked)
    newer = requests.ask()
    assert newer != asked
    assert not requests.answered(newer)
    requests.take_back()
    requests.take_back()
    assert requests.asked() is None


# --- several shards ---------------------------------------------------------------------------------------------------


class Partitions:
    """A topic of several partitions, given turn by turn: a turn is payloads by partition."""

    stale_since = None

    def __init__(self, turns: Sequence[dict[int, list[bytes]]], before: Callable[[int], None] = lambda _: None) -> None:
        self._turns, self._before = list(enumerate(turns)), before
        self._next: dict[int, int] = {}

    def worker_of(self, _: str, __: int) -> int | None:
        return 0

    def open(self, _: int, __: int, positions: Positions) -> Partitions:
        self._next = {p: (positions(f"{TOPIC}-{p}") or {"offset": 0})["offset"] for p in range(9)}
        return self

    def poll(self) -> list[Batch]:
        if self.finished:
            return []
        number, turn = self._turns.pop(0)
        self._before(number)
        values: list[bytes] = []
        offsets: list[int] = []
        segments = []
        for partition, payloads in sorted(turn.items()):
            first = self._next[partition]
            last = self._next[partition] = first + len(payloads)
            values += payloads
            offsets += range(first, last)
            segments.append(Segment(f"{TOPIC}-{partition}", TOPIC, partition, len(payloads), {"offset": last}))
        logged = [int((START + timedelta(days=2)).timestamp() * 1000)] * len(values)
        return [Batch(Messages(values, offsets, logged, [b"key"] * len(values)), tuple(segments))]

    @property
    def finished(self) -> bool:
        return not self._turns

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        return OwnShard(f"{TOPIC}-{partition}", over=False) if source == TOPIC and partition in self._next else None

    def close(self) -> None: ...


def _by_meter(log: Sequence[bytes], partition_of: dict[str, int], rest: int) -> list[tuple[int, bytes]]:
    """Each payload with the partition that its meter's are in."""
    found = []
    for payload in log:
        meter = next((name for name in partition_of if f'"{name}"'.encode() in payload), "")
        found.append((partition_of.get(meter, rest), payload))
    return found


def _turns(placed: Sequence[tuple[int, bytes]], count: int) -> list[dict[int, list[bytes]]]:
    size = len(placed) // count + 1
    turns: list[dict[int, list[bytes]]] = []
    for start in range(0, len(placed), size):
        turn: dict[int, list[bytes]] = {}
        for partition, payload in placed[start : start + size]:
            turn.setdefault(partition, []).append(payload)
        turns.append(turn)
    return turns


def test_a_partition_that_is_first_heard_during_a_replay_does_not_disturb_it(
    tmp_path: Path, whole: MeterIndex, wanting: MeterIndex, stream: Stream
) -> None:
    """Several shards have been read when it is asked for; with each poll of the replay another one is heard."""
    first = _turns(_by_meter(_log(7), {"M0": 0, "M1": 1, "M2": 2}, rest=0), 6)
    silent: list[dict[int, list[bytes]]] = [{partition: [b"not json"]} for partition in (3, 4, 5, 6, 7, 8)] * 3
    stream(tmp_path / "clean", Partitions([*first, *silent]), Registry(whole))
    home, registry = tmp_path / "home", Registry(wanting)

    def before(turn: int) -> None:
        if turn == len(first):
            Requests(home).ask()

    source = Partitions([*first, *silent], before)
    stream(home, source, registry, refresh=lambda: setattr(registry, "known", whole), batch_rows=20, commit_rows=10**9)
    assert Requests(home).answered(Requests(home).asked() or "")
    _same(_final(tmp_path / "clean"), _final(home))


@pytest.mark.parametrize("kept", [1, 1000], ids=["state-forgets", "state-holds"])
def test_rejects_of_a_meter_that_is_in_another_shard_now(
    tmp_path: Path, kept: int, whole: MeterIndex, wanting: MeterIndex, stream: Stream
) -> None:
    """M1 and M2 were in partitions 1 and 2 when they were rejected, and are both in 0 since the registry was mended."""
    log = _log(8)
    half = len(log) // 2
    placed = _by_meter(log[:half], {"M0": 0, "M1": 1, "M2": 2}, rest=2)
    placed += _by_meter(log[half:], {"M0": 0, "M1": 0, "M2": 0}, rest=1)
    turns = _turns(placed, 10)
    stream(tmp_path / "clean", Partitions(turns), Registry(whole), kept=kept)
    home, registry = tmp_path / "home", Registry(wanting)

    def before(turn: int) -> None:
        if turn == 5:
            registry.known = whole
        if turn == 8:
            Requests(home).ask()

    stream(home, Partitions(turns, before), registry, kept=kept, commit_rows=10**9)
    counts = by_reason(LakeReader(home)).rows_by_key("reason", unique=True)
    assert counts["unknown_meter"][0] == counts["unknown_meter"][1] > 50
    _same(_final(tmp_path / "clean"), _final(home))
    places = LakeReader(home).scan("readings").filter(pl.col("meter_id") == "M1").collect()
    assert set(places["source_partition"]) == {0, 1}, "a reading keeps the place that it came in"
