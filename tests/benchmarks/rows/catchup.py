"""Catching up after an outage: 10,000 meters at 1 min, wall time on one core, as a multiple of real time."""

from __future__ import annotations

import os

import polars as pl

from tests.benchmarks.answers import check_rows, check_violations, current, lake
from tests.benchmarks.bench import Bench, Found
from tests.benchmarks.data import Load
from tests.benchmarks.homes import stages
from tests.benchmarks.measure import Result
from tests.benchmarks.rows.kafka import PARTITIONS, closed_by, kafka_home

METERS = 10_000
FULL_H = 24


def run(bench: Bench) -> Found:
    hours = 1 if bench.quick else bench.hours or FULL_H
    load = Load(METERS, round(hours * 60))
    topic = bench.brokers.json(load, PARTITIONS)
    home = kafka_home(bench, load, topic, PARTITIONS, "catchup")
    home.cores = {max(os.sched_getaffinity(0))}
    bench.say(f"catching up with {hours:g} h: {load.readings:,} messages")
    seen: dict[str, float] = {}

    def done() -> bool:
        seen.update(home.metrics())
        return seen.get("kilowatch_readings_received_total", 0) >= load.received

    cost = home.until(done)
    rows = pl.scan_parquet(home.path / "lake/readings/*/*.parquet").select(pl.len()).collect().item()
    check_rows(load.accepted, rows, "kilowatch", "readings in the lake")
    due = METERS * ((closed_by(load) - load.start).total_seconds() // 900)
    check_rows(int(due), current(lake(home.path, "windows")).height, "kilowatch", "windows")
    check_violations(load.violations(), lake(home.path, "violations"), "kilowatch")
    home.remove()
    scaled = [] if hours == FULL_H else [f"Measured with {hours:g} h, not {FULL_H} h: start-up weighs more in it."]
    return Found(
        load=f"{hours:g} h of {METERS:,} meters at 1 min: {load.readings:,} messages, one core",
        measures={"x_real_time": hours * 3600 / cost.wall_s},
        contenders=[Result("kilowatch", load.readings, (cost,))],
        stages=stages(seen),
        figures={"readings_per_s": load.readings / cost.wall_s},
        notes=[*scaled, "One run. Wall time ends when the last reading is taken in; the broker had the other core."],
    )
