"""The Kafka source against a real Apache Kafka: order, resuming, new partitions, brokers that go away."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from threading import Thread

import confluent_kafka
import polars as pl
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from metering.errors import ApartError, OperationError
from metering.readings.decode import Messages, decode
from metering.registry.index import MeterIndex
from orchestration.kafka import broker
from pipelines.flow.batch_result import placed
from pipelines.sources import kafka as kafka_source
from pipelines.sources.kafka import KafkaReader, KafkaSource
from pipelines.sources.kafka_messages import ARROW_STREAM
from sinks.kafka.topics import TopicSink, ensure_topics
from tests.pipelines.sources.topics import numbers, polled, send, streams, take, values

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

LIBRDKAFKA = "confluent_kafka.libs/librdkafka*"
METERS = [f"M{n}" for n in range(8)]


def test_all_partitions_are_read_from_the_start_in_order(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic(3)
    before_ms = int(time.time() * 1000)
    for key in METERS:
        send(kafka, topic, [f"{key} {n}".encode() for n in range(500)], key)
    reader = reading(topic, batch_rows=400)
    parts = take(reader, 500 * len(METERS))
    assert {part.segment.partition for part in parts} == {0, 1, 2}
    for partition in range(3):
        own = [part for part in parts if part.segment.partition == partition]
        offsets = [offset for part in own for offset in part.content.offsets]
        assert offsets == list(range(len(offsets)))
        assert {part.segment.shard for part in own} == {f"{topic}-{partition}"}
        assert [part.segment.after["offset"] for part in own] == [part.content.offsets[-1] + 1 for part in own]
        assert own[-1].segment.newest_offset == offsets[-1]
        for key in METERS:
            of_key = [int((v or b"").split()[1]) for v in values(own, partition) if (v or b"").startswith(key.encode())]
            assert of_key in ([], list(range(500)))
    for batch in {id(part.batch): part.batch for part in parts}.values():
        partitions = [segment.partition for segment in batch.segments]
        assert partitions == sorted(set(partitions)), "each partition once, one after the other"
        got = batch.content
        assert isinstance(got, Messages)
        assert len(got.values) <= 400
        assert all(key == (value or b"").split()[0] for key, value in zip(got.keys, got.values, strict=True))
        assert all(before_ms - 5000 <= ms <= time.time() * 1000 + 5000 for ms in got.logged_ms)
        assert got.arrow is None
        assert all(segment.source == topic and segment.items and not segment.end for segment in batch.segments)
    assert not reader.finished
    assert reader.poll() == []


def test_workers_share_the_partitions(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic(5)
    sink = TopicSink({"bootstrap.servers": kafka})
    meters = [f"M{n}" for n in range(200)]
    sink.publish(topic, meters, [b"{}"] * 200, meters)
    sink.flush()
    readers = [reading(topic, worker=worker, workers=2) for worker in (0, 1)]
    found = [take(readers[0], 1), take(readers[1], 1)]
    while sum(part.segment.items for parts in found for part in parts) < 200:
        for worker in (0, 1):
            found[worker] += polled(readers[worker])
    assert [sorted({part.segment.partition for part in parts}) for parts in found] == [[0, 2, 4], [1, 3]]


def test_reading_goes_on_at_the_position(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic()
    send(kafka, topic, numbers(0, 100))
    first = take(reading(topic, batch_rows=30), 30)
    position = first[-1].segment.after
    rest = reading(topic, {f"{topic}-0": position}.get)
    assert values(first) + values(take(rest, 100 - position["offset"])) == numbers(0, 100)
    at_end = reading(topic, {f"{topic}-0": {"offset": 100}}.get)
    (nothing,) = polled(at_end)  # tells that there is no more, for who waits for silent meters
    assert (nothing.segment.items, nothing.segment.newest_offset) == (0, 99)
    send(kafka, topic, numbers(100, 103))
    assert values(take(at_end, 3)) == numbers(100, 103)


def test_headers_tell_arrow_from_json(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic()
    send(kafka, topic, [b"{}"])
    send(kafka, topic, [b"{}"], content_type=b"application/json")
    reader = reading(topic)
    assert streams(take(reader, 2)) == []
    send(kafka, topic, [b"arrow"], content_type=b"application/vnd.apache.arrow.stream")
    send(kafka, topic, [b"arrow"], Content_Type=b"Application/vnd.apache.arrow.stream; v=1")
    send(kafka, topic, [b"{}"], other=b"application/vnd.apache.arrow.stream")
    assert streams(take(reading(topic), 5)) == [2, 3]


def send_with_headers(address: str, topic: str, value: bytes, *names: bytes) -> None:
    """As a client in another language may: header names need not be text."""
    library = ctypes.CDLL(next(str(path) for path in Path(confluent_kafka.__file__).parents[1].glob(LIBRDKAFKA)))
    pointer, size, error = ctypes.c_void_p, ctypes.c_size_t, ctypes.create_string_buffer(512)
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(library, name).restype = pointer
    configuration = pointer(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(configuration, b"bootstrap.servers", address.encode(), error, size(512))
    producer = pointer(library.rd_kafka_new(0, configuration, error, size(512)))
    headers = pointer(library.rd_kafka_headers_new(size(len(names))))
    for name in names:
        library.rd_kafka_header_add(headers, name, ctypes.c_ssize_t(len(name)), b"v", ctypes.c_ssize_t(1))
    copied = ctypes.c_int(2)
    of_topic, of_value = (ctypes.c_int(1), topic.encode()), (ctypes.c_int(4), value, size(len(value)))
    more = (ctypes.c_int(7), copied, ctypes.c_int(10), headers, ctypes.c_int(0))
    assert library.rd_kafka_producev(producer, *of_topic, *of_value, *more) == 0
    assert library.rd_kafka_flush(producer, 20_000) == 0
    library.rd_kafka_destroy(producer)


def test_header_names_that_are_no_text_do_not_stop_reading(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic()
    send(kafka, topic, numbers(0, 20))
    for _ in range(3):
        send_with_headers(kafka, topic, b"bad", b"\xff\xfe", b"content-type")
        send(kafka, topic, [b"arrow"], content_type=b"application/vnd.apache.arrow.stream")
    parts = take(reading(topic), 26)
    assert values(parts) == [*numbers(0, 20), *[b"bad", b"arrow"] * 3]
    assert streams(parts) == [21, 23, 25]


def test_tombstones_and_absent_keys_come_as_none(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic()
    sink = TopicSink({"bootstrap.servers": kafka})
    sink._producer.produce(topic, None, b"M1")
    sink._producer.produce(topic, b"x", None)
    sink.flush()
    got = [part.content for part in take(reading(topic), 2)]
    assert [value for part in got for value in part.values] == [None, b"x"]
    assert [key for part in got for key in part.keys] == [b"M1", None]


def test_a_message_of_a_mebibyte_comes_whole(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic()
    big = bytes(range(256)) * 4000
    send(kafka, topic, [big, b"small"])
    assert values(take(reading(topic), 2)) == [big, b"small"]


def test_a_new_partition_is_read_from_its_first_message(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_source, "_LOOK_EVERY_S", 0.5)
    topic = kafka_topic(1)
    send(kafka, topic, [b"old"])
    reader, one_of_two = reading(topic), reading(topic, worker=1, workers=2)
    take(reader, 1)
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result()
    sink = TopicSink({"bootstrap.servers": kafka})
    for n in range(20):
        for partition in (1, 2):
            sink._producer.produce(topic, str(n).encode(), partition=partition)
    sink.flush()
    parts = take(reader, 40)
    assert values(parts, 1) == numbers(0, 20)
    assert values(parts, 2) == numbers(0, 20)
    with pytest.raises(ApartError, match=r"2 new partitions, to which meters move: .* without --workers"):
        take(one_of_two, 1)


def test_new_meters_have_one_of_several_workers_look_for_new_partitions_at_once(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic(1)
    send(kafka, topic, numbers(0, 3))
    [alone], [shared] = take(reading(topic), 3), take(reading(topic, workers=2), 3)
    look = shared.batch.on_new_meters
    assert alone.batch.on_new_meters is None
    assert look is not None
    look()
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_partitions([NewPartitions(topic, 2)])[topic].result()
    with pytest.raises(ApartError, match="1 new partitions, to which meters move"):
        look()


def test_an_absent_topic_and_silent_brokers_are_one_line(
    kafka: str, reading: Callable[..., KafkaReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OperationError, match=r"topic no\.such\.topic does not exist"):
        reading("no.such.topic")
    monkeypatch.setattr(kafka_source, "_START_TIMEOUT_S", 0.5)
    with pytest.raises(OperationError, match="Kafka does not answer"):
        reading("any", address="127.0.0.1:1")


def test_a_settings_file_cannot_switch_off_what_correctness_needs(
    kafka: str, kafka_topic: Callable[..., str], reading: Callable[..., KafkaReader]
) -> None:
    topic = kafka_topic()
    send(kafka, topic, numbers(0, 5))
    reader = reading(topic, {f"{topic}-0": {"offset": 2}}.get, **{"auto.offset.reset": "latest", "linger.ms": "5"})
    assert values(take(reader, 3)) == numbers(2, 5)


def sasl_properties(plain: int, controller: int, sasl: int) -> dict[str, str]:
    module = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    return {
        "listeners": f"PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},SASL://127.0.0.1:{sasl}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": f'{module} user_reader="right";',
    }


def test_brokers_that_go_away_are_waited_for_and_wrong_passwords_are_not(
    kafka_jars: Path, tmp_path: Path, reading: Callable[..., KafkaReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_source, "_START_TIMEOUT_S", 5.0)
    monkeypatch.setattr(kafka_source, "_LOOK_EVERY_WHEN_STALE_S", 0.5)
    plain, controller, sasl = (broker._free_port() for _ in range(3))
    properties = sasl_properties(plain, controller, sasl)
    address = broker.start(tmp_path, plain, properties)
    try:
        ensure_topics({"bootstrap.servers": address}, {"t": "delete"}, 1, 1)
        send(address, "t", numbers(0, 10))
        login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "reader"}
        with pytest.raises(OperationError, match=r"Kafka does not answer: .*[Aa]uthentication"):
            reading("t", address=f"127.0.0.1:{sasl}", **login, **{"sasl.password": "wrong"})
        reader = reading("t", address=f"127.0.0.1:{sasl}", **login, **{"sasl.password": "right"})
        assert values(take(reader, 10)) == numbers(0, 10)
        assert reader.stale_since is None
        broker.stop(tmp_path)
        deadline = time.monotonic() + 20
        while reader.stale_since is None:
            assert time.monotonic() < deadline, "the outage was not noticed"
            assert reader.poll() == []
        broker.start(tmp_path, plain, properties)
        while reader.stale_since is not None:  # with nothing new to read
            assert time.monotonic() < deadline + 30, "the recovery was not noticed"
            assert reader.poll() == []
        send(address, "t", numbers(10, 15))
        assert values(take(reader, 5)) == numbers(10, 15)
    finally:
        broker.stop(tmp_path)


# --- turns ------------------------------------------------------------------------------------------------------------


def _lingering(address: str, topic: str, linger_ms: int, batch_rows: int = 1000) -> KafkaReader:
    source = KafkaSource({"bootstrap.servers": address}, topic, batch_rows, poll_ms=3000, linger_ms=linger_ms)
    reader = source.open(0, 1, lambda _: None)
    send(address, topic, [b"first"])
    assert len(take(reader, 1)) == 1
    return reader


def _send_apart(address: str, topic: str, partitions: int, each: int, pause_s: float) -> Thread:
    """Messages in each partition in turn, with pauses; the thread that sends them."""

    def run() -> None:
        sink = TopicSink({"bootstrap.servers": address})
        for number in range(each):
            for partition in range(partitions):
                sink._producer.produce(topic, b"%d" % number, partition=partition)
                sink.flush()
                time.sleep(pause_s)

    sending = Thread(target=run)
    sending.start()
    return sending


def test_what_comes_while_it_lingers_is_one_turn_of_all_partitions(kafka: str, kafka_topic: Callable[..., str]) -> None:
    reader = _lingering(kafka, kafka_topic(4), linger_ms=1500)
    try:
        sending = _send_apart(kafka, reader.topic, 4, 5, 0.01)
        [batch] = reader.poll()
        sending.join()
        assert [(segment.partition, segment.items) for segment in batch.segments] == [(p, 5) for p in range(4)]
        start = time.monotonic()
        sending = _send_apart(kafka, reader.topic, 1, 1, 0.0)
        [batch] = reader.poll()
        sending.join()
        assert 1.4 < time.monotonic() - start < 8, "it waits so long for more, and no longer"
    finally:
        reader.close()


def test_without_lingering_the_first_message_is_a_turn(kafka: str, kafka_topic: Callable[..., str]) -> None:
    reader = _lingering(kafka, kafka_topic(4), linger_ms=0)
    try:
        sending = _send_apart(kafka, reader.topic, 4, 3, 0.1)
        turns = 0
        came = 0
        while came < 12:
            came += sum(part.segment.items for part in polled(reader))
            turns += 1
        sending.join()
        assert turns > 4
    finally:
        reader.close()


def test_a_full_batch_does_not_linger(kafka: str, kafka_topic: Callable[..., str]) -> None:
    reader = _lingering(kafka, kafka_topic(), linger_ms=30_000, batch_rows=40)
    try:
        send(kafka, reader.topic, numbers(0, 40))
        start = time.monotonic()
        assert sum(part.segment.items for part in polled(reader)) == 40
        assert time.monotonic() - start < 15
    finally:
        reader.close()


def test_json_and_arrow_of_several_partitions_in_one_turn(
    kafka: str, kafka_topic: Callable[..., str], make_index: Callable[..., MeterIndex]
) -> None:
    """Every row has the partition and offset that it came from, and so has every reject."""
    index = make_index(*METERS)
    reader = _lingering(kafka, kafka_topic(3), linger_ms=1500)
    sink = TopicSink({"bootstrap.servers": kafka})
    wanted: list[tuple[int, int, int, float]] = []
    refused: list[tuple[int, int]] = []
    try:
        starts = {p: reader._next.get(p, 0) for p in range(3)}
        for number in range(8):
            for partition in range(3):
                offset, p_kw = starts[partition] + number, 100.0 * partition + number
                rows = [{"meter_id": METERS[0], "ts": "2026-03-01T00:01:00Z", "p_kw": p_kw}] * 2
                value, headers = json.dumps(rows[0]).encode(), None
                count = 1
                if (number + partition) % 3 == 0:
                    stream = BytesIO()
                    pl.DataFrame(rows).write_ipc_stream(stream)
                    value, headers, count = stream.getvalue(), [("content-type", ARROW_STREAM)], 2
                if number == 5:
                    value, count = b"neither", 0
                    refused.append((partition, offset))
                wanted += [(partition, offset, row, p_kw) for row in range(count)]
                sink._producer.produce(reader.topic, value, partition=partition, headers=headers)
        sink.flush()
        [batch] = reader.poll()
    finally:
        reader.close()
    assert [segment.items for segment in batch.segments] == [8, 8, 8]
    decoded = decode(batch.content, index, 300, datetime.now(UTC))
    shards = {segment.shard: number for number, segment in enumerate(batch.segments, 1)}
    accepted, rejects = (placed(rows, batch, shards) for rows in (decoded.accepted, decoded.rejects))
    columns = ["source_partition", "source_offset", "source_row", "p_kw"]
    assert accepted.select(columns).rows() == sorted(wanted)
    assert rejects.select("source_partition", "source_offset").rows() == sorted(refused)
    for rows in (accepted, rejects):
        assert rows["log_offset"].equals(rows["source_offset"].alias("log_offset"))
        assert (rows["shard"] == rows["source_partition"] + 1).all()
        assert set(rows["source"]) == {reader.topic}
