"""Publishing in transactions against a real Apache Kafka: whole or not at all, and by one process at a time."""

from __future__ import annotations

import gc
import os
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from metering.errors import OperationError
from orchestration.kafka import broker
from sinks.kafka import transactions
from sinks.kafka.topics import TopicSink, ensure_topics
from sinks.kafka.transactions import TransactionalSink, fence, transactional_id
from tests.faults.topics import read_topic

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

GIVEN_UP_AFTER_S = 13
"""Brokers look every 10 s for transactions that have been open for too long."""

Open = Callable[..., TransactionalSink]


def still_owner() -> None:
    pass


def overtaken() -> None:
    raise OperationError("another stream has taken over")


def seen(address: str, topic: str) -> list[bytes | None]:
    """Values that a reader of committed messages sees, of one partition."""
    return [message.value() for message in read_topic(address, topic)]


def settle(sink: TransactionalSink) -> None:
    deadline = time.monotonic() + 90
    while not sink.settled(2):
        assert time.monotonic() < deadline


def publish_and_settle(sink: TransactionalSink, topic: str) -> None:
    sink.publish(topic, ["k"], [b"x"], ["m"])
    settle(sink)


@pytest.fixture
def opened(kafka: str) -> Iterator[Open]:
    made: list[TransactionalSink] = []

    def make(
        topic: str, identity: str, check: Callable[[], None] = still_owner, address: str = kafka
    ) -> TransactionalSink:
        config = {"bootstrap.servers": address}
        ensure_topics(config, {topic: "delete"}, 1, 1)
        made.append(TransactionalSink(config, transactional_id(identity, 0), [topic], check))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def test_what_is_published_counts_once_it_is_settled(kafka: str, opened: Open) -> None:
    sink = opened("whole", "a")
    assert sink.settled(0)
    sink.publish("whole", ["k"], [b"1"], ["m"])
    sink.publish("whole", ["k"], [b"2"], ["m"])
    assert sink.settled(30)
    assert seen(kafka, "whole") == [b"1", b"2"]
    sink.publish("whole", ["k"], [b"3"], ["m"])
    assert seen(kafka, "whole") == [b"1", b"2"]
    assert sink.settled(30)
    assert seen(kafka, "whole") == [b"1", b"2", b"3"]


def test_who_opens_the_id_later_keeps_the_earlier_one_from_publishing(kafka: str, opened: Open) -> None:
    old = opened("fenced", "b", overtaken)
    old.publish("fenced", ["k"], [b"settled"], ["m"])
    assert old.settled(30)
    old.publish("fenced", ["k"], [b"under way"], ["m"])
    new = opened("fenced", "b")
    new.publish("fenced", ["k"], [b"new"], ["m"])
    assert new.settled(30)
    with pytest.raises(OperationError, match="taken over"):
        settle(old)
    assert seen(kafka, "fenced") == [b"settled", b"new"]


def test_an_id_is_taken_without_publishing_anything(kafka: str, opened: Open) -> None:
    old = opened("taken", "c")
    fence({"bootstrap.servers": kafka}, "c", 1)
    with pytest.raises(OperationError, match="if this home is a copy of another, remove its stream/id"):
        publish_and_settle(old, "taken")
    assert seen(kafka, "taken") == []


def test_a_transaction_that_brokers_have_given_up_is_begun_anew(
    kafka: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an outage, or a long pause of the process: nobody else has taken the id."""
    monkeypatch.setattr(transactions, "_TRANSACTION_TIMEOUT_MS", 1000)
    sink = opened("given-up", "f")
    sink.publish("given-up", ["k"], [b"x"], ["m"])
    while sink._sink is not None and sink._sink.undelivered:
        sink.poll()
    time.sleep(GIVEN_UP_AFTER_S)
    settle(sink)
    assert seen(kafka, "given-up") == [b"x"]


def test_a_message_that_no_broker_takes_is_an_error_that_names_it(opened: Open) -> None:
    sink = opened("small", "d")
    with pytest.raises(OperationError, match=r"topic small, key k: .*[Mm]essage"):
        sink.publish("small", ["k"], [bytes(5_000_000)], ["m"])


def test_what_could_not_be_opened_is_gone_at_once() -> None:
    """A client that lives on takes the id from its successor once brokers are back."""
    gc.disable()
    try:
        sink = TopicSink({"bootstrap.servers": "127.0.0.1:1", "transactional.id": "nobody"}, print)
        with pytest.raises(KafkaException):
            sink.open(0.2)
        sink.close()
        left = weakref.ref(sink)
        del sink
        assert left() is None
    finally:
        gc.enable()


def test_brokers_that_were_killed_get_everything_once(kafka_jars: Path, tmp_path: Path, opened: Open) -> None:
    home = tmp_path / "kafka"
    address = broker.start(home)
    try:
        sink = opened("outage", "e", address=address)
        sink.publish("outage", ["k"], [b"1"], ["m"])
        assert sink.settled(30)
        sink.publish("outage", ["k"], [b"2"], ["m"])
        running = broker.status(home)
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        os.waitpid(running.pid, 0)
        sink.publish("outage", ["k"], [b"3"], ["m"])
        assert not sink.settled(1.0)
        broker.start(home)
        settle(sink)
        assert seen(address, "outage") == [b"1", b"2", b"3"]
    finally:
        broker.stop(home)
