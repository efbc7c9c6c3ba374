"""The days that assets are partitioned by: those of the home's data, so that none is missing when all is well."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from assets.catalogue import partitions, span_of
from metering.tables import warehouse
from sinks.marts import Marts, day_partition

SHANGHAI = "Asia/Shanghai"
TODAY = datetime.now(ZoneInfo(SHANGHAI)).date()


@pytest.mark.parametrize(
    ("first", "last", "days"),
    [(date(2026, 3, 2), date(2026, 3, 5), 4), (date(2024, 2, 28), date(2024, 3, 1), 3), (date(2020, 1, 1),) * 2 + (1,)],
)
def test_a_closed_record_has_its_own_days_and_no_more(first: date, last: date, days: int) -> None:
    keys = partitions(SHANGHAI, (first, last)).get_partition_keys()
    assert keys == [(first + timedelta(days=n)).isoformat() for n in range(days)]


def test_data_that_still_comes_has_days_up_to_today() -> None:
    keys = partitions(SHANGHAI, (TODAY - timedelta(days=9), TODAY - timedelta(days=2))).get_partition_keys()
    assert (keys[0], len(keys)) == ((TODAY - timedelta(days=9)).isoformat(), 10)
    assert keys[-1] == TODAY.isoformat()
    assert partitions(SHANGHAI).get_partition_keys() == [TODAY.isoformat()]
    assert partitions(SHANGHAI, (TODAY + timedelta(days=40),) * 2).get_partition_keys() == [TODAY.isoformat()]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Sao_Paulo", "Asia/Shanghai"])
def test_days_of_23_and_25_hours_are_days_like_others(zone: str) -> None:
    keys = partitions(zone, (date(2018, 10, 20), date(2019, 4, 2))).get_partition_keys()
    assert (keys[0], keys[-1], len(keys)) == ("2018-10-20", "2019-04-02", 165)


def test_the_span_is_of_readings_windows_and_results(tmp_path: Path) -> None:
    assert span_of(tmp_path) is None
    for table, day in (("readings", "2026-03-04"), ("windows", "2026-03-09"), ("readings", "1970-01-01")):
        folder = tmp_path / "lake" / table / f"date={day}"
        folder.mkdir(parents=True)
        (folder / "0.parquet").touch()
    assert span_of(tmp_path) == (date(2026, 3, 4), date(2026, 3, 9))
    curve = warehouse(("flat",))["daily_curve"]
    stage = Marts(tmp_path).stage()
    stage.write(curve, day_partition(date(2026, 3, 2)), curve.empty(), None)
    stage.publish()
    assert span_of(tmp_path) == (date(2026, 3, 2), date(2026, 3, 9))
