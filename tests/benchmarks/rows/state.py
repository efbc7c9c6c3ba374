"""State: memory by meter, for meters that report every 15 min, with every window that is kept held in full."""

from __future__ import annotations

import time

import polars as pl
import psutil

from tests.benchmarks.answers import check_rows
from tests.benchmarks.bench import Bench, Found
from tests.benchmarks.data import Load
from tests.benchmarks.homes import Home
from tests.benchmarks.measure import Cost, Result
from tests.benchmarks.rows.kafka import PARTITIONS, kafka_home

INTERVAL_MIN = 15
WINDOWS = 11
"""More than are kept (4) and open, so that nothing is left to grow."""
AT_REST_S = 12.0
"""After the last reading: memory that batches took is given back by then."""


def run(bench: Bench) -> Found:
    small, large = (
        Load(1000, WINDOWS * 15, INTERVAL_MIN),
        bench.load(Load(1_000_000, WINDOWS * 15, INTERVAL_MIN), Load(100_000, WINDOWS * 15, INTERVAL_MIN)),
    )
    few, _, _ = _resident(bench, small)
    many, cost, state_bytes = _resident(bench, large)
    per_meter = (many - few) / (large.meters - small.meters)
    return Found(
        load=f"{large.meters:,} meters at {INTERVAL_MIN} min, {WINDOWS} windows, as Arrow, {PARTITIONS} partitions",
        measures={
            "bytes_per_meter": per_meter,
            "gib_at_1m": (few + per_meter * 1_000_000) / 2**30,
            "peak_gib": cost.peak_bytes / 2**30,
        },
        contenders=[Result("kilowatch", large.readings, (cost,))],
        figures={"base_bytes": few, "snapshot_bytes_per_meter": state_bytes / large.meters},
        notes=[
            f"Resident memory {AT_REST_S:.0f} s after everything was read, less that of a process with 1,000 meters."
        ],
    )


def _resident(bench: Bench, load: Load) -> tuple[int, Cost, int]:
    """Resident bytes after the whole load, the run's cost, and the bytes of its snapshots."""
    topic = bench.brokers.arrow(load, PARTITIONS)
    home = kafka_home(bench, load, topic, PARTITIONS, "state", commit_interval_s=5)
    resident = [0]
    over: list[float] = []

    def done() -> bool:
        resident.append(_resident_now() or resident[-1])
        if not over and home.committed() >= load.accepted:
            over.append(time.monotonic())
        return bool(over) and time.monotonic() - over[0] > AT_REST_S

    cost = home.until(done)
    held = sum(path.stat().st_size for path in home.path.glob("stream/*/commits/*.commit"))
    check_rows(load.meters * (WINDOWS - 1), _windows(home), "kilowatch", "windows")
    home.remove()
    return resident[-1], cost, held


def _resident_now() -> int:
    """Resident bytes of the stream: the only child of this process that is running."""
    return sum(child.memory_info().rss for child in psutil.Process().children() if child.name() == "kilowatch")


def _windows(home: Home) -> int:
    return int(pl.scan_parquet(home.path / "lake/windows/*/*.parquet").select(pl.len()).collect().item())
