"""The real stream as a process: started, killed at chosen moments, stopped and woken, and watched by a reader.

Here: one home, its process, its moments. Not here: which faults in which order (`run`), what should come of it.

There is no hook in the product: the moment inside a commit is found by watching the home's staging and commits.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

import duckdb
import polars as pl

from metering.tables.records import KINDS
from sinks.lake import commits
from tests.signals import terminate

KILOWATCH = Path(sys.executable).with_name("kilowatch")
TOPICS = ("readings", "windows", "violations", "compliance", "load_control", "rejected", *KINDS)
Age = tuple[int, int]
"""Of a commit: its stream's number, and its own within that."""
BEFORE, WITHIN, AFTER = "parts staged, no record", "record aside", "record in place, parts not revealed"


class Home:
    """A home with a registry and settings for one broker, and the stream that runs on it."""

    def __init__(self, path: Path, settings: str, log: Path | None = None) -> None:
        self.path = path
        self.log = log or path / "process.log"
        (path / "kilowatch.toml").write_text(settings, "utf-8")
        self._environment = {**os.environ, "KILOWATCH_HOME": str(path), "KILOWATCH_STREAM__METRICS_PORT": "-1"}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, source: Path | None = None) -> subprocess.Popen[bytes]:
        """Start the stream, on Kafka or on files from `source`."""
        of = ["--kafka"] if source is None else ["--source", source]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [KILOWATCH, "stream", *of, *options], env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        return self.process

    def kill(self) -> None:
        """kill -9, whatever it is doing."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self) -> float:
        """SIGTERM; the seconds until it ended with exit code 0, at most 10."""
        assert self.process is not None
        start = time.monotonic()
        terminate(self.process)
        assert self.process.wait(10) == 0, self.said()
        return time.monotonic() - start

    def pause(self, seconds: float) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def said(self) -> str:
        """The end of what it printed."""
        return self.log.read_text("utf-8", "replace")[-4000:]

    def commits(self) -> Mapping[str, Age]:
        """The commit that counts for each shard."""
        found: dict[str, Age] = {}
        for folder in (self.path / "stream").glob("*/commits"):
            found |= _commits(folder)
        return found

    def wait_for(self, what: Callable[[], bool], seconds: float = 60, every: float = 0.02) -> float:
        """Seconds until `what` was so, while the stream lives."""
        start = time.monotonic()
        while not what():
            assert time.monotonic() - start < seconds, f"not within {seconds} s\n{self.said()}"
            assert self.process is None or self.process.poll() is None, f"it ended\n{self.said()}"
            time.sleep(every)
        return time.monotonic() - start

    def wait_for_commit(self, since: Mapping[str, Age], seconds: float = 60) -> float:
        return self.wait_for(lambda: self.commits() != since, seconds)

    def owner(self) -> str:
        """The folder of the stream that owns the home, or owned it last."""
        return max((path.name for path in (self.path / "stream").glob("[0-9]*")), key=int, default="")

    def rows(self, table: str) -> int:
        if not any(self.path.glob(f"lake/{table}/*/*.parquet")):
            return 0
        return int(self.query(f"select count(*) from {self.lake(table)}")[0][0])

    def lake(self, table: str) -> str:
        """The table as an analyst reads it: a bare glob."""
        return f"read_parquet('{self.path}/lake/{table}/*/*.parquet')"

    def query(self, text: str) -> list[tuple[object, ...]]:
        with duckdb.connect() as connection:
            return connection.execute(text).fetchall()

    def frame(self, text: str) -> pl.DataFrame:
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            found = pl.from_arrow(connection.sql(text).to_arrow_table())
        assert isinstance(found, pl.DataFrame)
        return found

    # --- moments inside a commit ---

    def wait_for_moment(self, moment: str, seconds: float = 5) -> bool:
        """Watch closely until a commit is at `moment`; False if none was seen in time."""
        (folder,) = (path for path in (self.path / "stream").iterdir() if path.is_dir())
        at = _MOMENTS[moment]
        before = _written(folder / "commits")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if at(folder, before):
                return True
        return False

    def left_by_the_dead(self) -> str:
        """What a killed stream was doing, by what it left."""
        found = "between commits"
        for folder in (self.path / "stream").glob("*/commits"):
            records = list(folder.iterdir())
            if any(path.suffix == ".new" for path in records):
                return WITHIN
            named = b"".join(path.read_bytes() for path in records)
            for part in (folder.parent / "staging").iterdir():
                if part.name.encode() in named:
                    return AFTER
                found = BEFORE
        return found


def _staged(folder: Path, _: Mapping[str, int]) -> bool:
    return any((folder / "staging").iterdir())


def _aside(folder: Path, _: Mapping[str, int]) -> bool:
    return any(path.suffix == ".new" for path in (folder / "commits").iterdir())


def _recorded(folder: Path, before: Mapping[str, int]) -> bool:
    return _written(folder / "commits") != before


def _written(folder: Path) -> dict[str, int]:
    """When each record was written. A folder that is being taken over has none."""
    found: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.suffix == ".commit":
                found[path.name] = path.stat().st_mtime_ns
    return found


def _commits(folder: Path) -> dict[str, Age]:
    found: dict[str, Age] = {}
    for path in _written(folder):
        with contextlib.suppress(FileNotFoundError):
            for record in commits.records_of(folder / path):
                for shard in record.positions:
                    found[shard] = max(record.age, found.get(shard, (0, 0)))
    return found


_MOMENTS: dict[str, Callable[[Path, Mapping[str, int]], bool]] = {BEFORE: _staged, WITHIN: _aside, AFTER: _recorded}


class Reader:
    """Reads the lake's readings again and again by a bare glob: no row may vanish, and none stand twice."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.passes, self.vanished, self.doubled = 0, 0, 0
        self.failure: BaseException | None = None

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if self.failure is not None and error is None:
            raise self.failure

    def _run(self) -> None:
        try:
            seen = pl.DataFrame(schema={"p": pl.Int32, "o": pl.Int64, "r": pl.Int32})
            pause = 0.2
            while not self._stop.wait(pause):
                start = time.monotonic()
                seen = self._look(seen)
                pause = max(0.2, 5 * (time.monotonic() - start))
        except BaseException as error:
            self.failure = error

    def _look(self, seen: pl.DataFrame) -> pl.DataFrame:
        if not any(self._home.path.glob("lake/readings/*/*.parquet")):
            return seen
        columns = "source_partition as p, source_offset as o, source_row as r"
        now = self._home.frame(f"select {columns} from {self._home.lake('readings')}")
        self.passes += 1
        self.doubled += now.height - now.n_unique()
        self.vanished += seen.join(now, on=["p", "o", "r"], how="anti").height
        return now


def faults(rng: random.Random, cycles: int) -> Iterator[str]:
    """Which fault in which cycle: every kind in turn, in an order of the seed's."""
    kinds = [BEFORE, WITHIN, AFTER, "at random", "while starting", "at random after a pause"]
    for start in range(0, cycles, len(kinds)):
        rng.shuffle(kinds)
        yield from kinds[: cycles - start]


def settings(address: str, prefix: str, *, partitions: int = 3, readings: str = "", **stream: object) -> str:
    """A kilowatch.toml for `address` with topics of its own; `readings`: another run's log."""
    names = {name: f"{prefix}.{name}" for name in TOPICS} | ({"readings": readings} if readings else {})
    topics = "".join(f'{name} = "{topic}"\n' for name, topic in names.items())
    figures = "".join(f"{name} = {value}\n" for name, value in stream.items())
    return f'bootstrap_servers = "{address}"\n[topics]\npartitions = {partitions}\n{topics}[stream]\n{figures}'
