"""Local days, months and quarter-hours, on plain days and where clocks change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.calendar import day_bounds, local_date, local_dates, month_of, quarter_hours, window_end
from metering.tables.schema import TIMESTAMP

ZONES = st.sampled_from(["Asia/Shanghai", "Europe/Paris", "America/Sao_Paulo", "Australia/Lord_Howe", "UTC"])
DAYS = st.dates(date(2000, 1, 1), date(2030, 12, 31))


def instants(*times: datetime | None) -> pl.DataFrame:
    return pl.DataFrame({"ts": pl.Series(times, dtype=TIMESTAMP)})


@pytest.mark.parametrize(
    ("day", "tz", "points"),
    [
        (date(2026, 7, 1), "Asia/Shanghai", 96),
        (date(2016, 3, 27), "Europe/Berlin", 92),
        (date(2016, 10, 30), "Europe/Berlin", 100),
    ],
)
def test_a_day_has_its_real_quarter_hours(day: date, tz: str, points: int) -> None:
    quarters = quarter_hours(day, tz)
    assert quarters["point"].to_list() == list(range(1, points + 1))
    assert quarters.schema == pl.Schema({"point": pl.Int32, "window_end": TIMESTAMP})
    start, end = day_bounds(day, tz)
    assert quarters["window_end"][0] == start + timedelta(minutes=15)
    assert quarters["window_end"][-1] == end


def test_bounds_are_local_midnights() -> None:
    start, end = day_bounds(date(2026, 7, 1), "Asia/Shanghai")
    assert (start, end) == (datetime(2026, 6, 30, 16, tzinfo=UTC), datetime(2026, 7, 1, 16, tzinfo=UTC))


def test_midnight_belongs_to_the_day_before() -> None:
    midnight = datetime(2026, 6, 30, 16, tzinfo=UTC)
    times = instants(midnight, midnight + timedelta(microseconds=1), None)
    dates = times.select(local_date(pl.col("ts"), "Asia/Shanghai")).to_series()
    assert dates.to_list() == [date(2026, 6, 30), date(2026, 7, 1), None]


@given(DAYS, ZONES)
def test_every_quarter_hour_of_a_day_is_dated_to_it_and_days_leave_no_gap(day: date, tz: str) -> None:
    dates = quarter_hours(day, tz).select(local_date(pl.col("window_end"), tz)).to_series()
    assert dates.unique().to_list() == [day]
    assert day_bounds(day, tz)[1] == day_bounds(day + timedelta(days=1), tz)[0]


@given(st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)))
def test_a_reading_lies_in_its_window(ts: datetime) -> None:
    end = instants(ts).select(window_end(pl.col("ts"))).item()
    assert end - timedelta(minutes=15) < ts <= end
    assert end.timestamp() % 900 == 0


def test_months_start_on_their_first_day() -> None:
    days = pl.DataFrame({"day": [date(2024, 2, 29), date(2024, 3, 1)]})
    assert days.select(month_of(pl.col("day"))).to_series().to_list() == [date(2024, 2, 1), date(2024, 3, 1)]


def test_dates_agree_with_sql(sql: Callable[..., list[tuple[Any, ...]]]) -> None:
    times = instants(*(datetime(2016, 10, 29, 12, tzinfo=UTC) + timedelta(minutes=7 * n) for n in range(500)))
    ours = times.with_columns(local_date(pl.col("ts"), "Europe/Berlin").alias("day"))
    wrong = sql(
        "select count(*) from ours "
        "where day <> cast((ts - interval 1 microsecond) at time zone 'Europe/Berlin' as date)",
        ours=ours,
    )
    assert wrong == [(0,)]


@given(
    st.lists(st.datetimes(datetime(2000, 1, 1), datetime(2030, 12, 31)), max_size=5),
    st.timedeltas(timedelta(), timedelta(hours=1)),
    ZONES,
)
def test_dates_of_many_instants_are_those_of_each(first: list[datetime], apart: timedelta, tz: str) -> None:
    ts = instants(*first, *(at + apart for at in first), *first)["ts"]
    assert local_dates(ts, tz).to_list() == ts.to_frame().select(local_date(pl.col("ts"), tz)).to_series().to_list()
