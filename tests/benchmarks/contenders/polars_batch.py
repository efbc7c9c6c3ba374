"""Polars in batch: parse a telemetry file and aggregate its 15-minute windows.

    python polars_batch.py FILE OUT.parquet

It has no state, no rules and no sinks but the answer itself.
"""

import sys
from pathlib import Path

import polars as pl

MEASURED = ("ua_v", "ub_v", "uc_v", "ia_a", "ib_a", "ic_a", "p_kw", "q_kvar", "import_kwh", "import_kvarh")
PHASES = ("ua_v", "ub_v", "uc_v")
SCHEMA = {"meter_id": pl.String, "ts": pl.String} | dict.fromkeys(MEASURED, pl.Float64)


def windows(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Windows (end - 15 min, end] of readings with `ts` as an instant."""
    end = (pl.col("ts") - pl.duration(microseconds=1)).dt.truncate("15m").dt.offset_by("15m").alias("window_end")
    return rows.group_by("meter_id", end).agg(
        pl.len().cast(pl.Int32).alias("n"),
        pl.col("p_kw").mean().alias("p_mean_kw"),
        pl.col("p_kw").max().alias("p_max_kw"),
        pl.col("p_kw").min().alias("p_min_kw"),
        pl.col("q_kvar").mean().alias("q_mean_kvar"),
        *(pl.col(name).mean().alias(f"{name[:2]}_mean_v") for name in PHASES),
        pl.min_horizontal(PHASES).min().alias("u_min_v"),
        pl.max_horizontal(PHASES).max().alias("u_max_v"),
        (pl.col("import_kwh").max() - pl.col("import_kwh").min()).alias("energy_kwh"),
    )


def main() -> None:
    source, out = map(Path, sys.argv[1:3])
    ts = pl.col("ts").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")
    rows = pl.scan_ndjson(source, schema=SCHEMA).with_columns(ts)
    windows(rows).sink_parquet(out, compression="zstd")


if __name__ == "__main__":
    main()
