"""10-min means and EN 50160 weeks: against plain Python, the edges of ten minutes, and verdicts that are no passes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.calendar import day_bounds
from metering.settings import MeteringSettings, TenMinuteMeans
from metering.supply.en50160 import tenmin_counts, voltage_weekly
from metering.tables.supply import VOLTAGE_DAILY, VOLTAGE_WEEKLY

Builder = Callable[..., pl.DataFrame]
MONDAY = date(2026, 6, 29)
START, _ = day_bounds(MONDAY, "Asia/Shanghai")


@pytest.fixture(scope="module")
def limits(metering_settings: MeteringSettings) -> TenMinuteMeans:
    return metering_settings.voltage_quality[0].tenmin


def readings(interval_s: int, ua: list[float | None], nominal_v: float = 220.0) -> pl.DataFrame:
    ends = [START + timedelta(seconds=interval_s * (n + 1)) for n in range(len(ua))]
    schema = {"slot_end": pl.Datetime("us", "UTC"), "ua_v": pl.Float64, "ub_v": pl.Float64, "uc_v": pl.Float64}
    rows = pl.DataFrame({"slot_end": ends, "ua_v": ua, "ub_v": None, "uc_v": None}, schema=schema)
    return rows.with_columns(
        pl.lit("330100000001").alias("meter_id"),
        pl.lit(interval_s, pl.Int32).alias("interval_s"),
        pl.lit(float(interval_s)).alias("slot_s"),
        pl.lit(nominal_v).alias("nominal_v"),
    )


def counts(frame: pl.DataFrame, limits: TenMinuteMeans) -> tuple[int, ...]:
    rows = tenmin_counts(frame, START, limits).select("tenmin_means", "tenmin_within_10", "tenmin_within_15").rows()
    return rows[0] if rows else ()


def plainly(interval_s: int, ua: list[float | None], limits: TenMinuteMeans) -> tuple[int, ...]:
    """Second by second."""
    volts: dict[int, list[float]] = defaultdict(list)
    for n, u in enumerate(ua):
        for second in range(n * interval_s, (n + 1) * interval_s):
            if u is not None:
                volts[second // 600].append(u)
    means = [math.fsum(v) / len(v) / 220 for v in volts.values() if len(v) >= 600 * limits.least_coverage]
    means = [mean for mean in means if mean >= limits.interruption]
    if not means:
        return ()
    inside = (sum(0.9 - 1e-9 <= m <= 1.1 + 1e-9 for m in means), sum(0.85 - 1e-9 <= m <= 1.1 + 1e-9 for m in means))
    return len(means), *inside


@given(
    interval_s=st.sampled_from([60, 120, 200, 300, 400, 450, 480, 600]),
    ua=st.lists(st.none() | st.sampled_from([0.0, 180.0, 190.0, 200.0, 220.0, 235.0, 243.0, 250.0]), max_size=60),
)
def test_counts_are_those_of_plain_python(limits: TenMinuteMeans, interval_s: int, ua: list[float | None]) -> None:
    assert counts(readings(interval_s, ua), limits) == plainly(interval_s, ua, limits)


def test_limits_belong_to_the_inside(limits: TenMinuteMeans) -> None:
    # 187.0, 198.0, 242.0 are -15, -10, +10 % of 220 V
    assert counts(readings(600, [187.0, 198.0, 242.0, 186.9, 242.1]), limits) == (5, 2, 3)


def test_readings_longer_than_ten_minutes_tell_nothing(limits: TenMinuteMeans) -> None:
    assert counts(readings(900, [220.0] * 96), limits) == ()


def test_of_a_slot_the_last_reading_counts_and_interruptions_do_not(limits: TenMinuteMeans) -> None:
    again = readings(300, [300.0, 300.0]).with_columns(slot_s=pl.lit(0.0))
    assert counts(pl.concat([again, readings(300, [220.0, 230.0])]), limits) == (1, 1, 1)
    assert counts(readings(600, [10.9]), limits) == ()  # below 5 % of 220 V
    assert counts(readings(600, [11.1]), limits) == (1, 0, 0)


def days(counted: list[tuple[int | None, int | None, int | None]], meter: str = "M", phase: str = "a") -> pl.DataFrame:
    rows = [
        {
            "meter_id": meter,
            "customer_no": "A",
            "phase": phase,
            "date": MONDAY + timedelta(days=n),
            "tenmin_means": means,
            "tenmin_within_10": in_10,
            "tenmin_within_15": in_15,
        }
        for n, (means, in_10, in_15) in enumerate(counted)
    ]
    zeros = dict.fromkeys(("monitored_min", "over_min", "under_min"), 0.0)
    return VOLTAGE_DAILY.conform(pl.DataFrame(rows, infer_schema_length=None), **zeros)


@pytest.fixture(scope="module")
def versions(make_customers: Builder, make_meter_versions: Builder) -> pl.DataFrame:
    meters: dict[str, dict[str, Any]] = {
        "M": {"customer_no": "A", "wiring": "1p", "interval_s": 60},
        "long": {"customer_no": "A", "wiring": "3p3w", "interval_s": 900},
        "snap": {"customer_no": "A", "wiring": "1p", "interval_s": 60, "sampling": "snapshot"},
        "old": {"customer_no": "A", "wiring": "1p", "interval_s": 60, "valid_to": date(2026, 6, 1)},
    }
    return make_meter_versions(make_customers({"A": {}}), meters)


def week(
    rows: pl.DataFrame, versions: pl.DataFrame, settings: MeteringSettings
) -> dict[tuple[str, str], dict[str, Any]]:
    table = voltage_weekly(rows, versions, MONDAY + timedelta(days=3), settings)
    assert table.schema == VOLTAGE_WEEKLY.schema
    assert table["week"].unique().to_list() == [MONDAY]
    return {(row["meter_id"], row["phase"]): row for row in table.to_dicts()}


@pytest.mark.parametrize(
    ("counted", "verdict"),
    [
        ([(144, 144, 144)] * 7, "pass"),
        ([(144, 137, 144)] * 6 + [(144, 136, 144)], "pass"),  # 50 of 1008 outside: 4.96 %
        ([(144, 137, 144)] * 4 + [(144, 136, 144)] * 3, "fail"),  # 52 of them
        ([(144, 144, 144)] * 6 + [(144, 143, 143)], "fail"),
        ([(144, 144, 144)] * 5, "incomplete"),
        ([(126, 126, 126)] * 6, "pass"),  # 756: three quarters
        ([(144, 143, 143)], "fail"),  # nothing can mend it
        ([(144, 93, 144)], "fail"),  # 51 outside, more than 5 % of all there can be
        ([(144, 94, 144)], "incomplete"),
        ([(0, 0, 0)] * 7, "no_data"),
        ([(None, None, None)] * 7, "no_data"),
    ],
)
def test_verdicts(
    metering_settings: MeteringSettings,
    versions: pl.DataFrame,
    counted: list[tuple[int | None, int | None, int | None]],
    verdict: str,
) -> None:
    row = week(days(counted), versions, metering_settings)["M", "a"]
    assert row["verdict"] == verdict
    assert (row["reason"] is None) == (verdict in ("pass", "fail"))
    assert (row["within_10_pct"] is None) == (verdict == "no_data")


def test_what_cannot_be_seen_or_did_not_come_is_no_pass(
    metering_settings: MeteringSettings, versions: pl.DataFrame
) -> None:
    rows = week(days([(144, 144, 144)] * 7, "snap"), versions, metering_settings)
    assert set(rows) == {("M", "a"), ("long", "a"), ("long", "c"), ("snap", "a")}
    assert (rows["M", "a"]["verdict"], rows["M", "a"]["tenmin_means"]) == ("no_data", 0)
    assert (rows["long", "a"]["verdict"], rows["long", "a"]["tenmin_means"]) == ("not_observable", None)
    assert "900 s" in rows["long", "c"]["reason"]
    assert rows["snap", "a"]["verdict"] == "pass"
    assert "estimate" in rows["snap", "a"]["reason"]


def test_a_week_with_a_25_hour_day_has_more_means(metering_settings: MeteringSettings, versions: pl.DataFrame) -> None:
    settings = replace(metering_settings, timezone="Europe/Berlin")
    october = days([(144, 144, 144)] * 6 + [(150, 150, 150)]).with_columns(
        pl.col("date").dt.offset_by(f"{(date(2026, 10, 19) - MONDAY).days}d")
    )
    table = voltage_weekly(october, versions, date(2026, 10, 25), settings).filter(pl.col("meter_id") == "M")
    assert table.select("tenmin_means", "within_10_pct", "verdict").row(0) == (1014, 100.0, "pass")


def test_the_clock_of_the_day_starts_at_local_midnight(limits: TenMinuteMeans) -> None:
    """In Nepal, 5:45 ahead, ten minutes from midnight are not those of UTC."""
    start: datetime = day_bounds(MONDAY, "Asia/Kathmandu")[0]
    frame = readings(300, [190.0, 250.0] * 2).with_columns(pl.col("slot_end") + (start - START))
    assert tenmin_counts(frame, start, limits)["tenmin_within_10"].to_list() == [2]
