"""Live: from producing the reading that completes a violation to the violation being readable on its topic.

Readings come at a steady 20,000 a second from 10,000 meters, so event time runs 120 times as fast as the clock: a
window of every meter closes each 7.5 s, which is the pace of 1.2 million meters that report every minute.
"""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from confluent_kafka import Consumer, TopicPartition

from sinks.kafka.topics import TopicSink
from tests.benchmarks.answers import check_rows
from tests.benchmarks.bench import Bench, Found
from tests.benchmarks.data import NOMINAL_V, START, Load
from tests.benchmarks.homes import Home, stages
from tests.benchmarks.measure import ContenderError, Cost, Result
from tests.benchmarks.rows.kafka import PARTITIONS, kafka_home
from tests.benchmarks.topics import make_topic

PER_SECOND = 20_000
METERS = 10_000
TICK_S = 0.01
ONE_BREAKS_IN = 2_003
"""Prime, so that the readings that break a limit are spread over meters and partitions."""
WARM_UP_S = 5.0


def run(bench: Bench) -> Found:
    seconds = 20 if bench.quick else 60
    load = Load(METERS, seconds * PER_SECOND // METERS)
    topic = "live-readings"
    make_topic(bench.brokers.address, topic, PARTITIONS)
    home = kafka_home(bench, load, topic, PARTITIONS, "live")
    told = next(line.split('"')[1] for line in home.settings.splitlines() if line.startswith("violations"))
    feed = _Feed(bench.brokers.address, topic, load)
    listener = _Listener(bench.brokers.address, told)
    seen: dict[str, float] = {}

    def done() -> bool:
        now = home.metrics()
        if now and not feed.thread.is_alive() and feed.thread.ident is None:
            listener.thread.start()
            feed.thread.start()
        seen.update(now)
        return now.get("kilowatch_readings_received_total", 0) >= load.readings and not feed.thread.is_alive()

    bench.say(f"{PER_SECOND:,} readings/s for {seconds} s")
    try:
        cost = home.until(done)
    finally:
        feed.stop.set()
        listener.stop.set()
    listener.thread.join()
    waits_ms = _waits(feed, listener)
    _check(load, home, feed, listener)
    home.remove()
    return _found(load, seconds, waits_ms, cost, seen)


def _found(load: Load, seconds: int, waits_ms: np.ndarray, cost: Cost, seen: dict[str, float]) -> Found:
    p50, p99, worst = np.percentile(waits_ms, [50, 99, 100])
    busy = cost.cpu_s / cost.wall_s
    return Found(
        load=f"{PER_SECOND:,} readings/s for {seconds} s from {METERS:,} meters, {len(waits_ms)} violations",
        measures={"p50_ms": float(p50), "p99_ms": float(p99)},
        contenders=[Result("kilowatch", load.readings, (cost,))],
        stages=stages(seen),
        figures={"worst_ms": float(worst), "busy_cores": busy},
        notes=[
            f"Violations of the first {WARM_UP_S:.0f} s are left out. The worst took {worst:.0f} ms. The stream used "
            f"{busy:.2f} cores while windows and lake kept up."
        ],
    )


class _Feed:
    """Produces the load at an even pace. `sent`: when the reading that breaks a limit was, by meter and its time."""

    def __init__(self, address: str, topic: str, load: Load) -> None:
        self._address, self._topic, self._load = address, topic, load
        self.sent: dict[tuple[str, str], float] = {}
        self.started = 0.0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        sink = TopicSink({"bootstrap.servers": self._address, "linger.ms": 1}, topics=[self._topic])
        each = round(PER_SECOND * TICK_S)
        self.started = time.monotonic()
        for tick in range(self._load.readings // each):
            if self.stop.is_set():
                break
            first = tick * each
            keys, values, breaking = self._readings(range(first, first + each))
            wait_s = self.started + tick * TICK_S - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            now = time.time()
            self.sent.update(dict.fromkeys(breaking, now))
            sink.publish(self._topic, keys, values, keys)
        sink.flush()
        sink.close()

    def _readings(self, numbers: range) -> tuple[list[str], list[bytes], list[tuple[str, str]]]:
        keys, values, breaking = [], [], []
        for number in numbers:
            minute, meter = number // METERS + 1, f"M{number % METERS:07d}"
            breaks = number % ONE_BREAKS_IN == 0
            ts = (START + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%SZ")
            u = NOMINAL_V * (1.25 if breaks else 1.0)
            values.append(
                b'{"meter_id":"%s","ts":"%s","ua_v":%.3f,"ub_v":57.7,"uc_v":57.7,"ia_a":2.5,"ib_a":2.5,"ic_a":2.5,'
                b'"p_kw":%.1f,"q_kvar":60.2,"import_kwh":%.2f,"import_kvarh":%.2f}'
                % (meter.encode(), ts.encode(), u, 200 + number % 7, 3.0 * minute, minute)
            )
            keys.append(meter)
            if breaks:
                breaking.append((meter, (START + timedelta(minutes=minute - 1)).isoformat()))
        return keys, values, breaking


class _Listener:
    """When each violation could first be read: by meter and start."""

    def __init__(self, address: str, topic: str) -> None:
        self._address, self._topic = address, topic
        self.read: dict[tuple[str, str], float] = {}
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        consumer = Consumer(
            {"bootstrap.servers": self._address, "group.id": "listener", "enable.auto.commit": False,
             "isolation.level": "read_committed", "auto.offset.reset": "earliest", "log_level": 2}
        )  # fmt: skip
        try:
            partitions = consumer.list_topics(self._topic, timeout=10).topics[self._topic].partitions
            consumer.assign([TopicPartition(self._topic, p, 0) for p in partitions])
            while not self.stop.is_set():
                message = consumer.poll(0.1)
                if message is not None and message.error() is None:
                    now, said = time.time(), json.loads(message.value())
                    started = datetime.fromisoformat(said["started_at"]).isoformat()
                    self.read.setdefault((said["meter_id"], started), now)
        finally:
            consumer.close()


def _waits(feed: _Feed, listener: _Listener) -> np.ndarray:
    if not feed.sent:
        raise ContenderError("nothing was sent: the stream did not start")
    from_then = min(feed.sent.values()) + WARM_UP_S
    both = [key for key, at in feed.sent.items() if at >= from_then and key in listener.read]
    return np.array([(listener.read[key] - feed.sent[key]) * 1000 for key in both])


def _check(load: Load, home: Home, feed: _Feed, listener: _Listener) -> None:
    check_rows(len(feed.sent), len(listener.read), "kilowatch", "violations on the topic")
    rows = pl.scan_parquet(home.path / "lake/readings/*/*.parquet").select(pl.len()).collect().item()
    check_rows(load.readings, rows, "kilowatch", "readings in the lake")
