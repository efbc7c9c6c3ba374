"""Merging small parts: same rows, fewer parts, old or new whole whatever happens, and readers beside it."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

import sinks.lake.compaction
import sinks.lake.maintenance
from metering.errors import OperationError
from metering.tables import LAKE
from sinks.lake.compaction import Part, Sizes, aside, due, groups
from sinks.lake.exchange import exchange
from tests.sinks.lake.compaction_homes import (
    READINGS,
    Writer,
    digest,
    parts,
    reading_rows,
    run,
    seen,
)


def test_the_rows_stay_the_parts_become_one(tmp_path: Path, writer: Writer) -> None:
    writer.commit(6, partitions=2)
    before = {table: (seen(tmp_path, table), parts(tmp_path, table)) for table in ("readings", "windows")}
    report = run(tmp_path)
    assert {day.table: (day.rows, day.parts_before, day.parts_after) for day in report.compacted} == {
        "readings": (60, 12, 1),
        "windows": (36, 12, 1),
    }
    for table, (rows, old) in before.items():
        assert seen(tmp_path, table) == rows
        assert not set(parts(tmp_path, table)) & set(old)
    (day, _) = report.compacted
    assert day.bytes_after == parts(tmp_path)[0].stat().st_size < day.bytes_before
    assert (report.expired, report.skipped) == ((), ())
    assert run(tmp_path).compacted == ()


def test_a_merged_part_is_as_declared_and_sorted_by_its_key(tmp_path: Path, writer: Writer) -> None:
    writer.commit(5, partitions=3)
    run(tmp_path)
    (part,) = parts(tmp_path)
    rows = pl.read_parquet(part)
    assert rows.schema == pl.Schema({k: v for k, v in LAKE["readings"].schema.items() if k != "date"})
    assert rows.equals(rows.sort(LAKE["readings"].key))
    (part,) = parts(tmp_path, "windows")
    rows = pl.read_parquet(part)
    assert rows.equals(rows.sort("meter_id", "window_end", "revision"))
    assert rows["revision"].to_list()[:4] == [0, 0, 0, 1]


def test_the_stream_goes_on_and_starts_again_beside_it(tmp_path: Path, writer: Writer) -> None:
    """A part of the last commit is gone from its folder by then; it must not be thought hidden, or lost."""
    writer.commit(5)
    run(tmp_path)
    rows = seen(tmp_path)
    writer.owner.release()
    again = Writer(tmp_path)
    assert seen(tmp_path) == rows
    again.count = 5
    again.commit(1)
    assert len(seen(tmp_path)) == len(rows) + 5
    again.owner.release()


def test_parts_revealed_while_merging_are_in_the_new_folder(
    tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.commit(4)
    real = sinks.lake.compaction._swap

    def late(*args: Any, **kwargs: Any) -> None:
        writer.commit(2)
        real(*args, **kwargs)

    monkeypatch.setattr(sinks.lake.compaction, "_swap", late)
    (report, _) = run(tmp_path).compacted
    assert (report.parts_before, report.parts_after) == (4, 1)
    assert len(parts(tmp_path)) == 1 + 2 + 2  # the merged one, two before its swap, two before that of windows
    with duckdb.connect() as connection:
        query = f"select count(*), count(distinct source_offset) from read_parquet('{tmp_path}/{READINGS}/*.parquet')"
        assert connection.execute(query).fetchall() == [(40, 40)]


def test_a_part_with_a_column_that_is_not_declared_stays_as_it_is(tmp_path: Path, writer: Writer) -> None:
    writer.commit(5)
    foreign = tmp_path / READINGS / "later-0000000001.parquet"
    reading_rows(7, 0, 5).with_columns(brand_new=pl.lit(1)).write_parquet(foreign)
    run(tmp_path)
    assert foreign in parts(tmp_path)
    assert len(parts(tmp_path)) == 2
    assert pl.read_parquet(foreign)["brand_new"].sum() == 5


def test_parts_that_cannot_be_read_are_named_and_nothing_changes(tmp_path: Path, writer: Writer) -> None:
    writer.commit(5)
    broken = parts(tmp_path)[2]
    broken.write_bytes(b"PAR1 no footer PAR1")
    before = parts(tmp_path)
    report = run(tmp_path)
    assert [str(broken) in reason for reason in report.skipped] == [True]
    assert parts(tmp_path) == before
    assert [day.table for day in report.compacted] == ["windows"]


def test_a_merge_that_does_not_read_back_is_thrown_away(
    tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.commit(5)
    before = parts(tmp_path)
    real = sinks.lake.compaction.write_part
    monkeypatch.setattr(sinks.lake.compaction, "write_part", lambda path, rows: real(path, rows.reverse()))
    report = run(tmp_path)
    assert report.compacted == ()
    assert all("do not read back" in reason for reason in report.skipped)
    assert parts(tmp_path) == before
    assert list(aside(tmp_path).iterdir()) == []


# --- which parts ----------------------------------------------------------------------------------------------------


def weighing(*sizes: int) -> list[Part]:
    return [Part(Path(f"{number:04}"), 1, size, frozenset()) for number, size in enumerate(sizes)]


def test_a_part_is_merged_only_with_as_much_again() -> None:
    sizes = Sizes(parts=3, part_bytes=100)
    assert [part.size for part in due(weighing(5, 3, 4), sizes)] == [5, 3, 4]
    assert [part.size for part in due(weighing(50, 1, 1, 1), sizes)] == [1, 1, 1]
    assert [part.size for part in due(weighing(3, 1, 1, 1), sizes)] == [3, 1, 1, 1]
    assert due(weighing(100, 200, 1, 1), sizes) == []
    assert due(weighing(8, 4, 2, 1), sizes) == []
    assert due([], sizes) == []


def test_groups_reach_the_size_and_none_is_a_part_alone() -> None:
    cut = groups(weighing(40, 70, 60, 60, 20), 100)
    assert [[part.size for part in group] for group in cut] == [[40, 70], [60, 60]]
    assert groups(weighing(90, 90, 90), 100)[0] == weighing(90, 90, 90)[:2]
    assert groups([], 100) == []


def test_a_growing_day_is_not_written_again_and_again() -> None:
    """A day's parts, merged every hour: what is written in all stays within a few times what came, and parts few."""
    sizes = Sizes(parts=8, part_bytes=2_000)
    held: list[int] = []
    written = came = 0
    for _ in range(24 * 10):
        held += [1] * 40
        came += 40
        for group in groups(due(weighing(*held), sizes), sizes.part_bytes):
            for part in group:
                held.remove(part.size)
            held.append(sum(part.size for part in group))
            written += held[-1]
    assert sum(held) == came
    assert written < 7 * came
    assert len(held) < 8 + came / 1_000


# --- dying ----------------------------------------------------------------------------------------------------------

CALLS = ("fsync", "mkdir", "unlink", "rmdir", "link", "utime", "exchange")


class _Died(BaseException):
    """Stands for a process that is no more: nothing may catch it."""


def _die_at(patch: pytest.MonkeyPatch, at: int, after: bool, error: BaseException | None = None) -> list[str]:
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

    for name in CALLS[:-1]:
        patch.setattr(os, name, guard(name, getattr(os, name)))
    swapping = guard("exchange", exchange)
    patch.setattr(sinks.lake.compaction, "exchange", swapping)
    patch.setattr(sinks.lake.maintenance, "exchange", swapping)
    return calls


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a big part, one that was merged, small ones since, and the old folder of that merge still aside."""
    home = tmp_path_factory.mktemp("half") / "done"
    home.mkdir()
    writer = Writer(home)
    writer.log.commit(9, {"t-9": {"offset": 0}}, b"", {READINGS: reading_rows(9, 0, 20_000)})
    for round_ in range(2):
        for number in range(4):
            writer.log.commit(0, {"t-0": {"offset": 0}}, b"", {READINGS: reading_rows(round_, 5 * number, 5)})
        if round_ == 0:
            run(home, sizes=SMALL)
    writer.owner.release()
    assert len(parts(home)) == 1 + 1 + 4
    return home


SMALL = Sizes(parts=4, part_bytes=40_000)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_dying_at_any_step_leaves_the_old_or_the_new_whole(half_done: Path, tmp_path: Path, after: bool) -> None:
    """Also while leftovers of an earlier round are removed. The stream goes on after it, and so does the next round."""
    rows, outcomes = digest(half_done), []
    for at in itertools.count():
        home = tmp_path / f"{at}"
        shutil.copytree(half_done, home)
        with pytest.MonkeyPatch.context() as patch:
            calls = _die_at(patch, at, after)
            try:
                run(home, sizes=SMALL, grace_s=0)
                died = False
            except _Died:
                died = True
        assert digest(home) == rows
        outcomes.append(len(parts(home)))
        writer = Writer(home)
        writer.log.commit(0, {"t-0": {"offset": 0}}, b"", {READINGS: reading_rows(2, 0, 5)})
        writer.owner.release()
        run(home, sizes=SMALL, grace_s=0)
        run(home, sizes=SMALL, grace_s=0)
        assert digest(home)[:2] == (rows[0] + 5, rows[1] + 5)
        assert len(parts(home)) <= 1 + 1 + 1
        assert list(aside(home).iterdir()) == []
        if not died:
            break
    assert set(calls) == set(CALLS)
    assert outcomes == sorted(outcomes, reverse=True)
    assert set(outcomes) == {1 + 1 + 4, 1 + 1}


def test_a_full_disk_is_told_and_the_room_is_given_back(tmp_path: Path, writer: Writer) -> None:
    writer.commit(5)
    before = parts(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(sinks.lake.compaction, "write_part", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(OperationError, match=r"disk of .* is full.*free space"):
            run(tmp_path)
    assert parts(tmp_path) == before
    assert list(aside(tmp_path).iterdir()) == []
