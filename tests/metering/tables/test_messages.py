"""Messages carry every column, in bytes that depend on the row alone, and fit their published schemas."""

from __future__ import annotations

import base64
import json
import math
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError

from metering.tables import messages
from metering.tables.lake import COMPLIANCE, REJECTS, VIOLATIONS, WINDOWS
from metering.tables.messages import (
    compliance_messages,
    json_schemas,
    reject_messages,
    violation_messages,
    window_messages,
)
from metering.tables.records import KINDS
from metering.tables.schema import Table

END = datetime(2026, 1, 1, 0, 15, tzinfo=UTC)


def rows(table: Table, *given_rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([{**dict.fromkeys(table.names), **row} for row in given_rows], schema=table.schema)


def window(**changes: Any) -> dict[str, Any]:
    base = {"meter_id": "M1", "customer_no": "C1", "window_end": END, "n": 15, "n_expected": 15, "p_mean_kw": 12.5}
    return {**base, "revision": 0, "date": date(2026, 1, 1), **changes}


def violation(**changes: Any) -> dict[str, Any]:
    return {
        "violation_id": "abc",
        "state": "raised",
        "revision": 0,
        "rule": "over_voltage",
        "phase": "a",
        "started_at": datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC),
        "value": 270.5,
        "limit_value": 264.0,
        "unit": "V",
        "severity": "critical",
        "meter_id": "M1",
        "customer_no": "C1",
        "message_zh": "A相过压",
        "message_en": 'phase "a" over-voltage',
        "ruleset": "r",
        "at": END,
        "date": date(2026, 1, 1),
        **changes,
    }


def reject(**changes: Any) -> dict[str, Any]:
    return {
        "reason": "unparsable",
        "detail": "not JSON",
        "payload": b"\xff\x00{",
        "content_type": "application/json",
        "source": "meter.readings.v1",
        "source_partition": 3,
        "source_offset": 17,
        "source_row": 0,
        "date": date(2026, 1, 1),
        **changes,
    }


def compliance(**changes: Any) -> dict[str, Any]:
    base = {"meter_id": "M1", "customer_no": "C1", "date": date(2026, 1, 1), "as_of": END, "revision": 4}
    return {**base, "day_monitored_min": 45.0, "day_qualification_rate": 100.0, **changes}


def validate(name: str, value: bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(value)
    schema = json_schemas()[name]
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(loaded)
    assert {*loaded, "truncated"} == set(schema["properties"]), "a message has a field that its schema does not declare"
    return loaded


def test_a_window_message() -> None:
    out = window_messages(rows(WINDOWS, window(), window(meter_id="表/2", revision=3)))
    assert out.keys == ["M1/2026-01-01T00:15:00Z", "表/2/2026-01-01T00:15:00Z"]
    assert out.partition_keys == ["M1", "表/2"]
    first = validate("load.windows.v1.schema.json", out.values[0])
    assert first["schema"] == {"name": "load.windows", "version": 1}
    assert first["window_end"] == "2026-01-01T00:15:00Z"
    assert first["p_mean_kw"] == 12.5
    assert first["pf"] is None
    assert first["date"] == "2026-01-01"
    assert validate("load.windows.v1.schema.json", out.values[1])["revision"] == 3


def test_a_violation_message() -> None:
    out = violation_messages(rows(VIOLATIONS, violation()))
    assert out.keys == ["abc"]
    assert out.partition_keys == ["M1"]
    value = validate("limit.violations.v1.schema.json", out.values[0])
    assert value["started_at"] == "2026-01-01T00:00:00.500Z"
    assert value["ended_at"] is None
    assert value["message_zh"] == "A相过压"
    assert "A相过压".encode() in out.values[0]


def test_a_compliance_message() -> None:
    out = compliance_messages(rows(COMPLIANCE, compliance()))
    assert out.keys == ["M1/2026-01-01"]
    assert out.partition_keys == ["M1"]
    assert validate("supply.compliance.v1.schema.json", out.values[0])["day_qualification_rate"] == 100.0


def test_a_reject_keeps_key_and_bytes() -> None:
    frame = rows(
        REJECTS,
        reject(),
        reject(message_key=b"\xfeG1"),
        reject(message_key=b"G1", meter_id="M9", reason="unknown_meter", ts=END, logged_at=END),
    )
    out = reject_messages(frame)
    assert out.keys == [None, b"\xfeG1", b"G1"]
    assert out.partition_keys == [None, b"\xfeG1", "M9"]
    values = [validate("readings.rejected.v1.schema.json", value) for value in out.values]
    assert base64.b64decode(values[0]["payload_base64"]) == b"\xff\x00{"
    assert values[0]["message_key_base64"] is None
    assert base64.b64decode(values[1]["message_key_base64"]) == b"\xfeG1"
    assert (values[2]["source"], values[2]["source_partition"], values[2]["source_offset"]) == (
        "meter.readings.v1",
        3,
        17,
    )
    assert values[2]["ts"] == "2026-01-01T00:15:00Z"


@pytest.mark.parametrize(
    ("publish", "table"),
    [
        (window_messages, WINDOWS),
        (violation_messages, VIOLATIONS),
        (compliance_messages, COMPLIANCE),
        (reject_messages, REJECTS),
    ],
)
def test_no_rows_no_messages(publish: Any, table: Table) -> None:
    assert publish(table.empty()) == ([], [], [])


def test_what_json_cannot_say_is_null() -> None:
    frame = rows(WINDOWS, window(p_mean_kw=math.nan, p_max_kw=math.inf, p_min_kw=-math.inf))
    value = validate("load.windows.v1.schema.json", window_messages(frame).values[0])
    assert [value["p_mean_kw"], value["p_max_kw"], value["p_min_kw"]] == [None, None, None]


@given(
    st.text(min_size=1, max_size=64),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(max_size=40),
    st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1)),
)
def test_values_come_back_as_they_were(meter: str, number: float, payload: bytes, at: datetime) -> None:
    window_value = json.loads(window_messages(rows(WINDOWS, window(meter_id=meter, p_mean_kw=number))).values[0])
    assert (window_value["meter_id"], window_value["p_mean_kw"]) == (meter, number)
    out = reject_messages(rows(REJECTS, reject(meter_id=meter, payload=payload, ts=at.replace(tzinfo=UTC))))
    rejected = validate("readings.rejected.v1.schema.json", out.values[0])
    assert base64.b64decode(rejected["payload_base64"]) == payload
    assert datetime.fromisoformat(rejected["ts"]) == at.replace(tzinfo=UTC)


@given(st.integers(min_value=1, max_value=7))
def test_bytes_do_not_depend_on_the_batch(cut: int) -> None:
    frame = rows(WINDOWS, *(window(meter_id=f"M{i}", p_mean_kw=i / 7, pf=None if i % 2 else 0.9) for i in range(8)))
    whole = window_messages(frame)
    parts = [window_messages(frame[:cut]), window_messages(frame[cut:])]
    assert whole.values == parts[0].values + parts[1].values
    assert whole.keys == [*parts[0].keys, *parts[1].keys]


@pytest.mark.parametrize("name", sorted(json_schemas()))
def test_schemas_are_schemas(name: str) -> None:
    schema = json_schemas()[name]
    Draft202012Validator.check_schema(schema)
    assert schema["title"] + ".schema.json" == name
    assert all(said["description"] for said in schema["properties"].values())


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"ts": 1767225600000}, True),
        ({"ts": "2026-01-01T08:00:00+08:00", "p_kw": None, "unknown": [1]}, True),
        ({"ts": "2026-01-01T08:00:00"}, False),
        ({"meter_id": ""}, False),
        ({"meter_id": 7}, False),
        ({"p_kw": "7"}, False),
    ],
)
def test_the_reading_schema_is_as_strict_as_the_decoder(change: dict[str, Any], fits: bool) -> None:
    reading = {"meter_id": "M1", "ts": "2026-01-01T00:00:00Z", "p_kw": 1.5, "status": 3, **change}
    validator = Draft202012Validator(json_schemas()["meter.readings.v1.schema.json"])
    if fits:
        validator.validate(reading)
    else:
        with pytest.raises(ValidationError):
            validator.validate(reading)


def test_a_wrong_message_does_not_fit() -> None:
    value = json.loads(violation_messages(rows(VIOLATIONS, violation())).values[0])
    for wrong in ({"state": "gone"}, {"revision": -1}, {"started_at": "2026-01-01T00:00:00+08:00"}, {"value": None}):
        with pytest.raises(ValidationError):
            validate("limit.violations.v1.schema.json", json.dumps({**value, **wrong}).encode())


def test_all_that_is_written_or_read_has_its_schema() -> None:
    read = {"meter.readings.v1.schema.json", *(kind.file for kind in KINDS.values())}
    assert {kind.file for kind in messages.MESSAGE_TYPES} | read == set(json_schemas())


@pytest.mark.parametrize("size", [10, 3_000, 100_000])
@pytest.mark.parametrize("most", [2_000, 50_000])
def test_a_result_above_what_is_taken_is_cut_and_says_so(size: int, most: int) -> None:
    payload = bytes(i * 7 % 256 for i in range(size))
    meter = "电表" * (size // 6)
    out = reject_messages(rows(REJECTS, reject(payload=payload, meter_id=meter, message_key=b"k" * size)))
    whole = json.loads(out.values[0])
    short = messages.shortened(out.values[0], most)
    assert short is not None
    assert len(short) <= most
    value = validate("readings.rejected.v1.schema.json", short)
    cut = value["truncated"]
    assert ("payload_base64" in cut) == (len(out.values[0]) > most)
    assert {name: text for name, text in value.items() if name not in (*cut, "truncated")} == {
        name: text for name, text in whole.items() if name not in cut
    }
    assert all(whole[name].startswith(value[name]) for name in cut)
    assert payload.startswith(base64.b64decode(value["payload_base64"], validate=True))
    if cut == ["payload_base64"]:
        assert len(short) > most - 200


@pytest.mark.parametrize("value", [b"x" * 3000, b"[1]", b'{"meter_id":"M1","note":"%s"}' % (b"x" * 3000)])
def test_what_is_no_result_is_never_cut(value: bytes) -> None:
    assert messages.shortened(value, 1000) is None


def test_a_result_with_nothing_to_cut_is_not_cut() -> None:
    assert messages.shortened(window_messages(rows(WINDOWS, window())).values[0], 100) is None
