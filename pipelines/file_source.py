"""Telemetry from files: NDJSON and Parquet, one file or a folder of them, each file a shard of its own.

Here: which files, and reading them in whole lines from where the last commit left off. Not here: what is in the lines
(`metering.decode`), reading Parquet (`parquet_file`).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from metering.decode import Lines
from metering.errors import UserError
from pipelines.poll import OwnShard, Poll, Position, Positions

LINE_SUFFIXES = (".ndjson", ".jsonl", ".json")
PARQUET_SUFFIX = ".parquet"
MARK_BYTES = 4096
_GUESSED_LINE_BYTES = 250
_LARGEST_READ = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


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


def _open(shard: str, path: Path, batch_rows: int, position: Position | None) -> _Shard:
    if path.suffix.lower() == PARQUET_SUFFIX:
        from pipelines.parquet_file import ParquetFile  # pyarrow takes a while, and lines need none of it

        return ParquetFile(shard, path, batch_rows, position or {})
    return _LineFile(shard, path, batch_rows, position or {})


class FileReader:
    """Reads the files of one worker, one after the other."""

    stale_since = None

    def __init__(self, shards: list[_Shard]) -> None:
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


class _Shard(Protocol):
    shard: str
    read_bytes: int
    total_bytes: int

    def polls(self) -> Generator[Poll, None, None]:
        """Every poll of the file from the position on; the last one has `end`."""


class _LineFile:
    """Whole lines, joined, about `batch_rows` of them at a time; a last line without a newline counts."""

    def __init__(self, shard: str, path: Path, batch_rows: int, position: Position) -> None:
        self.shard, self.path, self.batch_rows = shard, path, batch_rows
        self.row, self.read_bytes = position.get("row", 0), position.get("byte", 0)
        self.total_bytes = path.stat().st_size
        with path.open("rb") as file:
            self._check(position.get("mark"), file)

    def _check(self, mark: int | None, file: BinaryIO) -> None:
        if self.read_bytes > self.total_bytes or mark not in (None, self._mark(file)):
            raise changed(self.shard, self.path)

    def _mark(self, file: BinaryIO) -> int:
        """Checksum of the first bytes that have been read, so that a file that grew is still the same."""
        file.seek(0)
        return zlib.crc32(file.read(min(self.read_bytes, MARK_BYTES)))

    def polls(self) -> Generator[Poll, None, None]:
        with self.path.open("rb") as file:
            bytes_per_row = float(_GUESSED_LINE_BYTES)
            while True:
                data = _whole_lines(file, self.read_bytes, min(int(bytes_per_row * self.batch_rows), _LARGEST_READ))
                at_start = self.read_bytes == 0
                lines = Lines(data.removeprefix(_BOM) if at_start else data, self.row)
                self.row, self.read_bytes = lines.first_row + lines.count, self.read_bytes + len(data)
                bytes_per_row = len(data) / lines.count if lines.count else bytes_per_row
                self.total_bytes = max(self.total_bytes, self.read_bytes)
                after = {"row": self.row, "byte": self.read_bytes, "mark": self._mark(file)}
                end = file.seek(0, 2) <= self.read_bytes
                yield Poll(self.shard, self.shard, 0, lines, lines.first_row, after, end)
                if end:
                    return


def _whole_lines(file: BinaryIO, start: int, size: int) -> bytes:
    """About `size` bytes from `start`, cut after the last newline; more if one line is longer; at the end, the rest."""
    while True:
        file.seek(start)
        data = file.read(max(size, 1))
        newline = data.rfind(b"\n")
        if len(data) < size:
            return data
        if newline >= 0:
            return data[: newline + 1]
        size *= 2


def changed(shard: str, path: Path) -> UserError:
    return UserError(
        f"{path} is not the file that was read before as '{shard}': give new telemetry a new name, or use a new home"
    )
