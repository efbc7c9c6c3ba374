"""A Parquet file of readings, read in row batches from where the last commit left off.

Here: opening it, where to go on, and its rows. Not here: which files there are, and in which order (`files`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from metering.errors import OperationError, UserError
from pipelines.sources.arrow import frame_of

_MARK_BYTES = 4096


class ParquetFile:
    """`changed`: it is not the file that its position is of."""

    def __init__(self, path: Path, position: Mapping[str, int]) -> None:
        self.path = path
        self.row = position.get("row", 0)
        self.total_bytes = path.stat().st_size
        self._mark = self._checksum()
        with self._opened() as file:
            self.rows: int = file.metadata.num_rows
        self.changed = position.get("mark") not in (None, self._mark) or self.row > self.rows

    @property
    def read_bytes(self) -> int:
        return self.total_bytes if self.over else self.total_bytes * self.row // self.rows

    @property
    def over(self) -> bool:
        return self.row >= self.rows

    def position(self) -> dict[str, int]:
        return {"row": self.row, "mark": self._mark}

    def frames(self, batch_rows: int) -> Iterator[tuple[int, pl.DataFrame]]:
        """Number of the first row, and rows, of all that has not been read yet."""
        if self.over:
            return
        with self._opened() as file:
            for batch in self._batches(file, batch_rows):
                first, self.row = self.row, self.row + batch.num_rows
                yield first, frame_of(batch)

    def close(self) -> None:
        """Nothing is left open between batches' end and this."""

    def _checksum(self) -> int:
        """Of the file's end, which describes all of its content."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.total_bytes - _MARK_BYTES))
            return zlib.crc32(file.read())

    def _opened(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path)
        except pa.ArrowInvalid as error:
            raise UserError(f"{self.path} is not a Parquet file that can be read: {error}") from error

    def _batches(self, file: pq.ParquetFile, batch_rows: int) -> Iterator[pa.RecordBatch]:
        groups, skip = _groups_from(file, self.row)
        try:
            for batch in file.iter_batches(batch_rows, row_groups=groups):
                rest = batch.slice(min(skip, batch.num_rows))
                skip -= batch.num_rows - rest.num_rows
                if rest.num_rows:
                    yield rest
        except (pa.ArrowException, OSError) as error:
            raise OperationError(f"{self.path} cannot be read from row {self.row} on: {error}") from error


def _groups_from(file: pq.ParquetFile, row: int) -> tuple[list[int], int]:
    """Row groups that hold rows from `row` on, and how many rows of the first to skip."""
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            return list(range(group, file.num_row_groups)), row
        row -= rows
    return [], 0
