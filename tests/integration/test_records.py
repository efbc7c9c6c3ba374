"""Records of a real Kafka: each once over kill -9, whatever processes read them; missing topics are made."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource

from metering.tables.records import KINDS

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

CUSTOMER = "C1,机械厂 001,large,machinery,10,630,,0.90,large_industry,false,,,true\n"
METERS = "".join(f"M{i},C1,3p4w,57.7,100,20,5,6,8,60,1,2020-01-01,\n" for i in range(4))
RESULTS = ("readings", "windows", "violations", "compliance", "rejected")
T0 = datetime(2026, 7, 14, 1, tzinfo=UTC)


def _at(minute: int) -> str:
    return (T0 + timedelta(minutes=minute)).isoformat()


def _send(producer: Producer, part: int) -> None:
    """Readings, feedback, plans and service events, some of them broken; and a tombstone, which is none."""
    for minute in range(60 * part, 60 * part + 60):
        for meter in range(4):
            reading = {"meter_id": f"M{meter}", "ts": _at(minute + 1), "p_kw": 300.0}
            producer.produce("rec.readings", json.dumps(reading), f"M{meter}")
        said = {"violation_id": f"v{minute}", "action": "confirmed", "at": _at(minute), "by": "抢修班"}
        producer.produce("rec.feedback", json.dumps(said), f"v{minute}/confirmed")
        if minute % 10 == 0:
            plan = {
                "plan_id": f"P{minute // 10}", "from": _at(minute), "to": _at(minute + 90), "issued_at": _at(minute),
                "customers": ["C1"], "cap_kw": {"C1": 250},
            }  # fmt: skip
            producer.produce("rec.load_control_plans", json.dumps(plan), plan["plan_id"])
            producer.produce("rec.service_events", b'{"event_id": 1}', "1")
            producer.produce("rec.feedback", None, f"v{minute}/closed")
    assert producer.flush(30) == 0


def test_each_record_counts_once_over_kills(make_home: Callable[..., Any], kafka: str) -> None:
    names = (*RESULTS, *KINDS)
    topics = "".join(f'{name} = "rec.{name}"\n' for name in names)
    home = make_home(
        CUSTOMER, METERS,
        f'bootstrap_servers = "{kafka}"\n[topics]\npartitions = 3\n{topics}[stream]\ncommit_interval_s = 0.3\n',
    )  # fmt: skip
    producer = Producer({"bootstrap.servers": kafka})

    def held() -> tuple[int, ...]:
        return tuple(home.rows(table) for table in ("readings", "feedback", "load_control_plans", "rejects"))

    with home.running("stream", "--kafka") as process:
        home.wait_for(lambda: "metrics" in (home.path / "process.log").read_text("utf-8"))
        _send(producer, 0)
        home.wait_for(lambda: held()[1] > 0)
        process.kill()
    _send(producer, 1)
    with home.running("stream", "--kafka", "--workers", "2") as process:
        home.wait_for(lambda: held() == (480, 120, 12, 12))
        home.stop(process)
    assert held() == (480, 120, 12, 12)

    lake = f"{home.path}/lake"
    places = "count(DISTINCT (source_partition, source_offset, source_row)), count(DISTINCT source_partition)"
    for table, rows in (("feedback", 120), ("load_control_plans", 12), ("readings", 480)):
        found = duckdb.sql(f"SELECT {places} FROM read_parquet('{lake}/{table}/*/*.parquet')").fetchall()
        assert found[0][0] == rows, table
        assert found[0][1] > 1, "of several partitions"
    rejected = duckdb.sql(
        f"SELECT DISTINCT reason, source FROM read_parquet('{lake}/rejects/*/*.parquet') ORDER BY ALL"
    ).fetchall()
    assert rejected == [("wrong_type", "rec.service_events")]
    admin = AdminClient({"bootstrap.servers": kafka})
    described = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, f"rec.{name}") for name in KINDS])
    assert {future.result()["cleanup.policy"].value for future in described.values()} == {"compact"}
