"""Offsets that the log no longer holds: the stream stops and names them, and goes on only when told to."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.faults.topics import make_topic

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

START = datetime(2026, 3, 1, tzinfo=UTC)


def settings(address: str, prefix: str) -> str:
    names = ("readings", "windows", "violations", "compliance", "rejected")
    topics = "".join(f'{name} = "{prefix}.{name}"\n' for name in names)
    return f'bootstrap_servers = "{address}"\n[topics]\npartitions = 1\n{topics}[stream]\ncommit_interval_s = 0.5\n'


def send(address: str, topic: str, first: int, last: int) -> None:
    producer = Producer({"bootstrap.servers": address})
    for minute in range(first, last):
        value = {"meter_id": "M0", "ts": (START + timedelta(minutes=minute)).isoformat(), "p_kw": 100.0}
        producer.produce(topic, json.dumps(value), "M0")
    assert producer.flush(30) == 0


def delete_before(address: str, topic: str, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    for done in admin.delete_records([TopicPartition(topic, 0, offset)]).values():
        done.result()


def make_anew(address: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    admin.delete_topics([topic], operation_timeout=10)[topic].result()


def test_a_gap_stops_the_stream_and_is_accepted_knowingly(kafka: str, stream_home: Callable[..., Any]) -> None:
    home = stream_home(settings(kafka, "gap"))
    home.start()
    home.wait_until_started()
    send(kafka, "gap.readings", 0, 30)
    home.wait_for(lambda: home.rows("readings") == 30)
    assert home.terminate()[0] == 0
    send(kafka, "gap.readings", 30, 60)
    delete_before(kafka, "gap.readings", 40)

    assert home.run() == 1
    last = home.said.splitlines()[-1]
    assert "topic gap.readings partition 0: offsets 30 to 39 are gone" in last
    assert "--accept-gap" in last
    assert (home.rows("readings"), home.rows("gaps")) == (30, 0)

    before = datetime.now(UTC) - timedelta(seconds=5)
    home.start("--accept-gap")
    home.wait_until_started()
    home.wait_for(lambda: home.rows("readings") == 50)
    assert home.terminate()[0] == 0
    assert home.sql("gaps", "select source, source_partition, missing_from, missing_to from lake") == [
        ("gap.readings", 0, 30, 39)
    ]
    [(accepted,)] = home.sql("gaps", "select epoch(accepted_at) from lake")
    assert before.timestamp() <= accepted <= datetime.now(UTC).timestamp()
    offsets = [offset for (offset,) in home.sql("readings", "select source_offset from lake order by 1")]
    assert offsets == [*range(30), *range(40, 60)]

    home.start()  # what was accepted is no gap any more
    home.wait_until_started()
    send(kafka, "gap.readings", 60, 70)
    home.wait_for(lambda: home.rows("readings") == 60)
    assert home.terminate()[0] == 0
    assert home.rows("gaps") == 1


def test_a_log_that_ends_before_the_position_goes_on_at_its_end(kafka: str, stream_home: Callable[..., Any]) -> None:
    home = stream_home(settings(kafka, "anew"))
    home.start()
    home.wait_until_started()
    send(kafka, "anew.readings", 0, 30)
    home.wait_for(lambda: home.rows("readings") == 30)
    assert home.terminate()[0] == 0
    make_anew(kafka, "anew.readings")

    assert home.run() == 1
    assert "topic anew.readings partition 0: offsets 0 to 29 are gone" in home.said.splitlines()[-1]
    home.start("--accept-gap")
    home.wait_until_started()
    home.wait_for(lambda: home.rows("gaps") == 1)
    assert home.terminate()[0] == 0
    assert home.sql("gaps", "select missing_from, missing_to from lake") == [(0, 29)]
    home.start()
    home.wait_until_started()
    send(kafka, "anew.readings", 30, 40)
    home.wait_for(lambda: home.rows("readings") == 40)
    assert home.terminate()[0] == 0


def test_a_topic_made_anew_that_has_grown_past_the_position_is_not_read_on(
    kafka: str, stream_home: Callable[..., Any]
) -> None:
    home = stream_home(settings(kafka, "grown"))
    home.start()
    home.wait_until_started()
    send(kafka, "grown.readings", 0, 30)
    home.wait_for(lambda: home.rows("readings") == 30)
    assert home.terminate()[0] == 0
    make_anew(kafka, "grown.readings")
    make_topic(kafka, "grown.readings", 1)
    send(kafka, "grown.readings", 100, 150)

    assert home.run() == 1
    last = home.said.splitlines()[-1]
    assert "topic grown.readings partition 0: offsets 0 to 29 are gone" in last
    assert "made anew" in last
    assert (home.rows("readings"), home.rows("gaps")) == (30, 0)
    home.start("--accept-gap")
    home.wait_until_started()
    home.wait_for(lambda: home.rows("readings") == 80)
    assert home.terminate()[0] == 0
    assert home.sql("gaps", "select source_partition, missing_from, missing_to from lake") == [(0, 0, 29)]
    [(minutes,)] = home.sql("readings", "select count(distinct ts) from lake")
    assert minutes == 80

    home.start()  # the new one is the topic now
    home.wait_until_started()
    send(kafka, "grown.readings", 150, 160)
    home.wait_for(lambda: home.rows("readings") == 90)
    assert home.terminate()[0] == 0
    assert home.rows("gaps") == 1
