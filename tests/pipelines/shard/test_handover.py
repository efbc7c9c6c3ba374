"""Meters that move between the partitions of a topic: all ends as if one partition had had all of it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metering.errors import OperationError
from metering.readings.decode import Messages
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.lake import COMPLIANCE, READINGS, VIOLATIONS, WINDOWS
from metering.tables.schema import Table
from pipelines.flow.metrics import Metrics
from pipelines.flow.settings import StreamSettings
from pipelines.flow.worker import Sinks, Worker
from pipelines.shard_names import partition_shard
from pipelines.sources.poll import Batch, Segment
from sinks.lake.commits import CommitLog
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader, current
from tests.pipelines.turns import FixedRegistry, standing

START = datetime(2026, 1, 31, 13, tzinfo=UTC)  # 21:00 in Shanghai: the log runs over midnight, the end of a month
MINUTES = 4 * 60
STEPS = (5, 5, 5, 15, 15)  # of the moving meters; the last ones stay
PARTITIONS = 3
SLICE_MIN = 17
ORDERS = ("as it came", "one after the other", "in any order")
Reading = dict[str, Any]
COLUMNS = {
    WINDOWS: [name for name in WINDOWS.names if name != "revision"],
    COMPLIANCE: [name for name in COMPLIANCE.names if name != "revision"],
    VIOLATIONS: ["violation_id", "started_at", "ended_at", "value", "limit_value", "unit", "severity", "ruleset"],
}
STAYS = [f"S{partition}" for partition in range(PARTITIONS)]


@pytest.fixture(scope="module")
def index(make_index: Callable[..., MeterIndex]) -> MeterIndex:
    steps = {**dict(zip((f"M{i}" for i in range(len(STEPS))), STEPS, strict=True)), **dict.fromkeys(STAYS, 5)}
    return make_index(*steps, **{name: {"interval_s": step * 60} for name, step in steps.items()})


Poll = tuple[int, int, int]
"""Of a partition, from an offset to another."""


@dataclass
class Log:
    """A topic: of each partition (arrival in minutes, reading), the offset being the place in the list."""

    partitions: list[list[tuple[float, Reading]]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])

    def batch(self, polls: Sequence[Poll], topics: Sequence[str]) -> Batch:
        """What one turn reads."""
        rows = [(offset, *self.partitions[p][offset]) for p, first, end in polls for offset in range(first, end)]
        content = Messages(
            values=[json.dumps(reading).encode() for *_, reading in rows],
            offsets=[offset for offset, *_ in rows],
            logged_ms=[int((START + timedelta(minutes=at + 700)).timestamp() * 1000) for _, at, _ in rows],
            keys=[reading["meter_id"].encode() for *_, reading in rows],
        )
        return Batch(
            content,
            tuple(
                Segment(partition_shard(topics[p], p), topics[p], p, end - first, {"offset": end})
                for p, first, end in polls
            ),
        )


def _arrivals(seed: int) -> list[tuple[float, Reading]]:
    """What meters send, in order of arrival: some late, some twice with other values, a gap here and there."""
    rng = random.Random(seed)
    sent: list[tuple[float, float, Reading]] = []
    named = [(f"M{i}", step) for i, step in enumerate(STEPS)] + [(name, 5) for name in STAYS]
    for meter, step in named:
        register, high = 0.0, False
        for minute in range(step, MINUTES, step):
            high ^= rng.random() < 0.1
            p = 1100.0 if high else rng.uniform(1, 500)
            register += p * step / 60
            reading = {
                "meter_id": meter, "ts": (START + timedelta(minutes=minute)).isoformat(), "p_kw": p,
                "q_kvar": rng.uniform(-50, 100), "ua_v": rng.choice((57.7, 57.7, 75.0)), "ub_v": 57.7,
                "uc_v": rng.uniform(50, 62), "import_kwh": register, "import_kvarh": minute / 2, "export_kvarh": 0.0,
            }  # fmt: skip
            if rng.random() < 0.05:
                continue
            late = rng.choice((10.0, 30.0, 200.0)) if rng.random() < 0.08 else rng.random()
            sent.append((minute + late, rng.random(), reading))
            if rng.random() < 0.05:
                other = {**reading, "p_kw": rng.uniform(1, 1200), "ua_v": 57.7}
                sent.append((minute + late + rng.uniform(0.1, 60), rng.random(), other))
    return [(at, reading) for at, _, reading in sorted(sent, key=lambda item: item[:2])]


def _log(seed: int, moving: bool) -> Log:
    """The same arrivals in one partition, or in all: moving meters go on in another one once or several times."""
    rng = random.Random(seed + 1)
    log, arrivals = Log(), _arrivals(seed)
    moves = {
        f"M{i}": sorted(rng.uniform(0, MINUTES) for _ in range(rng.choice((1, 1, 2, 4)))) for i in range(len(STEPS))
    }
    way = {name: rng.sample(range(PARTITIONS), PARTITIONS) for name in moves}
    for at, reading in arrivals:
        meter = reading["meter_id"]
        if not moving:
            partition = 0
        elif meter in STAYS:
            partition = STAYS.index(meter)
        else:
            partition = way[meter][sum(at > moment for moment in moves[meter]) % PARTITIONS]
        log.partitions[partition].append((at, reading))
    end = {"ts": (START + timedelta(days=2)).isoformat(), "p_kw": 1.0}  # closes every window
    for partition, meter in enumerate(STAYS):
        log.partitions[partition if moving else 0].append((2 * 1440.0, {"meter_id": meter, **end}))
    return log


def _turns(log: Log, at: list[int], order: str, rng: random.Random) -> Iterator[list[Poll]]:
    """From the offsets `at` on: as it came, one partition after the other, or in any order, of one or of several."""
    while ready := [p for p in range(PARTITIONS) if at[p] < len(log.partitions[p])]:
        counts: dict[int, int] = {}
        if order == "as it came":
            slices = {p: log.partitions[p][at[p]][0] // SLICE_MIN for p in ready}
            for p in (p for p in ready if slices[p] == min(slices.values())):
                until = (slices[p] + 1) * SLICE_MIN
                counts[p] = sum(moment < until for moment, _ in log.partitions[p][at[p] :])
        elif order == "one after the other":
            counts[ready[-1]] = rng.randint(20, 150)
        else:
            counts = {p: rng.randint(1, 100) for p in rng.sample(ready, rng.randint(1, len(ready)))}
        polls = [(p, at[p], min(at[p] + count, len(log.partitions[p]))) for p, count in counts.items()]
        for p, _, end in polls:
            at[p] = end
        yield polls


@dataclass
class Home:
    """Runs workers over a log, one after the other."""

    path: Path
    log: Log
    index: MeterIndex
    figures: MeteringSettings
    kept: int = 8
    commit_rows: int = 150
    topics: tuple[str, ...] = ("t",) * PARTITIONS
    silent_s: float = 7 * 86_400

    def worker(self, commits: CommitLog, *place: int) -> Worker:
        settings = StreamSettings(
            self.figures,
            windows_kept=self.kept,
            silent_days=self.silent_s / 86_400,
            commit_interval_s=1e9,
            commit_rows=self.commit_rows,
        )
        return Worker(Sinks(LakeReader(self.path), commits), settings, FixedRegistry(self.index), Metrics(), *place)

    def run(self, order: str = ORDERS[0], seed: int = 0, until: int | None = None) -> None:
        """Read from where the last commit says; after `until` turns end as a killed process does."""
        owner = take(self.path)
        try:
            worker = self.worker(CommitLog(self.path, owner))
            shards = [partition_shard(topic, p) for p, topic in enumerate(self.topics)]
            at = [(worker.position(shard) or {"offset": 0})["offset"] for shard in shards]
            for polls in islice(_turns(self.log, at, order, random.Random(seed)), until):
                worker.deliver([worker.advance(worker.decode([self.log.batch(polls, self.topics)]))])
            if until is None:
                worker.finish()
        finally:
            owner.release()

    def offset(self, partition: int) -> int:
        """Where a partition goes on after a start."""
        owner = take(self.path)
        try:
            position = CommitLog(self.path, owner).position(partition_shard("t", partition))
        finally:
            owner.release()
        return position["offset"] if position else 0

    def final(self) -> dict[Table, pl.DataFrame]:
        found = {}
        for table, columns in COLUMNS.items():
            rows = LakeReader(self.path).scan(table.name).collect()
            assert rows.select(*table.key, "revision").is_unique().all(), table.name
            last = current(rows.lazy(), table.key).collect()
            last = standing(last) if table is VIOLATIONS else last
            found[table] = last.select(columns).sort(columns[:2])
        readings = LakeReader(self.path).scan("readings").select(READINGS.key).collect()
        assert readings.is_unique().all()
        assert readings.height == sum(map(len, self.log.partitions))
        return found


def _alike(found: dict[Table, pl.DataFrame], wanted: dict[Table, pl.DataFrame]) -> None:
    for table, frame in wanted.items():
        apart = [found[table].join(frame, on=frame.columns, how="anti", nulls_equal=True)]
        apart += [frame.join(found[table], on=frame.columns, how="anti", nulls_equal=True)]
        assert apart[0].is_empty(), (table.name, apart)
        assert apart[1].is_empty(), (table.name, apart)


def _in_one_partition(
    folder: Path, log: Log, index: MeterIndex, figures: MeteringSettings
) -> dict[Table, pl.DataFrame]:
    home = Home(folder, log, index, figures, kept=100, commit_rows=10**9)
    home.run()
    return home.final()


@pytest.mark.parametrize(
    ("seed", "order", "kept", "commit_rows"),
    [(3, ORDERS[0], 1, 60), (1, ORDERS[1], 8, 10**9), (2, ORDERS[2], 1, 1)],
)
def test_meters_that_move_end_as_if_they_had_stayed(
    tmp_path: Path,
    seed: int,
    order: str,
    kept: int,
    commit_rows: int,
    index: MeterIndex,
    metering_settings: MeteringSettings,
) -> None:
    wanted = _in_one_partition(tmp_path / "one", _log(seed, moving=False), index, metering_settings)
    home = Home(tmp_path / "many", _log(seed, moving=True), index, metering_settings, kept, commit_rows)
    home.run(order, seed)
    _alike(home.final(), wanted)
    assert wanted[VIOLATIONS].height > 20


def test_workers_that_are_killed_while_meters_move_lose_and_repeat_nothing(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings
) -> None:
    wanted = _in_one_partition(tmp_path / "one", _log(5, moving=False), index, metering_settings)
    home = Home(tmp_path / "many", _log(5, moving=True), index, metering_settings, commit_rows=40)
    for seed in range(5):
        home.run(ORDERS[seed % 3], seed, until=6)
    home.run(ORDERS[2])
    _alike(home.final(), wanted)


def test_meters_that_stay_do_not_notice(tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings) -> None:
    """Their revisions too are those of their partition's watermark: as if each partition were a topic of its own."""
    log = _log(6, moving=True)
    together, apart = (Home(tmp_path / name, log, index, metering_settings) for name in ("together", "apart"))
    together.run(ORDERS[2])
    apart.topics = tuple(f"t{partition}" for partition in range(PARTITIONS))
    apart.run(ORDERS[1])
    for table in COLUMNS:
        found, wanted = (
            current(LakeReader(home.path).scan(table.name).filter(pl.col("meter_id").is_in(STAYS)), table.key).collect()
            for home in (together, apart)
        )
        assert found.equals(wanted), table.name
    assert found["revision"].max() > 2


def _one_move() -> tuple[Log, Log]:
    """A meter that goes on in another partition after an hour; and all of it in one."""
    many, one = Log(), Log()
    for minute in range(5, 120, 5):
        partition = int(minute > 62)
        reading = {"meter_id": "M0", "ts": (START + timedelta(minutes=minute)).isoformat(), "p_kw": 1100.0 + minute}
        many.partitions[partition].append((minute, reading))
        one.partitions[0].append((minute, reading))
    for partition in range(2):
        end = {"meter_id": f"S{partition}", "ts": (START + timedelta(hours=5)).isoformat(), "p_kw": 1.0}
        many.partitions[partition].append((300.0, end))
        one.partitions[0].append((300.0, end))
    return many, one


class _Died(BaseException):
    """Stands for a process that is no more: nothing may catch it."""


def _dies(home: Home, at: int) -> bool:
    """Run, and die before the `at`-th call that moves or removes a file; whether there were so many."""
    calls = count()

    def guard(real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == at:
                raise _Died
            return real(*args, **kwargs)

        return guarded

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "unlink"):
            patch.setattr(os, name, guard(getattr(os, name)))
        try:
            home.run()
        except _Died:
            return True
    return False


def test_dying_at_any_step_of_a_commit_leaves_a_meter_in_one_place(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings
) -> None:
    many, one = _one_move()
    wanted = _in_one_partition(tmp_path / "one", one, index, metering_settings)
    assert wanted[WINDOWS].height == 8
    moved_on = []
    for at in count():
        home = Home(tmp_path / f"{at}", many, index, metering_settings, commit_rows=10)
        home.run(until=3)  # the first partition's readings; nothing has moved yet
        assert home.offset(0) > 0
        assert home.offset(1) == 0
        died = _dies(home, at + 1)  # the first rename takes the home over
        moved_on.append(home.offset(1) > 0)
        home.run()
        _alike(home.final(), wanted)
        if not died:
            break
    assert {False, True} <= set(moved_on[:-1])  # deaths before the commit, and within it


def test_a_meter_that_left_the_state_in_silence_moves_too(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings
) -> None:
    """Its violation, open all the while, is cleared where it speaks again; its day is summed up on."""
    many, one = Log(), Log()
    sent = [(0, "M0", minute, 1100.0) for minute in range(5, 120, 5)]
    sent += [(0, "S0", minute, 1.0) for minute in range(600, 660, 5)]
    sent += [(1, "M0", minute, 100.0) for minute in range(700, 800, 5)]
    sent += [(1, "M0", 60, 900.0), (0, "S0", 2000, 1.0), (1, "S1", 2000, 1.0)]
    for partition, meter, minute, p in sent:
        reading = {"meter_id": meter, "ts": (START + timedelta(minutes=minute)).isoformat(), "p_kw": p, "q_kvar": 0.0}
        came = 2000 + len(one.partitions[0])
        many.partitions[partition].append((came, reading))
        one.partitions[0].append((came, reading))
    wanted = _in_one_partition(tmp_path / "one", one, index, metering_settings)
    assert wanted[VIOLATIONS].filter(pl.col("ended_at").is_not_null()).height > 0
    home = Home(tmp_path / "many", many, index, metering_settings, commit_rows=10, silent_s=3600)
    home.run()
    _alike(home.final(), wanted)


def test_a_meter_does_not_move_away_from_another_process(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings
) -> None:
    many, _ = _one_move()
    home = Home(tmp_path, many, index, metering_settings, commit_rows=1)
    home.run(until=4)
    owner = take(tmp_path)
    try:
        commits = CommitLog(tmp_path, owner)
        worker = home.worker(commits, 1, 2)
        last = len(many.partitions[1])
        with pytest.raises(OperationError, match=r"M0 have moved to t-1 .* another process reads.*--workers"):
            worker.advance(worker.decode([many.batch([(1, 0, 5)], home.topics)]))
        worker = home.worker(commits, 1, 2)
        worker.advance(worker.decode([many.batch([(1, last - 1, last)], home.topics)]))  # a meter new everywhere
    finally:
        owner.release()
