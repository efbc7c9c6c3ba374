"""Load indices from the lake, against SQL on its Parquet; a day more touches its own day, month and year alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from assets.batch import Batch
from sinks.marts import day_partition, month_partition

ORACLE = """
SET TimeZone = 'Asia/Shanghai';
WITH points AS (
    SELECT meter_id, date_trunc('month', ts - INTERVAL 1 microsecond) AS month, avg(p_kw) AS p, avg(q_kvar) AS q,
           time_bucket(INTERVAL 15 minutes, ts - INTERVAL 1 microsecond) + INTERVAL 15 minutes AS t
    FROM read_parquet('{lake}/readings/*/*.parquet') GROUP BY ALL
), sums AS (SELECT month, t, sum(p) AS p, sqrt(sum(p) ** 2 + sum(q) ** 2) AS s FROM points GROUP BY month, t),
own AS (SELECT meter_id, max(p) AS p FROM points GROUP BY meter_id)
SELECT max(p), arg_max(t, (p, -epoch(t))), min(p), avg(p), avg(p) / max(p), max(s), max(s) / 1400,
       max(p) / (SELECT sum(p) FROM own)
FROM sums
"""
COLUMNS = (
    "p_max_kw", "p_max_at", "p_min_kw", "p_mean_kw", "load_factor", "s_max_kva", "max_load_rate", "coincidence_factor",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["month", "year"])
def test_the_whole_scope_equals_sql_on_the_lake(batch: Batch, days: list[date], kind: str) -> None:
    with duckdb.connect() as connection:
        wanted = connection.execute(ORACLE.format(lake=batch.home / "lake")).fetchone()
    rows = batch.marts.scan(batch.tables["load_indices"]).filter(pl.col("period_kind") == kind).collect()
    whole = rows.filter(pl.col("scope") == "*")
    (found,) = whole.select(COLUMNS).rows()
    assert wanted is not None
    assert found[1] == wanted[1]
    assert (found[0], *found[2:]) == pytest.approx((wanted[0], *wanted[2:]), rel=1e-9)
    assert whole.select("days", "customers", "points").row(0) == (len(days), 2, 96 * len(days))


def test_one_energy(batch: Batch, days: list[date]) -> None:
    """A customer's month is the same figure here, in daily_load and in the groups that it is in."""
    load = batch.marts.read(batch.tables["daily_load"], days).filter(pl.col("customer_no") != "*")
    wanted = dict(load.group_by("customer_no").agg(pl.col("energy_kwh").sum()).iter_rows())
    rows = batch.marts.scan(batch.tables["load_indices"]).filter(pl.col("period_kind") == "month").collect()
    energy = dict(rows.select("scope", "energy_kwh").iter_rows())
    assert (energy["C1"], energy["C2"]) == pytest.approx((wanted["C1"], wanted["C2"]))
    assert energy["*"] == pytest.approx(sum(wanted.values()))
    assert energy["segment:large"] == pytest.approx(wanted["C1"])
    periods = rows.filter(pl.col("scope") == "*").select(pl.sum_horizontal(r"^energy_.*_kwh$"))
    assert periods.item() == pytest.approx(energy["*"])


def test_a_new_day_leaves_older_days_and_months_as_they_are(
    tmp_path: Path,
    make_batch_home: Callable[[Path, date, int], Path],
    batch_of: Callable[[Path], Batch],
    materialise: Callable[..., None],
) -> None:
    first = date(2026, 3, 31)
    batch = batch_of(make_batch_home(tmp_path / "home", first, 3))
    tables = ["windows", "meter_curve", "meter_daily", "daily_curve", "daily_load", "scope_curve", "load_indices"]
    run = [first + timedelta(days=n) for n in range(3)]
    materialise(batch, run[:2], tables)
    old = [batch.marts.path("load_indices", p) for p in (day_partition(first), month_partition(first))]
    before = [path.stat().st_mtime_ns for path in old]
    materialise(batch, run[2:], tables)
    assert [path.stat().st_mtime_ns for path in old] == before
    rows = batch.marts.scan(batch.tables["load_indices"]).filter(pl.col("scope") == "*").sort("period_kind", "period")
    counted = rows.filter(pl.col("period_kind") != "day").select("period_kind", "period", "days").collect().rows()
    assert counted == [
        ("month", date(2026, 3, 1), 1), ("month", date(2026, 4, 1), 2), ("year", date(2026, 1, 1), 3),
    ]  # fmt: skip
