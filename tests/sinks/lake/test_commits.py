"""Commit records: whatever moment the process dies, all of a commit counts or nothing of it."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import polars as pl
import pytest

from metering.errors import OperationError
from sinks.lake.commits import CommitLog, slug
from sinks.lake.owner import Owner, take
from tests.sinks.lake.commit_logs import FOLDERS, SHARD, Died, at_each_call, commit, counting, die_at, rows, seen


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    taken = take(tmp_path)
    yield taken
    taken.release()


def test_a_commit_is_there_for_readers_and_for_the_next_start(tmp_path: Path, owner: Owner) -> None:
    log = CommitLog(tmp_path, owner)
    assert (log.position(SHARD), log.shards, log.counting()) == (None, frozenset(), [])
    for number in (1, 2):
        record = commit(log, number)
        assert record.sequence == number
        assert log.counting() == [(record, frozenset({SHARD}))]
        assert log.position(SHARD) == {"offset": number * 10}
    assert seen(tmp_path) == rows(1, 2)
    owner.release()
    again = take(tmp_path)
    reopened = CommitLog(tmp_path, again)
    assert reopened.counting() == [(record, frozenset({SHARD}))]
    assert (record.positions, record.state) == ({SHARD: {"offset": 20}}, b"state 2")
    assert seen(tmp_path) == rows(1, 2)
    commit(reopened, 3)
    assert seen(tmp_path) == rows(1, 2, 3)
    again.release()


def test_a_commit_without_rows_still_moves_on(tmp_path: Path, owner: Owner) -> None:
    record = CommitLog(tmp_path, owner).commit(0, {SHARD: {"offset": 5}}, b"state", {})
    reopened = CommitLog(tmp_path, owner)
    assert (counting(reopened), reopened.position(SHARD)) == (record, {"offset": 5})
    assert (record.parts, record.state) == ((), b"state")
    assert seen(tmp_path) == []


def test_a_record_keeps_positions_of_shards_of_any_name(tmp_path: Path, owner: Owner) -> None:
    names = ["a/b", "a_b", "a b", "a.b", ".", "a", "A", "x" * 300, "x" * 301, "电表", "..", "a.commit", '"', "\\"]
    files = {"next": 7, "files": {name: {"row": 3, "byte": 99, "mark": 2**32 - 1} for name in names}}
    positions = {name: {"offset": number} if number % 2 else files for number, name in enumerate(names)}
    CommitLog(tmp_path, owner).commit(0, positions, bytes(range(256)) * 9, {})
    reopened = CommitLog(tmp_path, owner)
    assert {name: reopened.position(name) for name in names} == positions
    assert reopened.shards == set(names)
    assert len({slug(name) for name in names}) == len(names)


def test_workers_do_not_touch_each_other(tmp_path: Path, owner: Owner) -> None:
    for worker in range(3):  # each a process of its own
        log = CommitLog(tmp_path, owner, finish=worker == 0)
        for number in (1, 2):
            frame = pl.DataFrame({"commit": [10 * worker + number], "folder": ["f"]})
            log.commit(worker, {f"t-{worker}": {"offset": number}}, b"of %d" % worker, {FOLDERS[0]: frame})
    reopened = CommitLog(tmp_path, owner)
    assert [(r.worker, r.sequence, shards) for r, shards in reopened.counting()] == [
        (worker, 2, {f"t-{worker}"}) for worker in range(3)
    ]
    assert [r.state for r, _ in reopened.counting()] == [b"of 0", b"of 1", b"of 2"]
    assert [number for number, _ in seen(tmp_path)] == [1, 2, 11, 12, 21, 22]


# --- dying ----------------------------------------------------------------------------------------------------------


def _calls_of_a_commit(tmp_path: Path) -> int:
    home = tmp_path / "counted"
    owner = take(home)
    log = CommitLog(home, owner)
    commit(log, 1)
    with pytest.MonkeyPatch.context() as patch:
        calls = die_at(patch, -1, after=False)
        commit(log, 2)
    owner.release()
    assert {"fsync", "rename"} <= set(calls)
    return len(calls)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_dying_at_any_step_of_a_commit_leaves_all_or_nothing_of_all_its_shards(tmp_path: Path, after: bool) -> None:
    shards = ("t-0", "t-1", ".")
    outcomes = set()
    for at in range(_calls_of_a_commit(tmp_path)):
        home = tmp_path / f"{at}"
        owner = take(home)
        log = CommitLog(home, owner)
        commit(log, 1, shards=shards)
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, at, after)
            with pytest.raises(Died):
                commit(log, 2, shards=shards)
        owner.release()
        left = seen(home)
        assert set(rows(1)) <= set(left)

        owner = take(home)
        log = CommitLog(home, owner)
        [(record, counted)] = log.counting()
        assert counted == set(shards)
        assert [log.position(shard) for shard in shards] == [{"offset": 10 * record.sequence}] * len(shards)
        assert record.state == b"state %d" % record.sequence
        assert seen(home) == rows(*range(1, record.sequence + 1))
        assert set(left) <= set(seen(home))  # nothing that was seen is gone
        assert len(left) == len(set(left))
        assert list((owner.folder / "staging").iterdir()) == []
        assert [path.suffix for path in (owner.folder / "commits").iterdir()] == [".commit"]
        outcomes.add(record.sequence)

        commit(log, record.sequence + 1, shards=shards)
        assert seen(home) == rows(*range(1, record.sequence + 2))
        owner.release()
    assert outcomes == {1, 2}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_dying_at_any_step_of_a_start_loses_nothing(tmp_path: Path, after: bool) -> None:
    """Of a first start, and of one that has to reveal what a dead owner committed and to clear what it did not."""
    deaths = 0
    for at in itertools.count():
        home = tmp_path / f"{at}"
        fresh, left_over = home / "fresh", home / "left over"
        home.mkdir()
        _leave_committed_but_hidden(left_over)
        died = 0
        for place in (fresh, left_over):
            with pytest.MonkeyPatch.context() as patch:
                die_at(patch, at, after)
                died += _starting_dies(place)
            owner = take(place)
            log = CommitLog(place, owner)
            assert seen(place) == (rows(1, 2) if counting(log) else [])
            assert list((owner.folder / "staging").iterdir()) == []
            commit(log, 3)
            owner.release()
        assert seen(left_over) == rows(1, 2, 3)
        assert seen(fresh) == rows(3)
        deaths += died
        if not died:  # both starts take fewer steps
            break
    assert deaths > 10


def _starting_dies(home: Path) -> bool:
    try:
        owner = take(home)
    except Died:
        return True
    try:
        CommitLog(home, owner)
    except Died:
        return True
    finally:
        owner.release()  # as the kernel does
    return False


def _leave_committed_but_hidden(home: Path) -> None:
    owner = take(home)
    log = CommitLog(home, owner)
    commit(log, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommitLog, "_reveal", _dying)
        with pytest.raises(Died):
            commit(log, 2)
    (owner.folder / "staging" / "stray.parquet").write_bytes(b"half a part")
    (owner.folder / "commits" / "0000000001-0.commit.new").write_bytes(b"half a record")
    owner.release()
    assert seen(home) == rows(1)


def _dying(*_: object) -> None:
    raise Died


# --- what an operator meets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_nothing_counts(tmp_path: Path, owner: Owner, code: int) -> None:
    log = CommitLog(tmp_path, owner)
    commit(log, 1)
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, 0, after=False, error=OSError(code, os.strerror(code)))
        with pytest.raises(OperationError, match=r"disk of .* is full.*free space"):
            commit(log, 2)
    assert seen(tmp_path) == rows(1)
    reopened = CommitLog(tmp_path, owner)
    commit(reopened, 2)
    assert seen(tmp_path) == rows(1, 2)


@pytest.mark.parametrize("where", [".parquet", ".new"], ids=["part", "record"])
def test_a_disk_that_fills_while_writing(
    tmp_path: Path, owner: Owner, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own answer, from a device that is always full."""
    log = CommitLog(tmp_path, owner)
    real = Path.open

    def opened(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:
        return real(Path("/dev/full"), "wb") if self.suffix == where else real(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OperationError, match="is full"):
        commit(log, 1)
    monkeypatch.undo()
    assert CommitLog(tmp_path, owner).counting() == []
    assert seen(tmp_path) == []


def test_other_troubles_are_not_told_as_a_full_disk(tmp_path: Path, owner: Owner) -> None:
    log = CommitLog(tmp_path, owner)
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, 0, after=False, error=OSError(errno.EIO, "input/output error"))
        with pytest.raises(OSError, match="input/output error"):
            commit(log, 1)


# --- fencing --------------------------------------------------------------------------------------------------------


def test_an_old_owner_that_wakes_up_can_write_no_more(tmp_path: Path) -> None:
    """Its lock is gone, as if the process had been taken for dead; all its paths are gone too."""
    old = take(tmp_path)
    sleeping = CommitLog(tmp_path, old)
    commit(sleeping, 1)
    old.release()
    new = take(tmp_path)
    assert new.folder != old.folder
    awake = CommitLog(tmp_path, new)
    with pytest.raises(OperationError, match="another stream has taken over"):
        commit(sleeping, 2)
    assert seen(tmp_path) == rows(1)
    commit(awake, 2)
    with pytest.raises(OperationError, match="another stream has taken over"):
        sleeping.commit(0, {SHARD: {"offset": 99}}, b"", {})
    assert seen(tmp_path) == rows(1, 2)
    new.release()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_taken_over_in_the_middle_of_a_commit(tmp_path: Path, after: bool) -> None:
    """At whatever step: the old one's commit counts for the new one, or it does not; never half, never twice."""
    for at in range(_calls_of_a_commit(tmp_path)):
        home = tmp_path / f"{at}"
        old = take(home)
        sleeping = CommitLog(home, old)
        commit(sleeping, 1)
        successors: list[tuple[Owner, CommitLog]] = []
        with pytest.MonkeyPatch.context() as patch:
            at_each_call(
                patch, at, after, lambda home=home, old=old, into=successors: into.append(_overtaken(home, old))
            )
            with pytest.raises(OperationError, match="another stream has taken over"):
                commit(sleeping, 2)
        ((new, log),) = successors
        record = counting(log)
        assert record is not None
        assert seen(home) == rows(*range(1, record.sequence + 1))
        commit(log, record.sequence + 1)
        assert seen(home) == rows(*range(1, record.sequence + 2))
        new.release()


def _overtaken(home: Path, old: Owner) -> tuple[Owner, CommitLog]:
    old.release()
    new = take(home)
    return new, CommitLog(home, new)
