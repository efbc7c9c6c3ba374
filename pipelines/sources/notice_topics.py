"""The topics that people are told of: violations, plans and their execution, outages, feedback.

Here: consuming them by static assignment, from offsets that are kept elsewhere. Not here: what the messages say
(`metering.notices.events`), where offsets are kept (`sinks.notices.ledger`), telemetry (`kafka`).

Only what is committed is read. An offset that the log no longer holds, or of a topic that was made anew, is told and
gone on from: what is too old to be read is too old to be told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from metering.errors import OperationError
from pipelines.sources.kafka_topic import FORBIDDEN, held, partition_count
from sinks.kafka.topics import admin_client, topic_id

_CONFIG = {
    "group.id": "kilowatch-notify",  # the client asks for one; no group is joined
    "log_level": 2,
    "reconnect.backoff.max.ms": 1000,
    "fetch.queue.backoff.ms": 10,
}
_REQUIRED = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
}
_START_TIMEOUT_S = 15.0
_LOOK_EVERY_S = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """One message: what kind it is, its bytes, when it was published, and the position after it."""

    kind: str
    value: bytes | str | Mapping[str, Any] | None
    published_at: datetime
    source: str
    part: str
    position: Any


class NoticeTopics:
    """Reads topics, by kind of message, from `positions` (topic -> partition -> {"offset", "topic"}), else from their
    beginning. Raises OperationError when no broker answers, a topic is absent or access is denied.
    """

    def __init__(
        self,
        client_config: Mapping[str, Any],
        topics: Mapping[str, str],
        positions: Mapping[str, Mapping[str, Mapping[str, Any]]],
    ) -> None:
        self._kinds = {topic: kind for kind, topic in topics.items()}
        self._positions = positions
        self._forbidden: str | None = None
        self._stale = False
        self._open: set[tuple[str, int]] = set()
        self._behind: set[tuple[str, int]] = set()
        self._ids: dict[str, int | None] = {}
        self._admin = admin_client(client_config)
        self._consumer = Consumer({**_CONFIG, **client_config, **_REQUIRED, "error_cb": self._trouble})
        self._look_at = 0.0
        try:
            self._look(_START_TIMEOUT_S)
        except KafkaException as error:
            self._consumer.close()
            raise OperationError(f"Kafka does not answer: {error.args[0].str()}; check the brokers") from error
        except BaseException:
            self._consumer.close()
            raise

    def poll(self, most: int, timeout_s: float) -> list[Told]:
        """What has come, in order of each partition; waits for a first message. Raises OperationError."""
        if time.monotonic() >= self._look_at:
            self._look_again()
        messages = self._consumer.consume(most, timeout_s)
        if self._forbidden is not None:
            raise OperationError(f"Kafka denies access: {self._forbidden}; check the [kafka] settings")
        return [told for message in messages if (told := self._told(message)) is not None]

    @property
    def at_end(self) -> bool:
        """Whether all that there is has been read."""
        return not self._behind

    def close(self) -> None:
        """Let go of the brokers."""
        self._consumer.close()

    def _told(self, message: Message) -> Told | None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._behind.discard((str(topic), int(partition or 0)))
            else:
                self._trouble(error)
            return None
        assert topic is not None
        assert partition is not None
        assert offset is not None
        self._behind.add((topic, partition))
        self._back()
        position = {"offset": offset + 1, "topic": self._ids.get(topic)}
        _, milliseconds = message.timestamp()
        at = datetime.fromtimestamp(milliseconds / 1000, UTC)
        return Told(self._kinds[topic], message.value(), at, topic, str(partition), position)

    def _look_again(self) -> None:
        """New partitions are looked for now and then."""
        try:
            self._look(1.0)
        except (KafkaException, OperationError) as error:
            self._away(error.args[0].str() if isinstance(error, KafkaException) else str(error))
            self._look_at = time.monotonic() + _LOOK_EVERY_S

    def _look(self, timeout_s: float) -> None:
        new: list[TopicPartition] = []
        for topic in self._kinds:
            count = partition_count(self._consumer, topic, timeout_s)
            if count is None:
                raise OperationError(f"topic {topic} does not exist on the brokers: create it, or check [topics]")
            self._ids[topic] = topic_id(self._admin, topic, timeout_s)
            new += [
                TopicPartition(topic, partition, self._start(topic, partition, timeout_s))
                for partition in range(count)
                if (topic, partition) not in self._open
            ]
        if new:
            self._consumer.incremental_assign(new)
            self._open |= {(p.topic, p.partition) for p in new}
            self._behind |= {(p.topic, p.partition) for p in new}
        self._look_at = time.monotonic() + _LOOK_EVERY_S

    def _start(self, topic: str, partition: int, timeout_s: float) -> int:
        low, high = held(self._consumer, topic, partition, timeout_s)
        position = self._positions.get(topic, {}).get(str(partition))
        if position is None:
            return low
        offset, before = int(position["offset"]), position.get("topic")
        if before is not None and self._ids[topic] not in (None, before):
            log.warning("topic was made anew, read from its beginning", topic=topic, partition=partition)
            return low
        if not low <= offset <= high:
            log.warning("offsets are gone from the log", topic=topic, partition=partition, wanted=offset, has=low)
            return low
        return offset

    def _trouble(self, error: KafkaError) -> None:
        if error.code() in FORBIDDEN or error.fatal():
            self._forbidden = error.str()
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._away(error.str())
        else:
            log.debug("kafka", problem=error.str())

    def _away(self, problem: str) -> None:
        if not self._stale:
            log.warning("brokers do not answer", problem=problem)
        self._stale = True

    def _back(self) -> None:
        if self._stale:
            log.info("brokers answer again")
        self._stale = False
