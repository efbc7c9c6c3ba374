"""Telemetry from files: NDJSON and Parquet. A folder's files are one log in order of name; its sub-folders are shards.

Here: which files, in which order, and whole lines of them. Not here: Parquet (`parquet_file`), what is in the lines
(`metering.readings.decode`).

Rows are numbered in the order in which they are taken in, over all files of a folder (`log_offset`): a file that grew,
or that came later with an earlier name, goes on at the end of the log, so that what it says counts as said later.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from metering.errors import UserError
from metering.readings.decode import Lines
from metering.readings.payloads import line_count
from pipelines.shard_names import LINE_SUFFIXES, PARQUET_SUFFIX, is_telemetry, shard_of
from pipelines.sources.poll import Batch, OwnShard, Position, Positions, Segment

MARK_BYTES = 4096
"""Of a file, to tell by a checksum whether it is still the one that was read."""
_ROOT = "."
_GUESSED_LINE_BYTES = 250
_LARGEST_READ = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
HIDDEN = re.compile(r"(^|/)\.")  # editors' and other programs' own


class Progress(NamedTuple):
    """How far a reader is, in bytes of its files."""

    read_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file, or all telemetry files below a folder. Raises UserError when there are none.

    A batch holds about `batch_rows` rows. Shards are named by the folder's path, the top one ".". Positions: {"next":
    number of rows taken in so far, "files": {name: {"row", "byte", "mark"}}}; `mark` tells whether a file is still the
    one that was read.
    """

    path: Path
    batch_rows: int

    @property
    def files(self) -> dict[str, Path]:
        """Name (path below the folder) and path of every file, in the order they are read."""
        if self.path.is_file():
            if not is_telemetry(self.path.name):
                raise UserError(
                    f"{self.path}: not {', '.join(LINE_SUFFIXES)} or {PARQUET_SUFFIX}; see `kilowatch replay`"
                )
            return {self.path.name: self.path}
        if not self.path.is_dir():
            raise UserError(f"{self.path} does not exist: name a telemetry file or a folder of them")
        below = ((path.relative_to(self.path).as_posix(), path) for path in self.path.rglob("*") if path.is_file())
        found = {name: path for name, path in below if is_telemetry(name) and not HIDDEN.search(name)}
        if not found:
            raise UserError(f"{self.path} holds no telemetry: no *{', *'.join(LINE_SUFFIXES)} or *{PARQUET_SUFFIX}")
        return dict(sorted(found.items()))

    @property
    def _shards(self) -> dict[str, dict[str, Path]]:
        """The files of every folder, folders in order of name."""
        shards: dict[str, dict[str, Path]] = {}
        for name, path in self.files.items():
            shards.setdefault(shard_of(name, 0), {})[name] = path
        return dict(sorted(shards.items()))

    def worker_of(self, shard: str, workers: int) -> int | None:
        """The i-th folder is read by worker i mod `workers`."""
        shards = list(self._shards)
        return shards.index(shard) % workers if shard in shards else None

    def open(self, worker: int, workers: int, positions: Positions) -> FileReader:
        """Reader of every `workers`-th folder. Raises UserError when a file is not the one its position is of."""
        mine = [item for number, item in enumerate(self._shards.items()) if number % workers == worker]
        return FileReader([FileLog(shard, files, self.batch_rows, positions(shard) or {}) for shard, files in mine])


def partition_of_folder(shard: str) -> int:
    """What `source_partition` says of files in a folder: 0 for the top one, a number of its name for a sub-folder."""
    return 0 if shard == _ROOT else zlib.crc32(shard.encode()) & 0x7FFF_FFFF


@dataclass(slots=True)
class _Joined:
    """Lines of several files on their way into one batch."""

    data: list[bytes] = field(default_factory=list)
    segments: list[tuple[str, int, int]] = field(default_factory=list)
    rows: int = 0
    size: int = 0

    def add(self, name: str, first_row: int, data: bytes, rows: int) -> None:
        self.data.append(data)
        self.segments.append((name, first_row, rows))
        self.rows += rows
        self.size += len(data)


class FileLog:
    """The files of one folder, one after the other."""

    def __init__(self, shard: str, files: Mapping[str, Path], batch_rows: int, position: Position) -> None:
        self.shard = shard
        self._batch_rows = batch_rows
        self._next: int = position.get("next", 0)
        self._positions: dict[str, dict[str, int]] = dict(position.get("files", {}))
        self._files = {name: _open(name, path, self._positions.get(name, {})) for name, path in files.items()}
        self.over = False

    @property
    def read_bytes(self) -> int:
        return sum(file.read_bytes for file in self._files.values())

    @property
    def total_bytes(self) -> int:
        return sum(file.total_bytes for file in self._files.values())

    def batches(self) -> Generator[Batch, None, None]:
        """All that has not been read yet; the last one says that this is the end, for now."""
        waiting: Batch | None = None
        for batch in self._unmarked():
            if waiting is not None:
                yield waiting
            waiting = batch
        self.over = True
        if waiting is None:
            waiting = Batch(Lines(b""), self._segments([(_ROOT, 0, 0)]))
        *others, last = waiting.segments
        yield Batch(waiting.content, (*others, replace(last, end=True)))

    def _unmarked(self) -> Iterator[Batch]:
        joined = _Joined()
        for name, file in self._files.items():
            try:
                if isinstance(file, LineFile):
                    while not file.over:
                        first = file.row
                        data, rows = file.read(self._batch_rows - joined.rows, _LARGEST_READ - joined.size)
                        joined.add(name, first, data, rows)
                        self._positions[name] = file.position()
                        if joined.rows >= self._batch_rows or joined.size >= _LARGEST_READ:
                            yield self._of_lines(joined)
                            joined = _Joined()
                    continue
                if joined.rows:
                    yield self._of_lines(joined)
                    joined = _Joined()
                for first, frame in file.frames(self._batch_rows):
                    self._positions[name] = file.position()
                    yield Batch(frame, self._segments([(name, first, frame.height)]))
            finally:
                file.close()
        if joined.rows:
            yield self._of_lines(joined)

    def _of_lines(self, joined: _Joined) -> Batch:
        return Batch(Lines(b"".join(joined.data)), self._segments(joined.segments))

    def _segments(self, parts: Sequence[tuple[str, int, int]]) -> tuple[Segment, ...]:
        """Segments of files (name, first row, rows), all of which take the log as far as the last one does."""
        first_of_log = self._next
        self._next += sum(rows for _, _, rows in parts)
        after = {"next": self._next, "files": dict(self._positions)}
        partition = partition_of_folder(self.shard)
        segments = []
        for name, first_row, rows in parts:
            base = first_of_log - first_row
            segments.append(Segment(self.shard, name, partition, rows, after, first_row, base))
            first_of_log += rows
        return tuple(segments)


def _open(name: str, path: Path, position: Mapping[str, int]) -> Any:
    if path.suffix.lower() == PARQUET_SUFFIX:
        from pipelines.sources.parquet_file import ParquetFile  # pyarrow takes a while, and lines need none of it

        file: Any = ParquetFile(path, position)
    else:
        file = LineFile(path, position)
    if file.changed:
        raise UserError(
            f"{path} is not the file that was read before as '{name}': give new telemetry a new name, or use a new home"
        )
    return file


class LineFile:
    """A file of JSON lines, read in whole lines; a last line without a newline counts."""

    def __init__(self, path: Path, position: Mapping[str, int]) -> None:
        self.path = path
        self.row = position.get("row", 0)
        self.total_bytes = path.stat().st_size
        self._file: BinaryIO | None = None
        self.read_bytes = position["byte"] if "byte" in position else self._bytes_of(self.row)
        self._bytes_per_row = float(_GUESSED_LINE_BYTES)
        mark = position.get("mark")
        self.changed = self.read_bytes > self.total_bytes or (mark is not None and mark != self._mark())
        self.close()

    @property
    def over(self) -> bool:
        """Whether all of it has been read; it may have grown since it was opened."""
        if self.read_bytes < self.total_bytes:
            return False
        self.total_bytes = self._opened().seek(0, 2)
        return self.read_bytes >= self.total_bytes

    def position(self) -> dict[str, int]:
        return {"row": self.row, "byte": self.read_bytes, "mark": self._mark()}

    def read(self, rows: int, most_bytes: int) -> tuple[bytes, int]:
        """About so many rows: whole lines, each with a newline, and how many they are."""
        size = max(1, min(int(self._bytes_per_row * rows), most_bytes))
        data = _whole_lines(self._opened(), self.read_bytes, size)
        at_start, read = self.read_bytes == 0, len(data)
        self.read_bytes += read
        self.total_bytes = max(self.total_bytes, self.read_bytes)
        data = data.removeprefix(_BOM) if at_start else data
        data = data if data.endswith(b"\n") or not data else data + b"\n"
        count = line_count(data)
        self.row += count
        self._bytes_per_row = read / count if count else self._bytes_per_row
        return data, count

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = self.path.open("rb")
        return self._file

    def _bytes_of(self, rows: int) -> int:
        """What so many lines take, for positions made anew from the lake; more than all where there are fewer."""
        file = self._opened()
        for _ in range(rows):
            if not file.readline():
                return self.total_bytes + 1
        return file.tell()

    def _mark(self) -> int:
        """Checksum of the first bytes that have been read, so that a file that grew is still the same."""
        file = self._opened()
        file.seek(0)
        return zlib.crc32(file.read(min(self.read_bytes, MARK_BYTES)))


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


class FileReader:
    """Reads the folders of one worker, one after the other."""

    stale_since = None

    def __init__(self, logs: list[FileLog]) -> None:
        self._logs = logs
        self._batches = (batch for log in logs for batch in log.batches())

    def poll(self) -> list[Batch]:
        """The next rows; nothing once all files have ended."""
        batch = next(self._batches, None)
        return [] if batch is None else [batch]

    @property
    def finished(self) -> bool:
        return all(log.over for log in self._logs)

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        if not is_telemetry(source):
            return None
        shard = shard_of(source, partition)
        over = [log.over for log in self._logs if log.shard == shard]
        return OwnShard(shard, over[0]) if over else None

    @property
    def progress(self) -> Progress:
        return Progress(sum(log.read_bytes for log in self._logs), sum(log.total_bytes for log in self._logs))

    def close(self) -> None:
        self._batches.close()
