"""Kafka JSON messages, one reading each → everything, against stream processors for Python on the same topic."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from tests.benchmarks.answers import check_lake, check_rows, check_windows
from tests.benchmarks.bench import CONTENDERS, Bench, Found
from tests.benchmarks.data import Load
from tests.benchmarks.homes import Home, result_topics, topic_settings
from tests.benchmarks.measure import Cost, alternate, process
from tests.benchmarks.topics import make_topic, values

PARTITIONS = 8
LATENESS_MIN = 5


def run(bench: Bench) -> Found:
    load = bench.load(Load(1000, 1440), Load(1000, 60))
    topic, expected = bench.brokers.json(load, PARTITIONS), bench.windows(load)
    contenders: dict[str, Callable[[], Cost]] = {
        "kilowatch": lambda: kilowatch(bench, load, topic, expected, PARTITIONS)
    }
    runs = {"kilowatch": bench.runs}
    skipped = {}
    if isinstance(bench.rival, Path):
        contenders |= {
            "bytewax": lambda: _bytewax(bench, topic, expected),
            "quix streams": lambda: _quix(bench, load, topic, expected),
        }
        runs |= {"bytewax": bench.long_runs, "quix streams": bench.long_runs}
    else:
        skipped = dict.fromkeys(("bytewax", "quix streams"), bench.rival)
    found = alternate(contenders, runs, load.readings, bench.say)
    own = found["kilowatch"].per_cpu_s
    stages = bench.stages(kafka_home(bench, load, topic, PARTITIONS).path, "--kafka", str(load.received))
    names = {"bytewax": "x_bytewax", "quix streams": "x_quix"}
    return Found(
        load=f"{load.readings:,} messages in {PARTITIONS} partitions",
        measures={names[name]: own / found[name].per_cpu_s for name in names if name in found},
        contenders=list(found.values()),
        stages=stages,
        notes=[
            f"Bytewax and Quix Streams ran {bench.long_runs} times, for they take long. Bytewax has no recovery on; "
            "neither has rules or a lake."
        ],
        skipped=skipped,
    )


def closed_by(load: Load) -> datetime:
    """Up to where windows are closed once the whole load is read and more may come."""
    return load.start + timedelta(minutes=(load.minutes - LATENESS_MIN) // 15 * 15)


def kafka_home(bench: Bench, load: Load, topic: str, partitions: int, name: str = "kafka", **settings: object) -> Home:
    """A home with result topics of its own."""
    address = bench.brokers.address
    stream = "".join(f"{key} = {value}\n" for key, value in settings.items())
    topics = result_topics(bench.unique(), topic)
    return Home(bench.folder / name, load, f"{topic_settings(address, topics, partitions)}[stream]\n{stream}", topics)


def kilowatch(bench: Bench, load: Load, topic: str, expected: pl.DataFrame, partitions: int) -> Cost:
    """The stream over the whole topic, its lake and its windows topic checked."""
    home = kafka_home(bench, load, topic, partitions)
    cost = home.kafka()
    check_lake(load, expected, home.path, closed_by(load))
    keys = {key for key, _ in values(bench.brokers.address, home.topics["windows"])}
    due = expected.filter(pl.col("window_end") <= closed_by(load)).height
    check_rows(due, len(keys), "kilowatch", "windows on the topic")
    home.remove()
    return cost


def _bytewax(bench: Bench, topic: str, expected: pl.DataFrame) -> Cost:
    out, log = bench.folder / "bytewax.ndjson", bench.folder / "bytewax.log"
    out.unlink(missing_ok=True)
    command = [bench.rival, CONTENDERS / "bytewax_windows.py", bench.brokers.address, topic, out]
    cost = process(command, log=log)
    found = pl.read_ndjson(out).with_columns(_instant(pl.col("window_end") * 1000))
    check_windows(expected, found, "bytewax")
    return cost


def _quix(bench: Bench, load: Load, topic: str, expected: pl.DataFrame) -> Cost:
    results, state, log = f"quix-{bench.unique()}", bench.folder / "quix", bench.folder / "quix.log"
    address = bench.brokers.address
    make_topic(address, results, PARTITIONS)
    closed = expected.filter(pl.col("window_end") <= closed_by(load))  # it counts what comes out, not what goes in
    cost = process(
        [bench.rival, CONTENDERS / "quix_windows.py", address, topic, results, state, str(closed.height)], log=log
    )
    shutil.rmtree(state, ignore_errors=True)
    names = ("n", "p", "p_max_kw", "p_min_kw", "q", "u_min_v", "u_max_v", "minutes")
    rows = []
    for key, value in values(address, results):
        window = json.loads(value)
        figures = dict(zip(names, window["value"], strict=True))
        rows.append({"meter_id": key.decode(), "window_end": window["end"], **figures})
    found = pl.DataFrame(rows).with_columns(
        _instant(pl.col("window_end")), p_mean_kw=pl.col("p") / pl.col("n"), q_mean_kvar=pl.col("q") / pl.col("n")
    )
    check_windows(closed, found, "quix streams")
    return cost


def _instant(milliseconds: pl.Expr) -> pl.Expr:
    return milliseconds.cast(pl.Datetime("ms", "UTC")).dt.cast_time_unit("us")
