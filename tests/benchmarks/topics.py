"""The broker of a benchmark run, topics filled with a load, and reading answers back.

Not here: what is in the messages (`data`), who reads them (`rows`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from orchestration.kafka import broker
from sinks.kafka.topics import TopicSink, ensure_topics
from tests.benchmarks.data import Load, arrow_messages, lines

ARROW = {"content-type": b"application/vnd.apache.arrow.stream"}
_AT_ONCE = 50_000


class Brokers:
    """A real Apache Kafka of its own, started when it is first asked for its address."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._folder: Path | None = None
        self._address = ""
        self._filled: dict[str, str] = {}

    @property
    def address(self) -> str:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="kilowatch-bench-kafka-"))
            self._address = broker.start(self._folder, notify=self._say)
        return self._address

    def stop(self) -> None:
        if self._folder is not None:
            broker.stop(self._folder)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def json(self, load: Load, partitions: int = 8) -> str:
        """A topic with each reading of the load as a message of its own; filled once."""
        return self._topic(f"json-{load.name}-{partitions}", partitions, lambda: lines(load), None)

    def arrow(self, load: Load, partitions: int = 8, rows: int = 1000) -> str:
        """A topic with the load as Arrow messages of `rows` readings; filled once."""
        return self._topic(f"arrow-{load.name}-{partitions}", partitions, lambda: arrow_messages(load, rows), ARROW)

    def _topic(
        self,
        name: str,
        partitions: int,
        messages: Callable[[], Iterable[tuple[str, bytes]]],
        headers: dict[str, bytes] | None,
    ) -> str:
        if name not in self._filled:
            self._say(f"filling topic {name}")
            make_topic(self.address, name, partitions)
            fill(self.address, name, messages(), headers)
            self._filled[name] = name
        return name


def make_topic(address: str, name: str, partitions: int) -> None:
    config = {"cleanup.policy": "delete", "retention.ms": "-1"}
    ensure_topics({"bootstrap.servers": address}, {name: config}, partitions, 1)


def fill(address: str, topic: str, messages: Iterable[tuple[str, bytes]], headers: dict[str, bytes] | None) -> None:
    """Publish (key, value) pairs in order, partitioned by key."""
    sink = TopicSink({"bootstrap.servers": address}, topics=[topic])
    for some in _batches(messages):
        keys = [key for key, _ in some]
        sink.publish(topic, keys, [value for _, value in some], keys, headers)
    sink.flush(120)
    sink.close()


def _batches(messages: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    rest = iter(messages)
    while some := list(islice(rest, _AT_ONCE)):
        yield some


def values(address: str, topic: str) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of every committed message of a topic, as it is now."""
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": "answers", "enable.auto.commit": False, "log_level": 2,
         "isolation.level": "read_committed", "auto.offset.reset": "error"}
    )  # fmt: skip
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        for partition in partitions:
            at = TopicPartition(topic, partition)
            low, high = consumer.get_watermark_offsets(at, timeout=10)
            consumer.assign([TopicPartition(topic, partition, low)])
            while low < high and consumer.position([at])[0].offset < high:
                for message in consumer.consume(100_000, timeout=1):
                    if message.error() is None and message.value() is not None:
                        yield message.key(), message.value()
    finally:
        consumer.close()
