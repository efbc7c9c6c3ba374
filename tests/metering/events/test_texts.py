"""How violations are named and told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.events.catalogue import checks, rulebook
from metering.events.lifecycle import CHANGE_SCHEMA
from metering.events.texts import tell
from metering.settings import MeteringSettings
from metering.tables.lake import VIOLATIONS

Frame = pl.DataFrame
T0 = datetime(2026, 1, 1, 16, tzinfo=UTC)  # local midnight in Shanghai


@pytest.fixture(scope="module")
def meter_versions(make_customers: Callable[..., Frame], make_meter_versions: Callable[..., Frame]) -> Frame:
    return make_meter_versions(make_customers({"C1": {}}), {"A/1 {}": {"customer_no": "C1"}})


def _change(**fields: Any) -> Frame:
    row = {
        "meter": 0, "code": 1, "version": 0, "state": "raised", "revision": 0, "started_at": T0, "ended_at": None,
        "value": 271.23456, "limit_value": 264.0, "ruleset": "default-2020", "at": T0, **fields,
    }  # fmt: skip
    return pl.DataFrame([row], schema=CHANGE_SCHEMA)


def _told(meter_versions: Frame, settings: MeteringSettings, **fields: Any) -> dict[str, Any]:
    frame = tell(_change(**fields), meter_versions, settings)
    assert frame.schema == VIOLATIONS.schema
    return frame.row(0, named=True)


@pytest.mark.parametrize(
    ("fields", "zh", "en"),
    [
        (
            {},
            "计量点 A/1 {} A相过压发生：271.235 V，限值 264.0 V，始于 2026-01-01T16:00:00Z",
            "meter A/1 {} phase A over-voltage: 271.235 V, limit 264.0 V, since 2026-01-01T16:00:00Z",
        ),
        (
            {"code": 6, "state": "cleared", "value": 100.0, "limit_value": 171.6, "ended_at": T0},
            "计量点 A/1 {} C相欠压恢复：100.0 V，限值 171.6 V，始于 2026-01-01T16:00:00Z",
            "meter A/1 {} phase C under-voltage has ended: 100.0 V, limit 171.6 V, since 2026-01-01T16:00:00Z",
        ),
        (
            {"code": 7, "state": "updated", "value": 1200.0, "limit_value": 1000.0},
            "计量点 A/1 {} 超容持续：1200.0 kVA，限值 1000.0 kVA，始于 2026-01-01T16:00:00Z",
            "meter A/1 {} load above contract capacity goes on: 1200.0 kVA, limit 1000.0 kVA, "
            "since 2026-01-01T16:00:00Z",
        ),
        (
            {"code": 8, "state": "withdrawn", "value": 0.81, "limit_value": 0.9},
            "计量点 A/1 {} 功率因数偏低撤销：0.81，限值 0.9，始于 2026-01-01T16:00:00Z",
            "meter A/1 {} power factor below standard is withdrawn: 0.81, limit 0.9, since 2026-01-01T16:00:00Z",
        ),
    ],
    ids=["raised", "cleared", "updated", "withdrawn"],
)
def test_messages(
    meter_versions: Frame, metering_settings: MeteringSettings, fields: dict[str, Any], zh: str, en: str
) -> None:
    told = _told(meter_versions, metering_settings, **fields)
    assert (told["message_zh"], told["message_en"]) == (zh, en)


def test_a_row_is_complete(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    told = _told(meter_versions, metering_settings, revision=3)
    expected = {
        "violation_id": "A/1 {}/over_voltage/a/2026-01-01T16:00:00Z", "state": "raised", "revision": 3,
        "rule": "over_voltage", "phase": "a", "started_at": T0, "ended_at": None, "value": 271.23456,
        "limit_value": 264.0, "unit": "V", "severity": "critical", "meter_id": "A/1 {}", "customer_no": "C1",
        "ruleset": "default-2020", "at": T0, "date": date(2026, 1, 1),
    }  # fmt: skip
    assert {name: told[name] for name in expected} == expected


def test_the_id_is_a_function_of_meter_rule_phase_and_start(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    def ids(**fields: Any) -> str:
        return _told(meter_versions, metering_settings, **fields)["violation_id"]

    known = checks(metering_settings)
    same = {ids(), ids(state="cleared", revision=9, value=1.0, ended_at=T0, at=T0 + timedelta(days=1))}
    others = {ids(code=check.code) for check in known} | {ids(started_at=T0 + timedelta(microseconds=1))}
    assert len(same) == 1
    assert len(others | same) == len(known) + 1


def test_the_date_is_that_of_the_reading_that_caused_it(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    assert _told(meter_versions, metering_settings, at=T0 + timedelta(seconds=1))["date"] == date(2026, 1, 2)


def test_every_check_has_its_severity_and_unit(meter_versions: Frame, metering_settings: MeteringSettings) -> None:
    told = tell(pl.concat([_change(code=c.code) for c in checks(metering_settings)]), meter_versions, metering_settings)
    severity = dict(told.select("rule", "severity").iter_rows())
    warned = {"over_capacity": "warning", "low_power_factor": "warning"}
    assert {"over_voltage": "critical", "under_voltage": "critical", **warned}.items() <= severity.items()
    assert not {name for name in VIOLATIONS.names if told[name].null_count() and not VIOLATIONS.column(name).nullable}


def test_severity_is_that_of_the_rule_set_that_judged(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    milder = {"id": "over_voltage", "version": "milder", "effective_from": date(2026, 6, 1), "severity": "info"}
    both = replace(metering_settings, rules=rulebook([milder], ()))
    assert _told(meter_versions, both)["severity"] == "critical"
    assert _told(meter_versions, both, ruleset="milder")["severity"] == "info"
    assert _told(meter_versions, both, ruleset="no longer there")["severity"] == "info"


def test_rows_are_told_in_order_of_time_from_any_chunks(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    times = [T0 + timedelta(minutes=m) for m in (3, 1, 2)]
    pieces = [_change(at=at) for at in times]
    chunked = pl.concat([pieces[0], pieces[0].clear(), *pieces[1:]], rechunk=False)
    assert tell(chunked, meter_versions, metering_settings)["at"].to_list() == sorted(times)
    assert tell(chunked.clear(), meter_versions, metering_settings).schema == VIOLATIONS.schema


def test_of_one_violation_the_last_row_is_the_current_one(
    meter_versions: Frame, metering_settings: MeteringSettings
) -> None:
    """A late reading, of a time before the reading that raised it, withdraws it: consumers keep what they read last."""
    raised = _change(at=T0 + timedelta(minutes=3))
    withdrawn = _change(state="withdrawn", revision=1, at=T0 + timedelta(minutes=1))
    for changes in (pl.concat([raised, withdrawn]), pl.concat([withdrawn, raised])):
        assert tell(changes, meter_versions, metering_settings)["state"].to_list() == ["raised", "withdrawn"]
