"""Two processes on two cores against one on one core: wall time, files as input."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import polars as pl

from tests.benchmarks.answers import check_lake
from tests.benchmarks.bench import Bench, Found
from tests.benchmarks.data import Load
from tests.benchmarks.homes import Home, most_workers
from tests.benchmarks.measure import Cost, alternate


def run(bench: Bench) -> Found:
    load = bench.load(Load(3000, 1440), Load(1000, 240))  # start-up, paid three times, is not what is timed
    expected = bench.windows(load)
    folder = _split(bench.file(load), load, bench.folder / "telemetry")
    cores = sorted(os.sched_getaffinity(0))

    def with_processes(count: int) -> Cost:
        home = Home(bench.folder / "processes", load, cores=set(cores[:count]), environment={"POLARS_MAX_THREADS": "1"})
        cost = home.files(folder, "--workers", str(count))
        check_lake(load, expected, home.path)
        home.remove()
        return cost

    contenders = {"one process": lambda: with_processes(1)}
    skipped = {}
    if most_workers() >= 2 <= len(cores):
        contenders["two processes"] = lambda: with_processes(2)
    else:
        skipped["two processes"] = "this `kilowatch stream`, or this machine, runs one process only"
    found = alternate(contenders, dict.fromkeys(contenders, bench.runs), load.readings, bench.say)
    shutil.rmtree(folder)
    two = found.get("two processes")
    return Found(
        load=f"{load.readings:,} readings in two NDJSON files, the meters halved; one thread each, start-up included",
        measures={"speed_up": found["one process"].wall_s / two.wall_s} if two else {},
        contenders=list(found.values()),
        skipped=skipped,
    )


def _split(source: Path, load: Load, folder: Path) -> Path:
    """Two folders of a file, each with half of the meters: what two shards are."""
    middle = f'{{"meter_id":"{load.meter_ids[load.meters // 2]}"'
    lines = pl.Series(source.read_text("utf-8").splitlines())
    for name, part in (("a", lines.filter(lines < middle)), ("b", lines.filter(lines >= middle))):
        path = folder / name / "readings.ndjson"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(part.to_list()) + "\n", "utf-8")
    return folder
