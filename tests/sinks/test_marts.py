"""Partitions of results: when they were computed, and when their time is over."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from metering.tables.warehouse import METER_DAILY
from sinks.marts import (
    CURRENT,
    Marts,
    day_partition,
    month_partition,
    period_end,
    table_partition,
    week_partition,
    year_partition,
)

DAY = date(2026, 3, 2)
AT = datetime(2026, 3, 2, 16, tzinfo=UTC)


def test_weeks_begin_on_monday_and_years_in_january() -> None:
    assert week_partition(date(2026, 1, 1)) == week_partition(date(2026, 1, 4)) == "week=2025-12-29"
    assert year_partition(date(2028, 2, 29)) == "year=2028-01-01"
    assert period_end("week=2025-12-29", "Asia/Shanghai") == datetime(2026, 1, 4, 16, tzinfo=UTC)
    for year in range(2023, 2030):
        assert period_end(f"year={year}-01-01", "UTC") == datetime(year + 1, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("partition", "end"),
    [
        (day_partition(DAY), AT),
        (table_partition(DAY, "kpi"), AT),
        (month_partition(DAY), datetime(2026, 3, 31, 16, tzinfo=UTC)),
        (month_partition(date(2026, 12, 9)), datetime(2026, 12, 31, 16, tzinfo=UTC)),
    ],
)
def test_the_time_of_a_partition_is_over_when_its_last_local_day_is(partition: str, end: datetime) -> None:
    assert period_end(partition, "Asia/Shanghai") == end
    assert period_end(CURRENT, "Asia/Shanghai") > datetime(9999, 1, 1, tzinfo=UTC)


def test_a_partition_tells_the_watermark_that_it_was_computed_at(tmp_path: Path) -> None:
    marts, rows = Marts(tmp_path), METER_DAILY.empty()
    assert marts.as_of("meter_daily", day_partition(DAY)) is None
    for as_of in (AT, None):
        stage = marts.stage()
        stage.write(METER_DAILY, day_partition(DAY), rows, as_of)
        stage.publish()
        assert marts.as_of("meter_daily", day_partition(DAY)) == as_of
    assert marts.read(METER_DAILY, [DAY]).equals(rows.select(pl.all()))
