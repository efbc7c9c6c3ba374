"""What tests of compaction share: a stream's commits into a home, and what readers see of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from metering.tables import LAKE
from sinks.lake.commits import CommitLog
from sinks.lake.compaction import Sizes
from sinks.lake.maintenance import Report, upkeep
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader

DAY = date(2026, 1, 1)
AT = datetime(2026, 1, 1, tzinfo=UTC)
SIZES = Sizes(parts=4, part_bytes=1_000_000)
READINGS = f"lake/readings/date={DAY}"
WINDOWS = f"lake/windows/date={DAY}"


def reading_rows(partition: int, first: int, count: int) -> pl.DataFrame:
    offsets = pl.int_range(first, first + count, eager=True, dtype=pl.Int64)
    frame = pl.DataFrame({"source_offset": offsets, "meter_id": "M1", "customer_no": "C1"})
    timed = frame.with_columns(ts=pl.lit(AT) + pl.duration(minutes=pl.col("source_offset") % 1440), p_kw=1.5)
    return LAKE["readings"].conform(timed, source="t", source_partition=partition, source_row=0, date=DAY).drop("date")


def window_rows(number: int) -> pl.DataFrame:
    ends = [AT + timedelta(minutes=15 * k) for k in range(3)]
    frame = pl.DataFrame({"window_end": ends, "meter_id": "M1", "customer_no": "C1"})
    return LAKE["windows"].conform(frame, n=1, n_expected=15, revision=number, date=DAY).drop("date")


class Writer:
    """A stream's commits into a home: five readings and three windows each."""

    def __init__(self, home: Path) -> None:
        self.owner = take(home)
        self.log = CommitLog(home, self.owner)
        self.count = 0

    def commit(self, times: int = 1, partitions: int = 1) -> None:
        for _ in range(times):
            for partition in range(partitions):
                frames = {READINGS: reading_rows(partition, 5 * self.count, 5), WINDOWS: window_rows(self.count)}
                self.log.commit(partition, {f"t-{partition}": {"offset": self.count}}, b"", frames)
            self.count += 1


def run(home: Path, **options: Any) -> Report:
    return upkeep(home, options.pop("sizes", SIZES), options.pop("days_kept", 0), DAY, **options)


def seen(home: Path, table: str = "readings") -> list[tuple[Any, ...]]:
    """What a bare glob sees, read by an engine that shares no code with the writer."""
    if not list(home.glob(f"lake/{table}/*/*.parquet")):
        return []
    with duckdb.connect() as connection:
        return connection.execute(f"from read_parquet('{home}/lake/{table}/*/*.parquet') order by all").fetchall()


def digest(home: Path) -> tuple[Any, ...]:
    """Readings, distinct readings, and a sum over all of their values."""
    with duckdb.connect() as connection:
        return connection.execute(
            "select count(*), count(distinct (source_partition, source_offset)), bit_xor(hash(lake)) "
            f"from read_parquet('{home}/lake/readings/*/*.parquet') lake"
        ).fetchall()[0]


def parts(home: Path, table: str = "readings") -> list[Path]:
    return LakeReader(home).parts(table, DAY)
