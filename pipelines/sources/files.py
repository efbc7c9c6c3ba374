"""Telemetry from files: NDJSON and Parquet, one file or a folder of them, each file a shard of its own.

Here: which files, and reading them one after the other. Not here: their formats (`line_file`, `parquet_file`).
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from metering.errors import UserError
from pipelines.sources.file_shard import FileShard
from pipelines.sources.line_file import LineFile
from pipelines.sources.poll import OwnShard, Poll, Position, Positions

LINE_SUFFIXES = (".ndjson", ".jsonl", ".json")
PARQUET_SUFFIX = ".parquet"


class Progress(NamedTuple):
    """How far a reader is, in bytes of its files."""

    read_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file, or all telemetry files below a folder in order of their names. Raises UserError when there are none.

    A poll holds about `batch_rows` rows. Shards are named by the path within the folder. Positions: {"row", "byte",
    "mark"} for lines, {"row", "mark"} for Parquet; `mark` tells whether the file is still the one that was read.
    """

    path: Path
    batch_rows: int

    @property
    def files(self) -> dict[str, Path]:
        """Shard name and path of every file, in the order they are read."""
        if self.path.is_file():
            if not _is_telemetry(self.path):
                raise UserError(
                    f"{self.path}: not {', '.join(LINE_SUFFIXES)} or {PARQUET_SUFFIX}; see `kilowatch replay`"
                )
            return {self.path.name: self.path}
        if not self.path.is_dir():
            raise UserError(f"{self.path} does not exist: name a telemetry file or a folder of them")
        below = ((path.relative_to(self.path), path) for path in self.path.rglob("*") if path.is_file())
        hidden = re.compile(r"(^|/)\.")  # editors' and other programs' own
        found = {
            name.as_posix(): path for name, path in below if _is_telemetry(name) and not hidden.search(name.as_posix())
        }
        if not found:
            raise UserError(f"{self.path} holds no telemetry: no *{', *'.join(LINE_SUFFIXES)} or *{PARQUET_SUFFIX}")
        return dict(sorted(found.items()))

    def origin(self, shard: str) -> tuple[str, int] | None:
        """How the readings of a shard are marked: source and partition; None for a file that is not here."""
        return (shard, 0) if shard in self.files else None

    def open(self, worker: int, workers: int, positions: Positions) -> FileReader:
        """Reader of every `workers`-th file. Raises UserError when a file is not the one its position is of."""
        mine = [item for number, item in enumerate(self.files.items()) if number % workers == worker]
        return FileReader([_open(name, path, self.batch_rows, positions(name)) for name, path in mine])


def _is_telemetry(path: Path) -> bool:
    return path.suffix.lower() in (*LINE_SUFFIXES, PARQUET_SUFFIX)


def _open(shard: str, path: Path, batch_rows: int, position: Position | None) -> FileShard:
    if path.suffix.lower() == PARQUET_SUFFIX:
        from pipelines.sources.parquet_file import ParquetFile  # pyarrow takes a while, and lines need none of it

        return ParquetFile(shard, path, batch_rows, position or {})
    return LineFile(shard, path, batch_rows, position or {})


class FileReader:
    """Reads the files of one worker, one after the other."""

    stale_since = None

    def __init__(self, shards: list[FileShard]) -> None:
        self._shards = shards
        self._current = 0
        self._polls: Generator[Poll, None, None] | None = None

    def poll(self) -> list[Poll]:
        """The next chunk of the file being read; nothing once all files have ended."""
        if self.finished:
            return []
        if self._polls is None:
            self._polls = self._shards[self._current].polls()
        poll = next(self._polls)
        if poll.end:
            self.close()
            self._current += 1
        return [poll]

    @property
    def finished(self) -> bool:
        return self._current == len(self._shards)

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        numbers = [number for number, shard in enumerate(self._shards) if (shard.shard, 0) == (source, partition)]
        return OwnShard(source, over=numbers[0] < self._current) if numbers else None

    @property
    def progress(self) -> Progress:
        return Progress(sum(s.read_bytes for s in self._shards), sum(s.total_bytes for s in self._shards))

    def close(self) -> None:
        if self._polls is not None:
            self._polls.close()  # and with it, its file
            self._polls = None
