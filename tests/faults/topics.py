"""Topics as a plain client sees them: producing the log in the background, reading it back, the compacted view; a
log in files.

Not here: what is in the log (`telemetry`), what should come of it (`oracle`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import polars as pl
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from sinks.kafka.topics import ensure_topics
from tests.faults.telemetry import Sent

LOG_SCHEMA = {
    "partition": pl.Int32, "offset": pl.Int64, "row": pl.Int32, "logged_us": pl.Int64, "line": pl.String
}  # fmt: skip


def make_topic(address: str, name: str, partitions: int) -> None:
    """A topic that keeps everything, whatever times its messages carry."""
    config = {"cleanup.policy": "delete", "retention.ms": "-1"}
    ensure_topics({"bootstrap.servers": address}, {name: config}, partitions, 1)


class Feed:
    """Produces messages in the background, at `per_second`, never further than `allow` has said (a share of all)."""

    def __init__(self, address: str, topic: str, messages: Iterable[Sent], per_second: float) -> None:
        self._messages = list(messages)
        self._producer = Producer(
            {"bootstrap.servers": address, "linger.ms": 5, "enable.idempotence": True, "log_level": 2}
        )
        self._topic, self._per_second = topic, per_second
        self._allowed, self._sent = 0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def allow(self, share: float) -> None:
        self._allowed = round(share * len(self._messages))

    def finish(self) -> None:
        """Send all that is left, and wait until the brokers have it."""
        self._per_second = float("inf")
        self.allow(1)
        while self._sent < len(self._messages):
            assert self._thread.is_alive()
            time.sleep(0.02)
        assert self._producer.flush(60) == 0

    def _run(self) -> None:
        start, begun = time.monotonic(), self._sent
        while not self._stop.wait(0.02):
            due = begun + (time.monotonic() - start) * self._per_second
            if due >= self._allowed:
                start, begun, due = time.monotonic(), self._allowed, self._allowed
            for sent in self._messages[self._sent : int(due)]:
                self._put(sent)
            self._sent = max(self._sent, int(due))
            self._producer.poll(0)

    def _put(self, sent: Sent) -> None:
        while True:
            try:
                self._producer.produce(self._topic, sent.value, sent.key, timestamp=sent.logged_ms)
                return
            except BufferError:
                self._producer.poll(0.1)


def read_topic(address: str, topic: str) -> Iterator[Message]:
    """Every message from the beginning to the end as it is now, each partition in order."""
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": "oracle", "enable.auto.commit": False, "auto.offset.reset": "error",
         "enable.partition.eof": True, "log_level": 2}
    )  # fmt: skip
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        left, deadline = set(partitions), time.monotonic() + 120
        while left:
            assert time.monotonic() < deadline, f"{topic}: partitions {left} not at their end"
            for message in consumer.consume(10_000, timeout=0.2):
                error = message.error()
                if error is None:
                    yield message
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    left.discard(message.partition())
    finally:
        consumer.close()


def read_log(address: str, topic: str) -> pl.DataFrame:
    """The lines of the log as it stands in the topic (LOG_SCHEMA)."""
    rows = [
        (m.partition(), m.offset(), row, m.timestamp()[1] * 1000, line)
        for m in read_topic(address, topic)
        for row, line in enumerate((m.value() or b"").decode("utf-8", "replace").split("\n"))
    ]
    return pl.DataFrame(rows, schema=LOG_SCHEMA, orient="row")


def read_files(folder: Path) -> pl.DataFrame:
    """The lines of `Fleet.write_files` (LOG_SCHEMA): a shard is a partition, whose files follow each other by name; no
    line is ahead of the machine's clock, which is all that files have.
    """
    shards = sorted(path for path in folder.iterdir())
    rows = []
    for partition, shard in enumerate(shards):
        files = sorted(shard.iterdir()) if shard.is_dir() else [shard]
        lines = [line for file in files for line in file.read_text("utf-8", "replace").split("\n")]
        rows += [(partition, at, 0, 2**61, line) for at, line in enumerate(lines) if line.strip()]
    return pl.DataFrame(rows, schema=LOG_SCHEMA, orient="row")


def last_by_key(address: str, topic: str) -> dict[bytes, bytes]:
    """What a keyed consumer ends with: the last value of each key."""
    return {m.key() or b"": m.value() or b"" for m in read_topic(address, topic)}
