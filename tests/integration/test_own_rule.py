"""A rule over a current, added as rows of a home's settings, is found wherever rules are: no code knows of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from confluent_kafka import Producer
from jsonschema import Draft202012Validator

from metering.tables.messages import violation_messages
from sinks.lake.reader import LakeReader, current
from tests.faults.topics import read_topic

SETTINGS = """
[[rules]]
id = "own_over_current"
name_zh = "过流"
name_en = "over-current"
measure = "i"
side = "above"
base = "max_a"
start = 1.2
clear = 0.95
hold_s = 180
clear_hold_s = 120
severity = "critical"
event_class = "limit_warning"
text_zh = "{meter_id}{phase}{name}{state}：{value} {unit}（限值 {limit} {unit}）"
advice_zh = "检查负荷分配"
clause = "meter event catalogue: over-current"
fault = [1.05, 1.2]

[[rules]]
id = "own_over_current"
segment = "important"
start = 1.05
"""
FOUR_WIRE, THREE_WIRE, IMPORTANT = "330000104217", "330000104218", "330000104219"
T0 = datetime(2026, 3, 1, 16, tzinfo=UTC)  # local midnight
Row = dict[str, Any]


def _reading(meter: str, minute: int, currents: tuple[float, float, float]) -> Row:
    at = T0 + timedelta(minutes=minute)
    return {
        "meter_id": meter, "ts": int(at.timestamp() * 1000), "ua_v": 221.3, "ub_v": 219.8, "uc_v": 220.4,
        **dict(zip(("ia_a", "ib_a", "ic_a"), currents, strict=True)), "p_kw": 300.0, "q_kvar": 90.0,
    }  # fmt: skip


def _current(minute: int) -> float:
    """Above 7.2 A in minutes 31 to 40, between end and start until 45, then inside the end value, 5.7 A."""
    if 31 <= minute <= 40:
        return 9.4 if minute == 36 else 8.1
    return 6.0 if 41 <= minute <= 45 else 2.4


def _log(meters: tuple[str, ...], late: bool) -> list[Row]:
    """An hour and a half in order of arrival, jittered; with `late`, minute 33 comes half an hour late, and twice."""
    rows, random_ = [], random.Random(7)
    for minute in range(1, 91):
        for meter in meters:
            struck = _current(minute)
            by_phase = (2.1, struck, 2.3) if meter != THREE_WIRE else (2.1, 99.0, struck)  # it has no phase b
            reading = _reading(meter, minute, (6.6, 2.1, 2.3) if meter == IMPORTANT and 31 <= minute <= 40
                               else (2.0, 2.1, 2.3) if meter == IMPORTANT else by_phase)  # fmt: skip
            delay = 31.0 if late and minute == 33 else random_.random() * 0.3
            rows.append((minute + delay, reading))
            if minute == 33:
                rows.append((minute + delay + 0.1, reading))
    return [row for _, row in sorted(rows, key=lambda item: item[0])]


def _logs() -> list[list[Row]]:
    """The logs of two partitions."""
    return [_log((FOUR_WIRE,), True), _log((THREE_WIRE, IMPORTANT), False)]


def _home(make_home: Callable[..., Any], settings: str = "") -> Any:
    customer = "{},机械厂 001,{},machinery,10,1000,,0.90,large_industry,false,10kV-01,城东供电所,true\n"
    customers = customer.format("100001", "large") + customer.format("100002", "important")
    meter = "{},{},{},220,1,100,1.5,6,8,60,1,2020-01-01,\n"
    owners = ((FOUR_WIRE, "100001", "3p4w"), (THREE_WIRE, "100001", "3p3w"), (IMPORTANT, "100002", "3p4w"))
    return make_home(customers, "".join(meter.format(*owner) for owner in owners), settings + SETTINGS)


@pytest.fixture(scope="module")
def home(make_home: Callable[..., Any]) -> Any:
    made = _home(make_home)
    (made.path / "telemetry").mkdir()
    for shard, log in enumerate(_logs()):
        lines = "".join(json.dumps(row) + "\n" for row in log)
        (made.path / "telemetry" / f"2026-03-02-{shard}.ndjson").write_text(lines, "utf-8")
    made.run("stream")
    made.run("reference")
    made.run("materialize", "--from", "2026-03-02", "--to", "2026-03-02")
    return made


@pytest.fixture(scope="module")
def violations(home: Any) -> pl.DataFrame:
    told = current(LakeReader(home.path).scan("violations"), ("violation_id",)).collect()
    return told.filter(pl.col("rule") == "own_over_current")


def test_it_is_in_the_lake_with_late_readings_folded_in(violations: pl.DataFrame) -> None:
    """Minutes 31 and 32 alone are no violation: only a state that keeps currents joins them to those after them."""
    final = violations.filter(pl.col("state") != "withdrawn").sort("meter_id")
    minutes = [((pl.col(n) - T0).dt.total_minutes()).alias(n) for n in ("started_at", "ended_at")]
    assert final.select("meter_id", "rule", "phase", *minutes, "value", pl.col("limit_value").round(9)).rows() == [
        (FOUR_WIRE, "own_over_current", "b", 30, 45, 9.4, 7.2),
        (THREE_WIRE, "own_over_current", "c", 30, 45, 9.4, 7.2),
        (IMPORTANT, "own_over_current", "a", 30, 40, 6.6, 6.3),
    ]
    assert final.select("unit", "severity", "ruleset").rows() == [
        ("A", "critical", "home"), ("A", "critical", "home"), ("A", "critical", "segment=important"),
    ]  # fmt: skip
    assert final["message_zh"][0] == f"{FOUR_WIRE} B 相过流已解除：9.4 A（限值 7.2 A）"


def test_its_messages_are_what_the_homes_own_schema_says(home: Any, violations: pl.DataFrame) -> None:
    folder = home.path / "reference" / "schemas"
    schema = json.loads((folder / "limit.violations.v1.schema.json").read_text("utf-8"))
    assert schema["properties"]["rule"]["enum"].count("own_over_current") == 1
    validator = Draft202012Validator(schema)
    messages = [json.loads(value) for value in violation_messages(violations).values]
    assert len(messages) >= 3
    for message in messages:
        validator.validate(message)
    assert not validator.is_valid({**messages[0], "rule": "nobodys_rule"})


def test_it_is_in_the_homes_reference(home: Any) -> None:
    page = (home.path / "reference" / "rules.md").read_text("utf-8")
    line = next(line for line in page.splitlines() if line.startswith("| `own_over_current` | 过流 |"))
    assert "above 1.2 of `max_a` | 0.95 of `max_a`" in line
    assert "| `own_over_current` | segment important |  | start = 1.05 | segment=important |" in page


def test_it_is_in_the_warehouse(home: Any) -> None:
    sql = "SELECT meter_id, rule, phase, severity FROM violations WHERE state = 'cleared' ORDER BY ALL"
    rows = [row for row in json.loads(home.run("query", "--format", "json", sql)) if row["rule"] == "own_over_current"]
    assert rows == [
        {"meter_id": meter, "rule": "own_over_current", "phase": phase, "severity": "critical"}
        for meter, phase in ((FOUR_WIRE, "b"), (THREE_WIRE, "c"), (IMPORTANT, "a"))
    ]


def test_it_has_a_simulated_fault(make_home: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    simulated = make_home("", "", path=tmp_path)
    (tmp_path / "kilowatch.toml").write_text(SETTINGS, "utf-8")
    simulated.run("simulate", "--customers", 40, "--start", "2026-03-06", "--days", 1, "--interval", "1m", "--seed", 3)
    simulated.run("stream", "--source", tmp_path / "telemetry")
    labels = pl.read_parquet(tmp_path / "labels.parquet")
    found = current(LakeReader(tmp_path).scan("violations"), ("violation_id",)).collect()
    found = found.filter((pl.col("rule") == "own_over_current") & (pl.col("state") != "withdrawn"))
    names = ("meter_id", "phase", "started_at", "ended_at")
    struck = set(labels.filter(pl.col("kind") == "own_over_current").select(names).rows())
    assert struck
    assert struck <= set(found.select(names).rows()) <= set(labels.select(names).rows())


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_it_is_on_its_topic(make_home: Callable[..., Any], kafka: str) -> None:
    names = {name: f"own.{name}" for name in ("readings", "windows", "violations", "compliance", "rejected")}
    topics = "".join(f'{name} = "{topic}"\n' for name, topic in names.items())
    home = _home(make_home, f'bootstrap_servers = "{kafka}"\n[topics]\npartitions = 2\n{topics}')
    logs = _logs()
    with home.running("stream", "--kafka") as process:
        home.wait_for(lambda: "metrics" in (home.path / "process.log").read_text("utf-8"))
        producer = Producer({"bootstrap.servers": kafka})
        for partition, log in enumerate(logs):
            for row in log:
                producer.produce(names["readings"], json.dumps(row), row["meter_id"], partition=partition)
        assert producer.flush(30) == 0
        home.wait_for(lambda: home.rows("readings") == sum(map(len, logs)))
        home.stop(process)
    final = {m.key(): json.loads(m.value() or b"") for m in read_topic(kafka, names["violations"])}
    told = [v for v in final.values() if v["rule"] == "own_over_current" and v["state"] != "withdrawn"]
    fields = ("meter_id", "phase", "state", "started_at", "ended_at", "value", "ruleset")
    started, ended = "2026-03-01T16:30:00Z", "2026-03-01T16:45:00Z"
    assert sorted(tuple(v[field] for field in fields) for v in told) == [
        (FOUR_WIRE, "b", "cleared", started, ended, 9.4, "home"),
        (THREE_WIRE, "c", "cleared", started, ended, 9.4, "home"),
        (IMPORTANT, "a", "cleared", started, "2026-03-01T16:40:00Z", 6.6, "segment=important"),
    ]


def test_another_limit_is_tried_without_changing_anything(home: Any, tmp_path: Path) -> None:
    tried = tmp_path / "tried.toml"
    tried.write_text('[[rules]]\nid = "own_over_current"\nsegment = "large"\nstart = 1.4\n', "utf-8")
    lake = {path: path.read_bytes() for path in (home.path / "lake").rglob("*.parquet")}
    days = ("--from", "2026-03-02", "--to", "2026-03-02", "--out", tmp_path)
    said = home.run("whatif", "--rules", tried, *days)
    assert "own_over_current" in said
    found = pl.read_parquet(tmp_path / "whatif.parquet").sort("meter_id")
    assert found.select("meter_id", "phase", "outcome").rows() == [
        (FOUR_WIRE, "b", "vanished"), (THREE_WIRE, "c", "vanished"), (IMPORTANT, "a", "same")
    ]  # fmt: skip
    assert (tmp_path / "whatif.png").stat().st_size > 5000
    assert {path: path.read_bytes() for path in (home.path / "lake").rglob("*.parquet")} == lake
    assert "nothing to compare" in home.run("whatif", "--rules", _same(tmp_path), *days, code=2)


def _same(folder: Path) -> Path:
    path = folder / "same.toml"
    path.write_text('[[rules]]\nid = "over_voltage"\nstart = 1.2\nversion = "default-2020"\n', "utf-8")
    return path
