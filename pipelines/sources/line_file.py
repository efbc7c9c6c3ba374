"""A file of JSON lines as a shard, read in whole lines from where the last commit left off.

Here: cutting it into polls, and where to go on. Not here: what is in the lines (`metering.readings.decode`), which
files there are (`files`).
"""

from __future__ import annotations

import zlib
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from metering.readings.decode import Lines
from pipelines.sources.file_shard import MARK_BYTES, changed
from pipelines.sources.poll import Poll, Position

_GUESSED_LINE_BYTES = 250
_LARGEST_READ = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class LineFile:
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
                until = partial(_until, lines, after)
                yield Poll(self.shard, self.shard, 0, lines, lines.first_row, after, end, until=until)
                if end:
                    return


def _until(lines: Lines, after: Position, row: int) -> Position | None:
    """Where to go on after a line of those that end at `after`; not within the bytes that the mark is of."""
    rest = lines.data.split(b"\n", row + 1 - lines.first_row)[-1]
    byte = after["byte"] - len(rest)
    return {**after, "row": row + 1, "byte": byte} if byte >= MARK_BYTES else None


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
