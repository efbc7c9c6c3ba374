"""Restart: how long a stream that holds the state of 100,000 meters takes from its start to its first new commit."""

from __future__ import annotations

import polars as pl

from tests.benchmarks.bench import Bench, Found
from tests.benchmarks.data import IMPLAUSIBLE_MS, Load, arrow_messages
from tests.benchmarks.homes import Home
from tests.benchmarks.measure import Cost, Result
from tests.benchmarks.rows.kafka import PARTITIONS, kafka_home
from tests.benchmarks.topics import ARROW, fill, make_topic

HELD = Load(100_000, 165, 15)
"""Every window that is kept is full."""
QUICK = Load(10_000, 165, 15)
COMMIT_S = 1


def run(bench: Bench) -> Found:
    load = bench.load(HELD, QUICK)
    starts = tuple(_restarted(bench, load) for _ in range(bench.long_runs))
    result = Result("kilowatch", load.meters, starts)
    return Found(
        load=f"{load.meters:,} meters at {load.interval_min} min in {PARTITIONS} partitions; what is counted is meters",
        measures={"first_commit_s": result.wall_s},
        contenders=[result],
        notes=[
            f"From the start of the process until it has committed new readings, {COMMIT_S} s after they came at the "
            "soonest. The process before it had taken the rest of the topic and was ended by SIGTERM."
        ],
    )


def _restarted(bench: Bench, load: Load) -> Cost:
    """A second process over a topic that has got one more message, from its start to its first commit."""
    *held, new = arrow_messages(load)
    topic, address = f"restart-{bench.unique()}", bench.brokers.address
    make_topic(address, topic, PARTITIONS)
    fill(address, topic, held, ARROW)
    home = kafka_home(bench, load, topic, PARTITIONS, "restart", commit_interval_s=COMMIT_S)
    rows = load.accepted - pl.read_ipc_stream(new[1]).filter(pl.col("ts") >= IMPLAUSIBLE_MS).height
    home.until(lambda: home.committed() >= rows)
    fill(address, topic, [new], ARROW)
    before = _committed(home)
    again = home.until(lambda: _committed(home) != before)
    home.remove()
    return again


def _committed(home: Home) -> set[tuple[str, int]]:
    """The shards' commit records as they are now."""
    return {(path.name, path.stat().st_mtime_ns) for path in home.path.glob("stream/*/commits/*.commit")}
