"""Registers that stay below their power for days: by hand, and against what does the same to a day's sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.events.register_short import register_daily, register_shorts
from metering.settings import MeteringSettings
from metering.tables.batch import BATCH_WINDOWS

FIRST = date(2026, 7, 1)
METER = "310100000001"
Rows = list[dict[str, Any]]
Found = tuple[float, float, float]


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=8)


MakeVersions = Callable[..., pl.DataFrame]


@pytest.fixture(scope="module")
def of_meter(
    make_meter_versions: MakeVersions, make_customers: Callable[..., pl.DataFrame]
) -> Callable[..., pl.DataFrame]:
    """The registry's versions of the meter."""
    return lambda **given: make_meter_versions(
        make_customers({"C1": {}}), {METER: {"customer_no": "C1", "interval_s": 900, **given}}
    )


@pytest.fixture(scope="module")
def versions(of_meter: Callable[..., pl.DataFrame]) -> pl.DataFrame:
    return of_meter()


@pytest.fixture(scope="module")
def settings(metering_settings: MeteringSettings) -> MeteringSettings:
    figures = replace(metering_settings.metering_faults, short_fraction=0.05, short_days=3, short_hours=12)
    return replace(metering_settings, metering_faults=figures)


def windows(day: date, kw: float = 200.0, counted: float = 1.0, before_kwh: float = 999_000.0, **more: Any) -> Rows:
    """A day of `kw`, of which the register counts the share `counted`; it rolls over at 999,999.99."""
    rows = []
    for point in range(97):
        shown = (before_kwh + point * kw * counted / 4) % 1e6
        end = midnight(day) + timedelta(minutes=15 * point)
        rows.append({"meter_id": METER, "window_end": end, "import_kwh_end": shown, "p_mean_kw": kw,
                     "covered_min": 15.0, **more})  # fmt: skip
    return rows


def of_day(rows: Rows, versions: pl.DataFrame, settings: MeteringSettings, day: date = FIRST) -> Found | None:
    """Hours, what registers counted, the integral of power."""
    frame = BATCH_WINDOWS.conform(pl.DataFrame(rows, infer_schema_length=None), customer_no="C1", date=day)
    found = register_daily(frame, versions, day, settings)
    return found.select("hours", "registered_kwh", "power_kwh").row(0) if found.height else None


def test_a_day_is_what_registers_counted_against_power(versions: pl.DataFrame, settings: MeteringSettings) -> None:
    assert of_day(windows(FIRST, counted=0.9), versions, settings) == pytest.approx((24.0, 4320.0, 4800.0))


def test_it_is_held_against_power_where_that_is_known_alone(versions: pl.DataFrame, settings: MeteringSettings) -> None:
    """A gap in power, one in the registers, and a wrong value: what is left agrees."""
    rows = windows(FIRST)
    rows[10]["covered_min"], rows[40]["import_kwh_end"] = 14.0, None
    del rows[20]
    rows[60]["import_kwh_end"] = 0.0
    hours, registered, powered = of_day(rows, versions, settings) or (0, 0, 0)
    assert registered == pytest.approx(powered)
    assert 22 < hours < 24
    assert (
        of_day([{**row, "covered_min": None, "p_mean_kw": None} for row in windows(FIRST)], versions, settings) is None
    )


def test_what_is_fed_in_and_what_has_no_register_for_it(versions: pl.DataFrame, settings: MeteringSettings) -> None:
    rows = windows(FIRST, kw=-200.0, counted=0.0)
    fed = [{**row, "export_kwh_end": 100 + 50.0 * point} for point, row in enumerate(rows)]
    assert of_day(fed, versions, settings) == pytest.approx((24.0, -4800.0, -4800.0))


def test_hourly_registers_over_quarter_hours_of_power(versions: pl.DataFrame, settings: MeteringSettings) -> None:
    rows = [{**row, "import_kwh_end": row["import_kwh_end"] if n % 4 == 0 else None}
            for n, row in enumerate(windows(FIRST, counted=0.8))]  # fmt: skip
    assert of_day(rows, versions, settings) == pytest.approx((24.0, 3840.0, 4800.0))


def test_snapshots_of_power_and_exchanges_say_nothing(
    of_meter: Callable[..., pl.DataFrame], settings: MeteringSettings
) -> None:
    snapshots = of_meter(sampling="snapshot")
    days = pl.concat(
        register_daily(
            BATCH_WINDOWS.conform(pl.DataFrame(windows(FIRST + timedelta(days=n), counted=0.5)), date=FIRST),
            snapshots, FIRST + timedelta(days=n), settings,
        )
        for n in range(5)
    )  # fmt: skip
    assert days.height == 5
    assert register_shorts(days, settings).is_empty()


# --- days in a row --------------------------------------------------------------------------------------------------


def daily(*ratios: float | None, meter: str = METER, power_kwh: float = 4800.0, hours: float = 24.0) -> pl.DataFrame:
    """Days from FIRST on; None: not there."""
    rows = [
        {"meter_id": meter, "customer_no": "C1", "date": FIRST + timedelta(days=n), "hours": hours, "ratio": ratio,
         "registered_kwh": power_kwh * ratio, "power_kwh": power_kwh, "count_kwh": 1.0}
        for n, ratio in enumerate(ratios) if ratio is not None
    ]  # fmt: skip
    return pl.DataFrame(rows)


def found(days: pl.DataFrame, settings: MeteringSettings) -> Sequence[tuple[int, int | None, int]]:
    """First day, the day after the last one (None: it lasts), and how many."""
    rows = register_shorts(days, settings)
    start = midnight(FIRST)
    return [
        ((begin - start).days, None if end is None else (end - start).days, count)
        for begin, end, count in rows.select("started_at", "ended_at", "days").iter_rows()
    ]


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([1.0, 0.9, 0.9, 0.9, 1.0], [(1, 4, 3)]),
        ([1.0, 0.9, 0.9, 1.0, 0.9], []),
        ([0.9, 0.9, 0.9], [(0, None, 3)]),
        ([0.9, None, 0.9, 0.9], [(0, None, 3)]),
        ([0.951] * 9, []),
        ([0.949] * 9, [(0, None, 9)]),
        ([1.2] * 9, []),
        ([0.9] * 3 + [1.0] + [0.5] * 4 + [1.0], [(0, 3, 3), (4, 8, 4)]),
        ([0.9, 0.9], []),
    ],
)
def test_as_many_days_in_a_row_as_are_asked_for(
    ratios: list[float | None], expected: list[tuple[int, int | None, int]], settings: MeteringSettings
) -> None:
    others = daily(*[1.0] * 9, meter="310100000002")
    assert found(pl.concat([others, daily(*ratios)]), settings) == expected


def test_a_days_evidence_with_bounds(settings: MeteringSettings) -> None:
    row = register_shorts(daily(1.0, 0.9, 0.8, 0.9, 1.0), settings).row(0, named=True)
    assert row["violation_id"] == f"{METER}/register_short/total/2026-07-01T16:00:00Z"
    assert (row["rule"], row["phase"], row["method"]) == ("register_short", "total", "power_integral")
    assert row["evidence"] == "2026-07-02 0.9; 2026-07-03 0.8; 2026-07-04 0.9"
    figures = [row[name] for name in ("power_kwh", "measured_kwh", "lost_kwh", "low_kwh", "high_kwh")]
    assert figures == pytest.approx([14_400.0, 12_480.0, 1_920.0, 1_200.0, 2_640.0])


def test_days_that_do_not_tell(settings: MeteringSettings) -> None:
    """Too little of the day, and so little energy that one count is more than what is short."""
    assert found(daily(*[0.5] * 5, hours=11.0), settings) == []
    assert found(daily(*[0.5] * 5, power_kwh=1.9), settings) == []
    assert found(daily(*[0.5] * 5, power_kwh=2.1), settings) == [(0, None, 5)]
