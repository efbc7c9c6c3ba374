"""Slots: by hand, over days that are shorter or longer, and the rhythm that a meter seems to keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.readings.slots import estimates, on_grid, placed, seeming_interval_s, weighed
from metering.settings import MeteringSettings, SlotSettings
from metering.tables.schema import TIMESTAMP

Builder = Callable[..., pl.DataFrame]
VIENNA = ZoneInfo("Europe/Vienna")
SHORT, LONG = (datetime(2026, 3, 29), 23), (datetime(2026, 10, 25), 25)


@pytest.fixture(scope="module")
def versions_of(
    make_customers: Builder, make_meter_versions: Builder, metering_settings: MeteringSettings
) -> Callable[..., pl.DataFrame]:
    def make(interval_s: int, **given: Any) -> pl.DataFrame:
        figures = replace(metering_settings, timezone="Europe/Vienna", **given)
        return make_meter_versions(
            make_customers({"C1": {}}), {"M": {"customer_no": "C1", "interval_s": interval_s}}, figures
        )

    return make


def _rows(*stamps: datetime) -> pl.DataFrame:
    frame = pl.DataFrame({"ts": stamps}, schema={"ts": TIMESTAMP})
    return frame.with_columns(pl.lit(0, pl.UInt32).alias("meter"), pl.lit(0, pl.UInt32).alias("version"))


def _slot(at: datetime, versions: pl.DataFrame) -> datetime:
    us = placed(_rows(at), versions, "Europe/Vienna")["slot_us"].item()
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


@pytest.mark.parametrize(
    ("interval_s", "late_s", "same"),
    [(900, 60, True), (900, 60.001, False), (300, 30, True), (300, 30.001, False), (10, 1, True), (10, 1.001, False),
     (3600, 60, True), (3600, 61, False), (86_400, 60, True), (86_400, 61, False)],
)  # fmt: skip
def test_a_stamp_is_late_by_a_tenth_of_the_interval_and_a_minute_at_most(
    versions_of: Callable[..., pl.DataFrame], interval_s: int, late_s: float, same: bool
) -> None:
    midnight = datetime(2026, 3, 2, tzinfo=VIENNA).astimezone(UTC)
    slot = _slot(midnight + timedelta(seconds=late_s), versions_of(interval_s))
    assert slot == midnight + timedelta(seconds=0 if same else interval_s)


def test_the_tolerance_is_a_setting(versions_of: Callable[..., pl.DataFrame]) -> None:
    midnight = datetime(2026, 3, 2, tzinfo=VIENNA).astimezone(UTC)
    for tolerance, slot in ((0.5, midnight), (0.0, midnight + timedelta(minutes=15))):
        versions = versions_of(900, slots=SlotSettings(tolerance=tolerance, tolerance_s=1e6))
        assert _slot(midnight + timedelta(minutes=5), versions) == slot


@pytest.mark.parametrize(
    ("day", "interval_s", "hours"),
    [
        (SHORT, 86_400, [23]), (LONG, 86_400, [25]), (SHORT, 43_200, [12, 23]), (LONG, 43_200, [12, 25]),
        (SHORT, 21_600, [6, 12, 18, 23]), (LONG, 21_600, [6, 12, 18, 25]),
        (SHORT, 3600, list(range(1, 24))), (LONG, 3600, list(range(1, 26))),
    ],
)  # fmt: skip
def test_slots_fill_a_day_whose_clocks_change(
    versions_of: Callable[..., pl.DataFrame], day: tuple[datetime, int], interval_s: int, hours: list[int]
) -> None:
    start = day[0].replace(tzinfo=VIENNA).astimezone(UTC)
    versions = versions_of(interval_s)
    at = [start + timedelta(minutes=15 * n) for n in range(1, day[1] * 4 + 1)]
    slots = placed(_rows(*at), versions, "Europe/Vienna")["slot_us"].cast(TIMESTAMP).unique().sort().to_list()
    assert slots == [start + timedelta(hours=h) for h in hours]


def test_what_readings_answer_for(versions_of: Callable[..., pl.DataFrame]) -> None:
    versions, start = versions_of(900), datetime(2026, 3, 2, tzinfo=UTC)
    on = _rows(*(start + timedelta(minutes=m) for m in (0, 15, 30)))
    assert on_grid(on, versions)
    assert weighed(on, versions, "Europe/Vienna")["slot_s"].to_list() == [900.0] * 3
    off = _rows(*(start + timedelta(minutes=m) for m in (0, 5, 11, 15.05, 22)))
    assert not on_grid(off, versions)
    rows = weighed(off, versions, "Europe/Vienna")
    assert rows["slot_s"].to_list() == [900.0, 0.0, 0.0, 900.0, 900.0]
    assert ((rows["slot_end"] - start).dt.total_minutes()).to_list() == [0, 15, 15, 15, 30]


@given(interval_s=st.sampled_from([10, 60, 300, 900, 3600, 86_400]), jitter=st.floats(0, 0.2), n=st.integers(3, 40))
def test_the_interval_that_a_meter_seems_to_keep(interval_s: int, jitter: float, n: int) -> None:
    start = datetime(2026, 3, 2, tzinfo=UTC)
    stamps = [
        start + timedelta(seconds=interval_s * (k + (jitter if k == n // 2 else 0)))
        for k in range(n)
        if k != 1 or n < 7
    ]
    found = seeming_interval_s(_rows(*stamps))
    assert found["n"].item() == len(stamps)
    if n >= 7:  # of four gaps, two of them odd, no middle is the usual one
        assert found["seeming_s"].item() == interval_s


@given(
    interval_min=st.sampled_from([1, 5, 15, 20, 30, 60]),
    statuses=st.lists(st.sampled_from([None, 0, 1, 65_536, 65_540]), max_size=40),
)
def test_estimates_are_counted_in_every_window_that_they_reach_into(
    versions_of: Callable[..., pl.DataFrame], interval_min: int, statuses: list[int | None]
) -> None:
    midnight = datetime(2026, 3, 2, tzinfo=VIENNA).astimezone(UTC)
    stamps = [midnight + timedelta(minutes=interval_min * (n + 1)) for n in range(len(statuses))]
    rows = _rows(*stamps).with_columns(pl.Series("status", statuses, dtype=pl.Int64))
    wanted: dict[int, int] = {}
    for n, status in enumerate(statuses):
        if status is not None and status >= 65_536:
            for window in range(n * interval_min // 15, -(-(n + 1) * interval_min // 15)):
                wanted[window + 1] = wanted.get(window + 1, 0) + 1
    found = estimates(rows, versions_of(interval_min * 60), "Europe/Vienna")
    ends = [(end - midnight) // timedelta(minutes=15) for end in found["window_end"]]
    assert dict(zip(ends, found["estimates"], strict=True)) == wanted
