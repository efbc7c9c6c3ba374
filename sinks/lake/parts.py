"""Rows of the lake's tables, as they go into parts: declared columns, one folder for each local date.

Here: which columns a part has, which folder it belongs in, and its file. Not here: committing (`commits`), reading
(`lake_reader`), merging (`compaction`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import polars as pl

from metering.tables.lake import LAKE

_ZSTD_LEVEL = 2
"""As small as level 3, the usual one, for four fifths of its time; level 1 leaves parts a fifth larger."""


def folder(table: str, day: object) -> str:
    """Folder of a table's local date, relative to the home."""
    return f"lake/{table}/date={day}"


def parts(tables: Mapping[str, Sequence[pl.DataFrame]]) -> dict[str, pl.DataFrame]:
    """Frames (with `date`) of each table, cut by folder; `date` is the folder's name and no column of a part."""
    cut: dict[str, pl.DataFrame] = {}
    for name, frames in tables.items():
        if not frames:
            continue
        whole = pl.concat([LAKE[name].empty(), *frames])
        days = whole["date"].unique()
        if len(days) == 1:  # the common case, and much cheaper
            cut[folder(name, days[0])] = whole.drop("date")
            continue
        for (day,), part in whole.partition_by("date", as_dict=True, maintain_order=True, include_key=False).items():
            cut[folder(name, day)] = part
    return cut


def write_part(path: Path, frame: pl.DataFrame) -> None:
    """Write a new part, durably but for its name. Raises OSError."""
    # Polars would turn a full disk into an error of its own, so it writes to memory.
    content = BytesIO()
    frame.write_parquet(content, compression="zstd", compression_level=_ZSTD_LEVEL, statistics=True)
    with path.open("xb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())
