"""A Parquet file of readings as a shard, read in row batches from where the last commit left off.

Here: opening it, where to go on, and its rows as polls. Not here: which files there are (`files`).
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from metering.errors import OperationError, UserError
from pipelines.sources.arrow import frame_of
from pipelines.sources.file_shard import MARK_BYTES, changed
from pipelines.sources.poll import Poll, Position


class ParquetFile:
    """Frames of `batch_rows` rows."""

    def __init__(self, shard: str, path: Path, batch_rows: int, position: Position) -> None:
        self.shard, self.path, self.batch_rows = shard, path, batch_rows
        self.row = position.get("row", 0)
        self.total_bytes = path.stat().st_size
        self.mark = self._mark()
        with self._opened() as file:
            self.rows = file.metadata.num_rows
        if position.get("mark") not in (None, self.mark) or self.row > self.rows:
            raise changed(shard, path)

    @property
    def read_bytes(self) -> int:
        return self.total_bytes if self.row >= self.rows else self.total_bytes * self.row // self.rows

    def _mark(self) -> int:
        """Checksum of the file's end, which describes all of its content."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.total_bytes - MARK_BYTES))
            return zlib.crc32(file.read())

    def _opened(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path)
        except pa.ArrowInvalid as error:
            raise UserError(f"{self.path} is not a Parquet file that can be read: {error}") from error

    def polls(self) -> Generator[Poll, None, None]:
        if self.row >= self.rows:
            yield self._poll(pl.DataFrame())
            return
        with self._opened() as file:
            for batch in self._batches(file):
                yield self._poll(frame_of(batch))

    def _batches(self, file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
        groups, skip = _groups_from(file, self.row)
        try:
            for batch in file.iter_batches(self.batch_rows, row_groups=groups):
                rest = batch.slice(min(skip, batch.num_rows))
                skip -= batch.num_rows - rest.num_rows
                if rest.num_rows:
                    yield rest
        except (pa.ArrowException, OSError) as error:
            raise OperationError(f"{self.path} cannot be read from row {self.row} on: {error}") from error

    def _poll(self, frame: pl.DataFrame) -> Poll:
        first_row = self.row
        self.row += frame.height
        end = self.row >= self.rows
        return Poll(
            self.shard, self.shard, 0, frame, first_row, self._position(self.row), end,
            until=lambda row: self._position(row + 1),
        )  # fmt: skip

    def _position(self, row: int) -> Position:
        return {"row": row, "mark": self.mark}


def _groups_from(file: pq.ParquetFile, row: int) -> tuple[list[int], int]:
    """Row groups that hold rows from `row` on, and how many rows of the first to skip."""
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            return list(range(group, file.num_row_groups)), row
        row -= rows
    return [], 0
