"""Alarms in the warehouse: what people said of them and meters reported, also days later, and after retention."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.batch import Batch
from metering.tables import LAKE
from sinks.warehouse import build, query

D1, D2, D3 = (date(2026, 3, day) for day in (2, 3, 4))
MADE = ("violations", "meter_events", "rule_observability", "alarm_handling", "kpi")
SOURCE: dict[str, Any] = {"source": "t", "source_partition": 0, "source_row": 0}
Materialise = Callable[[Batch, Sequence[date], Sequence[str]], None]


def _at(day: date, hour: int, minute: int = 0) -> datetime:
    """Local time of Shanghai."""
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC) - timedelta(hours=8)


def _put(home: Path, table: str, day: date, *rows: dict[str, Any]) -> None:
    folder = home / "lake" / table / f"date={day}"
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.iterdir()))
    frame = pl.DataFrame(rows, infer_schema_length=None).with_row_index("source_offset", 1000 * number)
    LAKE[table].conform(frame, date=day, **SOURCE).drop("date").write_parquet(folder / f"{number}.parquet")


def _violation(name: str, day: date, hour: int, rule: str = "over_voltage", state: str = "cleared") -> dict[str, Any]:
    texts = dict.fromkeys(("message_zh", "message_en", "ruleset", "unit"), "x")
    return {
        "violation_id": name, "rule": rule, "phase": "a", "meter_id": "M1", "customer_no": "C1", **texts,
        "severity": "warning", "state": state, "revision": 0 if state == "raised" else 1, "value": 1.0,
        "limit_value": 1.0, "started_at": _at(day, hour), "ended_at": None if state == "raised" else _at(day, hour, 30),
        "at": _at(day, hour, 2) if state == "raised" else _at(day, hour, 32),
    }  # fmt: skip


def _word(name: str, action: str, at: datetime) -> dict[str, Any]:
    return {"violation_id": name, "action": action, "at": at, "log_offset": 0}


@pytest.fixture
def batch(
    tmp_path: Path, make_batch_home: Callable[[Path, date, int], Path], batch_of: Callable[[Path], Batch]
) -> Batch:
    """Three days; two alarms on the first, one of which is spoken of on the same day."""
    home = make_batch_home(tmp_path / "home", D1, 3)
    for state in ("raised", "cleared"):
        _put(
            home, "violations", D1, *(_violation(name, D1, hour, state=state) for name, hour in (("v1", 9), ("v2", 15)))
        )
    _put(home, "feedback", D1, *(_word("v1", action, _at(D1, 10, 10 * n)) for n, action in enumerate(
        ("acknowledged", "confirmed", "handled", "closed"))))  # fmt: skip
    return batch_of(home)


def _kpis(batch: Batch, period: str) -> dict[str, tuple[Any, ...]]:
    columns = ["kpi_id", "numerator", "denominator", "status", "coverage"]
    rows = batch.marts.scan(batch.tables["kpi"]).filter(pl.col("scope") == "*", pl.col("period") == period)
    return {row[0]: row[1:] for row in rows.select(columns).collect().rows()}


def test_words_that_come_days_later_count_for_the_alarms_own_day(batch: Batch, materialise: Materialise) -> None:
    materialise(batch, [D1, D2, D3], MADE)
    assert _kpis(batch, str(D1))["alarm_accuracy"] == (1.0, 1.0, "met", 0.5)
    assert _kpis(batch, str(D1))["alarm_handling_rate"] == (1.0, 1.0, "met", 0.5)
    assert _kpis(batch, str(D2))["alarm_accuracy"][2] == "no_data"
    assert _kpis(batch, "2026-03")["alarm_accuracy"][:3] == (1.0, 1.0, "met")
    _put(batch.home, "feedback", D3, _word("v2", "false", _at(D3, 8)), _word("nobody", "closed", _at(D3, 9)))
    materialise(batch, [D3], MADE)
    assert _kpis(batch, str(D1))["alarm_accuracy"] == (1.0, 2.0, "missed", 1.0)
    assert _kpis(batch, "2026-03")["alarm_accuracy"][:3] == (1.0, 2.0, "missed")
    build(batch.home, batch.tables)
    said = query(batch.home, "SELECT * FROM alarm_handling WHERE scope = 'C1' AND rule = '*' AND period = '2026-03'")
    (row,) = said.to_dicts()
    assert (row["raised"], row["confirmed"], row["false_alarms"], row["handled"], row["closed"]) == (2, 1, 1, 1, 1)
    assert (row["accuracy"], row["handling_rate"]) == (50.0, 100.0)
    assert (row["ack_minutes_p50"], row["repair_minutes_p50"]) == (58.0, 78.0)
    told = query(batch.home, "SELECT date, rule, severity, sample FROM quality_results WHERE table_name = 'violations'")
    assert told.rows() == [
        (D3, "unknown_alarm", "warning", "no meter at 2026-03-04 09:00: there is no alarm nobody that could be closed")
    ]
    alarms = query(
        batch.home,
        "SELECT violation_id, raised_at, acknowledged_at, confirmed FROM violations ORDER BY 1",
        "Asia/Shanghai",
    )
    assert [(*row[:1], *(t and t.astimezone(UTC) for t in row[1:3]), row[3]) for row in alarms.rows()] == [
        ("v1", _at(D1, 9, 2), _at(D1, 10), True),
        ("v2", _at(D1, 15, 2), None, False),
    ]


def test_words_that_retention_took_out_stay_as_they_were_published(batch: Batch, materialise: Materialise) -> None:
    materialise(batch, [D1, D2, D3], MADE)
    shutil.rmtree(batch.home / "lake" / "feedback" / f"date={D1}")
    shutil.rmtree(batch.home / "lake" / "violations" / f"date={D1}")
    batch.lake.mark.write_text(D1.isoformat(), "ascii")
    _put(batch.home, "feedback", D3, _word("v2", "confirmed", _at(D3, 8)))
    materialise(batch, [D3], ("violations", "alarm_handling"))
    alarms = batch.marts.scan(batch.tables["violations"]).sort("violation_id")
    assert alarms.select("violation_id", "confirmed", "closed_at", "raised_at").collect().rows() == [
        ("v1", True, _at(D1, 10, 30), _at(D1, 9, 2)),
        ("v2", True, None, _at(D1, 15, 2)),
    ]


def test_meters_own_events_stand_beside_the_derived_over_midnight(batch: Batch, materialise: Materialise) -> None:
    _put(batch.home, "violations", D2, _violation("v3", D2, 0))
    _put(
        batch.home, "meter_events", D1,
        {"meter_id": "M1", "code": "0x3002", "at": _at(D1, 9), "cleared_at": _at(D1, 9, 30)},
        {"meter_id": "M1", "code": "0x3002", "at": _at(D1, 23, 59), "cleared_at": _at(D2, 0, 20)},
        {"meter_id": "M2", "code": "magnet", "at": _at(D1, 11)},
    )  # fmt: skip
    materialise(batch, [D1, D2], MADE)
    rows = batch.marts.scan(batch.tables["meter_events"]).sort("at").select("date", "code", "violation_id", "found")
    assert rows.collect().rows() == [
        (D1, "0x3002", "v1", "both"),
        (D1, "magnet", "", "device_only"),
        (D1, "", "v2", "derived_only"),
        (D1, "0x3002", "v3", "both"),
    ]
    seen = batch.marts.scan(batch.tables["rule_observability"]).filter(rule="over_voltage").sort("meter_id").collect()
    assert seen.select("interval_s", "observable", "detection_delay_s").rows() == [
        (900, False, 1800.0),
        (60, True, 120.0),
    ]
    assert _kpis(batch, str(D1))["event_observability"][:2] == (
        float(batch.marts.scan(batch.tables["rule_observability"]).filter("observable").collect().height),
        float(batch.marts.scan(batch.tables["rule_observability"]).collect().height),
    )


def test_registers_short_of_power_for_days_are_a_metering_fault(batch: Batch, materialise: Materialise) -> None:
    made = ("windows", "register_daily", "violations", "metering_faults")
    for day in (D1, D2, D3):  # a branch before the meter's registers draws a tenth
        part = batch.home / "lake" / "readings" / f"date={day}" / "0.parquet"
        pl.read_parquet(part).with_columns(pl.col("p_kw") / 0.9).write_parquet(part)
    materialise(batch, [D1, D2, D3], made)
    faults = batch.marts.scan(batch.tables["metering_faults"])
    row = faults.collect().row(0, named=True)
    assert (row["meter_id"], row["rule"], row["days"], row["ended_at"]) == ("M1", "register_short", 3, None)
    assert row["started_at"] == _at(D1, 0)
    assert row["lost_kwh"] == pytest.approx(row["power_kwh"] / 10, rel=0.02)
    daily = batch.marts.scan(batch.tables["register_daily"]).sort("meter_id", "date").collect()
    assert daily["ratio"].to_list() == pytest.approx([0.9] * 3 + [1.0] * 3, abs=0.02)
    materialise(batch, [D2], made[1:])
    assert faults.collect().rows(named=True) == [row]
