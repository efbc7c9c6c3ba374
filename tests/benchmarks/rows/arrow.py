"""Kafka Arrow messages of 1,000 readings → everything, against DuckDB's batch on the same readings as NDJSON."""

from __future__ import annotations

from tests.benchmarks.bench import Bench, Found
from tests.benchmarks.data import Load
from tests.benchmarks.measure import alternate
from tests.benchmarks.rows.file import batch
from tests.benchmarks.rows.kafka import PARTITIONS, kafka_home, kilowatch


def run(bench: Bench) -> Found:
    load = bench.load(Load(1000, 1440), Load(1000, 240))
    source, expected = bench.file(load), bench.windows(load)
    topic = bench.brokers.arrow(load, PARTITIONS)
    contenders = {
        "kilowatch": lambda: kilowatch(bench, load, topic, expected, PARTITIONS),
        "duckdb batch": lambda: batch(bench, "duckdb_batch.py", source, expected),
    }
    found = alternate(contenders, dict.fromkeys(contenders, bench.runs), load.readings, bench.say)
    stages = bench.stages(kafka_home(bench, load, topic, PARTITIONS).path, "--kafka", str(load.received))
    return Found(
        load=f"{load.readings:,} readings in Arrow messages of 1,000, {PARTITIONS} partitions",
        measures={"of_duckdb": found["kilowatch"].per_cpu_s / found["duckdb batch"].per_cpu_s},
        contenders=list(found.values()),
        stages=stages,
    )
