"""The lake as batch work reads it: Parquet parts by table and local date, as Polars frames.

Here: finding parts, reading them lazily, their footers, and the current state of append-only tables. Not here: writing
parts, or anything computed from them. Parts live in `<home>/lake/<table>/date=YYYY-MM-DD/*.parquet`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from metering.tables import LAKE, Table
from metering.tables.lake import WINDOW_S
from sinks.lake.lock import shared


@dataclass(frozen=True, slots=True)
class PartFacts:
    """What a part's footer tells: rows, and the newest event time (None when the part holds none)."""

    rows: int
    newest: datetime | None


@dataclass(frozen=True, slots=True)
class LakeReader:
    """The lake of one home. Only whole, committed parts carry the name `*.parquet`.

    What `parts` or `scan` have found is there until the end of the `with reader.held()` that they were called in;
    outside of one, compaction may take it away before it is read.
    """

    home: Path

    def held(self) -> AbstractContextManager[None]:
        """No part is taken away meanwhile. Not for long: compaction waits."""
        return shared(self.home)

    @property
    def mark(self) -> Path:
        """File with the last day that retention has taken out."""
        return self.home / "lake" / "taken_until"

    @property
    def taken_until(self) -> date | None:
        """The last day that retention has taken out, if any; of the days before it there may be late rows, no more."""
        return date.fromisoformat(self.mark.read_text("ascii")) if self.mark.exists() else None

    def whole(self, day: date) -> bool:
        """Whether the lake still has all that came of the day and of the day before it."""
        return (until := self.taken_until) is None or day > until + timedelta(days=1)

    def folder(self, table: str) -> Path:
        return self.home / "lake" / table

    def dates(self, table: str) -> list[date]:
        """Local dates that have a folder, ascending."""
        return sorted(date.fromisoformat(path.name[5:]) for path in self.folder(table).glob("date=*") if path.is_dir())

    def parts(self, table: str, day: date) -> list[Path]:
        """The parts of a day, in name order."""
        return sorted((self.folder(table) / f"date={day.isoformat()}").glob("*.parquet"))

    def watermark(self, lateness_s: int) -> datetime | None:
        """How far the data has come: the newest reading less the lateness, or the newest window that is there whole.

        A stream closes windows at its watermark, and all of them at its files' end. None for a lake without readings.
        """
        with self.held():
            newest = next((at for day in reversed(self.dates("readings")) if (at := self._newest_reading(day))), None)
            whole = next((at for day in reversed(self.dates("windows")) if (at := self._newest_whole(day))), None)
        if newest is None:
            return None
        behind = newest - timedelta(seconds=lateness_s)
        return behind if whole is None else max(behind, min(whole, window_after(newest)))

    def _newest_reading(self, day: date) -> datetime | None:
        return max((at for part in self.parts("readings", day) if (at := part_facts(part, "ts").newest)), default=None)

    def _newest_whole(self, day: date) -> datetime | None:
        whole = self.scan("windows", [day]).filter(pl.col("n") >= pl.col("n_expected"), pl.col("n") > 0)
        at = whole.select(pl.col("window_end").max()).collect().item()
        assert at is None or isinstance(at, datetime)
        return at

    def scan(self, table: str, days: Iterable[date] | None = None) -> pl.LazyFrame:
        """Rows of those days (None: of all) as the table is declared, `date` included; typed, also without parts."""
        declared = LAKE[table]
        days = self.dates(table) if days is None else days
        frames = [scan_parts(declared, day, parts) for day in days if (parts := self.parts(table, day))]
        return pl.concat(frames) if frames else declared.empty().lazy()

    def lots(self, days: Sequence[date], most_rows: int) -> Iterator[list[date]]:
        """`days` in order, cut so that a lot has at most so many readings; a lot has at least one day."""
        lot: list[date] = []
        rows = 0
        for day in days:
            with self.held():
                of_day = self.scan("readings", [day]).select(pl.len()).collect().item()
            if lot and rows + of_day > most_rows:
                yield lot
                lot, rows = [], 0
            lot.append(day)
            rows += of_day
        if lot:
            yield lot


def window_after(at: datetime) -> datetime:
    """End of the window that `at` lies in."""
    return datetime.fromtimestamp(-(-at.timestamp() // WINDOW_S) * WINDOW_S, UTC)


def scan_parts(table: Table, day: date, parts: Sequence[Path]) -> pl.LazyFrame:
    """Rows of some parts of a day as the table is declared, `date` included."""
    inside = pl.Schema({name: dtype for name, dtype in table.schema.items() if name != "date"})
    rows = pl.scan_parquet(
        list(parts), schema=inside, missing_columns="insert", extra_columns="ignore", hive_partitioning=False
    )
    return rows.with_columns(date=pl.lit(day, pl.Date)).select(table.names)


def current(rows: pl.LazyFrame, key: Sequence[str]) -> pl.LazyFrame:
    """One row for each key: the one with the highest `revision`. Order of the result is that of the key."""
    return rows.sort(*key, "revision").unique(subset=list(key), keep="last", maintain_order=True)


def newest(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """As `current`, in any order and much cheaper: for rows with no (key, revision) twice, such as the lake holds."""
    first = rows["revision"] == 0
    if first.all():
        return rows
    revised = rows.filter(~first).sort("revision").unique(list(key), keep="last")
    return pl.concat([rows.filter(first).join(revised, on=list(key), how="anti"), revised])


def part_facts(part: Path, time_column: str) -> PartFacts:
    """Rows and newest `time_column` of a part, from its footer alone."""
    import pyarrow.parquet as pq

    footer = pq.read_metadata(part)
    index = footer.schema.names.index(time_column)
    statistics = (footer.row_group(i).column(index).statistics for i in range(footer.num_row_groups))
    newest = [s.max for s in statistics if s is not None and s.has_min_max]
    return PartFacts(footer.num_rows, max(_utc(t) for t in newest) if newest else None)


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
