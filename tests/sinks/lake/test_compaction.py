"""Merging small parts: same rows, fewer parts, old or new whole whatever happens, and readers beside it."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

import sinks.lake.compaction
import sinks.lake.maintenance
from metering.errors import OperationError, UserError
from metering.tables import LAKE
from sinks.lake.commits import CommitLog
from sinks.lake.compaction import Part, Sizes, aside, due, groups
from sinks.lake.exchange import NoExchangeError, exchange
from sinks.lake.lock import exclusive, shared
from sinks.lake.maintenance import Report, upkeep
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader

DAY = date(2026, 1, 1)
AT = datetime(2026, 1, 1, tzinfo=UTC)
SIZES = Sizes(parts=4, part_bytes=1_000_000)
READINGS = f"lake/readings/date={DAY}"
WINDOWS = f"lake/windows/date={DAY}"


def reading_rows(partition: int, first: int, count: int) -> pl.DataFrame:
    offsets = pl.int_range(first, first + count, eager=True, dtype=pl.Int64)
    frame = pl.DataFrame({"source_offset": offsets, "meter_id": "M1", "customer_no": "C1"})
    timed = frame.with_columns(ts=pl.lit(AT) + pl.duration(minutes=pl.col("source_offset") % 1440), p_kw=1.5)
    return LAKE["readings"].conform(timed, source="t", source_partition=partition, source_row=0, date=DAY).drop("date")


def window_rows(number: int) -> pl.DataFrame:
    ends = [AT + timedelta(minutes=15 * k) for k in range(3)]
    frame = pl.DataFrame({"window_end": ends, "meter_id": "M1", "customer_no": "C1"})
    return LAKE["windows"].conform(frame, n=1, n_expected=15, revision=number, date=DAY).drop("date")


class Writer:
    """A stream's commits into a home: five readings and three windows each."""

    def __init__(self, home: Path) -> None:
        self.owner = take(home)
        self.log = CommitLog(home, self.owner)
        self.count = 0

    def commit(self, times: int = 1, partitions: int = 1) -> None:
        for _ in range(times):
            for partition in range(partitions):
                frames = {READINGS: reading_rows(partition, 5 * self.count, 5), WINDOWS: window_rows(self.count)}
                self.log.commit(partition, {f"t-{partition}": {"offset": self.count}}, b"", frames)
            self.count += 1


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = Writer(tmp_path)
    yield made
    made.owner.release()


def run(home: Path, **options: Any) -> Report:
    return upkeep(home, options.pop("sizes", SIZES), options.pop("days_kept", 0), DAY, **options)


def seen(home: Path, table: str = "readings") -> list[tuple[Any, ...]]:
    """What a bare glob sees, read by an engine that shares no code with the writer."""
    if not list(home.glob(f"lake/{table}/*/*.parquet")):
        return []
    with duckdb.connect() as connection:
        return connection.execute(f"from read_parquet('{home}/lake/{table}/*/*.parquet') order by all").fetchall()


def digest(home: Path) -> tuple[Any, ...]:
    """Readings, distinct readings, and a sum over all of their values."""
    with duckdb.connect() as connection:
        return connection.execute(
            "select count(*), count(distinct (source_partition, source_offset)), bit_xor(hash(lake)) "
            f"from read_parquet('{home}/lake/readings/*/*.parquet') lake"
        ).fetchall()[0]


def parts(home: Path, table: str = "readings") -> list[Path]:
    return LakeReader(home).parts(table, DAY)


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


# --- others at the same time ----------------------------------------------------------------------------------------


def test_a_reader_that_has_opened_the_old_folder_still_lists_all_of_it(tmp_path: Path) -> None:
    """Some names of the old folder and not the others would be rows too few, without an error."""
    (tmp_path / READINGS).mkdir(parents=True)
    for number in range(400):  # with long names, so that the kernel does not hand them out in one piece
        reading_rows(0, number, 1).write_parquet(tmp_path / READINGS / f"{'t' * 200}-{number:010}.parquet")
    names = {path.name for path in parts(tmp_path)}
    with os.scandir(tmp_path / READINGS) as listing:
        first = next(listing).name
        run(tmp_path)
        run(tmp_path)  # sweeps what has been aside for long
        assert {first, *(entry.name for entry in listing)} == names


class Readers:
    """Two readers in a loop: an analyst's, that knows nothing of the lock, and one of ours. Each looks at the rows."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stop = threading.Event()
        self.looks = self.held = 0
        self.missed: list[str] = []
        self.wrong: list[str] = []

    def analyst(self) -> None:
        most = 0
        with duckdb.connect() as connection:
            while not self.stop.is_set():
                try:
                    total, distinct = connection.execute(
                        "select count(*), count(distinct (source, source_partition, source_offset, source_row)) "
                        f"from read_parquet('{self.home}/lake/readings/*/*.parquet')"
                    ).fetchall()[0]
                except duckdb.IOException as error:
                    self.missed.append(str(error))
                    continue
                self.looks += 1
                if total != distinct or total < most:
                    self.wrong.append(f"{most} rows before, then {total}, {distinct} of them distinct")
                most = total

    def ours(self) -> None:
        lake, most = LakeReader(self.home), 0
        while not self.stop.is_set():
            with lake.held():
                rows = lake.scan("readings").select(LAKE["readings"].key).collect()
            self.held += 1
            if rows.is_duplicated().any() or rows.height < most:
                self.wrong.append(f"held: {most} rows before, then {rows.height}")
            most = rows.height


def test_readers_and_a_stream_beside_compaction(tmp_path: Path, writer: Writer) -> None:
    """Whoever looks while parts come and are merged sees no row twice, and none go."""
    writer.commit(2, partitions=3)
    readers = Readers(tmp_path)

    def streaming() -> None:
        writer.commit(25, partitions=3)

    with ThreadPoolExecutor() as pool:
        looking = [pool.submit(readers.analyst), pool.submit(readers.ours)]
        stream = pool.submit(streaming)
        rounds = 0
        try:
            while not stream.done():
                rounds += len(run(tmp_path, grace_s=2).compacted)
        finally:
            readers.stop.set()
        for work in (*looking, stream):
            work.result()
    assert readers.wrong == []
    assert [told for told in readers.missed if "No such file" not in told] == []
    assert min(readers.looks, readers.held) > 3
    assert rounds > 3
    run(tmp_path)
    assert len(seen(tmp_path)) == len(set(seen(tmp_path))) == 27 * 3 * 5


def test_readers_that_hold_the_lake_are_waited_for(tmp_path: Path, writer: Writer) -> None:
    writer.commit(5)
    old = parts(tmp_path)
    with LakeReader(tmp_path).held():
        report = run(tmp_path, patience_s=0.1)
        assert report.compacted == ()
        assert all("try again later" in reason for reason in report.skipped)
        assert parts(tmp_path) == old
        assert list(aside(tmp_path).iterdir()) == []
        writer.commit()  # the stream does not wait for them
    assert len(run(tmp_path).compacted) == 2


def test_the_lock_lets_many_in_or_one(tmp_path: Path) -> None:
    with shared(tmp_path):  # no lake yet
        (tmp_path / "lake").mkdir()
    with shared(tmp_path), shared(tmp_path), pytest.raises(OperationError), exclusive(tmp_path, 0.05):
        pytest.fail("let in")
    with exclusive(tmp_path, 0), pytest.raises(OperationError), exclusive(tmp_path, 0.05):
        pytest.fail("let in")
    with exclusive(tmp_path, 0):
        pass


def test_one_round_at_a_time(tmp_path: Path, writer: Writer) -> None:
    writer.commit(5)
    said: list[str] = []

    def meanwhile(*_: object) -> None:
        with pytest.raises(UserError, match="being compacted already") as error:
            run(tmp_path)
        said.append(str(error.value))

    assert len(run(tmp_path, progress=meanwhile).compacted) == 2
    assert len(said) == 2


def test_a_file_system_that_cannot_swap_is_told_before_anything_is_written(
    tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.commit(5)
    before = parts(tmp_path)

    def refused(one: Path, other: Path) -> None:
        raise NoExchangeError(other)

    monkeypatch.setattr(sinks.lake.maintenance, "exchange", refused)
    report = run(tmp_path)
    assert ["move the home to a local file system" in reason for reason in report.skipped] == [True]
    assert parts(tmp_path) == before


def test_exchange_swaps_and_says_what_is_wrong(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).touch()
    exchange(one, other)
    assert (one / "other").exists()
    assert (other / "one").exists()
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "absent")
    with pytest.raises(NoExchangeError):
        exchange(Path("/proc/self"), one)


def test_a_home_without_a_lake_is_left_alone(tmp_path: Path) -> None:
    assert run(tmp_path) == Report((), (), ())
    assert list(tmp_path.iterdir()) == []
