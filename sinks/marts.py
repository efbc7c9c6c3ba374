"""Results of batch work as Parquet, one file a partition: `<home>/marts/<table>/<partition>/part.parquet`.

Here: staging, publishing and reading those files. They are the durable record from which the warehouse is rebuilt.
Not here: what is in them, or DuckDB. A partition is `date=YYYY-MM-DD`, `week=`, `month=` or `year=` with the first day
of such, or `current`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from metering.calendar import day_bounds, week_of
from metering.tables import Table

PART = "part.parquet"
CURRENT = "current"
AS_OF = "as_of"
REFUSED = "refused"


def day_partition(day: date) -> str:
    return f"date={day.isoformat()}"


def month_partition(month: date) -> str:
    return f"month={month.replace(day=1).isoformat()}"


def week_partition(day: date) -> str:
    """Of the ISO week, Monday to Sunday, that a local day lies in."""
    return f"week={week_of(day).isoformat()}"


def year_partition(day: date) -> str:
    return f"year={day.replace(month=1, day=1).isoformat()}"


def table_partition(day: date, table: str) -> str:
    """Of tables that several others write to, each its own part of a day."""
    return f"{day_partition(day)},table={table}"


def period_end(partition: str, timezone: str) -> datetime:
    """UTC instant at which the local day, week, month or year of a partition is over; of `current` it never is."""
    kind, _, first = partition.partition(",")[0].partition("=")
    if not first:
        return datetime.max.replace(tzinfo=UTC)
    start = date.fromisoformat(first)
    after = {
        "date": start + timedelta(days=1),
        "week": start + timedelta(days=7),
        "month": (start + timedelta(days=31)).replace(day=1),
        "year": (start + timedelta(days=366)).replace(month=1, day=1),
    }
    return day_bounds(after[kind] - timedelta(days=1), timezone)[1]


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Marts:
    """The results of one home. Readers only ever see whole, published partitions."""

    home: Path

    @property
    def root(self) -> Path:
        return self.home / "marts"

    def path(self, table: str, partition: str) -> Path:
        return self.root / table / partition / PART

    def files(self, table: str, partitions: Iterable[str] | None = None) -> list[Path]:
        """Published files of a table: of the named partitions that exist, or of all, in name order."""
        if partitions is None:
            return sorted((self.root / table).glob(f"*/{PART}"))
        return [path for path in (self.path(table, p) for p in partitions) if path.exists()]

    def scan(self, table: Table, partitions: Iterable[str] | None = None) -> pl.LazyFrame:
        """Rows of the named partitions, or of all, with the declared columns in order; absent ones are null."""
        files = self.files(table.name, partitions)
        if not files:
            return table.empty().lazy()
        return pl.scan_parquet(
            files, schema=table.schema, missing_columns="insert", extra_columns="ignore", hive_partitioning=False
        )

    def read(self, table: Table, days: Sequence[date], columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Rows of those days; only `columns` of them where these are named, at the cost of these alone."""
        return self.scan(table, map(day_partition, days)).select(columns or table.names).collect()

    def as_of(self, table: str, partition: str) -> datetime | None:
        """The newest watermark when the partition was computed; None where it is not there, or does not say so."""
        path = self.path(table, partition)
        told = pl.read_parquet_metadata(path).get(AS_OF) if path.exists() else None
        return datetime.fromisoformat(told) if told else None

    def days(self, table: str) -> list[date]:
        """Days of which a table is published, ascending."""
        return sorted(date.fromisoformat(path.parent.name[5:]) for path in (self.root / table).glob(f"date=*/{PART}"))

    def refuse(self, day: date, reason: str) -> None:
        """Remember that a day must not get into the warehouse, although parts of it are published here."""
        folder = self.root / REFUSED
        folder.mkdir(parents=True, exist_ok=True)
        (folder / day.isoformat()).write_text(reason, "utf-8")
        sync(folder)

    def accept(self, day: date) -> None:
        """Forget that a day was refused."""
        (self.root / REFUSED / day.isoformat()).unlink(missing_ok=True)

    def refused(self) -> dict[date, str]:
        """Days that are refused, ascending, with the reasons."""
        paths = sorted((self.root / REFUSED).glob("????-??-??"))
        return {date.fromisoformat(path.name): path.read_text("utf-8") for path in paths}

    def stage(self) -> Stage:
        return Stage(self)


@dataclass(slots=True)
class Stage:
    """Partitions written but not yet seen by readers: `write` them, then `publish` or `discard` them together."""

    marts: Marts
    _waiting: dict[Path, Path] = field(default_factory=dict)

    def write(self, table: Table, partition: str, frame: pl.DataFrame, as_of: datetime | None = None) -> int:
        """Stage `frame`, sorted by the table's key, as the partition's new content; gives the number of rows.

        `as_of`: the newest watermark that it was computed at.
        """
        final = self.marts.path(table.name, partition)
        final.parent.mkdir(parents=True, exist_ok=True)
        waiting = final.with_name(f".{PART}.{os.getpid()}.staged")
        told = {AS_OF: as_of.isoformat()} if as_of else None
        table.ordered(table.conform(frame)).write_parquet(waiting, compression="zstd", metadata=told)
        sync(waiting)
        self._waiting[final] = waiting
        return frame.height

    def publish(self) -> None:
        """Reveal every staged partition, each by one rename."""
        for final, waiting in self._waiting.items():
            waiting.replace(final)
        for folder in {final.parent for final in self._waiting}:
            sync(folder)
        self._waiting.clear()

    def discard(self) -> None:
        """Forget what was staged; what was published before stays as it was."""
        for waiting in self._waiting.values():
            waiting.unlink(missing_ok=True)
            with suppress(OSError):
                waiting.parent.rmdir()
        self._waiting.clear()
