"""File NDJSON → windows, all rules → lake, against batch engines that parse and aggregate the same file."""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

from tests.benchmarks.answers import check_energy, check_lake, check_windows
from tests.benchmarks.bench import CONTENDERS, Bench, Found
from tests.benchmarks.data import Load
from tests.benchmarks.homes import Home
from tests.benchmarks.measure import Cost, alternate, process

PLAIN = "duckdb batch, doubled ones twice"


def run(bench: Bench) -> Found:
    load = bench.load(Load(1000, 1440), Load(1000, 240))
    source, expected = bench.file(load), bench.windows(load)
    lake_bytes: list[int] = []

    def kilowatch() -> Cost:
        home = Home(bench.folder / "file", load)
        cost = home.files(source)
        check_lake(load, expected, home.path)
        check_energy(source, home.path)
        lake_bytes.append(sum(part.stat().st_size for part in home.path.glob("lake/*/*/*.parquet")))
        home.remove()
        return cost

    contenders = {
        "kilowatch": kilowatch,
        "duckdb batch": lambda: batch(bench, "duckdb_batch.py", source, expected),
        "polars batch": lambda: batch(bench, "polars_batch.py", source, expected),
        PLAIN: lambda: batch(bench, "duckdb_batch.py", source, None, "--plain"),
    }
    found = alternate(contenders, dict.fromkeys(contenders, bench.runs), load.readings, bench.say)
    own = found["kilowatch"].per_cpu_s
    stages = bench.stages(Home(bench.folder / "stages", load).path, source)
    return Found(
        load=f"{load.readings:,} readings ({load.meters:,} meters, {load.minutes // 60} h at 1 min), NDJSON, 12 fields",
        measures={
            "of_duckdb": own / found["duckdb batch"].per_cpu_s,
            "of_polars": own / found["polars batch"].per_cpu_s,
            "of_plain": own / found[PLAIN].per_cpu_s,
        },
        contenders=list(found.values()),
        stages=stages,
        figures={"lake_bytes_per_reading": lake_bytes[0] / load.readings},
        notes=["DuckDB runs one statement on one thread; Polars runs on as many threads as it likes."],
    )


def batch(bench: Bench, script: str, source: Path, expected: pl.DataFrame | None, *options: str) -> Cost:
    """A batch contender, its answer checked; without `expected` it is not."""
    out = bench.folder / f"{script}.parquet"
    log = bench.folder / f"{script}.log"
    cost = process([sys.executable, CONTENDERS / script, source, out, *options], log=log)
    if expected is not None:
        check_windows(expected, pl.read_parquet(out), script)
    return cost
