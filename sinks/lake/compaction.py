"""Many small parts of a lake folder become few: nothing that a reader could see changes but the number of files.

Here: which parts are merged, the merging, and the swap of the old folder for the new. Not here: when and for which days
(`maintenance`). See docs/adr/0002-compaction-swaps-folders.md.

Whatever moment the process dies, the lake holds the old folder or the new one, each whole.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from metering.errors import OperationError
from metering.tables import LAKE
from sinks.lake.exchange import exchange
from sinks.lake.lock import exclusive
from sinks.lake.owner import make_folder, sync_folder
from sinks.lake.parts import folder as lake_folder
from sinks.lake.parts import write_part
from sinks.lake.reader import LakeReader, scan_parts


@dataclass(frozen=True, slots=True)
class Sizes:
    """A day's small parts are merged once at least `parts` of them are due, up to `part_bytes` (uncompressed) each."""

    parts: int
    part_bytes: int


@dataclass(frozen=True, slots=True)
class Compacted:
    """What became of a table's day: its rows, and its parts and their bytes on disk before and after."""

    table: str
    day: date
    rows: int
    parts_before: int
    parts_after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class Part:
    """A part, and what its footer tells. `size`: bytes before compression, a measure of the memory that it takes."""

    path: Path
    rows: int
    size: int
    columns: frozenset[str]


def aside(home: Path) -> Path:
    """Folder of what is on its way into the lake or out of it: outside the lake, on the lake's file system."""
    return home / "compaction"


def compact(home: Path, table: str, day: date, sizes: Sizes, patience_s: float = 60) -> Compacted | None:
    """Merge the small parts of a table's local day; None when too few are due. For one process at a time.

    The folder that the day had stays aside: a reader that has opened it still finds all its names there. Raises
    BusyError when readers leave no gap within `patience_s`, NoExchangeError where folders cannot be swapped,
    OperationError when parts do not read back as they should.
    """
    paths = LakeReader(home).parts(table, day)
    if len(paths) < sizes.parts:
        return None
    parts = [_weighed(path) for path in paths]
    # A part with columns that are not declared would lose them.
    merging = groups(due([part for part in parts if part.columns <= set(LAKE[table].names)], sizes), sizes.part_bytes)
    if not merging:
        return None
    replaced = {part.path for group in merging for part in group}
    staying = [path for path in paths if path not in replaced]
    new = aside(home) / f"{table} {day} {uuid.uuid4().hex}"
    make_folder(new)
    try:
        merged = [_merge(table, day, group, new) for group in merging]
        _link(staying, new)
        sync_folder(new)
    except Exception:
        shutil.rmtree(new, ignore_errors=True)
        raise
    before, after = _bytes(paths), _bytes([*staying, *merged])
    _swap(home, home / lake_folder(table, day), new, known={path.name for path in paths}, patience_s=patience_s)
    rows = sum(part.rows for part in parts)
    return Compacted(table, day, rows, len(paths), len(staying) + len(merged), before, after)


def due(parts: Sequence[Part], sizes: Sizes) -> list[Part]:
    """The parts to merge, in name order; none when they are too few.

    A part is merged only with smaller ones that together weigh at least as much. So merging at least doubles the part
    that a row lies in, and a row is written again a few times at most, however often its day is compacted.
    """
    small = sorted((part for part in parts if part.size < sizes.part_bytes), key=lambda part: part.size)
    lighter, count = 0, 0
    for number, part in enumerate(small):
        if part.size <= lighter:
            count = number + 1
        lighter += part.size
    chosen = sorted(small[:count], key=lambda part: part.path.name)
    return chosen if len(chosen) >= sizes.parts else []


def groups(parts: Sequence[Part], part_bytes: int) -> list[list[Part]]:
    """`parts` cut, in order, into those that become one part each: of `part_bytes` or more, but for the last.

    A part that would be left alone is in none: nothing would be won by writing it again.
    """
    cut: list[list[Part]] = [[]]
    for part in parts:
        if sum(p.size for p in cut[-1]) >= part_bytes:
            cut.append([])
        cut[-1].append(part)
    return [group for group in cut if len(group) > 1]


def _weighed(path: Path) -> Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path)
    except pa.ArrowInvalid as error:
        raise OperationError(f"lake part {path} is damaged: {error}") from error
    size = sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))
    return Part(path, footer.num_rows, size, frozenset(footer.schema.names))


def _merge(table: str, day: date, group: Sequence[Part], new: Path) -> Path:
    """Write one part with the rows of a group, in the order of the table's key; it is as old as its youngest rows."""
    declared = LAKE[table]
    order = [name for name in (*declared.key, "revision") if name in declared.names and name != "date"]
    paths = [part.path for part in group]
    try:
        rows = scan_parts(declared, day, paths).drop("date").sort(order, maintain_order=True).collect()
    except pl.exceptions.PolarsError as error:
        raise OperationError(f"parts in {paths[0].parent} cannot be read together: {error}") from error
    # Two hyphens and a name never used again: no part of the stream, nor of an earlier merge, is called so.
    path = new / f"merged-{uuid.uuid4().hex}-{len(group)}.parquet"
    write_part(path, rows)
    if rows.height != sum(part.rows for part in group) or not pl.read_parquet(path).equals(rows):
        raise OperationError(f"parts of {paths[0].parent} were not merged: they do not read back as they were written")
    youngest_ns = max(path.stat().st_mtime_ns for path in paths)
    os.utime(path, ns=(youngest_ns, youngest_ns))
    return path


def _swap(home: Path, folder: Path, new: Path, known: set[str], patience_s: float) -> None:
    """Put `new` where `folder` is, with what was revealed there since; it then has the old folder's content."""
    try:
        with exclusive(home, patience_s):
            _link([path for path in folder.iterdir() if path.name not in known], new)
            sync_folder(new)
            exchange(new, folder)
            # Before the lock goes: a part revealed into the new folder must not be lost with the swap.
            sync_folder(folder.parent)
            sync_folder(new.parent)
    except OperationError:  # nothing has been swapped
        shutil.rmtree(new)
        raise


def _link(paths: Iterable[Path], into: Path) -> None:
    for path in paths:
        os.link(path, into / path.name)


def _bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
