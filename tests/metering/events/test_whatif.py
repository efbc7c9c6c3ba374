"""How two lots of alarms differ, and which rules a change touches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from metering.events.catalogue import rulebook
from metering.events.whatif import ALARMS_SCHEMA, compared, counted, touched

START = datetime(2026, 3, 2, tzinfo=UTC)


def alarm(start: int, end: int | None, meter: str = "310105200001", **given: Any) -> dict[str, Any]:
    at = {
        "started_at": START + timedelta(minutes=start),
        "ended_at": None if end is None else START + timedelta(minutes=end),
    }
    return {"meter_id": meter, "customer_no": "C1", "rule": "over_voltage", "phase": "a", "value": 1.0, **at, **given}


def lot(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=ALARMS_SCHEMA)


def test_alarms_appear_vanish_move_and_stay() -> None:
    before = lot(alarm(0, 10), alarm(60, 90), alarm(200, 210), alarm(300, None), alarm(0, 10, "310105200002"))
    after = lot(alarm(0, 10), alarm(62, 80), alarm(85, 88), alarm(400, 410), alarm(300, None, phase="b"))
    found = compared(before, after)
    outcomes = found.select("meter_id", "phase", "started_at", "outcome").rows()
    minutes = [(m[-1], p, round((at - START).total_seconds() / 60), outcome) for m, p, at, outcome in outcomes]
    assert minutes == [
        ("1", "a", 0, "same"), ("1", "a", 60, "moved"), ("1", "a", 85, "appeared"), ("1", "a", 200, "vanished"),
        ("1", "a", 300, "moved"),  # what is open overlaps what begins later
        ("1", "b", 300, "appeared"), ("2", "a", 0, "vanished"),
    ]  # fmt: skip
    (rule,) = counted(found, "rule", 2).to_dicts()
    assert (rule["before"], rule["after"], rule["before_a_day"], rule["after_a_day"]) == (5, 5, 2.5, 2.5)
    assert [rule[name] for name in ("same", "moved", "appeared", "vanished")] == [1, 2, 2, 2]


def test_nothing_before_or_after() -> None:
    one = lot(alarm(0, 10))
    assert compared(one, lot())["outcome"].to_list() == ["vanished"]
    assert compared(lot(), one)["outcome"].to_list() == ["appeared"]
    assert compared(lot(), lot()).is_empty()


def test_rules_that_give_way_to_a_changed_one_are_touched_too() -> None:
    usual = rulebook((), ())
    assert touched(usual, rulebook((), ())) == set()
    assert touched(usual, rulebook([{"id": "over_current", "start": 1.1}], ())) >= {"over_current"}
    changed = touched(usual, rulebook([{"id": "phase_loss", "start": 0.5, "segment": "large"}], ()))
    assert {"phase_loss", "under_voltage"} <= changed
    assert "over_voltage" not in changed
