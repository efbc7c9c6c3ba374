"""A load produced at its own pace, and when what comes of it can be read: for the rows that are live.

Here: a producer that keeps to the times of arrival, a consumer that notes when each change of a violation was readable,
and the waits between them. Not here: the stream in between (`homes`), what is in the load (`data`).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from confluent_kafka import Consumer, TopicPartition

from sinks.kafka.topics import TopicSink
from tests.benchmarks.data import VOLTAGE_RULES, Load, lines_of
from tests.benchmarks.measure import ContenderError

TICK_S = 0.005
Change = tuple[str, str, str]
"""Meter, start and state of a violation."""


class Feed:
    """Produces `arrivals` (pieces of `Load.frames`) in a thread of its own, `speed` times as fast as they arrived; what
    is due more than `longest_s` after the first comes then, at once.

    `sent`: when the reading was sent that makes a change of a voltage violation known. `behind_s`: the longest time by
    which a reading was sent too late.
    """

    def __init__(
        self,
        address: str,
        topic: str,
        load: Load,
        arrivals: Iterator[pl.DataFrame],
        speed: float,
        longest_s: float = float("inf"),
    ) -> None:
        self._sink = TopicSink({"bootstrap.servers": address, "linger.ms": 1}, topics=[topic])
        self._topic = topic
        frames = list(arrivals)
        rows = pl.concat(frame.select("meter_id", "ts", "arrived_ms") for frame in frames)
        self._keys = rows["meter_id"].to_list()
        self._values = [line for frame in frames for line in lines_of(frame)]
        self._due_s = (rows["arrived_ms"] - (rows["arrived_ms"][0] or 0)).to_numpy() / 1000 / speed
        self._due_s = np.minimum(self._due_s, longest_s)
        self._changes = changes(load, rows)
        self.readings = rows.height
        self.sent: dict[Change, float] = {}
        self.behind_s = 0.0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)

    @property
    def started(self) -> bool:
        return self.thread.ident is not None

    @property
    def over(self) -> bool:
        return self.started and not self.thread.is_alive()

    def _run(self) -> None:
        start, at = time.monotonic(), 0
        while at < self.readings and not self.stop.is_set():
            elapsed = time.monotonic() - start
            until = int(np.searchsorted(self._due_s, elapsed, side="right"))
            if until > at:
                self.behind_s = max(self.behind_s, elapsed - float(self._due_s[at]))
                self._send(at, until)
                at = until
            time.sleep(TICK_S)
        self._sink.flush()
        self._sink.close()

    def _send(self, first: int, last: int) -> None:
        now = time.time()
        for row in range(first, last):
            for change in self._changes.get(row, ()):
                self.sent.setdefault(change, now)
        keys = self._keys[first:last]
        self._sink.publish(self._topic, keys, self._values[first:last], keys)


def changes(load: Load, rows: pl.DataFrame) -> dict[int, list[Change]]:
    """The changes that readings make known, by row: a voltage violation by its first reading, its end by the first one
    after it. Violations whose first or last reading came late are left out: they were told otherwise before.
    """
    every = timedelta(minutes=load.interval_min)
    first_row = rows.with_row_index("row").unique(("meter_id", "ts"), keep="first").drop_nulls("ts")
    waited = pl.col("arrived_ms") - pl.col("ts")
    punctual = first_row.filter(waited <= load.spread_s * 1000)
    row_of = {(meter, ts): row for row, meter, ts in punctual.select("row", "meter_id", "ts").iter_rows()}
    found: dict[int, list[Change]] = {}
    voltage = load.violations().filter(pl.col("rule").is_in(VOLTAGE_RULES))
    for meter, _, started, ended in voltage.iter_rows():
        raising = row_of.get((meter, _ms(started + every)))
        if raising is None:
            continue
        found.setdefault(raising, []).append((meter, started.isoformat(), "raised"))
        clearing = None if ended is None else row_of.get((meter, _ms(ended + every)))
        if clearing is not None:
            found.setdefault(clearing, []).append((meter, started.isoformat(), "cleared"))
    return found


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


class Listener:
    """Consumes the topic of violations: `read` tells when each change could first be read."""

    def __init__(self, address: str, topic: str) -> None:
        self._address, self._topic = address, topic
        self.read: dict[Change, float] = {}
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
                    now, told = time.time(), json.loads(message.value() or b"{}")
                    started = datetime.fromisoformat(told["started_at"]).isoformat()
                    self.read.setdefault((told["meter_id"], started, told["state"]), now)
        finally:
            consumer.close()


def waits_ms(feed: Feed, listener: Listener, warm_up_s: float) -> np.ndarray:
    """From sending to reading, of each change made known `warm_up_s` after the first or later.

    Raises ContenderError when one in a hundred of them, or more, was never read.
    """
    if not feed.sent:
        raise ContenderError("nothing was sent: the stream did not start")
    from_then = min(feed.sent.values()) + warm_up_s
    wanted = [change for change, at in feed.sent.items() if at >= from_then]
    found = [change for change in wanted if change in listener.read]
    if len(found) < 0.99 * len(wanted):
        missing = next(change for change in wanted if change not in listener.read)
        raise ContenderError(f"{len(wanted) - len(found)} of {len(wanted)} changes were not told, such as {missing}")
    return np.array([(listener.read[change] - feed.sent[change]) * 1000 for change in found])
