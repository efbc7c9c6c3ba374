"""Kafka topics as a sink: idempotent producing in which no failure goes unseen, and the topics' own set-up.

Here: producer and admin client. Not here: what messages say (`metering.tables.messages`), those that are larger than a
topic takes (`limits`), consuming (`pipelines.sources.kafka`), the local broker (`orchestration.kafka.broker`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic

from metering.errors import OperationError, SettingsError
from sinks.kafka.limits import Key, fitted, message_limits
from sinks.kafka.partitioner import TRUSTED_S, Partitions

ClientConfig = Mapping[str, Any]

LARGEST_MESSAGE = 4_194_304
"""Bytes. Kafka's own limit is 1 MiB; rejects carry up to that, in base64, and more around it."""

KEPT: Mapping[str, str] = {"cleanup.policy": "delete"}
COMPACTED: Mapping[str, str] = {"cleanup.policy": "compact"}
REJECTS: Mapping[str, str] = {"cleanup.policy": "delete", "max.message.bytes": str(LARGEST_MESSAGE)}

_QUIET = {"log_level": 2}  # what matters of librdkafka's log reaches us as errors
_PREFERRED = {"linger.ms": 5, "compression.type": "lz4", "message.max.bytes": LARGEST_MESSAGE}
_REQUIRED = {
    "enable.idempotence": True,
    "acks": "all",
    "partitioner": "murmur2_random",  # as Java clients do, and as `partitioner.Partitions` does for partition keys
    "delivery.report.only.error": True,  # failures are reported; what is neither reported nor queued was delivered
}
_METADATA_TIMEOUT_S = 10.0
_PARTITIONS_TIMEOUT_S = 0.5
_FORBIDDEN = {
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_OF_TRANSACTIONS = {"transactional.id", "transaction.timeout.ms"}
LASTING = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.POLICY_VIOLATION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}
"""Why a message is refused that would be refused again."""
_LAST_WORDS_S = 1.0
_FAILURES_KEPT = 100


class TopicSink:
    """Publishes messages. Nothing is certain before `flush` returns; from then on everything is on the brokers.

    `client_config` is librdkafka configuration. `on_error` is told about the client's trouble that it mends itself
    (brokers unreachable); it must not raise. Made and used in one thread of one process.

    The client lives until nothing refers to the sink any more, and as long it goes on asking for a transactional id
    that it has not got: so nothing that it holds refers back to the sink.

    `topics` are those that it will publish to: they are looked up at once. With a `transactional.id` in its
    configuration it publishes between `begin` and `end` only, after `open` (see `sinks.kafka.transactions`).
    """

    def __init__(
        self,
        client_config: ClientConfig,
        on_error: Callable[[str], None] | None = None,
        *,
        topics: Sequence[str] = (),
    ) -> None:
        def trouble(error: KafkaError) -> None:
            if on_error is not None:
                on_error(error.str())

        self._failures: list[str] = []
        self._failed = 0
        self.lasting: str | None = None
        self.published = 0
        own = {**_QUIET, **_PREFERRED, **client_config, **_REQUIRED}
        self._producer = Producer({**own, "error_cb": trouble})
        self._client_config = {name: value for name, value in client_config.items() if name not in _OF_TRANSACTIONS}
        self._largest = int(own["message.max.bytes"])
        self._limits: dict[str, int] = {}
        self._partitions: dict[str, Partitions] = {}
        self.look_up(topics)

    def look_up(self, topics: Sequence[str]) -> None:
        """Learn the topics' partitions, and how large messages they take.

        Raises OperationError when one does not exist or no broker answers.
        """
        self._partitions |= {topic: Partitions(partition_count(self._producer, topic)) for topic in topics}
        self._limits |= message_limits(admin_client(self._client_config), topics) if topics else {}

    def publish(
        self,
        topic: str,
        keys: Sequence[Key | None],
        values: Sequence[bytes],
        partition_keys: Sequence[Key | None] | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> None:
        """Queue one message for each value; returns before they are sent.

        `partition_keys` (the meter) choose the partition by Kafka's murmur2, so that all messages of one meter keep
        their order whatever their keys are; where there is none, the message's key chooses. `headers` go with all.
        A result that is larger than the client or the topic takes is cut (`metering.tables.messages.shortened`), its
        key left out where that is as large. Raises OperationError for any other message over the size limit, an unknown
        topic, or earlier failures.
        """
        targets = self._partitions_of(topic, partition_keys)
        produce, failed = self._producer.produce, self._delivered
        extra = (0, list(headers.items())) if headers else ()
        keys, values = fitted(keys, values, min(self._largest, self._limits.get(topic, self._largest)))
        sent = 0
        for key, value, partition in zip(keys, values, targets, strict=False):
            try:
                produce(topic, value, key, partition, failed, None, *extra)
            except BufferError:
                self._produce_when_there_is_room(topic, value, key, partition, extra)
            except KafkaException as error:
                raise OperationError(_refused(topic, key, value, error)) from error
            sent += 1
        if not sent == len(keys) == len(values):
            raise ValueError(f"{len(keys)} keys, {len(values)} values, {sent} sent")
        self.published += sent
        self.poll()

    def poll(self) -> None:
        """Let the client report what it has; call now and then when nothing is published."""
        self._producer.poll(0)

    @property
    def undelivered(self) -> int:
        """Messages that the brokers have not acknowledged yet."""
        return len(self._producer)

    def open(self, timeout: float) -> None:
        """Take the transactional id from whoever had it. Raises KafkaException."""
        self._producer.init_transactions(timeout)

    def begin(self) -> None:
        """Begin a transaction. Raises KafkaException."""
        self._producer.begin_transaction()

    def end(self, timeout: float) -> None:
        """Commit the transaction, and with it everything published since it began. Raises KafkaException."""
        self._producer.commit_transaction(timeout)
        self.raise_refused()

    def flush(self, timeout: float = 60.0) -> None:
        """Wait until everything published is on the brokers. Raises OperationError naming topic and reason if not."""
        left = self._producer.flush(timeout)
        self.raise_refused()
        if left:
            raise OperationError(
                f"{left} messages could not be delivered to {', '.join(self._partitions) or 'Kafka'} within "
                f"{timeout:.0f} s: check that the brokers are up"
            )

    def close(self) -> None:
        """Let go of what was not flushed."""
        self._producer.purge()
        until = time.monotonic() + _LAST_WORDS_S
        while len(self._producer) and time.monotonic() < until:  # a flush would leave them unsaid once it was fenced,
            with contextlib.suppress(KafkaException):  # and said while an error goes its way they hide the error
                self._producer.poll(0.05)
        self._failures.clear()
        self._failed, self.lasting = 0, None

    def _produce_when_there_is_room(
        self, topic: str, value: bytes, key: Key | None, partition: int, extra: tuple[Any, ...]
    ) -> None:
        while True:  # ends: messages are delivered, or time out and are reported
            self._producer.poll(0.05)
            self.raise_refused()
            with contextlib.suppress(BufferError):
                self._producer.produce(topic, value, key, partition, self._delivered, None, *extra)
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        self._failed += 1
        text = f"topic {message.topic()}, key {_shown(message.key())}: {error.str()}"
        if len(self._failures) < _FAILURES_KEPT:
            self._failures.append(text)
        if error.code() in LASTING and self.lasting is None:
            self.lasting = text

    def raise_refused(self) -> None:
        """Raises OperationError naming topic and reason when the brokers refused a message."""
        if not self._failed:
            return
        first, count = self._failures[0], self._failed
        self._failures, self._failed = [], 0
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise OperationError(f"Kafka did not take a message: {first}{more}")

    def _partitions_of(self, topic: str, partition_keys: Sequence[Key | None] | None) -> Any:
        known = self._partitions.get(topic)
        if known is None:
            known = self._partitions[topic] = Partitions(partition_count(self._producer, topic))
        elif time.monotonic() > known.trusted_until:
            known = self._partitions[topic] = self._renewed(topic, known)
        return repeat(-1) if partition_keys is None else map(known.__getitem__, partition_keys)

    def _renewed(self, topic: str, known: Partitions) -> Partitions:
        """The topic's partitions as they are now; as they were, where no broker answers at once."""
        try:
            count = partition_count(self._producer, topic, _PARTITIONS_TIMEOUT_S)
        except OperationError as error:
            if not isinstance(error.__cause__, KafkaException):  # the topic is gone
                raise
            count = known.count
        if count != known.count:
            return Partitions(count)
        known.trusted_until = time.monotonic() + TRUSTED_S
        return known


def partition_count(client: Producer | AdminClient, topic: str, timeout_s: float = _METADATA_TIMEOUT_S) -> int:
    """Number of partitions of `topic`. Raises OperationError when it does not exist or no broker answers."""
    try:
        found = client.list_topics(topic, timeout=timeout_s).topics.get(topic)
    except KafkaException as error:
        raise OperationError(f"no Kafka broker answers: {_reason(error)}; check bootstrap_servers") from error
    if found is None or found.error is not None or not found.partitions:
        reason = found.error.str() if found is not None and found.error is not None else "it has no partitions"
        raise OperationError(f"topic {topic} cannot be used: {reason}; create it, or check the [topics] settings")
    return len(found.partitions)


def ensure_topics(
    client_config: ClientConfig,
    topics: Mapping[str, str | Mapping[str, str]],
    partitions: int,
    replication: int,
) -> list[str]:
    """Create those of `topics` that are missing, and return their names; existing ones are left as they are.

    A topic's value is its cleanup policy ("delete" or "compact"), or its whole configuration.
    Raises OperationError naming the topic, or saying that no broker answers.
    """
    denials: list[str] = []
    admin = admin_client(client_config, denials)
    try:
        present = admin.list_topics(timeout=_METADATA_TIMEOUT_S).topics
    except KafkaException as error:
        admin.poll(0)  # lets the client say what it knows: `denials`
        if denials:
            raise OperationError(f"Kafka denies access: {denials[0]}; check the [kafka] settings") from error
        raise OperationError(f"no Kafka broker answers: {_reason(error)}; check bootstrap_servers") from error
    missing = [
        NewTopic(name, partitions, replication, config={"cleanup.policy": own} if isinstance(own, str) else dict(own))
        for name, own in topics.items()
        if name not in present
    ]
    created = admin.create_topics(missing, operation_timeout=30) if missing else {}
    for name, done in created.items():
        try:
            done.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was quicker
                raise OperationError(f"topic {name} cannot be created: {_reason(error)}") from error
    for name in created:
        _await_leaders(admin, name)
    return list(created)


def answers(client_config: ClientConfig, timeout_s: float = 5.0) -> bool:
    """Whether a broker answers within `timeout_s`."""
    try:
        return bool(admin_client(client_config).list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return False


def topic_id(admin: AdminClient, topic: str, timeout_s: float) -> int | None:
    """What tells a topic from another one of its name, made before or after it; None where brokers know no such thing.

    Raises KafkaException.
    """
    admin.poll(0)  # trouble that nobody asks about is not to pile up
    found = admin.describe_topics(TopicCollection([topic]), request_timeout=timeout_s)[topic].result().topic_id
    words = (found.get_most_significant_bits(), found.get_least_significant_bits())
    return int.from_bytes(b"".join(word.to_bytes(8, "big", signed=True) for word in words), "big") or None


def admin_client(client_config: ClientConfig, denials: list[str] | None = None) -> AdminClient:
    """A client; why it is not let in, if it is not, goes into `denials`. Raises SettingsError for a bad setting."""

    def heard(error: KafkaError) -> None:
        if denials is not None and error.code() in _FORBIDDEN:
            denials.append(error.str())

    try:
        config: dict[str, Any] = {**_QUIET, **client_config, "error_cb": heard}
        return AdminClient(config)
    except KafkaException as error:
        raise SettingsError(f"[kafka] settings: {_reason(error)}") from error


def _await_leaders(admin: AdminClient, topic: str) -> None:
    """A topic just created is not known everywhere at once; wait until it is, or the time is up."""
    deadline = time.monotonic() + _METADATA_TIMEOUT_S
    while time.monotonic() < deadline:
        found = admin.list_topics(topic, timeout=_METADATA_TIMEOUT_S).topics.get(topic)
        led = [partition.leader >= 0 for partition in found.partitions.values()] if found and not found.error else []
        if led and all(led):
            return
        time.sleep(0.05)


def _refused(topic: str, key: Key | None, value: bytes, error: KafkaException) -> str:
    size = f" of {len(value)} bytes" if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE else ""
    return f"topic {topic}, key {_shown(key)}: message{size} refused: {_reason(error)}"


def _reason(error: KafkaException) -> str:
    return str(error.args[0].str())


def _shown(key: Key | None) -> str:
    text = key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else key
    return "(none)" if text is None else text[:200]
