"""What a metering fault cost: by hand, for a phase, two at once, all of them, and where nothing tells."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.events.metering_faults import metering_faults
from metering.settings import MeteringSettings
from metering.tables.alarms import ALARMS
from metering.tables.batch import METER_CURVE

METERS = pl.DataFrame({"meter_id": ["M1", "M2"], "wiring": ["3p4w", "3p3w"]})
DAY = date(2026, 7, 15)  # a Wednesday
MIDNIGHT = datetime(2026, 7, 14, 16, tzinfo=UTC)
UNTIL = MIDNIGHT + timedelta(days=1)


def fault(name: str, phase: str, begin_min: float, end_min: float | None, **other: Any) -> dict[str, Any]:
    return {
        "violation_id": name, "meter_id": "M1", "customer_no": "C1", "rule": "voltage_loss", "phase": phase,
        "state": "cleared", "started_at": MIDNIGHT + timedelta(minutes=begin_min),
        "ended_at": None if end_min is None else MIDNIGHT + timedelta(minutes=end_min), **other,
    }  # fmt: skip


def alarms(*rows: dict[str, Any]) -> pl.DataFrame:
    return ALARMS.conform(pl.DataFrame(list(rows), infer_schema_length=None)) if rows else ALARMS.empty()


def curve(struck: dict[int, float], days: int = 8, kw: float = 300.0, meter: str = "M1") -> pl.DataFrame:
    """Eight days of `kw` before DAY, each a little more than the one before; on DAY `kw` but in `struck` points."""
    rows = []
    for back in range(days, -1, -1):
        for point in range(96):
            value = kw - back if back else struck.get(point, kw)
            end = MIDNIGHT + timedelta(days=-back, minutes=15 * (point + 1))
            rows.append({"meter_id": meter, "window_end": end, "p_kw": value, "status": "validated"})
    return METER_CURVE.conform(pl.DataFrame(rows))


@pytest.fixture
def settings(metering_settings: MeteringSettings) -> MeteringSettings:
    return replace(metering_settings, vee=replace(metering_settings.vee, reference_days=2))


def lost(found: pl.DataFrame) -> dict[str, tuple[Any, ...]]:
    columns = ["method", "measured_kwh", "reference_days_kwh", "other_phases_kwh", "lost_kwh", "low_kwh", "high_kwh"]
    return {row[0]: row[1:] for row in found.select("violation_id", *columns).rows()}


def test_a_phase_lost_for_an_hour(settings: MeteringSettings) -> None:
    """Two thirds are measured: other phases say a third of 300 kW; the last two workdays, 299 and 298 kW."""
    found = metering_faults(
        alarms(fault("v", "a", 600, 660)), curve(dict.fromkeys(range(40, 44), 200.0)), METERS, settings, UNTIL
    )
    assert lost(found)["v"] == pytest.approx(("reference_days", 200.0, 98.5, 100.0, 98.5, 98.5, 100.0))


def test_a_part_of_a_quarter_hour_weighs_its_part(settings: MeteringSettings) -> None:
    """From 10:05 to 10:15: the quarter shows 300 (1 - 2/9), and by that 300 was drawn."""
    found = metering_faults(alarms(fault("v", "b", 605, 615)), curve({40: 300.0 * 7 / 9}), METERS, settings, UNTIL)
    _, _, by_days, by_phases, *_ = lost(found)["v"]
    assert by_phases == pytest.approx(300 * 2 / 9 / 4)
    assert by_days == pytest.approx((298.5 - 300 * 7 / 9) / 4)


def test_two_at_once_share_what_is_lost_and_a_total_loss_has_no_other_phase(settings: MeteringSettings) -> None:
    struck = {**dict.fromkeys(range(40, 44), 100.0), **dict.fromkeys(range(60, 64), 0.0)}
    rows = alarms(
        fault("a", "a", 600, 660), fault("c", "c", 600, 660), fault("all", "total", 900, 960, rule="total_voltage_loss")
    )
    found = lost(metering_faults(rows, curve(struck), METERS, settings, UNTIL))
    assert found["a"][3] + found["c"][3] == pytest.approx(200.0)
    assert found["a"][2] == found["c"][2] == pytest.approx(198.5 / 2)
    assert found["all"] == pytest.approx(("reference_days", 0.0, 298.5, None, 298.5, None, None))


def test_three_wires_have_two_elements_and_days_off_are_no_reference_for_workdays(settings: MeteringSettings) -> None:
    found = metering_faults(
        alarms(fault("v", "a", 600, 660, meter_id="M2")),
        curve(dict.fromkeys(range(40, 44), 150.0), days=0, meter="M2"), METERS, settings, UNTIL,
    )  # fmt: skip
    assert lost(found)["v"] == pytest.approx(("other_phases", 150.0, None, 150.0, 150.0, None, None))
    days_off = replace(settings, holidays={DAY - timedelta(days=n): "off" for n in range(1, 9)})
    found = metering_faults(
        alarms(fault("v", "a", 600, 660)), curve(dict.fromkeys(range(40, 44), 200.0)), METERS, days_off, UNTIL
    )
    assert lost(found)["v"][:3] == pytest.approx(("other_phases", 200.0, None))


def test_one_that_lasts_counts_up_to_now_and_others_count_not(settings: MeteringSettings) -> None:
    rows = alarms(
        fault("lasts", "a", 600, None), fault("gone", "a", 600, 660, state="withdrawn"),
        fault("high", "a", 600, 660, rule="over_voltage"), fault("later", "a", 1500, 1600),
    )  # fmt: skip
    points = curve(dict.fromkeys(range(40, 96), 200.0))
    found = metering_faults(rows, points, METERS, settings, MIDNIGHT + timedelta(minutes=720))
    assert found.select("violation_id", "ended_at").rows() == [("lasts", None)]
    assert lost(found)["lasts"][3] == pytest.approx(200.0)
    unknown = points.with_columns(status=pl.lit("missing"))
    assert lost(metering_faults(rows, unknown, METERS, settings, UNTIL))["lasts"] == (None, 0.0, *[None] * 5)
    assert metering_faults(alarms(), points, METERS, settings, UNTIL).is_empty()


def test_a_register_that_stands_costs_what_power_says(settings: MeteringSettings) -> None:
    """It stood from 10:00 to 11:15: the block's last minute tells it, and the first one that counts is told so too."""
    rows = alarms(
        fault("v", "import_kwh", 614, 689, rule="stopped"),
        fault("out", "export_kwh", 600, 660, rule="stopped", meter_id="M2"),
    )
    points = pl.concat([curve({40: 100.0, 44: 200.0}), curve(dict.fromkeys(range(40, 44), -80.0), meter="M2")])
    found = lost(metering_faults(rows, points, METERS, settings, UNTIL))
    kwh = (100.0 + 3 * 300.0 + 200.0) / 4
    assert found["v"] == pytest.approx(("power_integral", 0.0, None, None, kwh, 0.95 * kwh, 1.05 * kwh))
    assert found["out"] == pytest.approx(("power_integral", 0.0, None, None, 80.0, 76.0, 84.0))
    unknown = points.with_columns(status=pl.lit("missing"))
    assert lost(metering_faults(rows, unknown, METERS, settings, UNTIL))["v"] == (None, 0.0, *[None] * 5)
