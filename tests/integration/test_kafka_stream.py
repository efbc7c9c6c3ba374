"""The stream as a process on a real Apache Kafka: telemetry in by a plain producer, results out by a plain consumer."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import polars as pl
import pytest
from confluent_kafka import Producer

from sinks.kafka.topics import ensure_topics
from tests.faults.topics import read_topic

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

SCHEMAS = Path(__file__).parents[2] / "sinks" / "schemas"
CUSTOMER = "C1,机械厂 001,large,machinery,10,630,,0.90,large_industry,false,,,true\n"
METERS = "".join(f"M{i},C1,3p4w,57.7,100,20,5,6,8,60,1,2020-01-01,\n" for i in range(6))
TOPICS = ("readings", "windows", "violations", "compliance", "rejected")
START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTES = 60
LARGE = 300_000
"""Bytes of a reject that is larger than the topic of the rejects takes."""


def _reading(meter: int, minute: int) -> dict[str, Any]:
    over = meter == 1 and 20 <= minute < 25
    load = 900.0 if meter == 2 and minute >= 30 else 300.0 + 10 * math.sin(minute / 7 + meter)
    return {
        "meter_id": f"M{meter}", "ts": (START + timedelta(minutes=minute)).isoformat(), "p_kw": load, "q_kvar": 60.0,
        "ua_v": 72.0 + minute / 100 if over else 57.9, "ub_v": 57.7, "uc_v": 57.5, "import_kwh": 1000 + minute * 5.0,
        "import_kvarh": 10.0 + minute, "export_kvarh": 0.0,
    }  # fmt: skip


def _produce(address: str, topic: str) -> int:
    """An hour of six meters: JSON, NDJSON and Arrow messages, and some that cannot be used. Gives the rejects."""
    producer = Producer({"bootstrap.servers": address})
    arrow = {"content-type": b"application/vnd.apache.arrow.stream"}
    for minute in range(1, MINUTES + 1):
        for meter in (0, 1):
            producer.produce(topic, json.dumps(_reading(meter, minute)), f"M{meter}")
        if minute % 5 == 0:
            lines = [json.dumps(_reading(meter, m)) for m in range(minute - 4, minute + 1) for meter in (2, 3)]
            producer.produce(topic, "\n".join(lines), "group-a")
            table = pl.DataFrame([_reading(meter, m) for m in range(minute - 4, minute + 1) for meter in (4, 5)])
            buffer = BytesIO()
            table.with_columns(pl.col("ts").str.to_datetime(time_zone="UTC")).write_ipc_stream(buffer)
            producer.produce(topic, buffer.getvalue(), "group-b", headers=arrow)
        producer.flush()
    bad = [
        b"x" * LARGE,
        b"not json",
        b'{"meter_id": 7}',
        b'{"meter_id": "M0"}',
        b'{"meter_id": "X", "ts": 1}',
        b"\xff\xfe",
        b"",
    ]
    for value in bad:
        producer.produce(topic, value, "bad")
    producer.produce(topic, b"not arrow", "bad", headers=arrow)
    assert producer.flush(30) == 0
    return len(bad) + 1


def _consume(address: str, topic: str) -> list[tuple[bytes | None, Any]]:
    """Everything in a topic, by a plain consumer."""
    return [(message.key(), json.loads(message.value() or b"")) for message in read_topic(address, topic)]


def test_telemetry_in_results_out(make_home: Callable[..., Any], kafka: str) -> None:
    names = {name: f"plain.{name}" for name in TOPICS}
    topics = "".join(f'{name} = "{topic}"\n' for name, topic in names.items())
    home = make_home(
        CUSTOMER,
        METERS,
        f'bootstrap_servers = "{kafka}"\n[topics]\npartitions = 3\n{topics}[stream]\ncommit_interval_s = 1\n',
    )
    ensure_topics({"bootstrap.servers": kafka}, {names["rejected"]: {"max.message.bytes": "100000"}}, 3, 1)
    readings = 6 * MINUTES
    with home.running("stream", "--kafka") as process:
        home.wait_for(lambda: "metrics" in (home.path / "process.log").read_text("utf-8"))
        rejects = _produce(kafka, names["readings"])
        home.wait_for(lambda: home.rows("readings") == readings and home.rows("rejects") == rejects)
        home.stop(process)

    schemas = {
        "windows": "load.windows.v1", "violations": "limit.violations.v1", "compliance": "supply.compliance.v1",
        "rejected": "readings.rejected.v1",
    }  # fmt: skip
    published = {name: _consume(kafka, names[name]) for name in schemas}
    for name, schema in schemas.items():
        validator = jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{schema}.schema.json").read_text("utf-8")))
        for _, value in published[name]:
            validator.validate(value)

    assert len(published["rejected"]) == rejects
    (cut,) = (value for _, value in published["rejected"] if "truncated" in value)
    assert (cut["truncated"], set(base64.b64decode(cut["payload_base64"]))) == (["payload_base64"], set(b"x"))
    whole = duckdb.sql(
        f"SELECT max(octet_length(payload)) FROM read_parquet('{home.path}/lake/rejects/*/*.parquet')"
    ).fetchall()
    assert whole == [(LARGE,)]
    final = dict(published["violations"])
    over = [v for v in final.values() if v["rule"] == "over_voltage"]
    assert [(v["meter_id"], v["phase"], v["state"], v["started_at"], v["value"]) for v in over] == [
        ("M1", "a", "cleared", "2026-03-01T00:19:00Z", 72.24)
    ]
    capacity = [v for v in final.values() if v["rule"] == "over_capacity"]
    assert [(v["meter_id"], v["state"], v["started_at"]) for v in capacity] == [
        ("M2", "raised", "2026-03-01T00:29:00Z")
    ]

    windows = dict(published["windows"])
    lake = duckdb.sql(
        f"SELECT meter_id, window_end, n, p_mean_kw, energy_kwh, revision "
        f"FROM read_parquet('{home.path}/lake/windows/*/*.parquet')"
    ).fetchall()
    current = {
        f"{meter}/{end.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}".encode(): (n, p, kwh)
        for meter, end, n, p, kwh, _ in sorted(lake, key=lambda row: row[5])
    }
    assert {key: (v["n"], v["p_mean_kw"], v["energy_kwh"]) for key, v in windows.items()} == current
    assert len(current) == 6 * 3  # of four quarters the last is open: its watermark is five minutes behind


def test_a_second_stream_is_refused_and_a_restart_goes_on(make_home: Callable[..., Any], kafka: str) -> None:
    topics = "".join(f'{name} = "again.{name}"\n' for name in TOPICS)
    home = make_home(CUSTOMER, METERS, f'bootstrap_servers = "{kafka}"\n[topics]\npartitions = 2\n{topics}')
    with home.running("stream", "--kafka") as process:
        home.wait_for(lambda: "metrics" in (home.path / "process.log").read_text("utf-8"))
        said = home.run("stream", "--kafka", code=2)
        assert f"pid {process.pid}" in said
        rejects = _produce(kafka, "again.readings")
        home.stop(process)
    before = home.rows("readings") + home.rows("rejects")
    with home.running("stream", "--kafka") as process:
        home.wait_for(lambda: home.rows("readings") + home.rows("rejects") >= 6 * MINUTES + rejects)
        home.stop(process)
    assert before <= 6 * MINUTES + rejects == home.rows("readings") + home.rows("rejects")
    distinct = duckdb.sql(
        f"SELECT count(DISTINCT (source_partition, source_offset, source_row)) "
        f"FROM read_parquet('{home.path}/lake/readings/*/*.parquet')"
    ).fetchall()
    assert distinct[0][0] == home.rows("readings")
