"""Days of the lake that are past keeping: taken out whole.

Here: which days go, the mark that tells how far, and their removal from the lake. Not here: when (`maintenance`).
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from metering.tables import LAKE
from sinks.lake.compaction import aside
from sinks.lake.lock import exclusive
from sinks.lake.owner import make_folder, sync_folder
from sinks.lake.parts import folder as lake_folder
from sinks.lake.reader import LakeReader

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Expired:
    """A table's day that has been taken out, with so many parts."""

    table: str
    day: date
    parts: int


def expire(home: Path, days_kept: int, today: date, patience_s: float = 60) -> list[Expired]:
    """Take out every day that lies more than `days_kept` days back, and to which nothing was added for as long.

    Days count back from the newest reading, or from `today` if that is earlier: a stream that stood still loses nothing
    that it needs to go on. 0 keeps everything. Raises BusyError when readers leave no gap within `patience_s`.
    """
    past = list(_past(LakeReader(home), days_kept, today)) if days_kept else []
    if not past:
        return []
    until = time.time() - days_kept * DAY_S
    make_folder(aside(home))
    with exclusive(home, patience_s):
        found = [(table, day, LakeReader(home).parts(table, day)) for table, day in past]
        gone = [Expired(table, day, len(parts)) for table, day, parts in found if _added(parts) <= until]
        if gone:
            _mark(home, max(expired.day for expired in gone))
        for expired in gone:
            _take_out(home, expired)
    return gone


def _past(reader: LakeReader, days_kept: int, today: date) -> Iterator[tuple[str, date]]:
    newest = max(reader.dates("readings"), default=date.min)
    if newest == date.min:
        return
    first = min(newest, today) - timedelta(days=days_kept)
    for table in LAKE:
        for day in reader.dates(table):
            if day < first:
                yield table, day


def _added(parts: Sequence[Path]) -> float:
    """When rows were added last. Merging keeps that time."""
    return max((path.stat().st_mtime for path in parts), default=0.0)


def _mark(home: Path, last: date) -> None:
    """Tell, before anything goes, how far days have been taken out."""
    before = LakeReader(home).taken_until
    mark = LakeReader(home).mark
    new = aside(home) / f"mark {uuid.uuid4().hex}"
    with new.open("w", encoding="ascii") as file:
        file.write(max(last, before or last).isoformat())
        file.flush()
        os.fsync(file.fileno())
    new.rename(mark)
    sync_folder(mark.parent)


def _take_out(home: Path, expired: Expired) -> None:
    folder = home / lake_folder(expired.table, expired.day)
    folder.rename(aside(home) / f"{expired.table} {expired.day} {uuid.uuid4().hex}")
    sync_folder(folder.parent)
