"""Compaction beside readers, a stream, and other rounds; and the locks and swaps that this stands on."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

import sinks.lake.compaction
import sinks.lake.maintenance
from metering.errors import OperationError, UserError
from metering.tables import LAKE
from sinks.lake.compaction import aside
from sinks.lake.exchange import NoExchangeError, exchange
from sinks.lake.lock import exclusive, shared
from sinks.lake.maintenance import Report
from sinks.lake.reader import LakeReader
from tests.sinks.lake.compaction_homes import (
    READINGS,
    Writer,
    parts,
    reading_rows,
    run,
    seen,
)


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

    rounds = 0

    def streaming() -> None:
        for _ in range(20):
            writer.commit(25, partitions=3)
            if rounds > 3 and min(readers.looks, readers.held) > 3:
                return

    with ThreadPoolExecutor() as pool:
        looking = [pool.submit(readers.analyst), pool.submit(readers.ours)]
        stream = pool.submit(streaming)
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
