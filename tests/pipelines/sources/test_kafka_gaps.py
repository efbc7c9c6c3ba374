"""The Kafka source against a real Apache Kafka: offsets that are gone, and topics that are not what they were."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from metering.errors import GapError, OperationError
from pipelines.sources import kafka as kafka_source
from pipelines.sources.kafka import KafkaReader, KafkaSource
from pipelines.sources.poll import Position
from sinks.kafka.topics import ensure_topics
from tests.pipelines.sources.topics import numbers, polled, send, take, values

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]


def delete_before(address: str, topic: str, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    for done in admin.delete_records([TopicPartition(topic, 0, offset)]).values():
        done.result()


def test_offsets_deleted_before_the_position_are_a_gap(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic()
    send(kafka, topic, numbers(0, 50))
    delete_before(kafka, topic, 20)
    with pytest.raises(GapError, match=rf"topic {topic} partition 0: offsets 7 to 19 are gone") as caught:
        reading(topic, {f"{topic}-0": {"offset": 7}}.get)
    assert (caught.value.missing_from, caught.value.missing_to) == (7, 19)
    assert values(take(reading(topic, {f"{topic}-0": {"offset": 20}}.get), 30)) == numbers(20, 50)
    assert values(take(reading(topic), 30)) == numbers(20, 50), "a first start begins at the earliest offset"


def test_offsets_deleted_while_reading_are_a_gap(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic()
    big = [b"x" * 100_000] * 60
    send(kafka, topic, big)
    # The client fetches ahead, so it must have little room for what it has not been asked for.
    little = {"queued.max.messages.kbytes": 200, "queued.min.messages": 1, "max.partition.fetch.bytes": 100_000}
    reader = reading(topic, batch_rows=1, **little)
    seen = [offset for part in take(reader, 1) for offset in part.content.offsets]
    send(kafka, topic, big)
    delete_before(kafka, topic, 110)

    def read_on() -> None:
        for _ in range(1000):
            seen.extend(offset for part in polled(reader) for offset in part.content.offsets)

    with pytest.raises(GapError, match=r"offsets \d+ to 109 are gone") as caught:
        read_on()
    assert seen == list(range(caught.value.missing_from))


def test_what_was_never_read_is_not_missed(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic()
    send(kafka, topic, numbers(0, 50))
    reader = reading(topic)
    reader._consumer.incremental_unassign([TopicPartition(topic, 0)])
    delete_before(kafka, topic, 20)
    reader._consumer.incremental_assign([TopicPartition(topic, 0, 0)])  # as if retention had won the race
    assert values(take(reader, 30)) == numbers(20, 50)


def test_a_log_that_ends_before_the_position_is_a_gap(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic()
    send(kafka, topic, numbers(0, 10))
    with pytest.raises(GapError, match=rf"topic {topic} partition 0: offsets 10 to 24 are gone"):
        reading(topic, {f"{topic}-0": {"offset": 25}}.get)


def test_a_topic_made_anew_with_fewer_partitions_is_a_gap(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic(2)
    positions: dict[str, Position] = {f"{topic}-{p}": {"offset": 0} for p in (0, 1)} | {f"{topic}-2": {"offset": 5}}
    with pytest.raises(GapError, match=rf"topic {topic} partition 2: offsets 0 to 4 are gone"):
        reading(topic, positions.get)


def test_accepted_gaps_are_handed_out_once_and_reading_goes_on(kafka: str, kafka_topic: Callable[..., str]) -> None:
    topic = kafka_topic()
    send(kafka, topic, numbers(0, 10))
    positions: dict[str, Position] = {f"{topic}-0": {"offset": 25}, f"{topic}-1": {"offset": 5}}
    source = KafkaSource({"bootstrap.servers": kafka}, topic, 1000, 50, accept_gap=True)
    reader = source.open(0, 1, positions.get)
    try:
        gaps = [part.segment for part in polled(reader)]
        assert {(segment.partition, segment.gap, segment.after["offset"]) for segment in gaps} == {
            (0, (10, 24), 10),
            (1, (0, 4), 0),
        }
        assert all(segment.items == 0 for segment in gaps)
        send(kafka, topic, numbers(10, 15))
        parts = take(reader, 5)
        assert values(parts) == numbers(10, 15)
        assert {part.segment.gap for part in parts} == {None}
    finally:
        reader.close()


def make_anew(address: str, topic: str, sent: list[bytes]) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    admin.delete_topics([topic])[topic].result()
    time.sleep(0.5)
    ensure_topics({"bootstrap.servers": address}, {topic: "delete"}, 1, 1)
    send(address, topic, sent)


def test_a_topic_made_anew_while_reading_is_said(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic()
    send(kafka, topic, numbers(0, 30))
    reader = reading(topic, **{"topic.metadata.refresh.interval.ms": 500, "topic.metadata.propagation.max.ms": 2000})
    take(reader, 30)
    make_anew(kafka, topic, numbers(0, 3))
    with pytest.raises(OperationError, match=rf"topic {topic} partition 0"):
        take(reader, 1)


def test_a_topic_made_anew_that_has_grown_past_the_position_is_another_topic(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic()
    send(kafka, topic, numbers(0, 30))
    position = take(reading(topic), 30)[-1].segment.after
    make_anew(kafka, topic, numbers(100, 150))
    with pytest.raises(GapError, match=rf"topic {topic} partition 0: offsets 0 to 29 are gone .* made anew"):
        reading(topic, {f"{topic}-0": position}.get)

    accepting = KafkaSource({"bootstrap.servers": kafka}, topic, 1000, 50, accept_gap=True)
    reader = accepting.open(0, 1, {f"{topic}-0": position}.get)
    try:
        parts = take(reader, 50)
    finally:
        reader.close()
    assert [part.segment.gap for part in parts] == [(0, 29), *[None] * (len(parts) - 1)]
    assert values(parts) == numbers(100, 150)
    assert parts[0].segment.after == {"offset": 0, "topic": parts[-1].segment.after["topic"]}
    assert position["topic"] != parts[-1].segment.after["topic"]


def test_a_topic_made_anew_is_noticed_while_reading(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_source, "_LOOK_EVERY_S", 1.0)
    topic = kafka_topic()
    send(kafka, topic, numbers(0, 3))
    reader = reading(topic)
    take(reader, 3)
    make_anew(kafka, topic, numbers(0, 60))
    with pytest.raises(OperationError, match=rf"topic {topic} partition 0"):
        take(reader, 1000)


def test_a_position_without_the_topics_id_gets_it_at_once(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    """As an older Kilowatch left it."""
    topic = kafka_topic()
    send(kafka, topic, numbers(0, 30))
    [part] = polled(reading(topic, {f"{topic}-0": {"offset": 30}}.get))
    assert (part.content.values, part.segment.gap, part.segment.after["offset"]) == ([], None, 30)
    kept = reading(topic, {f"{topic}-0": part.segment.after}.get)
    [told] = kept.poll()  # that it has been read to its end, for what is looked at there
    assert (told.content.values, told.segments[0].items, told.segments[0].newest_offset) == ([], 0, 29)
    assert told.segments[0].after.get("offset", 30) == 30
    assert kept.poll() == []
