"""A plan through a real Kafka: announced, tightened while the stream is dead, withdrawn while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest
from confluent_kafka import Producer

from metering.tables.control import LOAD_CONTROL
from metering.tables.records import KINDS
from sinks.lake.reader import LakeReader, current
from tests.faults.topics import read_topic

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

CUSTOMER = "C1,城东钢厂,large,steel,10,2000,,0.90,large_industry,false,10 kV 东一线,,true\n"
METERS = "330400000001,C1,3p4w,57.7,100,40,5,6,8,300,1,2020-01-01,\n"
MIDNIGHT = datetime(2026, 3, 17, 16, tzinfo=UTC)  # at which a Wednesday begins in Shanghai
RESULTS = ("windows", "violations", "compliance", "load_control", "rejected")
SCHEMA = Path(__file__).parents[2] / "sinks" / "schemas" / "load.control.v1.schema.json"
SECONDS = 20.0


def _at(hour: float) -> str:
    return (MIDNIGHT + timedelta(hours=hour)).isoformat()


def _plan(revision: int, issued: float, **changed: Any) -> dict[str, Any]:
    return {
        "plan_id": "YX-1", "revision": revision, "level": "orange", "from": _at(10), "to": _at(12),
        "issued_at": _at(issued), "customers": ["C1"], "cap_kw": {"C1": 1100}, **changed,
    }  # fmt: skip


def _toml(kafka: str, run: str) -> str:
    names = {name: f"plan.{name}" for name in ("readings", *KINDS)} | {name: f"plan.{run}.{name}" for name in RESULTS}
    topics = "".join(f'{name} = "{topic}"\n' for name, topic in names.items())
    return f'bootstrap_servers = "{kafka}"\n[topics]\npartitions = 1\n{topics}[stream]\ncommit_interval_s = 0.3\n'


def _told(kafka: str) -> list[dict[str, Any]]:
    return [json.loads(message.value() or b"") for message in read_topic(kafka, "plan.a.load_control")]


def _wait_for(kafka: str, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + SECONDS
    while True:
        found = [row for row in _told(kafka) if what(row)]
        if found:
            return found[-1]
        assert time.monotonic() < deadline, _told(kafka)[-3:]


def _readings(first: float, last: float, p_kw: float) -> Iterator[str]:
    for n in range(round(first * 12) + 1, round(last * 12) + 1):
        yield json.dumps({"meter_id": "330400000001", "ts": _at(n / 12), "p_kw": p_kw})


def test_a_plan_is_announced_tightened_and_withdrawn(make_home: Callable[..., Any], kafka: str) -> None:
    home = make_home(CUSTOMER, METERS, _toml(kafka, "a"))
    producer = Producer({"bootstrap.servers": kafka})

    def send(first: float, last: float, p_kw: float) -> None:
        producer.produce("plan.readings", "\n".join(_readings(first, last, p_kw)), "330400000001")
        assert producer.flush(30) == 0

    def plan(revision: int, issued: float, **changed: Any) -> None:
        producer.produce("plan.load_control_plans", json.dumps(_plan(revision, issued, **changed)), "YX-1")
        assert producer.flush(30) == 0

    with home.running("stream", "--kafka") as process:
        home.wait_for(lambda: "metrics" in (home.path / "process.log").read_text("utf-8"))
        send(-48, 10, 1500)
        plan(1, -4)
        home.wait_for(lambda: home.rows("load_control_plans") == 1)
        send(10, 10 + 2 / 6, 1200)
        first = _wait_for(kafka, lambda row: row["as_of"] == "2026-03-18T02:20:00Z")
        process.kill()
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8"))).validate(first)
    assert (first["state"], first["cap_kw"], first["instructed_kw"], first["baseline_kw"]) == ("live", 1100, 400, 1500)
    assert (first["actual_kw"], first["headroom_kw"], first["compliant"]) == (1200, -100, False)

    plan(2, 10 + 1 / 3, cap_kw=None, reduction_kw=500)
    with home.running("stream", "--kafka") as process:
        send(10 + 2 / 6, 10 + 4 / 6, 1000)
        tightened = _wait_for(kafka, lambda row: row["as_of"] == "2026-03-18T02:40:00Z")
        assert (tightened["plan_revision"], tightened["cap_kw"], tightened["compliant"]) == (2, 1000, True)
        plan(3, 10 + 4 / 6, state="withdrawn")
        sent = time.monotonic()
        withdrawn = _wait_for(kafka, lambda row: row["state"] == "withdrawn")
        assert time.monotonic() - sent < 5, "it follows within seconds, though no reading comes"
        assert withdrawn["window_end"] == "2026-03-18T02:45:00Z"
        send(10 + 4 / 6, 12.5, 1500)
        home.wait_for(lambda: home.rows("readings") == 12 * 48 + 12 * 12 + 6)
        home.stop(process)

    again = make_home(CUSTOMER, METERS, _toml(kafka, "b"))
    with again.running("stream", "--kafka") as process:
        again.wait_for(lambda: again.rows("readings") == home.rows("readings"))
        again.stop(process)
    in_the_end = [_lake(at.path) for at in (home, again)]
    assert in_the_end[0].equals(in_the_end[1]), "it depends on plans and log alone"
    columns = ("plan_revision", "actual_kw", "cap_kw", "achieved_kw", "compliant", "revision")
    assert in_the_end[0].select(columns).rows() == [
        (1, 1200, 1100, 300, False, 0),
        (2, 1066.666667, 1000, 433.333333, False, 1),
    ]
    last = {(row["plan_id"], row["customer_no"], row["window_end"]): row for row in _told(kafka)}
    assert [row["state"] for row in last.values()] == ["final", "final", "withdrawn"]
    alarms = current(LakeReader(home.path).scan("violations"), ("violation_id",)).collect()
    assert alarms.filter(pl.col("rule") == "load_control_violation")["state"].to_list() == ["cleared"]


def _lake(home: Path) -> pl.DataFrame:
    rows = LakeReader(home).scan("load_control").collect()
    assert rows.select(*LOAD_CONTROL.key, "revision").is_unique().all()
    return current(rows.lazy(), LOAD_CONTROL.key).collect()
