"""From the lake to curves, loads, voltage and power factor, against SQL on the lake's Parquet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from assets.batch import Batch
from assets.readings import counted, readings, with_version
from metering.calendar import day_bounds
from metering.tables import LAKE

ORACLE = """
SET TimeZone = 'Asia/Shanghai';
WITH readings AS (
    SELECT meter_id, customer_no, ts, p_kw, import_kwh,
           CAST(ts - INTERVAL 1 microsecond AS DATE) AS date,
           time_bucket(INTERVAL 15 minutes, ts - INTERVAL 1 microsecond) + INTERVAL 15 minutes AS window_end
    FROM read_parquet('{lake}/readings/*/*.parquet')
), points AS (
    SELECT customer_no, date, window_end, avg(p_kw) AS p_kw FROM readings GROUP BY ALL
), edges AS (
    SELECT customer_no, date, import_kwh - lag(import_kwh) OVER (PARTITION BY meter_id ORDER BY ts) AS used, ts
    FROM readings
), energy AS (
    SELECT customer_no, date, sum(used) AS energy_kwh FROM edges GROUP BY ALL
)
SELECT customer_no, date, energy_kwh, max(p_kw) AS p_max_kw,
       arg_max(window_end, (p_kw, -epoch(window_end))) AS p_max_at,
       min(p_kw) AS p_min_kw, avg(p_kw) AS p_mean_kw
FROM points JOIN energy USING (customer_no, date) GROUP BY ALL ORDER BY customer_no, date
"""


def test_daily_load_equals_sql_on_the_lake(batch: Batch, days: list[date]) -> None:
    with duckdb.connect() as connection:
        oracle = connection.execute(ORACLE.format(lake=batch.home / "lake")).fetchall()
    load = batch.marts.read(batch.tables["daily_load"], days).filter(pl.col("customer_no") != "*")
    ours = load.select("customer_no", "date", "energy_kwh", "p_max_kw", "p_max_at", "p_min_kw", "p_mean_kw")
    assert len(oracle) == 2 * len(days) == ours.height
    for sql, row in zip(oracle, ours.sort("customer_no", "date").iter_rows(), strict=True):
        assert row[:2] == sql[:2]
        assert row[4] == sql[4]
        if sql[1] != days[0]:  # the registers at the very first edge are not known
            assert row[2] == pytest.approx(sql[2], rel=1e-9)
        assert (row[3], *row[5:]) == pytest.approx((sql[3], *sql[5:]), rel=1e-9)
    assert set(load["completeness"]) == {1.0}
    assert dict(load.select("customer_no", "demand_basis").unique().iter_rows()) == {"C1": "block", "C2": "sliding"}


def test_every_day_has_its_96_points_for_each_customer(batch: Batch, days: list[date]) -> None:
    curve = batch.marts.read(batch.tables["daily_curve"], days)
    counts = curve.group_by("customer_no", "date").agg(pl.len(), pl.col("point").n_unique().alias("points"))
    assert counts.height == 2 * len(days)
    assert set(counts["len"]) == set(counts["points"]) == {96}
    assert set(curve["status"]) == {"validated"}


def test_voltage_equals_sql_on_the_lake(batch: Batch, days: list[date]) -> None:
    sql = """
        SET TimeZone = 'Asia/Shanghai';
        SELECT meter_id, CAST(ts - INTERVAL 1 microsecond AS DATE) AS date,
               count(*) * any_value(minutes) AS monitored, count_if(ua_v > 220 * 1.07) * any_value(minutes) AS over_min
        FROM read_parquet('{lake}/readings/*/*.parquet')
        JOIN (VALUES ('M1', 15.0), ('M2', 1.0)) AS m(meter_id, minutes) USING (meter_id)
        WHERE ua_v BETWEEN 220 * 0.7 AND 220 * 1.2 GROUP BY ALL ORDER BY ALL
    """
    with duckdb.connect() as connection:
        oracle = connection.execute(sql.format(lake=batch.home / "lake")).fetchall()
    ours = batch.marts.read(batch.tables["voltage_daily"], days).filter(pl.col("phase") == "a")
    rows = ours.sort("meter_id", "date").select("meter_id", "date", "monitored_min", "over_min").rows()
    assert rows == [(m, d, float(a), float(b)) for m, d, a, b in oracle]
    assert 0 < ours["over_min"].sum() < ours["monitored_min"].sum()


def test_power_factor_is_of_the_month_to_date_and_grows_with_it(
    tmp_path: Path,
    make_batch_home: Callable[[Path, date, int], Path],
    batch_of: Callable[[Path], Batch],
    materialise: Callable[..., None],
) -> None:
    first = date(2026, 3, 2)
    batch = batch_of(make_batch_home(tmp_path / "home", first, 4))
    month = batch.tables["power_factor_monthly"]

    def active(days: range) -> dict[str, float]:
        wanted = [first + timedelta(days=n) for n in days]
        materialise(batch, wanted, ["windows", "meter_curve", "meter_daily", "power_factor_monthly"])
        return dict(batch.marts.scan(month).select("customer_no", "active_kwh").collect().iter_rows())

    two, four = active(range(2)), active(range(2, 4))
    again = active(range(1))
    assert all(four[c] > 1.5 * two[c] for c in ("C1", "C2"))
    assert again == four
    assert batch.marts.scan(month).collect()["power_factor"].to_list() == [0.95, 0.95]  # 1 / sqrt(1 + 1 / 9)


def test_readings_are_the_last_word_on_each_time_and_of_known_meters(batch: Batch, days: list[date]) -> None:
    start, end = day_bounds(days[1], "Asia/Shanghai")
    rows = batch.lake.scan("readings", [days[1]]).collect()
    corrected = rows.head(1).with_columns(p_kw=pl.lit(-7.0), log_offset=pl.lit(10**9, pl.Int64))
    unknown = rows.head(1).with_columns(meter_id=pl.lit("M9"))
    told = counted(pl.concat([corrected, rows, unknown]), batch.registry.meter_versions)
    assert told.height == rows.height
    assert set(told["meter_id"]) == {"M1", "M2"}
    assert told.filter(pl.col("ts") == corrected["ts"][0], pl.col("meter_id") == corrected["meter_id"][0])[
        "p_kw"
    ].to_list() == [-7.0]

    near = with_version(readings(batch, [days[1]]), batch.registry.meter_versions, ("interval_s", "u_upper_v"))
    before = near.filter(pl.col("ts") <= start)
    assert near["ts"].max() == end
    assert before["ts"].max() == start
    assert (start - before["ts"].min()) == timedelta(minutes=15)
    assert set(near.columns) >= {*LAKE["readings"].names, "interval_s", "u_upper_v", "version", "meter"}
