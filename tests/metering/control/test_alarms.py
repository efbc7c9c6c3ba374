"""What is raised about quarter-hours: runs above a cap, warnings, and how both are told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.control.alarms import Account, Alarm, Look, changes, runs, violations, warned
from metering.settings import MeteringSettings
from metering.settings.control import ControlAlarm
from metering.tables.lake import VIOLATIONS

T0 = datetime(2026, 3, 18, 2, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
ACCOUNT = Account(customer_no="C1", name="城东钢厂", feeder="10 kV 东一线", meter_id="330500000001")
Windows = list[tuple[float | None, float | None]]


@pytest.fixture(scope="module")
def row(metering_settings: MeteringSettings) -> ControlAlarm:
    return metering_settings.control.alarms["load_control_violation"]


def windows(values: Windows) -> list[dict[str, Any]]:
    """Rows of LOAD_CONTROL from (actual, cap) of quarter-hours that follow each other."""
    return [
        {
            "plan_id": "P", "customer_no": "C1", "kind": "orderly_usage", "window_end": T0 + (n + 1) * QUARTER,
            "actual_kw": actual, "cap_kw": cap, "compliant": None if actual is None or cap is None else actual <= cap,
        }
        for n, (actual, cap) in enumerate(values)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "over", "wanted"),
    [
        ([(90, 100), (100, 100)], None, []),
        ([(120, 100)], None, [(0, "raised", None, 120)]),
        ([(120, 100), (120.5, 100), (130, 100), (90, 100)], None, [(0, "cleared", 3, 130)]),
        ([(120, 100), (None, 100), (110, 100)], None, [(0, "raised", None, 120)]),
        ([(120, 100), (None, None)], 2, [(0, "cleared", 2, 120)]),
        ([(120, 100), (90, 100), (130, 100)], 3, [(0, "cleared", 1, 120), (2, "cleared", 3, 130)]),
        ([(120, 100), (115, 50)], None, [(0, "updated", None, 115)]),
    ],
)
def test_windows_above_the_cap_are_one_violation(
    values: Windows, over: int | None, wanted: list[tuple[int, str, int | None, float]], row: ControlAlarm
) -> None:
    """A window that nothing is known of neither raises nor clears; the end of the plan clears."""
    found = runs(windows(values), None if over is None else T0 + over * QUARTER, row)
    assert [(a.started_at, a.state, a.ended_at, a.value) for a in found] == [
        (T0 + start * QUARTER, state, end if end is None else T0 + end * QUARTER, value)
        for start, state, end, value in wanted
    ]


def test_only_what_is_new_is_told_and_what_is_not_so_any_more_is_withdrawn(
    row: ControlAlarm, metering_settings: MeteringSettings
) -> None:
    first = runs(windows([(120, 100), (130, 100)]), None, row)
    told = violations(first, {"C1": ACCOUNT}, metering_settings)
    assert told.schema == VIOLATIONS.schema
    assert list(changes(first, told)) == []
    (cleared,) = changes(runs(windows([(120, 100), (130, 100), (50, 100)]), None, row), told)
    assert (cleared.state, cleared.revision) == ("cleared", 2)
    again = list(changes(runs(windows([(90, 100), (130, 100)]), None, row), told))
    assert [(a.state, a.started_at, a.revision) for a in again] == [
        ("raised", T0 + QUARTER, 0),
        ("withdrawn", T0, 2),
    ]


def look(minute: int, projected: float, limit: float = 100.0, used: float = 100.0) -> Look:
    at = T0 + timedelta(minutes=minute)
    return Look(
        at=at, until=T0 + QUARTER, projected_kw=projected, limit_kw=limit, elapsed_s=60.0 * minute, used_kw=used
    )


def test_a_warning_is_raised_updated_at_most_once_a_minute_and_cleared_inside_the_limit(
    metering_settings: MeteringSettings,
) -> None:
    row = metering_settings.control.alarms["load_control_warning"]
    seen: list[tuple[str, float, int]] = []
    alarm: Alarm | None = None
    steps = (look(1, 100), look(2, 110), look(3, 110.5), look(4, 120), look(5, 99), look(6, 98), look(7, 130))
    for step in steps:
        alarm, tell = warned(alarm, step, row, "load_control_warning", "P", "C1", "orderly_usage")
        if tell and alarm is not None:
            seen.append((alarm.state, alarm.value, alarm.revision))
    assert seen == [("raised", 110, 0), ("updated", 120, 1), ("cleared", 120, 2), ("raised", 130, 0)]
    early = replace(look(1, 200), elapsed_s=30.0)
    assert warned(None, early, row, "load_control_warning", "P", "C1") == (None, False)
    off = replace(row, start=0.0)
    assert warned(None, look(2, 900), off, "load_control_warning", "P", "C1") == (None, False)


def test_what_may_still_be_used() -> None:
    assert look(5, 0, limit=100, used=130).allowed_kw == pytest.approx(85)
    assert look(10, 0, limit=100, used=200).allowed_kw == 0
    assert look(15, 0).allowed_kw is None


@pytest.mark.parametrize(
    ("state", "zh", "en"),
    [
        (
            "raised",
            "有序用电（P）：城东钢厂（10 kV 东一线）自 10:00 起超出指标，15 分钟平均负荷最高 120 kW（指标 100 kW）。"
            "建议：立即按方案压降负荷，并核实现场执行情况。",
            "orderly usage P: 城东钢厂 (10 kV 东一线) has been above its cap since 10:00, quarter-hour mean up to "
            "120 kW (100 kW allowed). Shed load as planned and check the site.",
        ),
        (
            "cleared",
            "有序用电越限已解除，城东钢厂（10 kV 东一线）最高 120 kW（限值 100 kW），10:00–10:30，历时 30 分钟。",
            "load-control violation has ended: 城东钢厂 (10 kV 东一线) was at up to 120 kW (100 kW allowed), 10:00 to "
            "10:30, 30 min.",
        ),
    ],
)
def test_messages(state: str, zh: str, en: str, row: ControlAlarm, metering_settings: MeteringSettings) -> None:
    values: Windows = [(120, 100), (110, 100), *([(90.0, 100.0)] if state == "cleared" else [])]
    (told,) = violations(runs(windows(values), None, row), {"C1": ACCOUNT}, metering_settings).to_dicts()
    assert (told["message_zh"], told["message_en"]) == (zh, en)
    assert (told["meter_id"], told["customer_no"], told["severity"]) == ("330500000001", "C1", "critical")
    assert pl.Series([told["at"]]).dt.date().item() == T0.date()
