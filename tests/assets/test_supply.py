"""Weeks, months and unbalance from the lake, against SQL on its Parquet; old months are not touched by a new day."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from assets.batch import Batch
from sinks.marts import month_partition, week_partition

WEEKS = """
SET TimeZone = 'Asia/Shanghai';
WITH means AS (
    SELECT meter_id, time_bucket(INTERVAL 10 minutes, ts - INTERVAL 1 microsecond) AS bucket, avg(ua_v) / 220 AS u
    FROM read_parquet('{lake}/readings/*/*.parquet') WHERE meter_id = 'M2' GROUP BY ALL
)
SELECT CAST(date_trunc('week', bucket) AS DATE) AS week, count(*) AS n,
       avg(CAST(u BETWEEN 0.9 AND 1.1 AS INT)) * 100 AS a,
       avg(CAST(u BETWEEN 0.85 AND 1.1 AS INT)) * 100 AS b
FROM means GROUP BY week ORDER BY week
"""
MONTH = """
SELECT (1 - sum(over_min + under_min) / sum(monitored_min)) * 100, sum(monitored_min), max(u_max_v) / 220 * 100
FROM days WHERE meter_id = ? OR ?
"""


def test_weeks_equal_sql_on_the_lake(batch: Batch) -> None:
    with duckdb.connect() as connection:
        oracle = connection.execute(WEEKS.format(lake=batch.home / "lake")).fetchall()
    weeks = batch.marts.scan(batch.tables["voltage_weekly"]).collect()
    ours = weeks.filter(pl.col("meter_id") == "M2").select("week", "tenmin_means", "within_10_pct", "within_15_pct")
    assert len(oracle) == 4
    assert ours.sort("week").rows() == [pytest.approx(row) for row in oracle]
    # M1 reports every quarter-hour; the last week has three days only
    verdicts = weeks.select("meter_id", "phase", "verdict").unique().sort("meter_id", "phase").rows()
    assert [("M1", phase, "not_observable") for phase in "abc"] + [("M2", "a", "pass")] == [
        row for row in verdicts if row[2] != "incomplete"
    ]


def test_the_month_equals_sql_on_its_days(batch: Batch, days: list[date]) -> None:
    of_days = batch.marts.read(batch.tables["voltage_daily"], days)
    rows = batch.marts.scan(batch.tables["voltage_monthly"]).collect()
    named = {(row["scope"], row["phase"]): row for row in rows.to_dicts()}
    with duckdb.connect() as connection:
        connection.register("days", of_days.to_arrow())
        for scope, meter in (("meter:M1", "M1"), ("C2", "M2"), ("*", "")):
            wanted = connection.execute(MONTH, [meter, not meter]).fetchone()
            row = named[scope, "all"]
            assert (row["qualification_rate"], row["monitored_min"], row["u_max_pct"]) == pytest.approx(wanted)
    assert named["*", "all"]["days"] == len(days)


def test_negative_sequence_needs_line_voltages_and_says_so(batch: Batch, days: list[date]) -> None:
    rows = batch.marts.read(batch.tables["unbalance_daily"], days)
    assert rows.select("meter_id", "date").rows() == [("M1", day) for day in days]  # M2 has one phase
    assert rows["negative_sequence_p95_pct"].null_count() == len(days)
    assert rows["reason"].null_count() == 0


def test_a_new_day_rebuilds_its_own_week_and_month_alone(
    tmp_path: Path,
    make_batch_home: Callable[[Path, date, int], Path],
    batch_of: Callable[[Path], Batch],
    materialise: Callable[..., None],
) -> None:
    first = date(2026, 3, 30)
    batch = batch_of(make_batch_home(tmp_path / "home", first, 8))
    tables = ["voltage_daily", "voltage_weekly", "voltage_monthly"]
    materialise(batch, [first + timedelta(days=n) for n in range(7)], tables)
    names = [("voltage_weekly", week_partition(first)), ("voltage_monthly", month_partition(first))]
    before = [batch.marts.path(*name).stat().st_mtime_ns for name in names]
    materialise(batch, [first + timedelta(days=7)], tables)
    assert [batch.marts.path(*name).stat().st_mtime_ns for name in names] == before
    assert {path.parent.name for path in batch.marts.files("voltage_weekly")} == {"week=2026-03-30", "week=2026-04-06"}
    assert {path.parent.name for path in batch.marts.files("voltage_monthly")} == {
        "month=2026-03-01",
        "month=2026-04-01",
    }
