"""What brokers say of a topic: its partitions, and which offsets its logs hold.

Not here: consuming it (`kafka`), making topics (`sinks.kafka.topics`).
"""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
FORBIDDEN = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
"""What no waiting mends."""


def partition_count(consumer: Consumer, topic: str, timeout_s: float) -> int | None:
    """Number of the topic's partitions; None when it does not exist. Raises KafkaException."""
    found = consumer.list_topics(topic, timeout=timeout_s).topics.get(topic)
    if found is None or (found.error is not None and found.error.code() in GONE):
        return None
    if found.error is not None:
        raise KafkaException(found.error)
    return len(found.partitions)


def held(consumer: Consumer, topic: str, partition: int, timeout_s: float) -> tuple[int, int]:
    """Earliest offset that the log holds, and its end. Raises KafkaException when nobody answers in time."""
    deadline = time.monotonic() + timeout_s
    while True:  # a topic just created, or a cluster electing leaders, answers a moment later
        left = max(deadline - time.monotonic(), 0.1)
        try:
            known = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=left)
        except KafkaException:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)
            continue
        if known is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return known


def log_end(consumer: Consumer, topic: str, partition: int) -> int:
    """End of the partition's log, as last heard; -1 before anything was."""
    known = consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
    return max(known[1], -1) if known else -1
