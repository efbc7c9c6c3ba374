"""Live: from producing the reading that makes a violation, or its end, known to the change being readable on its topic.

Readings come at a steady 20,000 a second from 10,000 meters, so event time runs 120 times as fast as the clock: a
window of every meter closes each 7.5 s, which is the pace of 1.2 million meters that report every minute.
"""

from __future__ import annotations

import numpy as np

from tests.benchmarks.answers import check_lake
from tests.benchmarks.bench import Bench, Found
from tests.benchmarks.data import Load
from tests.benchmarks.feed import Feed, Listener, waits_ms
from tests.benchmarks.homes import stages
from tests.benchmarks.measure import Cost, Result
from tests.benchmarks.rows.file import batch
from tests.benchmarks.rows.kafka import PARTITIONS, closed_by, kafka_home
from tests.benchmarks.topics import make_topic

PER_SECOND = 20_000
METERS = 10_000
SPEED = PER_SECOND * 60 / METERS
WARM_UP_S = 5.0


def run(bench: Bench) -> Found:
    seconds = 20 if bench.quick else 60
    load = Load(METERS, round(seconds * SPEED / 60), spread_s=60)
    source, expected = bench.file(load), bench.windows(load)
    duckdb = Result("duckdb batch", load.readings, tuple(
        batch(bench, "duckdb_batch.py", source, expected) for _ in range(bench.runs)
    ))  # fmt: skip
    runs = [_run(bench, load, seconds) for _ in range(bench.long_runs)]
    costs, waits, seen = zip(*runs, strict=True)
    kilowatch = Result("kilowatch", load.readings, costs)
    p50, p99, worst = (sorted(float(w[at]) for w in waits)[len(waits) // 2] for at in range(3))
    busy = kilowatch.cpu_s / kilowatch.wall_s
    return Found(
        load=f"{PER_SECOND:,} readings/s for {seconds} s from {METERS:,} meters, {PARTITIONS} partitions",
        measures={
            "p50_ms": p50,
            "p99_ms": p99,
            "x_duckdb": (kilowatch.cpu_s / kilowatch.amount) / (duckdb.cpu_s / duckdb.amount),
        },
        contenders=[kilowatch, duckdb],
        stages=stages(seen[-1]),
        figures={"worst_ms": worst, "busy_cores": busy, "cpu_us_per_reading": 1e6 * kilowatch.cpu_s / load.readings},
        notes=[
            f"Changes of the first {WARM_UP_S:.0f} s are left out. The worst took {worst:.0f} ms. The stream used "
            f"{busy:.2f} cores while windows and lake kept up; {len(runs)} runs. DuckDB takes the same readings from a "
            "file at one go: that is the yardstick, not a rival."
        ],
    )


def _run(bench: Bench, load: Load, seconds: int) -> tuple[Cost, tuple[float, float, float], dict[str, float]]:
    """The stream's cost, its median, 99th and longest wait, and its own metrics."""
    address = bench.brokers.address
    home = kafka_home(bench, load, f"live-{bench.unique()}", PARTITIONS, "live")
    make_topic(address, home.topics["readings"], PARTITIONS)
    feed = Feed(address, home.topics["readings"], load, load.frames(), SPEED)
    listener = Listener(address, home.topics["violations"])
    seen: dict[str, float] = {}

    def done() -> bool:
        now = home.metrics()
        if now and not feed.started:
            listener.thread.start()
            feed.thread.start()
        seen.update(now)
        return feed.over and now.get("kilowatch_readings_received_total", 0) >= load.received

    bench.say(f"{PER_SECOND:,} readings/s for {seconds} s")
    try:
        cost = home.until(done)
    finally:
        feed.stop.set()
        listener.stop.set()
    listener.thread.join()
    check_lake(load, bench.windows(load), home.path, closed_by(load))
    p50, p99, worst = np.percentile(waits_ms(feed, listener, WARM_UP_S), [50, 99, 100])
    home.remove()
    return cost, (float(p50), float(p99), float(worst)), seen
