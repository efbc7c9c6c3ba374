"""Results on their way to the result topics: in order, those that came together in one transaction.

What follows from the log is published before it is committed: had it not been, it would come again. What came of
looking at a shard would not, and is published once it is committed (docs/adr/0013-silence-is-looked-at.md).

Here: publishing, and waiting for brokers that are away. Not here: Kafka (`sinks.kafka.transactions`), what messages say
(`metering.tables.messages`), committing (`worker`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import polars as pl

from metering.tables.messages import (
    Outbound,
    compliance_messages,
    control_messages,
    reject_messages,
    violation_messages,
    window_messages,
)
from pipelines.flow.batch_result import LIVE, BatchResult, from_looking
from pipelines.flow.metrics import Metrics
from pipelines.flow.settings import ResultTopics

_PUBLISHED = ("windows", "violations", "compliance", LIVE, "load_control", "rejects")


class Publisher(Protocol):
    """Where result messages go (`sinks.kafka.transactions.TransactionalSink`)."""

    def publish(
        self,
        topic: str,
        keys: list[str | None] | list[bytes | None],
        values: list[bytes],
        partition_keys: list[str | bytes | None],
    ) -> None: ...

    def settled(self, timeout_s: float) -> bool: ...

    def poll(self) -> None: ...

    def close(self) -> None: ...


class Outbox:
    """Results that are not on the brokers yet. Without a publisher they are at once.

    `retry_at`: brokers that did not answer are not asked again before (monotonic seconds).
    """

    def __init__(
        self, publisher: Publisher | None, topics: ResultTopics | None, retry_s: float, metrics: Metrics
    ) -> None:
        self._publisher, self._topics = publisher, topics
        self._retry_s, self._metrics = retry_s, metrics
        self._waiting: list[Mapping[str, pl.DataFrame]] = []
        self._under_way: list[Mapping[str, pl.DataFrame]] = []
        self._blocked_since: float | None = None
        self.retry_at = 0.0

    def add(self, result: BatchResult) -> None:
        """What is to be published of a result that is not committed yet."""
        tables = {name: result.tables[name] for name in _PUBLISHED}
        self._waiting.append(tables | {"violations": tables["violations"].filter(~from_looking())})

    def add_committed(self, violations: pl.DataFrame) -> bool:
        """Of violations that are committed those that came of looking; whether there are any to publish."""
        looked_at = violations.filter(from_looking())
        if self._publisher is None or looked_at.is_empty():
            return False
        self._waiting.append({"violations": looked_at})
        return True

    @property
    def held(self) -> bool:
        """Whether the brokers owe answers."""
        return bool(self._waiting or self._under_way)

    def blocked_s(self, now: float) -> float:
        """For how long they have owed one, at the monotonic time `now`."""
        return now - self._blocked_since if self._blocked_since is not None else 0.0

    def publish(self, timeout_s: float) -> None:
        """Publish all that waits, once the brokers have settled what is under way, and have that settled too."""
        deadline = time.monotonic() + timeout_s
        while self.held:
            if self._under_way:
                if not self._settled(max(deadline - time.monotonic(), 0.0)):
                    return
                self._under_way = []
            if self._waiting:
                self._under_way, self._waiting = self._waiting, []
                self._put(self._under_way)

    def poll(self) -> None:
        """Let the client report what it has."""
        if self._publisher is not None:
            self._publisher.poll()

    def close(self) -> None:
        """Let go of what is not settled."""
        if self._publisher is not None:
            self._publisher.close()

    def _put(self, waited: Sequence[Mapping[str, pl.DataFrame]]) -> None:
        if self._publisher is not None and self._topics is not None:
            by_name = {name: [tables[name] for tables in waited if name in tables] for name in _PUBLISHED}
            tables = {name: pl.concat(frames) for name, frames in by_name.items() if frames}
            with self._metrics.stage("topics"):
                for topic, out in _messages(tables, self._topics):
                    self._publisher.publish(topic, out.keys, out.values, out.partition_keys)

    def _settled(self, timeout_s: float) -> bool:
        """Whether the brokers have all of what is under way; not asked again right after a no."""
        if self._publisher is None:
            return True
        if time.monotonic() < self.retry_at:
            return False
        with self._metrics.stage("topics"):
            done = self._publisher.settled(timeout_s)
        if done:
            self._blocked_since = None
        else:
            now = time.monotonic()
            self.retry_at = now + self._retry_s
            self._blocked_since = now - timeout_s if self._blocked_since is None else self._blocked_since
        return done


def _messages(tables: Mapping[str, pl.DataFrame], topics: ResultTopics) -> Iterator[tuple[str, Outbound]]:
    """Topic and messages of each table that has rows."""
    kinds = (
        (topics.windows, "windows", window_messages),
        (topics.violations, "violations", violation_messages),
        (topics.compliance, "compliance", compliance_messages),
        (topics.load_control, LIVE, control_messages),
        (topics.load_control, "load_control", control_messages),
        (topics.rejected, "rejects", reject_messages),
    )
    return ((topic, made(tables[name])) for topic, name, made in kinds if name in tables and tables[name].height)
