"""A topic that gets more partitions under load: meters go on in another one, and their final values stay exact."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import polars as pl
import psutil
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.faults.harness import Home
from tests.faults.oracle import expected
from tests.faults.telemetry import CAPACITY_KVA, PF_STANDARD, START, Fleet, Sent, meter_id
from tests.faults.topics import Feed, make_topic, read_log
from tests.faults.verdict import final, judge

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

LAST = (meter_id(61), meter_id(62), meter_id(63))
"""Meters that send nothing but what closes all windows of a partition in the end."""


def grow(address: str, topic: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(30)


def feed(address: str, topic: str, messages: Sequence[Sent]) -> Feed:
    return Feed(address, topic, messages, per_second=3_000)


def close_all_windows(address: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": address})
    for partition, meter in enumerate(LAST):
        end = START + timedelta(days=5)
        value = f'{{"meter_id":"{meter}","ts":{round(end.timestamp() * 1000)},"p_kw":1.0}}'
        producer.produce(topic, value, meter, partition, timestamp=int(end.timestamp() * 1000))
    assert producer.flush(30) == 0


def grown(home: Home) -> bool:
    """Whether the new partition is being read, to which meters move from now on."""
    return "new partitions" in home.log.read_text("utf-8")


def stay(log: pl.DataFrame) -> pl.Series:
    """Meters whose readings are all in one partition."""
    named = log.select("partition", meter_id=pl.col("line").str.extract(r'"meter_id": ?"(\d{12})"'))
    counted = named.group_by("meter_id").agg(pl.col("partition").n_unique())
    return counted.filter(pl.col("partition") == 1)["meter_id"].drop_nulls()


def test_meters_that_move_to_a_new_partition_keep_exact_final_values(
    kafka: str, prefix: str, make_home: Callable[..., Home]
) -> None:
    fleet = Fleet(seed=31, meters=64, readings=8_000)
    topic = f"{prefix}.readings"
    messages = [sent for sent in fleet.messages() if sent.key not in LAST]
    half = len(messages) // 2
    make_topic(kafka, topic, 2)
    home = make_home(fleet, commit_interval_s=0.5)
    home.start()
    with feed(kafka, topic, messages[:half]) as before:
        before.allow(1)
        home.wait_for(lambda: len(home.commits()) == 2)
        before.finish()
    grow(kafka, topic, 3)
    with feed(kafka, topic, messages[half:]) as after:
        after.allow(0.5)
        home.wait_for(lambda: grown(home), every=0.01)
        time.sleep(0.3)
        home.kill()  # while they move, about when the new partition is committed first
        home.start()
        home.wait_for(lambda: len(home.commits()) == 3)
        after.allow(0.8)
        home.kill()
        home.start()
        after.finish()
    close_all_windows(kafka, topic)
    log = read_log(kafka, topic)
    home.wait_for(lambda: home.rows("readings") + home.rows("rejects") == log.height, every=0.5)
    home.terminate()

    account = expected(log, fleet.meter_versions(), CAPACITY_KVA, PF_STANDARD)
    # How often the windows of a meter that moved were revised depends on two watermarks; what they are does not.
    values = replace(account, windows=account.windows.drop("revision"), compliance=account.compliance.drop("revision"))
    verdict = judge(home, kafka, f"{prefix}.home", values)
    assert verdict.kept, (verdict.differing, verdict.examples)
    stayed = stay(log)
    assert 0 < len(stayed) < 60
    wanted = account.windows.filter(pl.col("meter_id").is_in(stayed.implode())).select("meter_id", "w", "revision")
    found = final(home, "windows").select("meter_id", pl.col("window_end").dt.epoch("us").alias("w"), "revision")
    assert wanted.join(found, on=wanted.columns, how="anti").is_empty()
    assert wanted["revision"].max() > 0


def test_a_stream_of_several_processes_goes_on_in_one_when_meters_move(
    kafka: str, prefix: str, make_home: Callable[..., Home]
) -> None:
    fleet = Fleet(seed=32, meters=64, readings=8_000)
    topic = f"{prefix}.readings"
    messages = [sent for sent in fleet.messages() if sent.key not in LAST]
    half = len(messages) // 2
    make_topic(kafka, topic, 2)
    home = make_home(fleet, commit_interval_s=0.5)
    parent = home.start("--workers", "2")
    with feed(kafka, topic, messages[:half]) as before:
        before.allow(1)
        home.wait_for(lambda: len(home.commits()) == 2)
        before.finish()
    grow(kafka, topic, 3)
    with feed(kafka, topic, messages[half:]) as after:
        after.allow(0.6)
        home.wait_for(lambda: len(home.commits()) == 3)
        assert "going on in one process" in home.log.read_text("utf-8")
        assert len(psutil.Process(parent.pid).children()) == 1
        home.terminate()
        home.start("--workers", "2")  # all have moved, or it goes on in one again
        after.finish()
    close_all_windows(kafka, topic)
    log = read_log(kafka, topic)
    home.wait_for(lambda: home.rows("readings") + home.rows("rejects") == log.height, every=0.5)
    home.terminate()
    assert "Traceback" not in home.log.read_text("utf-8")

    account = expected(log, fleet.meter_versions(), CAPACITY_KVA, PF_STANDARD)
    values = replace(account, windows=account.windows.drop("revision"), compliance=account.compliance.drop("revision"))
    verdict = judge(home, kafka, f"{prefix}.home", values)
    assert verdict.kept, (verdict.differing, verdict.examples)
