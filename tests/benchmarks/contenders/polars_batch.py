"""Polars in batch: parse a telemetry file and aggregate its 15-minute windows.

    python polars_batch.py FILE OUT.parquet

It has no state, no rules and no sinks but the answer itself. Readings that came twice count once.
"""

import sys
from pathlib import Path

import polars as pl

MEASURED = ("ua_v", "ub_v", "uc_v", "ia_a", "ib_a", "ic_a", "p_kw", "q_kvar", "import_kwh", "import_kvarh")
PHASES = ("ua_v", "ub_v", "uc_v")
SCHEMA = {"meter_id": pl.String, "ts": pl.Int64} | dict.fromkeys(MEASURED, pl.Float64)


def windows(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Windows (end - 15 min, end] of readings, each there once, with `ts` in epoch milliseconds."""
    end = ((pl.col("ts") + 899_999) // 900_000 * 900_000).cast(pl.Datetime("ms", "UTC")).dt.cast_time_unit("us")
    return (
        rows.with_columns(window_end=end)
        .group_by("meter_id", "window_end")
        .agg(
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
    )


def main() -> None:
    source, out = map(Path, sys.argv[1:3])
    rows = pl.scan_ndjson(source, schema=SCHEMA).filter(pl.col("ts") >= 946_684_800_000)
    windows(rows.unique(("meter_id", "ts"), keep="any")).sink_parquet(out, compression="zstd")


if __name__ == "__main__":
    main()
