"""Records from Kafka topics: one consumer for all of them, by static assignment and offsets of our own.

Here: consuming them. Not here: telemetry (`kafka`), whose log is a history in which nothing may be missing. A topic of
records is a table: it is compacted, and what counts of it is the last of each key. So where its log does not hold the
next offset, or the topic was made anew, it is read from its beginning, and said; what is known already does no harm.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, cast

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from metering.errors import OperationError
from metering.tables.records import RecordKind
from pipelines.shard_names import partition_shard
from pipelines.sources.kafka_messages import Run, by_partition, joined
from pipelines.sources.kafka_topic import FORBIDDEN, GONE
from pipelines.sources.poll import Batch, Position, Positions, Segment
from sinks.kafka.topics import admin_client, topic_id

_PREFERRED = {
    "group.id": "kilowatch",  # the client asks for one; no group is joined
    "log_level": 2,  # what matters of librdkafka's log reaches us as errors
    "queued.max.messages.kbytes": 16_384,
    "reconnect.backoff.max.ms": 1000,
}
_REQUIRED = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
}
_START_TIMEOUT_S = 15.0
_LOOK_TIMEOUT_S = 1.0
_LOOK_EVERY_S = 10.0
_WAIT_S = 0.05
_AT_ONCE = 2_500

log = structlog.get_logger(__name__)

Place = tuple[str, int]
"""Topic and partition."""


class TopicRecords:
    """Reads a worker's partitions of topics of records, and all those of broadcast kinds.

    Positions are those of telemetry: {"offset": next offset, "topic": id of the topic, where brokers tell}.
    Raises OperationError when no broker answers or access is denied.
    """

    def __init__(
        self,
        client_config: Mapping[str, Any],
        kinds: Mapping[str, RecordKind],
        batch_rows: int,
        worker: int,
        workers: int,
        positions: Positions,
    ) -> None:
        self._kinds, self._positions, self._batch_rows = kinds, positions, batch_rows
        self._worker, self._workers = worker, workers
        self._next: dict[Place, int] = {}
        self._ids: dict[str, int | None] = {}
        self._behind: set[Place] = set()
        self._forbidden: str | None = None
        self._give_up_at = time.monotonic() + _START_TIMEOUT_S
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        self._admin = admin_client(client_config)
        self._consumer = Consumer({**_PREFERRED, **client_config, **_REQUIRED, "error_cb": self._trouble})
        try:
            new = self._assignable(_START_TIMEOUT_S)
            self._behind = {(at.topic, at.partition) for at in new}
            self._consumer.assign(new)
        except KafkaException as error:
            self._consumer.close()
            reason = self._forbidden or error.args[0].str()
            raise OperationError(f"topics of records: Kafka does not answer: {reason}; check the brokers") from error
        except BaseException:
            self._consumer.close()
            raise

    @property
    def caught_up(self) -> bool:
        """Whether all that the topics held at the start has been handed out; or has not come in time."""
        if self._behind and time.monotonic() > self._give_up_at:
            log.warning("records are late", partitions=sorted(self._behind))
            self._behind = set()
        return not self._behind

    def poll(self) -> list[Batch]:
        """What has come, a batch for each kind and owner; waits for it until all topics have been read up to now."""
        found: defaultdict[tuple[str, bool], dict[int, Run]] = defaultdict(lambda: defaultdict(Run))
        left = self._batch_rows
        while left > 0:
            wait_s = _WAIT_S if self._behind and left == self._batch_rows else 0.0
            messages = self._consumer.consume(min(left, _AT_ONCE), wait_s)
            left -= len(messages)
            for topic, own in _by_topic(self._good(messages)).items():
                for partition, run in by_partition(own).items():
                    found[topic, partition % self._workers == self._worker][partition].add(run)
            if len(messages) < _AT_ONCE:
                break
        if found:
            self._give_up_at = time.monotonic() + _START_TIMEOUT_S  # there may be very many
        if self._forbidden is not None:
            raise OperationError(f"Kafka denies access: {self._forbidden}; check the [kafka] settings")
        if time.monotonic() >= self._look_at:
            self._look()
        return [self._batch(topic, own, runs) for (topic, own), runs in sorted(found.items())]

    def close(self) -> None:
        self._consumer.close()

    def _batch(self, topic: str, own: bool, runs: Mapping[int, Run]) -> Batch:
        ordered = sorted(runs.items())
        segments = tuple(self._segment(topic, partition, run) for partition, run in ordered)
        return Batch(joined([run for _, run in ordered]), segments, kind=self._kinds[topic], own=own)

    def _segment(self, topic: str, partition: int, run: Run) -> Segment:
        place = (topic, partition)
        first, last = run.offsets[0], run.offsets[-1]
        if first < self._next.get(place, 0):
            log.warning("records are read anew", topic=topic, partition=partition, expected=self._next[place])
        self._next[place] = last + 1
        after: Position = {"offset": last + 1}
        if (known := self._ids.get(topic)) is not None:
            after = {**after, "topic": known}
        return Segment(partition_shard(topic, partition), topic, partition, len(run.offsets), after)

    def _assignable(self, timeout_s: float) -> list[TopicPartition]:
        """Partitions to read that are not being read yet, each at the offset to start from. Raises KafkaException."""
        found = self._consumer.list_topics(timeout=timeout_s).topics
        new: list[TopicPartition] = []
        for topic, kind in self._kinds.items():
            described = found.get(topic)
            if described is None or described.error is not None:
                continue
            self._ids[topic] = topic_id(self._admin, topic, timeout_s)
            mine = (p for p in described.partitions if kind.broadcast or p % self._workers == self._worker)
            for partition in sorted(p for p in mine if (topic, p) not in self._next):
                offset = self._start_of(topic, partition)
                self._next[topic, partition] = max(offset, 0)
                new.append(TopicPartition(topic, partition, offset))
        return new

    def _start_of(self, topic: str, partition: int) -> int:
        position = self._positions(partition_shard(topic, partition))
        if position is None:
            return OFFSET_BEGINNING
        known, now = position.get("topic"), self._ids[topic]
        if known is not None and now is not None and known != now:
            log.warning("topic was made anew: its records are read from the beginning", topic=topic)
            return OFFSET_BEGINNING
        return int(position["offset"])

    def _look(self) -> None:
        """Ask for partitions that are new, and for topics that were made anew."""
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        before = dict(self._ids)
        try:
            new = self._assignable(_LOOK_TIMEOUT_S)
        except KafkaException:
            return  # the brokers are away: whoever reads telemetry says so
        anew = {t for t, now in self._ids.items() if now is not None and before.get(t) not in (None, now)}
        for topic in anew:
            log.warning("topic was made anew: its records are read from the beginning", topic=topic)
            again = [TopicPartition(t, p, OFFSET_BEGINNING) for t, p in self._next if t == topic]
            self._next.update({(at.topic, at.partition): 0 for at in again})
            self._consumer.incremental_unassign(again)
            self._consumer.incremental_assign(again)
        if new:
            self._consumer.incremental_assign(new)

    def _good(self, messages: list[Message]) -> list[Message]:
        if not any(map(Message.error, messages)):
            return messages
        for message in messages:
            if (error := message.error()) is None:
                continue
            if error.code() == KafkaError._PARTITION_EOF:
                self._behind.discard((cast("str", message.topic()), cast("int", message.partition())))
            elif error.code() not in GONE:  # one that is gone comes back, or does not: nothing is missing
                self._trouble(error)
        return [message for message in messages if message.error() is None]

    def _trouble(self, error: KafkaError) -> None:
        if error.code() in FORBIDDEN or error.fatal():
            self._forbidden = error.str()
        else:
            log.debug("kafka", problem=error.str())


def _by_topic(messages: list[Message]) -> dict[str, list[Message]]:
    found: defaultdict[str, list[Message]] = defaultdict(list)
    for message in messages:
        found[cast("str", message.topic())].append(message)
    return found
