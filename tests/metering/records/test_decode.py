"""Records as they are accepted: strict types, what must be there, and one bad line alone is a reject."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from jsonschema import Draft202012Validator, ValidationError

from metering.readings.decode import Lines, Messages
from metering.records.decode import decode_records
from metering.tables.messages import json_schemas
from metering.tables.records import KINDS, SERVICE_TYPES, RecordKind

AT = "2026-07-14T15:05:00+08:00"
UTC_AT = datetime(2026, 7, 14, 7, 5, tzinfo=UTC)
WHOLE: dict[str, dict[str, Any]] = {
    "feedback": {"violation_id": "v-9001", "action": "confirmed", "at": AT, "by": "抢修班", "note": "A 相断线"},
    "load_control_plans": {
        "plan_id": "2026-07-14-01", "revision": 2, "level": "orange", "from": AT, "to": "2026-07-14T18:00:00+08:00",
        "customers": ["310105200001"], "cap_kw": {"310105200001": 1200}, "state": "active", "issued_at": 1784000000000,
    },
    "outages": {
        "outage_id": "o-1", "kind": "planned", "feeder": "10kV-东一线", "customers": ["310105200001"], "from": AT,
        "to": "2026-07-14T18:00:00+08:00", "announced_at": "2026-07-07T09:00:00+08:00", "state": "announced",
    },
    "meter_events": {
        "meter_id": "310105200001", "code": "0x0301", "at": AT, "cleared_at": "2026-07-14T15:09:00+08:00", "detail": "",
    },
    "frozen_registers": {
        "meter_id": "310105200001", "at": AT, "kind": "settlement", "demand_kw": 812.4, "demand_at": AT,
        "registers": {"import_kwh": {"peak": 12.5, "flat": 3}},
    },
    "service_events": {
        "event_id": "e-1", "type": "bill", "at": AT, "customer_no": "C1", "month": "2026-06", "amount": "81200.50",
        "due_on": "2026-07-20",
    },
}  # fmt: skip


def _decoded(kind: RecordKind, *records: object) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    decoded = decode_records(kind, Lines(b"\n".join(lines)))
    assert decoded.accepted.height + decoded.rejects.height == len([line for line in lines if line.strip()])
    return decoded.accepted.to_dicts(), decoded.rejects.select("reason", "detail").rows()


def test_whole_records_become_rows() -> None:
    rows = {name: _decoded(kind, WHOLE[name])[0][0] for name, kind in KINDS.items()}
    assert rows["feedback"]["at"] == UTC_AT
    assert rows["feedback"]["by_role"] == "抢修班"
    plan = rows["load_control_plans"]
    assert (plan["revision"], plan["kind"], plan["from_at"]) == (2, "orderly_usage", UTC_AT)
    assert plan["issued_at"] == datetime(2026, 7, 14, 3, 33, 20, tzinfo=UTC)
    assert plan["cap_kw"] == [{"name": "310105200001", "value": 1200.0}]
    assert rows["frozen_registers"]["registers"] == [
        {"name": "import_kwh.flat", "value": 3.0},
        {"name": "import_kwh.peak", "value": 12.5},
    ]
    bill = rows["service_events"]
    assert (bill["month"], bill["amount"], bill["due_on"]) == (date(2026, 6, 1), Decimal("81200.5"), date(2026, 7, 20))


@pytest.mark.parametrize("name", KINDS)
def test_each_field_that_must_be_there_is_missed(name: str) -> None:
    kind = KINDS[name]
    must = {field.name for field in kind.fields if field.required}
    assert must
    for field in WHOLE[name]:
        without = {key: value for key, value in WHOLE[name].items() if key != field}
        accepted, rejects = _decoded(kind, without, {**WHOLE[name], field: None})
        needed = field in must or SERVICE_TYPES.get(WHOLE[name].get("type", ""), {}).get(field, False)
        reason = "bad_value" if name == "load_control_plans" and field in ("from", "to", "cap_kw") else "missing_field"
        needed |= reason == "bad_value"  # an active plan needs them
        assert (len(accepted), [reason for reason, _ in rejects]) == ((0, [reason] * 2) if needed else (2, [])), field


def _wrong_values(value: object) -> list[object]:
    return [{}, [], [7], True, 7.5, "x", "", {"a": "b"}, float("nan")] if not isinstance(value, bool) else [1, "true"]


@pytest.mark.parametrize("name", KINDS)
def test_types_are_strict_and_the_schema_says_the_same(name: str) -> None:
    """Whatever stands in a field, the decoder takes it exactly if the published JSON Schema does."""
    kind, validator = KINDS[name], Draft202012Validator(json_schemas()[KINDS[name].file])
    validator.validate(WHOLE[name])
    refused = 0
    for field in WHOLE[name]:
        for wrong in _wrong_values(WHOLE[name][field]):
            record = {**WHOLE[name], field: wrong}
            accepted, rejects = _decoded(kind, record)
            if wrong == "" or str(wrong) == "nan":  # no schema says that a text is not to be empty; none knows NaN
                continue
            try:
                validator.validate(record)
                fits = True
            except ValidationError:
                fits = False
            assert bool(accepted) == fits, (record, rejects)
            refused += not fits
    assert refused > 3 * len(WHOLE[name])


def test_one_bad_line_is_rejected_alone_with_its_bytes_place_and_reason() -> None:
    good, bad = json.dumps(WHOLE["feedback"]).encode(), b'{"violation_id": 7, "action": "closed", "at": 1784000000000}'
    content = Messages(
        [good + b"\n" + bad + b"\n" + good, None, b"\xff", b" "],
        [10, 11, 12, 14],
        [1, 2, 3, 4],
        [b"k", b"k", None, b"m"],
    )
    decoded = decode_records(KINDS["feedback"], content)
    assert decoded.accepted.select("item", "source_offset", "source_row").rows() == [(0, 10, 0), (0, 10, 2)]
    assert decoded.rejects.select("reason", "source_offset", "source_row", "payload", "message_key").rows() == [
        ("wrong_type", 10, 1, bad, b"k"), ("unparsable", 12, 0, b"\xff", None), ("unparsable", 14, 0, b"", b"m"),
    ]  # fmt: skip
    assert decoded.rejects["detail"][0] == "alarm.feedback: violation_id is not a string"
    assert decoded.rejects["ts"][0] == datetime(2026, 7, 14, 3, 33, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("feedback", {"at": "2026-07-14T15:05:00"}, "bad_value"),
        ("feedback", {"at": 1784000000}, "implausible_time"),
        ("feedback", {"at": "0026-07-14T15:05:00Z"}, "implausible_time"),
        ("feedback", {"action": "denied"}, "bad_value"),
        ("load_control_plans", {"to": AT}, "bad_value"),
        ("load_control_plans", {"cap_kw": {"C1": {"a": {"b": 1}}}}, "wrong_type"),
        ("load_control_plans", {"revision": 2**40}, "wrong_type"),
        ("outages", {"to": "2026-07-13T15:05:00+08:00"}, "bad_value"),
        ("frozen_registers", {"demand_kw": -1}, "bad_value"),
        ("service_events", {"type": "bribe"}, "unknown_type"),
        ("service_events", {"amount": "1e3"}, "bad_value"),
        ("service_events", {"amount": 12.5}, "wrong_type"),
        ("service_events", {"month": "2026-13"}, "bad_value"),
        ("service_events", {"type": "survey", "subject": "weather", "score": 5}, "bad_value"),
        ("service_events", {"type": "survey", "subject": "advice", "score": 6}, "bad_value"),
        ("service_events", {"type": "request.received"}, "missing_field"),
    ],
)  # fmt: skip
def test_what_no_record_can_say(name: str, change: dict[str, Any], reason: str) -> None:
    accepted, rejects = _decoded(KINDS[name], {**WHOLE[name], **change})
    assert (accepted, [found for found, _ in rejects]) == ([], [reason])


def test_fields_of_other_types_are_unknown_fields() -> None:
    event = {**WHOLE["service_events"], "score": "five", "sources_ok": 3, "anything": {"deep": [1]}}
    accepted, rejects = _decoded(KINDS["service_events"], event)
    assert not rejects
    assert (accepted[0]["score"], accepted[0]["sources_ok"]) == (None, None)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("funds 0.31", "wrong_type"),
        ([1], "wrong_type"),
        ([{"item": "funds"}], "missing_field"),
        ([{"amount": "0.31"}], "missing_field"),
        ([{"item": "funds", "amount": 0.31}], "wrong_type"),
        ([{"item": "funds", "amount": "0.31", "price": "0.000000001"}], "bad_value"),
        ([{"item": "funds", "amount": "0.31", "quantity": "many"}], "bad_value"),
    ],
)
def test_a_bill_whose_lines_cannot_be_read_is_a_reject(lines: object, reason: str) -> None:
    kind, bill = KINDS["service_events"], WHOLE["service_events"]
    accepted, rejects = _decoded(kind, {**bill, "lines": lines}, {**bill, "lines": None}, {**bill, "lines": []})
    assert (len(accepted), [said for said, _ in rejects]) == (2, [reason])


def test_the_lines_of_a_bill_are_exact() -> None:
    line = {"item": "力调电费", "quantity": "134235.54", "price": "-0.0045", "amount": "-604.06"}
    (row,), _ = _decoded(KINDS["service_events"], {**WHOLE["service_events"], "lines": [line, {**line, "price": None}]})
    figures = {"item": "力调电费", "quantity": Decimal("134235.54"), "amount": Decimal("-604.06")}
    assert row["lines"] == [{**figures, "price": Decimal("-0.0045")}, {**figures, "price": None}]


def test_every_type_of_service_event_is_taken() -> None:
    values: dict[str, Any] = {
        "subject": "handling", "score": 5, "month": "2026-06", "amount": "1.00", "balance": "19.99", "kind": "repair",
        "method": "asked", "valid_to": "2026-12-31", "due_on": "2026-07-20", "agreement_valid_to": "2027-01-01",
        "queue_s": 12.5, "import_kwh": 8.0, "due_at": AT, "answered_at": AT, "meter_id": "M1",
            "lines": [{"item": "funds", "quantity": "10.5", "price": "0.0291", "amount": "0.31"}],
    }  # fmt: skip
    flags = ("connected", "lost", "accepted", "sources_ok", "interlock_ok")
    common = {"event_id": "e", "at": AT, "customer_no": "C1", "channel": "95598", "by": "95598 座席"}
    for kind, fields in SERVICE_TYPES.items():
        own = {name: True if name in flags else values.get(name, "x") for name in fields}
        accepted, rejects = _decoded(KINDS["service_events"], {**common, "type": kind, **own})
        assert not rejects, kind
        columns = {field.name: field.column.name for field in KINDS["service_events"].fields}
        assert all(accepted[0][columns[name]] is not None for name in fields), kind


def test_nothing_in_no_rows_out() -> None:
    for kind in KINDS.values():
        for content in (Lines(b""), Lines(b"\n \n"), Messages([None], [3], [0], [b"k"])):
            decoded = decode_records(kind, content)
            assert (decoded.accepted.height, decoded.rejects.height) == (0, 0)
            assert dict(decoded.accepted.schema).items() >= dict(kind.schema).items()
            assert isinstance(kind.table.empty(), pl.DataFrame)
