"""Which records count: workers that become more or fewer, damage, and records from before there was one a worker."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest

from metering.errors import OperationError
from sinks.lake.commits import CommitLog
from sinks.lake.owner import Owner, take
from tests.sinks.lake.commit_logs import (
    FOLDERS,
    SHARD,
    Died,
    commit,
    counting,
    die_at,
    old_joint,
    old_record,
    rows,
    seen,
)

SHARDS = [f"t-{partition}" for partition in range(8)]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    taken = take(tmp_path)
    yield taken
    taken.release()


def _part(number: int) -> dict[str, pl.DataFrame]:
    return {FOLDERS[0]: pl.DataFrame({"commit": [number], "folder": [FOLDERS[0]]})}


# --- workers that become more or fewer --------------------------------------------------------------------------------


class _Stream:
    """A stream of so many workers; each shard's position is the number of the last commit that it was part of."""

    def __init__(self, home: Path, workers: int) -> None:
        self.owner = take(home)
        self.logs = [CommitLog(home, self.owner, finish=worker == 0) for worker in range(workers)]
        self.workers = workers

    def shards_of(self, worker: int) -> list[str]:
        return [shard for number, shard in enumerate(SHARDS) if number % self.workers == worker]

    def held_by(self, worker: int) -> dict[str, int]:
        """As a worker takes its shards from the records: what each says was last."""
        found = {}
        for record, shards in self.logs[worker].counting():
            told = json.loads(record.state)
            found.update({shard: told[shard] for shard in shards & set(self.shards_of(worker))})
        return found

    def commit(self, worker: int, number: int) -> dict[str, int]:
        """The last number of each of the worker's shards, after a commit of all of them."""
        now = dict.fromkeys(self.shards_of(worker), number)
        positions = {shard: {"offset": number} for shard in now}
        self.logs[worker].commit(worker, positions, json.dumps(now).encode(), _part(number))
        return now


def test_shards_are_shared_out_anew_at_each_start_whoever_died_before_its_first_commit(tmp_path: Path) -> None:
    wanted: dict[str, int] = {}
    numbers = iter(range(1, 1000))
    used: set[Path] = set()
    for workers, committing in ((1, [0]), (2, [1]), (4, [0, 0, 3]), (4, []), (2, [0]), (3, [2]), (1, []), (1, [0, 0])):
        stream = _Stream(tmp_path, workers)
        for worker in range(workers):
            mine = stream.shards_of(worker)
            assert stream.held_by(worker) == {shard: wanted[shard] for shard in mine if shard in wanted}
            assert all((stream.logs[worker].position(s) or {"offset": None})["offset"] == wanted.get(s) for s in SHARDS)
        for worker in committing:
            before = set(tmp_path.glob("lake/**/*.parquet"))
            wanted.update(stream.commit(worker, next(numbers)))
            new = set(tmp_path.glob("lake/**/*.parquet")) - before
            assert len(new) == 1, "the name of a part was used before"
            assert not new & used
            used |= new
        stream.owner.release()
    assert len(set(wanted.values())) == 1
    owner = take(tmp_path)
    assert [shards for _, shards in CommitLog(tmp_path, owner).counting()] == [frozenset(SHARDS)]
    assert len(list((owner.folder / "commits").iterdir())) == 1, "records none of whose shards counts are removed"
    owner.release()
    assert [number for number, _ in seen(tmp_path)] == list(range(1, next(numbers)))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_step_while_workers_become_more_and_fewer(tmp_path: Path, after: bool) -> None:
    """Each time at another call to the disk; commits that were seen stay seen, each once, and all shards agree."""
    possible: dict[str, set[int]] = {}
    number = deaths = 0
    for turn, workers in enumerate((1, 2, 4, 2, 1) * 4):
        stream = _Stream(tmp_path, workers)
        told = {shard: at for worker in range(workers) for shard, at in stream.held_by(worker).items()}
        assert told == {shard: position["offset"] for shard in SHARDS if (position := stream.logs[0].position(shard))}
        assert all(told.get(shard, 0) in numbers for shard, numbers in possible.items())
        assert told.keys() <= possible.keys()
        found = [n for n, _ in seen(tmp_path)]
        assert len(set(found)) == len(found), "a part is seen twice"
        assert set(told.values()) <= set(found)
        possible = {shard: {at} for shard, at in told.items()}
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, turn * 3 % (6 * workers), after)
            try:
                for worker in range(workers):
                    number += 1
                    for shard in stream.shards_of(worker):
                        possible[shard] = {told.get(shard, 0), number}
                    stream.commit(worker, number)
                    possible.update({shard: {number} for shard in stream.shards_of(worker)})
            except Died:
                deaths += 1
        stream.owner.release()
    assert deaths > 15


def test_a_part_of_a_shard_that_is_not_read_any_more_keeps_its_record(tmp_path: Path, owner: Owner) -> None:
    log = CommitLog(tmp_path, owner)
    commit(log, 1, shards=("t-0", "files"))
    owner.release()
    again = take(tmp_path)
    log = CommitLog(tmp_path, again)
    commit(log, 2, shards=("t-0",))
    assert (log.position("files"), log.position("t-0")) == ({"offset": 10}, {"offset": 20})
    assert [(record.generation, shards) for record, shards in log.counting()] == [(1, {"files"}), (2, {"t-0"})]
    again.release()


# --- damage -----------------------------------------------------------------------------------------------------------


def _damaged(whole: bytes) -> dict[str, bytes]:
    flipped = bytearray(whole)
    flipped[20] ^= 1
    length = bytearray(whole)
    length[8] ^= 1
    return {
        "header": bytes(flipped), "length": bytes(length), "cut": whole[:40], "empty": b"", "short": whole[:6],
        "foreign": b"PK\x03\x04" + whole, "magic": b"KWC9" + whole[4:], "zeros": bytes(len(whole)),
    }  # fmt: skip


@pytest.mark.parametrize("damage", _damaged(bytes(50)))
def test_a_damaged_record_is_named_and_put_aside_when_told_to(tmp_path: Path, owner: Owner, damage: str) -> None:
    commit(CommitLog(tmp_path, owner), 1)
    (path,) = (owner.folder / "commits").iterdir()
    path.write_bytes(_damaged(path.read_bytes())[damage])
    with pytest.raises(OperationError, match=rf"{path.name} is damaged: .*stream --rebuild"):
        CommitLog(tmp_path, owner)
    assert seen(tmp_path) == rows(1)
    log = CommitLog(tmp_path, owner, salvage=True)
    assert (log.damaged, log.shards, log.counting()) == (True, frozenset(), [])
    assert [found.name for found in (owner.folder / "commits").iterdir()] == [path.with_suffix(".damaged").name]
    commit(log, 2)
    again = CommitLog(tmp_path, owner)
    assert (again.damaged, again.position(SHARD)) == (False, {"offset": 20})
    assert seen(tmp_path) in (rows(1, 2), rows(2)), "a part of the name that the damaged record used"


@pytest.mark.parametrize("damage", ["flip", "cut", "none", "more"])
def test_a_damaged_state_leaves_positions_and_parts(tmp_path: Path, owner: Owner, damage: str) -> None:
    commit(CommitLog(tmp_path, owner), 1)
    (path,) = (owner.folder / "commits").iterdir()
    whole = path.read_bytes()
    head = len(whole) - len(b"state 1")
    content = {
        "flip": whole[:-1] + bytes([whole[-1] ^ 1]), "cut": whole[:-1], "none": whole[:head], "more": whole + b"\0"
    }[damage]  # fmt: skip
    path.write_bytes(content)
    log = CommitLog(tmp_path, owner)
    record = counting(log)
    assert record is not None
    assert (record.state, log.position(SHARD), log.damaged) == (b"", {"offset": 10}, False)
    assert seen(tmp_path) == rows(1)


# --- records as they were before --------------------------------------------------------------------------------------


def _staged(owner: Owner, home: Path, shard: str, number: int) -> list[tuple[str, str]]:
    """A part that waits to be revealed."""
    staged, final = f"{shard}-{number:010d}-x.parquet", f"{FOLDERS[0]}/{shard}-{number:010d}.parquet"
    _part(number)[FOLDERS[0]].write_parquet(owner.folder / "staging" / staged)
    return [(staged, final)]


def _leave_old_records(home: Path) -> None:
    """Two shards of which a joint commit was written, and the record of the first; a third one by itself."""
    owner = take(home)
    records = owner.folder / "commits"
    joint = [old_record(s, 5, {"offset": 50}, _staged(owner, home, s, n)) for s, n in (("t-0", 1), ("t-1", 2))]
    (records / "t-0.joint").write_bytes(old_joint(joint))
    (records / "t-0.commit").write_bytes(joint[0])
    (records / "t-1.commit").write_bytes(old_record("t-1", 4, {"offset": 40}, ()))
    own = old_record("a.ndjson", 7, {"row": 9, "byte": 900, "mark": 1}, _staged(owner, home, "a", 3))
    (records / "a.ndjson.commit").write_bytes(own)
    (owner.folder / "staging" / "stray.parquet").write_bytes(b"")
    owner.release()


def _told(log: CommitLog) -> dict[str, tuple[object, bytes]]:
    return {shard: (dict(r.positions[shard]), r.state) for r, shards in log.counting() for shard in shards}


OLD = {
    "t-0": ({"offset": 50}, b"state 5"),
    "t-1": ({"offset": 50}, b"state 5"),
    "a.ndjson": ({"row": 9, "byte": 900, "mark": 1}, b"state 7"),
}


def test_records_of_shards_are_finished_and_read_on(tmp_path: Path) -> None:
    _leave_old_records(tmp_path)
    owner = take(tmp_path)
    log = CommitLog(tmp_path, owner)
    assert _told(log) == OLD
    assert [number for number, _ in seen(tmp_path)] == [1, 2, 3]
    assert list((owner.folder / "staging").iterdir()) == []
    log.commit(0, {"t-0": {"offset": 60}, "t-1": {"offset": 61}}, b"new", _part(4))
    owner.release()
    owner = take(tmp_path)
    log = CommitLog(tmp_path, owner)
    assert _told(log) == OLD | {"t-0": ({"offset": 60}, b"new"), "t-1": ({"offset": 61}, b"new")}
    log.commit(0, {shard: {"offset": 70} for shard in OLD}, b"newer", _part(5))
    owner.release()
    owner = take(tmp_path)
    assert _told(CommitLog(tmp_path, owner)) == dict.fromkeys(OLD, ({"offset": 70}, b"newer"))
    assert [path.suffix for path in (owner.folder / "commits").iterdir()] == [".commit"]
    assert [number for number, _ in seen(tmp_path)] == [1, 2, 3, 4, 5]
    owner.release()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_dying_at_any_step_of_a_start_on_old_records_loses_nothing(tmp_path: Path, after: bool) -> None:
    for at in range(100):
        home = tmp_path / f"{at}"
        _leave_old_records(home)
        with pytest.MonkeyPatch.context() as patch:
            calls = die_at(patch, at, after)
            with contextlib.suppress(Died):
                owner = take(home)
                try:
                    CommitLog(home, owner)
                finally:
                    owner.release()
        owner = take(home)
        assert _told(CommitLog(home, owner)) == OLD
        assert [number for number, _ in seen(home)] == [1, 2, 3]
        owner.release()
        if len(calls) <= at:
            break
    assert 5 < at < 99


@pytest.mark.parametrize("bytes_left", [-1, -60, 12, 4], ids=str)
def test_a_damaged_joint_record_is_named(tmp_path: Path, bytes_left: int) -> None:
    _leave_old_records(tmp_path)
    owner = take(tmp_path)
    (path,) = (owner.folder / "commits").glob("*.joint")
    path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(OperationError, match=f"{path.name} is damaged"):
        CommitLog(tmp_path, owner)
    log = CommitLog(tmp_path, owner, salvage=True)
    assert log.damaged
    assert log.shards == {"t-0", "t-1", "a.ndjson"}
    owner.release()


def test_a_damaged_record_of_a_shard_is_named(tmp_path: Path) -> None:
    _leave_old_records(tmp_path)
    owner = take(tmp_path)
    path = owner.folder / "commits" / "a.ndjson.commit"
    whole = path.read_bytes()
    contents: Sequence[bytes] = (whole[:-1], whole[:-1] + b"x", whole[:9], b"")
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(OperationError, match=f"{path.name} is damaged"):
            CommitLog(tmp_path, owner)
    owner.release()
