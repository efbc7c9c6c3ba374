"""Pace: 2,000 meters that report once a minute, in real time, spread over the minute; everything on.

The topic holds what came before, so that the stream's state is warm: it is caught up with first, and not measured. Then
readings come as fast as time goes by, and the CPU of the whole process is looked at each minute. In the short form a
quarter-hour ends two minutes after the pace begins to be measured, which in life it does every fifteenth minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl

from sinks.kafka.partitioner import partition_of
from tests.benchmarks.answers import check_lake, windows_of
from tests.benchmarks.bench import Bench, Found
from tests.benchmarks.data import FIELDS, Load, head_ends, ipc
from tests.benchmarks.feed import Feed, Listener, waits_ms
from tests.benchmarks.homes import Home, stages
from tests.benchmarks.measure import LONGEST_S, Cost, Result
from tests.benchmarks.rows.kafka import PARTITIONS, closed_by, kafka_home
from tests.benchmarks.topics import ARROW, fill, make_topic

METERS = 2000
SHORT_S, QUICK_S = 240, 20
BEFORE_MIN = 33
"""Minutes that were before: two quarter-hours, and three minutes after the last of their ends."""
SETTLED_S, QUICK_SETTLED_S = 8.0, 2.0
"""After catching up, and after the last reading: a commit comes in it, and what it leaves is done."""
TAIL_AFTER_S = 2.0
LOOK_S = 60.0
SCRAPE_S = 15.0
COMPARED = 10
"""Looks, of a minute each: the first so many are compared with the last so many."""

Script = Iterator[bool]
"""What is done beside a running stream, in steps between which it is left alone; its end is the stream's end."""


@dataclass
class Paced:
    """A stream that has caught up with `before_min` minutes and keeps pace with `seconds` of `load`.

    `held_back`: readings (meter_id, ts) that do not come with the others. `looks`: when, and the CPU time until then.
    """

    bench: Bench
    load: Load
    before_min: int
    seconds: float
    held_back: pl.DataFrame | None = None
    looks: list[tuple[float, float]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        address = self.bench.brokers.address
        self.home: Home = kafka_home(self.bench, self.load, f"pace-{self.bench.unique()}", PARTITIONS, "pace")
        self.topic = self.home.topics["readings"]
        make_topic(address, self.topic, PARTITIONS)
        now_ms = round((self.load.start + timedelta(minutes=self.before_min)).timestamp() * 1000)
        frames = [self._without_held_back(frame) for frame in self.load.frames()]
        before = [frame.filter(pl.col("arrived_ms") < now_ms) for frame in frames]
        self.before = sum(frame.height for frame in before)
        fill(address, self.topic, _by_head_end(before), ARROW)
        pace = (frame.filter(pl.col("arrived_ms") >= now_ms) for frame in frames)
        self.feed = Feed(address, self.topic, self.load, pace, speed=1.0, longest_s=self.seconds + TAIL_AFTER_S)
        self.listener = Listener(address, self.home.topics["violations"])

    def _without_held_back(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame if self.held_back is None else frame.join(self.held_back, on=("meter_id", "ts"), how="anti")

    def run(self, after: Callable[[], Script] | None = None) -> Cost:
        """Keep pace, then do what comes `after`; gives the cost of the whole process."""
        script = self._script(after)
        try:
            return self.home.until(lambda: next(script, True), longest_s=self.seconds + LONGEST_S)
        finally:
            self.feed.stop.set()
            self.listener.stop.set()
            if self.listener.thread.ident is not None:
                self.listener.thread.join()

    def _script(self, after: Callable[[], Script] | None) -> Script:
        while self.home.metric("kilowatch_readings_received_total") < self.before:
            yield False
        yield from waited(self._settled_s)
        self.listener.thread.start()
        self.feed.thread.start()
        self._look()
        next_scrape = time.monotonic() + SCRAPE_S
        while (now := time.monotonic()) < self.looks[0][0] + self.seconds:
            if now - self.looks[-1][0] >= LOOK_S:
                self._look()
            if now >= next_scrape:  # as Prometheus does
                self.metrics = self.home.metrics()
                next_scrape += SCRAPE_S
            yield False
        self._look()
        while not self.feed.over:  # with what is on its way when the load ends
            yield False
        yield from waited(self._settled_s)
        self.metrics = self.home.metrics()
        if after is not None:
            yield from after()

    @property
    def _settled_s(self) -> float:
        return QUICK_SETTLED_S if self.bench.quick else SETTLED_S

    def _look(self) -> None:
        self.looks.append((time.monotonic(), self.home.cpu_s()))

    @property
    def cores(self) -> float:
        """CPU seconds a second, while readings came."""
        (t0, c0), (t1, c1) = self.looks[0], self.looks[-1]
        return (c1 - c0) / (t1 - t0)

    @property
    def later_pct(self) -> float | None:
        """How much more the last ten minutes took than the first ten; None: it did not run for twenty."""
        minutes = [(c1 - c0) / (t1 - t0) for (t0, c0), (t1, c1) in pairwise(self.looks) if t1 - t0 >= LOOK_S / 2]
        if len(minutes) < 2 * COMPARED:
            return None
        return (sum(minutes[-COMPARED:]) / sum(minutes[:COMPARED]) - 1) * 100


def waited(seconds: float) -> Script:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield False


def pace_load(before_min: int, seconds: int) -> Load:
    """A load whose first `before_min` minutes have been by now, and that goes on for `seconds`, in whole minutes.

    It begins at a window's edge, so it lags the clock by up to a quarter-hour.
    """
    now = datetime.now(UTC) - timedelta(minutes=before_min % 15)
    quarter = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0)
    start = quarter - timedelta(minutes=before_min // 15 * 15)
    return Load(METERS, before_min + -(-seconds // 60), start=start, burst_min=2, spread_s=60)


def run(bench: Bench) -> Found:
    seconds = QUICK_S if bench.quick else round(bench.hours * 3600) if bench.hours else SHORT_S
    load = pace_load(BEFORE_MIN, seconds)
    paced = Paced(bench, load, BEFORE_MIN, seconds)
    bench.say(f"{METERS:,} meters at 1 min for {seconds} s")
    cost = paced.run()
    check_lake(load, windows_of(load, bench.folder), paced.home.path, closed_by(load))
    p50, p99, worst = np.percentile(waits_ms(paced.feed, paced.listener, 0.0), [50, 99, 100])
    later = {} if paced.later_pct is None else {"later_pct": paced.later_pct}
    paced.home.remove()
    return Found(
        load=f"{METERS:,} meters at 1 min, spread over it, {PARTITIONS} partitions, for {seconds / 60:g} min",
        measures={"cores": paced.cores, "p50_ms": float(p50), "p99_ms": float(p99), **later},
        contenders=[Result("kilowatch", load.received, (cost,))],
        stages=stages(paced.metrics),
        figures={
            "cpu_ms_per_reading": paced.cores * 60_000 / METERS, "worst_ms": float(worst),
            "feed_behind_s": paced.feed.behind_s,
        },
        notes=[
            f"One run, after {BEFORE_MIN} minutes were caught up with, which the costs of the process have in them and "
            f"the measures have not. The worst took {worst:.0f} ms."
        ],
    )  # fmt: skip


def _by_head_end(frames: list[pl.DataFrame]) -> Iterator[tuple[str, bytes]]:
    """What came before as Arrow messages, each keyed so that it reaches its meters' partition."""
    names = head_ends(PARTITIONS)
    for frame in frames:
        meters = frame.select(pl.col("meter_id").unique())
        homes = meters.with_columns(
            partition=pl.Series([partition_of(meter, PARTITIONS) for meter in meters["meter_id"]], dtype=pl.Int32)
        )
        parts = frame.join(homes, on="meter_id", maintain_order="left").partition_by("partition", as_dict=True)
        for (partition,), part in parts.items():
            for piece in part.select(FIELDS).iter_slices(5000):
                yield names[partition], ipc(piece)
