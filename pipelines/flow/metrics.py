"""What the stream tells about itself: Prometheus metrics, and the figures that a progress bar shows.

Not here: serving them over HTTP (`orchestration.stream.health_server`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import polars as pl
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

_COMMIT_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"kilowatch_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"kilowatch_{name}", text, labels, registry=self.registry)

        disable_created_metrics()
        self.received = counter("readings_received", "Readings received, accepted or rejected")
        self.accepted = counter("readings_accepted", "Readings accepted")
        self.rejected = counter("readings_rejected", "Readings and records rejected", "reason")
        self.replayed = counter("readings_replayed", "Rejects that have been taken after all: kilowatch rejects replay")
        self.records = counter("records", "Records accepted, other than readings", "table")
        self.results = counter("results", "Rows of results", "table")
        self.stage_seconds = counter("stage_cpu_seconds", "CPU seconds spent, by stage", "stage")
        self.lag = gauge("lag_messages", "Messages in the log after the last one read", "shard")
        self.watermark_delay = gauge("watermark_delay_seconds", "Now less the watermark", "shard")
        self.readings_open = gauge("readings_open", "Readings in windows not closed yet", "shard")
        self.windows_open = gauge("windows_open", "Windows of meters that have readings and are not closed", "shard")
        self.meters_held = gauge(
            "meters_held", "Meters in the state: heard, and not silent for stream.silent_days", "shard"
        )
        self.last_commit = gauge("last_commit_timestamp_seconds", "When the shard was last committed", "shard")
        age = gauge("last_commit_age_seconds", "Seconds since the last commit of any shard; since the start before one")
        age.set_function(lambda: time.monotonic() - self._committed)
        self._committed = time.monotonic()
        self.stale = gauge("source_stale", "1 while results are late: source or brokers away, or nothing gets on")
        self.commit_seconds = Histogram(
            "kilowatch_commit_seconds", "Time a commit takes", buckets=_COMMIT_BUCKETS, registry=self.registry
        )
        self._holding: set[str] = set()
        self.readings = 0
        self.rejects = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the CPU time of this thread and of Polars' threads spent inside."""
        start = time.process_time()
        try:
            yield
        finally:
            self.stage_seconds.labels(name).inc(time.process_time() - start)

    def committed(self, shards: Iterable[str]) -> None:
        """Shards have been committed just now."""
        self._committed = time.monotonic()
        for shard in shards:
            self.last_commit.labels(shard).set_to_current_time()

    def hold(self, shards: Iterable[str], held: Callable[[str], tuple[int, int, int]]) -> None:
        """Have what is held of shards counted whenever it is asked for: readings and windows open, meters."""
        for shard in shards:
            if shard not in self._holding:
                self._holding.add(shard)
                for number, of in enumerate((self.readings_open, self.windows_open, self.meters_held)):
                    of.labels(shard).set_function(partial(_counted, held, shard, number))

    def taken_records(self, tables: Mapping[str, pl.DataFrame], rejects: Sequence[pl.DataFrame]) -> None:
        """Records have been accepted, by table, and rejected."""
        for table, rows in tables.items():
            self.records.labels(table).inc(rows.height)
        for rows in rejects:
            for reason, count in rows["reason"].value_counts().iter_rows():
                self.rejected.labels(reason).inc(count)

    def rejected_by_reason(self) -> dict[str, int]:
        """Rejected readings and records so far, by reason."""
        samples = (sample for family in self.rejected.collect() for sample in family.samples)
        return {s.labels["reason"]: int(s.value) for s in samples if s.name.endswith("_total")}


def _counted(held: Callable[[str], tuple[int, int, int]], shard: str, number: int) -> float:
    return float(held(shard)[number])
