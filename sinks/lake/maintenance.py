"""Keeping the lake in order: days past keeping go, small parts are merged, what was left aside is removed.

Here: one round of that over all tables, and its report. Not here: how it is done (`retention`, `compaction`), when
(`orchestration`).
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from metering.errors import OperationError, UserError
from metering.tables import LAKE
from sinks.lake.compaction import Compacted, Sizes, aside, compact
from sinks.lake.exchange import NoExchangeError, exchange
from sinks.lake.lock import BusyError
from sinks.lake.owner import make_folder
from sinks.lake.reader import LakeReader
from sinks.lake.retention import Expired, expire
from sinks.locking import LockedError, locked_folder

GRACE_S = 600
"""What has left the lake stays aside so long: a reader that has just opened a folder goes on listing it."""

Progress = Callable[[str, int, int], None]
"""Called with a table and day, the folders done and the folders in all."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a round did: days whose parts were merged, days taken out, and what was left as it is, and why."""

    compacted: tuple[Compacted, ...]
    expired: tuple[Expired, ...]
    skipped: tuple[str, ...]


def upkeep(
    home: Path,
    sizes: Sizes,
    days_kept: int,
    today: date,
    progress: Progress | None = None,
    grace_s: float = GRACE_S,
    patience_s: float = 60,
) -> Report:
    """One round over the lake of `home`, beside a running stream or not. `days_kept`: see `retention.expire`.

    A folder that cannot be compacted is left as it is and named. Raises UserError when a round is going on already,
    OperationError when the disk is full.
    """
    if not (home / "lake").is_dir():
        return Report((), (), ())
    make_folder(aside(home))
    with _alone(home), _told(home):
        _sweep(home, grace_s)
        skipped: list[str] = []
        expired: list[Expired] = []
        try:
            expired = expire(home, days_kept, today, patience_s)
        except BusyError as error:
            skipped.append(str(error))
        compacted = list(_compacted(home, sizes, patience_s, progress, skipped))
    return Report(tuple(compacted), tuple(expired), tuple(skipped))


def _compacted(
    home: Path, sizes: Sizes, patience_s: float, progress: Progress | None, skipped: list[str]
) -> Iterator[Compacted]:
    try:
        _try_exchange(home)
    except NoExchangeError as error:
        skipped.append(str(error))
        return
    reader = LakeReader(home)
    folders = [(table, day) for table in LAKE for day in reader.dates(table)]
    for done, (table, day) in enumerate(folders):
        if progress:
            progress(f"{table} {day}", done, len(folders))
        try:
            if found := compact(home, table, day, sizes, patience_s):
                yield found
        except OperationError as error:
            skipped.append(str(error))


def _try_exchange(home: Path) -> None:
    """Before any merging: can folders be swapped here?"""
    one, other = aside(home) / "one", aside(home) / "other"
    one.mkdir(exist_ok=True)
    other.mkdir(exist_ok=True)
    exchange(one, other)
    one.rmdir()
    other.rmdir()


def _sweep(home: Path, grace_s: float) -> None:
    """Remove what has been aside for long enough. The time of its last change is that of the swap."""
    until = time.time() - grace_s
    for path in aside(home).iterdir():
        if path.stat().st_ctime <= until:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    try:
        with locked_folder(aside(home), patience_s=0):
            yield
    except LockedError:
        raise UserError(f"the lake of {home} is being compacted already: wait for that to end") from None


@contextmanager
def _told(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OperationError(
                f"the disk of {home} is full: the lake is whole, but its parts were not merged; free space"
            ) from error
        raise
