"""Messages of the topics, good ones and such as say nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from metering.notices.events import Event, Feedback, UnusableError, read
from tests.metering.notices.events import NOW, SETTINGS, outage, plan, violation

FEEDBACK = {"violation_id": "v", "action": "acknowledged", "at": "2026-03-02T14:00:00+08:00", "by": "值班台"}


def test_bytes_and_rows_say_the_same() -> None:
    message = violation()
    row = {**message, "at": NOW, "started_at": NOW}
    one, other = read("violation", json.dumps(message).encode(), SETTINGS), read("violation", row, SETTINGS)
    assert isinstance(one, Event)
    assert isinstance(other, Event)
    assert (one.subject, one.at, one.order) == (other.subject, other.at, other.order)


def test_what_life_adds_may_be_absent() -> None:
    message = violation()
    for name in ("event_class", "storm_id"):
        message.pop(name)
    event = read("violation", message, SETTINGS)
    assert isinstance(event, Event)
    assert (event.classes, event.storm) == (("limit_warning",), "")


def test_feedback() -> None:
    assert read("feedback", FEEDBACK, SETTINGS) == Feedback("v", "acknowledged", datetime(2026, 3, 2, 6, tzinfo=UTC))


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("violation", b"\xff\xfe", "no JSON"),
        ("violation", b"[" * 100_000, "no JSON"),
        ("violation", b"[]", "no JSON object"),
        ("violation", b"{}", "missing"),
        ("violation", violation(state="gone"), "state is 'gone'"),
        ("violation", violation(severity=None), "severity is 'None'"),
        ("violation", {**violation(), "at": "2026-03-02T14:00:00"}, "at is no time with an offset"),
        ("violation", {**violation(), "at": True}, "at is no time"),
        ("violation", {**violation(), "at": 1e300}, "at is no time"),
        ("violation", {**violation(), "revision": "x"}, "another type"),
        ("violation", {**violation(), "violation_id": ""}, "violation_id is no text"),
        ("plan", {**plan(), "cap_kw": "much"}, "another type"),
        ("plan", {**plan(), "customers": 7}, "another type"),
        ("outage", {**outage(), "from": None}, "from is no time"),
        ("feedback", {**FEEDBACK, "action": "seen"}, "action is 'seen'"),
    ],
)
def test_what_says_nothing_says_why(kind: str, value: bytes | dict[str, Any], said: str) -> None:
    with pytest.raises(UnusableError) as error:
        read(kind, value, SETTINGS)
    assert said in str(error.value)
