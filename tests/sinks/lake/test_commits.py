"""Commit records: whatever moment the process dies, all of a commit counts or nothing of it."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import duckdb
import polars as pl
import pytest

from metering.errors import OperationError
from sinks.lake.commits import Commit, CommitLog, Record, slug
from sinks.lake.owner import Owner, take

SHARD = "meter.readings.v1/0"
FOLDERS = ("lake/readings/date=2026-01-01", "lake/readings/date=2026-01-02", "lake/windows/date=2026-01-01")


class _Died(BaseException):
    """Stands for a process that is no more: nothing may catch it."""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    taken = take(tmp_path)
    yield taken
    taken.release()


def _frames(number: int) -> dict[str, pl.DataFrame]:
    return {folder: pl.DataFrame({"commit": [number], "folder": [folder]}) for folder in FOLDERS}


def _commit(log: CommitLog, number: int) -> Record:
    return log.commit(SHARD, {"offset": number * 10}, b"state %d" % number, _frames(number))


def _seen(home: Path) -> list[tuple[int, str]]:
    """What a reader's bare glob sees, read by an engine that shares no code with the writer."""
    if not list(home.glob("lake/**/*.parquet")):
        return []
    with duckdb.connect() as connection:
        query = f"select commit, folder from read_parquet('{home}/lake/**/*.parquet') order by all"
        return connection.execute(query).fetchall()


def _rows(*numbers: int) -> list[tuple[int, str]]:
    return sorted((number, folder) for number in numbers for folder in FOLDERS)


def test_a_commit_is_there_for_readers_and_for_the_next_start(tmp_path: Path, owner: Owner) -> None:
    log = CommitLog(tmp_path, owner)
    assert log.last(SHARD) is None
    for number in (1, 2):
        record = _commit(log, number)
        assert (record.sequence, log.last(SHARD)) == (number, record)
    assert _seen(tmp_path) == _rows(1, 2)
    owner.release()
    again = take(tmp_path)
    reopened = CommitLog(tmp_path, again)
    assert reopened.last(SHARD) == Record(SHARD, 2, {"offset": 20}, record.parts, b"state 2")
    assert _seen(tmp_path) == _rows(1, 2)
    _commit(reopened, 3)
    assert _seen(tmp_path) == _rows(1, 2, 3)
    again.release()


def test_a_commit_without_rows_still_moves_on(tmp_path: Path, owner: Owner) -> None:
    log = CommitLog(tmp_path, owner)
    log.commit(SHARD, {"offset": 5}, b"state", {})
    assert CommitLog(tmp_path, owner).last(SHARD) == Record(SHARD, 1, {"offset": 5}, (), b"state")
    assert _seen(tmp_path) == []


def test_shards_do_not_touch_each_other(tmp_path: Path, owner: Owner) -> None:
    names = ["a/b", "a_b", "a b", "a.b", "a.1", "a", "A", "x" * 300, "x" * 301, "电表", "..", "a.commit"]
    log = CommitLog(tmp_path, owner)
    for number, name in enumerate(names):
        log.commit(
            name, {"row": number}, name.encode(), {FOLDERS[0]: pl.DataFrame({"commit": [number], "folder": [name]})}
        )
    reopened = CommitLog(tmp_path, owner)
    for number, name in enumerate(names):
        record = reopened.last(name)
        assert record is not None
        assert (record.shard, record.position, record.state) == (name, {"row": number}, name.encode())
    assert sorted(number for number, _ in _seen(tmp_path)) == list(range(len(names)))
    assert len({slug(name) for name in names}) == len(names)


# --- dying ----------------------------------------------------------------------------------------------------------

CALLS = ("fsync", "rename", "mkdir", "unlink")


def _die_at(monkeypatch: pytest.MonkeyPatch, at: int, after: bool, error: BaseException | None = None) -> list[str]:
    """Die at the `at`-th call (from 0) of those that change the disk, before it or after it. Returns the calls seen."""
    calls: list[str] = []

    def guard(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            mine = len(calls) - 1 == at
            if mine and not after:
                raise error or _Died
            result = real(*args, **kwargs)
            if mine:
                raise error or _Died
            return result

        return guarded

    for name in CALLS:
        monkeypatch.setattr(os, name, guard(name, getattr(os, name)))
    return calls


def _calls_of_a_commit(tmp_path: Path) -> int:
    home = tmp_path / "counted"
    owner = take(home)
    log = CommitLog(home, owner)
    _commit(log, 1)
    with pytest.MonkeyPatch.context() as patch:
        calls = _die_at(patch, -1, after=False)
        _commit(log, 2)
    owner.release()
    assert {"fsync", "rename"} <= set(calls)
    return len(calls)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_dying_at_any_step_of_a_commit_leaves_all_or_nothing(tmp_path: Path, after: bool) -> None:
    outcomes = set()
    for at in range(_calls_of_a_commit(tmp_path)):
        home = tmp_path / f"{at}"
        owner = take(home)
        log = CommitLog(home, owner)
        _commit(log, 1)
        with pytest.MonkeyPatch.context() as patch:
            _die_at(patch, at, after)
            with pytest.raises(_Died):
                _commit(log, 2)
        owner.release()
        left = _seen(home)
        assert set(_rows(1)) <= set(left)

        owner = take(home)
        log = CommitLog(home, owner)
        record = log.last(SHARD)
        assert record is not None
        assert (record.position, record.state) == ({"offset": 10 * record.sequence}, b"state %d" % record.sequence)
        assert _seen(home) == _rows(*range(1, record.sequence + 1))
        assert set(left) <= set(_seen(home))  # nothing that was seen is gone
        assert len(left) == len(set(left))
        assert list((owner.folder / "staging").iterdir()) == []
        assert [path.suffix for path in (owner.folder / "commits").iterdir()] == [".commit"]
        outcomes.add(record.sequence)

        _commit(log, record.sequence + 1)
        assert _seen(home) == _rows(*range(1, record.sequence + 2))
        owner.release()
    assert outcomes == {1, 2}


def _commit_two(log: CommitLog, number: int) -> None:
    own = {name: pl.DataFrame({"commit": [number], "folder": [name]}) for name in ("a", "b")}
    commits = {name: Commit({"offset": number}, name.encode() * number, {FOLDERS[0]: own[name]}) for name in own}
    log.commit_together(commits)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_dying_at_any_step_of_a_joint_commit_leaves_all_shards_or_none(tmp_path: Path, after: bool) -> None:
    outcomes = set()
    for at in itertools.count():
        home = tmp_path / f"{at}"
        owner = take(home)
        log = CommitLog(home, owner)
        _commit_two(log, 1)
        with pytest.MonkeyPatch.context() as patch:
            _die_at(patch, at, after)
            try:
                _commit_two(log, 2)
                died = False
            except _Died:
                died = True
        owner.release()
        left = _seen(home)

        owner = take(home)
        log = CommitLog(home, owner)
        a, b = log.last("a"), log.last("b")
        assert a is not None
        assert b is not None
        assert a.sequence == b.sequence == a.position["offset"] == b.position["offset"]
        assert (a.state, b.state) == (b"a" * a.sequence, b"b" * a.sequence)
        numbers = range(1, a.sequence + 1)
        assert _seen(home) == [(number, name) for number in numbers for name in ("a", "b")]
        assert set(left) <= set(_seen(home))
        assert list((owner.folder / "staging").iterdir()) == []
        assert sorted(path.name for path in (owner.folder / "commits").iterdir()) == ["a.commit", "b.commit"]
        outcomes.add(a.sequence)
        _commit_two(log, a.sequence + 1)
        owner.release()
        if not died:
            break
    assert outcomes == {1, 2}
    assert at > 10


def test_a_damaged_joint_record_is_named(tmp_path: Path, owner: Owner) -> None:
    log = CommitLog(tmp_path, owner)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda _: None)
        _commit_two(log, 1)
    (path,) = (owner.folder / "commits").glob("*.joint")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OperationError, match=f"{path.name} is damaged"):
        CommitLog(tmp_path, owner)


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
                _die_at(patch, at, after)
                died += _starting_dies(place)
            owner = take(place)
            log = CommitLog(place, owner)
            last = log.last(SHARD)
            assert _seen(place) == (_rows(1, 2) if last else [])
            assert list((owner.folder / "staging").iterdir()) == []
            _commit(log, 3)
            owner.release()
        assert _seen(left_over) == _rows(1, 2, 3)
        assert _seen(fresh) == _rows(3)
        deaths += died
        if not died:  # both starts take fewer steps
            break
    assert deaths > 10


def _starting_dies(home: Path) -> bool:
    try:
        owner = take(home)
    except _Died:
        return True
    try:
        CommitLog(home, owner)
    except _Died:
        return True
    finally:
        owner.release()  # as the kernel does
    return False


def _leave_committed_but_hidden(home: Path) -> None:
    owner = take(home)
    log = CommitLog(home, owner)
    _commit(log, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommitLog, "_reveal", _dying)
        with pytest.raises(_Died):
            _commit(log, 2)
    (owner.folder / "staging" / "stray.parquet").write_bytes(b"half a part")
    owner.release()
    assert _seen(home) == _rows(1)


def _dying(*_: object) -> None:
    raise _Died


# --- what an operator meets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_nothing_counts(tmp_path: Path, owner: Owner, code: int) -> None:
    log = CommitLog(tmp_path, owner)
    _commit(log, 1)
    with pytest.MonkeyPatch.context() as patch:
        _die_at(patch, 0, after=False, error=OSError(code, os.strerror(code)))
        with pytest.raises(OperationError, match=r"disk of .* is full.*free space"):
            _commit(log, 2)
    assert _seen(tmp_path) == _rows(1)
    reopened = CommitLog(tmp_path, owner)
    _commit(reopened, 2)
    assert _seen(tmp_path) == _rows(1, 2)


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
        _commit(log, 1)
    monkeypatch.undo()
    assert CommitLog(tmp_path, owner).last(SHARD) is None
    assert _seen(tmp_path) == []


def test_other_troubles_are_not_told_as_a_full_disk(tmp_path: Path, owner: Owner) -> None:
    log = CommitLog(tmp_path, owner)
    with pytest.MonkeyPatch.context() as patch:
        _die_at(patch, 0, after=False, error=OSError(errno.EIO, "input/output error"))
        with pytest.raises(OSError, match="input/output error"):
            _commit(log, 1)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "short", "foreign"])
def test_a_damaged_record_is_named_and_nothing_is_guessed(tmp_path: Path, owner: Owner, damage: str) -> None:
    log = CommitLog(tmp_path, owner)
    _commit(log, 1)
    (path,) = (owner.folder / "commits").iterdir()
    whole = path.read_bytes()
    content = {
        "cut": whole[:-1], "flip": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b"", "short": whole[:6],
        "foreign": b"PK\x03\x04" + whole,
    }[damage]  # fmt: skip
    path.write_bytes(content)
    with pytest.raises(OperationError, match=f"{path.name} is damaged"):
        CommitLog(tmp_path, owner)
    assert _seen(tmp_path) == _rows(1)


# --- fencing --------------------------------------------------------------------------------------------------------


def test_an_old_owner_that_wakes_up_can_write_no_more(tmp_path: Path) -> None:
    """Its lock is gone, as if the process had been taken for dead; all its paths are gone too."""
    old = take(tmp_path)
    sleeping = CommitLog(tmp_path, old)
    _commit(sleeping, 1)
    old.release()
    new = take(tmp_path)
    assert new.folder != old.folder
    awake = CommitLog(tmp_path, new)
    with pytest.raises(OperationError, match="another stream has taken over"):
        _commit(sleeping, 2)
    assert _seen(tmp_path) == _rows(1)
    _commit(awake, 2)
    with pytest.raises(OperationError, match="another stream has taken over"):
        sleeping.commit(SHARD, {"offset": 99}, b"", {})
    assert _seen(tmp_path) == _rows(1, 2)
    new.release()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_taken_over_in_the_middle_of_a_commit(tmp_path: Path, after: bool) -> None:
    """At whatever step: the old one's commit counts for the new one, or it does not; never half, never twice."""
    for at in range(_calls_of_a_commit(tmp_path)):
        home = tmp_path / f"{at}"
        old = take(home)
        sleeping = CommitLog(home, old)
        _commit(sleeping, 1)
        successors: list[tuple[Owner, CommitLog]] = []
        with pytest.MonkeyPatch.context() as patch:
            _interrupt_at(
                patch, at, after, lambda home=home, old=old, into=successors: into.append(_overtaken(home, old))
            )
            with pytest.raises(OperationError, match="another stream has taken over"):
                _commit(sleeping, 2)
        ((new, log),) = successors
        record = log.last(SHARD)
        assert record is not None
        assert _seen(home) == _rows(*range(1, record.sequence + 1))
        _commit(log, record.sequence + 1)
        assert _seen(home) == _rows(*range(1, record.sequence + 2))
        new.release()


def _overtaken(home: Path, old: Owner) -> tuple[Owner, CommitLog]:
    old.release()
    new = take(home)
    return new, CommitLog(home, new)


def _interrupt_at(patch: pytest.MonkeyPatch, at: int, after: bool, act: Callable[[], None]) -> None:
    real = {name: getattr(os, name) for name in CALLS}
    count = 0

    def guard(name: str) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            mine, count = count == at, count + 1
            if mine and not after:
                act()
            result = real[name](*args, **kwargs)
            if mine and after:
                act()
            return result

        return guarded

    for name in CALLS:
        patch.setattr(os, name, guard(name))
