"""Topics of records on a real Kafka: who reads what, what is there at the start, and topics that are made anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from metering.tables.records import FEEDBACK, PLANS, RecordKind
from pipelines.sources.kafka_records import TopicRecords
from pipelines.sources.poll import Batch, Position
from sinks.kafka.topics import TopicSink, ensure_topics

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

Open = Callable[..., TopicRecords]


@pytest.fixture
def reading(kafka: str) -> Iterator[Open]:
    opened: list[TopicRecords] = []

    def open_reader(
        kinds: dict[str, RecordKind], positions: dict[str, Position] | None = None, worker: int = 0, workers: int = 1
    ) -> TopicRecords:
        found = (positions or {}).get
        opened.append(TopicRecords({"bootstrap.servers": kafka}, kinds, 1000, worker, workers, found))
        return opened[-1]

    yield open_reader
    for reader in opened:
        reader.close()


def send(address: str, topic: str, partition_keys: list[str], values: list[bytes]) -> None:
    sink = TopicSink({"bootstrap.servers": address})
    sink.publish(topic, partition_keys, values)
    sink.flush()


def read_up(reader: TopicRecords) -> list[Batch]:
    """All that is there at the start."""
    batches: list[Batch] = []
    deadline = time.monotonic() + 20
    while not reader.caught_up:
        assert time.monotonic() < deadline
        batches += reader.poll()
    return batches


def take(reader: TopicRecords, count: int) -> list[Batch]:
    batches: list[Batch] = []
    deadline = time.monotonic() + 20
    while sum(len(batch.content.values) for batch in batches) < count:  # type: ignore[union-attr]
        assert time.monotonic() < deadline, batches
        batches += reader.poll()
        time.sleep(0.02)
    return batches


def values(batches: list[Batch], **wanted: Any) -> list[bytes]:
    chosen = [b for b in batches if all(getattr(b, name) == value for name, value in wanted.items())]
    return sorted(value for batch in chosen for value in batch.content.values)  # type: ignore[union-attr]


def test_each_partition_has_one_owner_and_what_is_broadcast_is_read_by_all(
    kafka: str, kafka_topic: Callable[..., str], reading: Open
) -> None:
    feedback, plans, empty = kafka_topic(partitions=3), kafka_topic(partitions=3), kafka_topic(partitions=2)
    sent = [b"%02d" % number for number in range(30)]
    for topic in (feedback, plans):
        send(kafka, topic, [f"k{number}" for number in range(30)], sent)
    kinds = {feedback: FEEDBACK, plans: PLANS, empty: FEEDBACK}
    readers = [reading(kinds, worker=worker, workers=2) for worker in range(2)]
    read = [read_up(reader) for reader in readers]
    assert sorted(values(read[0], kind=FEEDBACK) + values(read[1], kind=FEEDBACK)) == sent
    assert all(values(batches, kind=FEEDBACK, own=False) == [] for batches in read)
    assert all(values(batches, kind=PLANS) == sent for batches in read)
    assert sorted(values(read[0], kind=PLANS, own=True) + values(read[1], kind=PLANS, own=True)) == sent
    assert {segment.partition for batch in read[1] if batch.own for segment in batch.segments} == {1}
    send(kafka, plans, ["k0"], [b"later"])
    assert [values(take(reader, 1)) for reader in readers] == [[b"later"], [b"later"]]


def test_a_start_goes_on_at_its_positions_and_a_topic_made_anew_is_read_from_its_beginning(
    kafka: str, kafka_topic: Callable[..., str], reading: Open
) -> None:
    topic = kafka_topic(partitions=1)
    send(kafka, topic, ["a"] * 3, [b"1", b"2", b"3"])
    reader = reading({topic: FEEDBACK})
    (segment,) = (segment for batch in read_up(reader) for segment in batch.segments)
    assert segment.after["offset"] == 3
    positions = {segment.shard: segment.after}
    send(kafka, topic, ["a"], [b"4"])
    assert values(read_up(reading({topic: FEEDBACK}, positions))) == [b"4"]
    beyond = {segment.shard: {**segment.after, "offset": 900}}
    assert values(take(reading({topic: FEEDBACK}, beyond), 4)) == [b"1", b"2", b"3", b"4"], "not in the log any more"
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_topics([topic])[topic].result()
    deadline = time.monotonic() + 10
    while topic in admin.list_topics(timeout=5).topics and time.monotonic() < deadline:
        time.sleep(0.1)
    ensure_topics({"bootstrap.servers": kafka}, {topic: "compact"}, 1, 1)
    send(kafka, topic, ["a"] * 5, [b"5", b"6", b"7", b"8", b"9"])
    assert values(read_up(reading({topic: FEEDBACK}, positions))) == [b"5", b"6", b"7", b"8", b"9"]
