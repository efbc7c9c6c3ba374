"""Late: what one reading costs that comes ten minutes, an hour or a day late, to a stream that lives in real time.

The same as `pace`, with a day of readings before, of which some are held back. They are sent one by one when the pace
is over and nothing else is to be done, so that the CPU after each of them is its own; what the stream takes when
nothing comes at all is taken off.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Generator
from datetime import timedelta

import polars as pl

from sinks.kafka.topics import TopicSink
from tests.benchmarks.answers import check_lake, windows_of
from tests.benchmarks.bench import Bench, Found
from tests.benchmarks.data import Load, lines_of
from tests.benchmarks.measure import Result
from tests.benchmarks.rows.kafka import PARTITIONS, closed_by
from tests.benchmarks.rows.pace import METERS, QUICK_S, Paced, Script, pace_load, waited

BEFORE_MIN = 25 * 60 + 3
PACE_S = 180
KINDS = {"10 min": 10, "1 h": 60, "1 day": 1440}
EACH, QUICK_EACH = 10, 3
APART_S = 2.5
IDLE_S = 20.0


def run(bench: Bench) -> Found:
    seconds = QUICK_S if bench.quick else PACE_S
    load = pace_load(BEFORE_MIN, seconds)
    late = held_back(load, QUICK_EACH if bench.quick else EACH)
    missing = pl.concat(rows.select("meter_id", "ts") for rows in late.values())
    paced = Paced(bench, load, BEFORE_MIN, seconds, missing)
    costs_s: dict[str, list[float]] = {kind: [] for kind in KINDS}
    idle = [0.0]

    def one_by_one() -> Script:
        sink = TopicSink({"bootstrap.servers": bench.brokers.address, "linger.ms": 1}, topics=[paced.topic])
        idle[0] = yield from _busy(paced, IDLE_S)
        for turn in range(len(late["1 h"])):
            for kind, rows in late.items():
                one = rows[turn]
                sink.publish(paced.topic, one["meter_id"].to_list(), lines_of(one), one["meter_id"].to_list())
                sink.flush()
                took = yield from _busy(paced, APART_S)
                costs_s[kind].append(took - idle[0] / IDLE_S * APART_S)
        sink.close()

    bench.say(f"a day of {METERS:,} meters, the pace for {seconds} s, then late readings one by one")
    cost = paced.run(one_by_one)
    check_lake(load, windows_of(load, bench.folder), paced.home.path, closed_by(load))
    paced.home.remove()
    median_ms = {kind: 1000 * statistics.median(found) for kind, found in costs_s.items()}
    mean_ms = {kind: 1000 * statistics.mean(found) for kind, found in costs_s.items()}
    return Found(
        load=f"{METERS:,} meters at 1 min, {PARTITIONS} partitions, a day before; {EACH} readings of each kind",
        measures={"late_ms": max(median_ms.values())},
        contenders=[Result("kilowatch", load.received, (cost,))],
        figures={
            **{f"median_ms, {kind}": found for kind, found in median_ms.items()},
            **{f"mean_ms, {kind}": found for kind, found in mean_ms.items()},
            "idle_cores": idle[0] / IDLE_S,
        },
        notes=[
            "Median CPU of a reading by how late it is: "
            + ", ".join(f"{kind} {found:.0f} ms" for kind, found in median_ms.items())
            + f"; {idle[0] / IDLE_S:.3f} cores are taken when nothing comes. The measure is the dearest kind."
        ],
    )  # fmt: skip


def _busy(paced: Paced, seconds: float) -> Generator[bool, None, float]:
    """Wait; returns the CPU seconds in that time."""
    start, before = time.monotonic(), paced.home.cpu_s()
    yield from waited(seconds)
    return (paced.home.cpu_s() - before) * seconds / (time.monotonic() - start)


def held_back(load: Load, count: int) -> dict[str, pl.DataFrame]:
    """For each kind readings of `count` meters, none of which comes twice."""
    found: dict[str, list[pl.DataFrame]] = {kind: [] for kind in KINDS}
    at = {kind: round((load.end - timedelta(minutes=minutes)).timestamp() * 1000) for kind, minutes in KINDS.items()}
    for frame in load.frames():
        for kind, ts in at.items():
            found[kind].append(frame.filter(pl.col("ts") == ts))
    picked = {}
    for number, (kind, frames) in enumerate(found.items()):
        once = pl.concat(frames).filter(pl.len().over("meter_id") == 1).sort("meter_id")
        picked[kind] = once[10 + number :: load.meters // count // 2][:count]
    return picked
