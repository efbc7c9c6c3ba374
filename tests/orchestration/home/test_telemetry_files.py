"""Readings reach a file or the topic, whole and in order."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import Consumer, TopicPartition

from orchestration.home.settings import Settings
from orchestration.home.telemetry_files import FileWriter, TopicWriter, slices

START = datetime(2026, 1, 1, tzinfo=UTC)


def readings(count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "meter_id": [f"M{i % 7}" for i in range(count)],
            "ts": pl.Series([START + timedelta(seconds=i) for i in range(count)]).cast(pl.Datetime("us", "UTC")),
            "p_kw": [i * 0.5 for i in range(count)],
            "ub_v": pl.Series([None] * count, dtype=pl.Float64),
        }
    )


def test_a_file_appears_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "telemetry" / "x.ndjson"
    with FileWriter(path) as writer:
        writer.write(readings(3))
        assert not path.exists()
        writer.write(readings(2).with_columns(pl.col("ts") + pl.duration(milliseconds=250)))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[1] == {"meter_id": "M1", "ts": "2026-01-01T00:00:01Z", "p_kw": 0.5, "ub_v": None}
    assert lines[3]["ts"] == "2026-01-01T00:00:00.250Z"
    assert len(lines) == 5
    assert [file.name for file in path.parent.iterdir()] == ["x.ndjson"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    path.write_text("before")

    def fail() -> None:
        with FileWriter(path) as writer:
            writer.write(readings(3))
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["x.ndjson"]


def test_slices_keep_order_and_lose_nothing() -> None:
    whole = readings(120_001)
    pieces = list(slices(whole))
    assert len(pieces) == 3
    assert pl.concat(pieces).equals(whole)


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_readings_reach_the_topic_keyed_by_meter(kafka: str, tmp_path: Path, default_settings: Settings) -> None:
    topics = default_settings.topics.model_copy(update={"readings": "telemetry-files.readings"})
    settings = default_settings.model_copy(update={"bootstrap_servers": kafka, "topics": topics})
    sent = readings(1000)
    with TopicWriter(tmp_path, settings) as writer:
        for piece in sent.iter_slices(300):
            writer.write(piece)
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "test", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topics.readings, number, 0) for number in range(topics.partitions)])
    messages = []
    while len(messages) < sent.height:
        got = consumer.consume(sent.height, 30.0)
        assert got, f"{len(messages)} of {sent.height} messages came"
        messages += got
    consumer.close()
    values = [json.loads(message.value()) for message in messages]
    assert [message.key().decode() for message in messages] == [value["meter_id"] for value in values]
    homes = {(value["meter_id"], message.partition()) for value, message in zip(values, messages, strict=True)}
    assert len(homes) == 7  # each meter in one partition
    for meter in sent["meter_id"].unique():
        own = [value["p_kw"] for value in values if value["meter_id"] == meter]
        assert own == sent.filter(pl.col("meter_id") == meter)["p_kw"].to_list()
