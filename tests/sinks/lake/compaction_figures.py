"""What compaction gives on a day like a running stream leaves it: `python -m tests.sinks.lake.compaction_figures`.

Not a test: it writes some ten thousand files, and prints the table that docs/lake.md shows. A thousand meters report
every minute over three partitions, each of which commits every ten seconds. One lake is compacted every hour, the other
never.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median

import duckdb
import polars as pl

from metering.tables import LAKE
from orchestration.batch.maintenance import MB
from orchestration.home.settings import load_settings
from sinks.lake.compaction import Sizes
from sinks.lake.maintenance import upkeep
from sinks.lake.reader import LakeReader

DAY = date(2026, 3, 2)
START = datetime(2026, 3, 1, 16, tzinfo=UTC)
METERS, PARTITIONS, COMMIT_S = 1_000, 3, 10
TIMES = 5


def commit(number: int, partition: int, offset: int) -> pl.DataFrame:
    """The readings that came in one commit's ten seconds, in one partition."""
    end = START + timedelta(seconds=COMMIT_S * (number + 1))
    mine = [m for m in range(METERS) if m % PARTITIONS == partition and m // PARTITIONS % 6 == number % 6]
    frame = pl.DataFrame({"meter": mine}).with_columns(
        meter_id=pl.format("M-{}", pl.col("meter").cast(pl.String).str.zfill(6)),
        customer_no=pl.format("C-{}", pl.col("meter").cast(pl.String).str.zfill(6)),
        ts=pl.lit(end.replace(second=0)),
        logged_at=pl.lit(end),
        source_offset=pl.int_range(offset, offset + len(mine), dtype=pl.Int64),
    )
    noise = (pl.col("meter").hash(number) % 1000).cast(pl.Float64) / 1000
    values = {"ua_v": 57 + noise, "ub_v": 57 + noise, "uc_v": 57 + noise, "ia_a": noise, "ib_a": noise, "ic_a": noise}
    energy = {"p_kw": (400 + 50 * noise).round(1), "q_kvar": (90 + 20 * noise).round(1)}
    registers = {"import_kwh": (pl.col("meter") * 100 + number * 1.25).round(2), "export_kwh": pl.lit(0.0)}
    full = frame.with_columns(**{k: v.round(2) for k, v in values.items()}, **energy, **registers)
    return LAKE["readings"].conform(
        full, source="meter.readings.v1", source_partition=partition, source_row=0, date=DAY
    )


def write_hour(homes: list[Path], hour: int, offsets: list[int]) -> None:
    for number in range(hour * 3600 // COMMIT_S, (hour + 1) * 3600 // COMMIT_S):
        for partition in range(PARTITIONS):
            rows = commit(number, partition, offsets[partition]).drop("date")
            offsets[partition] += rows.height
            for home in homes:
                folder = home / "lake" / "readings" / f"date={DAY}"
                folder.mkdir(parents=True, exist_ok=True)
                rows.write_parquet(folder / f"meter.readings.v1_{partition}-{number:010d}.parquet", compression="zstd")


def timed(work: Callable[[], object]) -> float:
    """Seconds, the median of some times."""
    took = []
    for _ in range(TIMES):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return median(took)


def query(home: Path, what: str) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        return connection.execute(what.format(lake=f"read_parquet('{home}/lake/readings/*/*.parquet')")).fetchall()


def one_meter(home: Path) -> pl.DataFrame:
    lake = LakeReader(home)
    with lake.held():
        return lake.scan("readings", [DAY]).filter(pl.col("meter_id") == "M-000500").collect()


def figures(home: Path) -> list[str]:
    parts = LakeReader(home).parts("readings", DAY)
    by_meter = "select meter_id, avg(p_kw), max(p_kw) from {lake} group by all"
    seconds = [
        timed(lambda: query(home, by_meter)),
        timed(lambda: query(home, "select * from {lake} where meter_id = 'M-000500'")),
        timed(lambda: one_meter(home)),
    ]
    size = sum(part.stat().st_size for part in parts) / 1e6
    return [f"{len(parts):,}", f"{size:,.0f} MB", *(f"{s:.2f} s" for s in seconds)]


def main() -> None:
    settings = load_settings(Path("a-home-without-settings")).lake
    sizes = Sizes(settings.compact_parts, settings.part_mb * MB)
    with tempfile.TemporaryDirectory() as folder:
        never, hourly = Path(folder) / "never", Path(folder) / "hourly"
        offsets, took = [0] * PARTITIONS, []
        for hour in range(24):
            write_hour([never, hourly], hour, offsets)
            start = time.perf_counter()
            (report,) = upkeep(hourly, sizes, 0, DAY, grace_s=0).compacted
            took.append(time.perf_counter() - start)
            sys.stderr.write(f"hour {hour}: {report.parts_before} to {report.parts_after} parts, {took[-1]:.1f} s\n")
        assert query(never, "select count(*) from {lake}") == query(hourly, "select count(*) from {lake}")
        heads = ["", "parts", "on disk", "DuckDB: mean and maximum of every meter", "DuckDB: a meter's day", "ours"]
        lines = [heads, ["---"] * len(heads), ["never", *figures(never)], ["every hour", *figures(hourly)]]
        sys.stdout.write("".join(f"| {' | '.join(line)} |\n" for line in lines))
        sys.stdout.write(f"A round took {median(took):.1f} s, the longest {max(took):.1f} s.\n")


if __name__ == "__main__":
    main()
