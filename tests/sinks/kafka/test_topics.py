"""The topic sink against a real Apache Kafka, and the partitioner against the values of Kafka's own tests."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from datetime import date
from typing import Any

import polars as pl
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from metering.errors import OperationError
from metering.tables.lake import REJECTS
from metering.tables.messages import Outbound, reject_messages
from sinks.kafka import partitioner, topics
from sinks.kafka.partitioner import murmur2, partition_of
from sinks.kafka.topics import TopicSink, ensure_topics
from sinks.kafka.transactions import TransactionalSink

NOBODY = {"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 1500, "retry.backoff.ms": 50}


def read_all(address: str, topic: str, partitions: int) -> dict[int, list[tuple[bytes | None, bytes]]]:
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "test",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 8_000_000,
        }
    )
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    found: dict[int, list[tuple[bytes | None, bytes]]] = {p: [] for p in range(partitions)}
    ended = 0
    while ended < partitions:
        message = consumer.poll(10)
        assert message is not None, "the topic ends nowhere"
        if message.error():
            ended += 1
        else:
            found[message.partition()].append((message.key(), message.value()))
    consumer.close()
    return found


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed % 2**32


def test_partition_of_text_is_that_of_its_utf8() -> None:
    assert partition_of("表-1", 7) == partition_of("表-1".encode(), 7)


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_one_meters_messages_share_a_partition_in_order(kafka: str, kafka_topic: Callable[..., str]) -> None:
    topic = kafka_topic(4)
    sink = TopicSink({"bootstrap.servers": kafka})
    meters = [f"M{i % 50}" for i in range(5000)]
    keys = [f"{meter}/{i}" for i, meter in enumerate(meters)]
    sink.publish(topic, keys, [str(i).encode() for i in range(5000)], meters)
    sink.flush()
    found = read_all(kafka, topic, 4)
    assert sum(map(len, found.values())) == 5000 == sink.published
    for partition, messages in found.items():
        assert {partition_of((key or b"").split(b"/")[0], 4) for key, _ in messages} <= {partition}
        numbers = [int(value) for _, value in messages]
        assert numbers == sorted(numbers)
    assert all(found.values())


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_without_partition_key_the_client_puts_a_key_where_a_partition_key_would(
    kafka: str, kafka_topic: Callable[..., str]
) -> None:
    topic = kafka_topic(5)
    sink = TopicSink({"bootstrap.servers": kafka})
    keys = [f"M{i}" for i in range(200)]
    sink.publish(topic, keys, [b"{}"] * 200)
    sink.publish(topic, [None, b"M1"], [b"{}", b"{}"], [None, None])
    sink.flush()
    found = read_all(kafka, topic, 5)
    assert sum(map(len, found.values())) == 202
    for partition, messages in found.items():
        assert {partition_of(key, 5) for key, _ in messages if key is not None} <= {partition}


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_a_full_queue_waits_instead_of_losing(kafka: str, kafka_topic: Callable[..., str]) -> None:
    topic = kafka_topic()
    sink = TopicSink({"bootstrap.servers": kafka, "queue.buffering.max.messages": 100})
    values = [str(i).encode() for i in range(3000)]
    sink.publish(topic, [None] * 3000, values, [b"M1"] * 3000)
    sink.flush()
    assert [value for _, value in read_all(kafka, topic, 1)[0]] == values


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_headers_go_with_every_message(kafka: str, kafka_topic: Callable[..., str]) -> None:
    topic = kafka_topic()
    sink = TopicSink({"bootstrap.servers": kafka})
    sink.publish(topic, ["a", "b"], [b"1", b"2"], headers={"content-type": b"application/json"})
    sink.flush()
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "test", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    headers = [message.headers() for message in consumer.consume(2, 10)]
    consumer.close()
    assert headers == [[("content-type", b"application/json")]] * 2


def test_a_message_over_the_clients_limit_names_its_key() -> None:
    sink = TopicSink({**NOBODY, "message.max.bytes": 2000})
    sink._partitions["t"] = partitioner.Partitions(1)
    with pytest.raises(OperationError, match=r"topic t, key M1/x: message of 3000 bytes refused"):
        sink.publish("t", ["M1/x"], [b"x" * 3000], ["M1"])
    sink.close()


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_a_message_over_the_topics_limit_is_reported_by_flush(kafka: str, kafka_topic: Callable[..., str]) -> None:
    topic = kafka_topic(compression_type="uncompressed", max_message_bytes="10000")
    sink = TopicSink({"bootstrap.servers": kafka, "compression.type": "none"})
    sink.publish(topic, ["M1/big"], [b"x" * 20_000], ["M1"])
    with pytest.raises(OperationError, match=rf"topic {topic}, key M1/big: .*too large"):
        sink.flush(20)
    sink.publish(topic, ["M1/small"], [b"x"], ["M1"])
    sink.flush()
    assert read_all(kafka, topic, 1)[0] == [(b"M1/small", b"x")]


def _reject(payload: bytes, key: bytes | None) -> Outbound:
    columns = {"reason": "unparsable", "detail": "not JSON", "payload": payload, "content_type": "application/json"}
    source = {"source": "meter.readings.v1", "source_partition": 0, "source_offset": 7, "source_row": 0}
    row = {**dict.fromkeys(REJECTS.names), **columns, **source, "message_key": key, "date": date(2026, 1, 1)}
    return reject_messages(pl.DataFrame([row], schema=REJECTS.schema))


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
@pytest.mark.parametrize("transactional", [False, True])
@pytest.mark.parametrize("limit", ["1048588", str(topics.LARGEST_MESSAGE), "20000000"])
def test_a_reject_above_what_kafka_takes_arrives_cut(
    kafka: str, kafka_topic: Callable[..., str], limit: str, transactional: bool
) -> None:
    """Whatever the topic takes, and although the client by itself takes no more than LARGEST_MESSAGE."""
    topic = kafka_topic(compression_type="uncompressed", max_message_bytes=limit)
    payloads = [random.Random(1).randbytes(size) for size in (10, 900_000, 6_000_000)]
    keys = [None, b"k" * 1_000_000, b"k" * 6_000_000]
    config = {"bootstrap.servers": kafka, "compression.type": "none"}
    if transactional:
        sink: Any = TransactionalSink(config, f"test.{topic}", [topic], lambda: None)
    else:
        sink = TopicSink(config, topics=[topic])
    for payload, key in zip(payloads, keys, strict=True):
        out = _reject(payload, key)
        sink.publish(topic, out.keys, out.values, ["M1"])
    assert sink.settled(20) if transactional else sink.flush() is None
    sink.close()
    found = read_all(kafka, topic, 1)[0]
    assert len(found) == 3
    most = min(int(limit), topics.LARGEST_MESSAGE)
    for (_, value), payload in zip(found, payloads, strict=True):
        message = json.loads(value)
        kept = base64.b64decode(message["payload_base64"], validate=True)
        assert payload.startswith(kept)
        assert len(value) <= most
        assert (kept != payload) == ("payload_base64" in message.get("truncated", []))
    assert "truncated" not in json.loads(found[0][1])
    assert "payload_base64" in json.loads(found[2][1])["truncated"]
    assert found[2][0] is None  # a key of its size no message has


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_a_topic_that_is_absent_is_named(kafka: str) -> None:
    sink = TopicSink({"bootstrap.servers": kafka})
    with pytest.raises(OperationError, match=r"topic no\.such\.topic cannot be used"):
        sink.publish("no.such.topic", ["a"], [b"1"], ["a"])


def test_flush_tells_when_no_broker_took_the_messages() -> None:
    told: list[str] = []
    sink = TopicSink(NOBODY, told.append)
    sink._partitions["t"] = partitioner.Partitions(1)
    sink.publish("t", ["k"], [b"1"], ["k"])
    with pytest.raises(OperationError, match="1 messages could not be delivered to t within 0 s"):
        sink.flush(0.1)
    with pytest.raises(OperationError, match=r"topic t, key k: .*timed out"):
        sink.flush(20)
    assert told


def test_unequal_lengths_are_a_programming_error() -> None:
    sink = TopicSink(NOBODY)
    sink._partitions["t"] = partitioner.Partitions(1)
    with pytest.raises(ValueError, match="2 keys, 1 values"):
        sink.publish("t", ["a", "b"], [b"1"], ["a", "b"])
    sink.close()


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_ensure_topics_creates_what_is_missing_and_leaves_the_rest(kafka: str, kafka_topic: Callable[..., str]) -> None:
    config = {"bootstrap.servers": kafka}
    present = kafka_topic(1)
    wanted = {present: "compact", f"{present}.new": "compact", f"{present}.rejects": topics.REJECTS}
    assert ensure_topics(config, wanted, 3, 1) == [f"{present}.new", f"{present}.rejects"]
    assert ensure_topics(config, wanted, 3, 1) == []
    admin = AdminClient(config)
    found = admin.list_topics().topics
    assert [len(found[name].partitions) for name in wanted] == [1, 3, 3]
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in wanted]
    configs = {resource.name: done.result() for resource, done in admin.describe_configs(resources).items()}
    assert [configs[name]["cleanup.policy"].value for name in wanted] == ["delete", "compact", "delete"]
    assert configs[f"{present}.rejects"]["max.message.bytes"].value == str(topics.LARGEST_MESSAGE)


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_a_topic_that_cannot_be_created_is_named(kafka: str) -> None:
    with pytest.raises(OperationError, match=r"topic too\.many\.replicas cannot be created"):
        ensure_topics({"bootstrap.servers": kafka}, {"too.many.replicas": "delete"}, 1, 3)


def test_no_broker_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "_METADATA_TIMEOUT_S", 0.5)
    with pytest.raises(OperationError, match="no Kafka broker answers"):
        ensure_topics(NOBODY, {"t": "delete"}, 1, 1)
    with pytest.raises(OperationError, match="no Kafka broker answers"):
        TopicSink(NOBODY).publish("t", ["a"], [b"1"], ["a"])
    assert not topics.answers(NOBODY, 0.5)
