"""First answers over a small home with everything materialised."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.batch import Batch
from sinks.warehouse import build, query


@pytest.fixture(scope="module")
def home(batch: Batch) -> Path:
    build(batch.home, batch.tables, batch.views.values())
    return batch.home


def rows(home: Path, name: str) -> list[dict[str, Any]]:
    return query(home, f"FROM {name}", "Asia/Shanghai").to_dicts()


def test_worst_voltage_is_of_the_newest_day_worst_first(home: Path, batch: Batch, days: list[date]) -> None:
    found = rows(home, "voltage_worst")
    assert {row["date"] for row in found} == {days[-1]}
    rates = [row["qualification_rate"] for row in found]
    assert rates == sorted(rates)
    daily = batch.marts.read(batch.tables["voltage_daily"], days[-1:])
    assert rates[0] == daily["qualification_rate"].min()
    assert {row["name"] for row in found} == {"机械厂 001", "水泵站 002"}


def test_rankings(home: Path) -> None:
    demand = rows(home, "demand_top20")
    assert [(row["rank"], row["customer_no"]) for row in demand] == [(1, "C1"), (2, "C2")]
    assert demand[0]["demand_max_kw"] > demand[1]["demand_max_kw"]
    months = [row for row in rows(home, "load_factor_ranking") if row["period_kind"] == "month"]
    assert [row["rank"] for row in months] == [1, 1]  # both loads have one shape
    assert months[0]["load_factor"] == months[1]["load_factor"]


def test_forecast_beside_what_came(home: Path, batch: Batch, days: list[date]) -> None:
    found = pl.DataFrame(rows(home, "forecast_against_actual"), infer_schema_length=None)
    whole = found.filter(pl.col("customer_no") == "*")
    assert whole.height == found.height / 3
    assert found["actual_kw"].null_count() == 0
    # the day's WAPE is that of forecast_accuracy
    accuracy = batch.marts.read(batch.tables["forecast_accuracy"], days[-1:]).filter(pl.col("customer_no") == "*")
    end = pl.col("target").dt.offset_by("-1us").dt.convert_time_zone("Asia/Shanghai").dt.date()
    of_day = whole.filter(end == days[-1])
    assert of_day["error_kw"].abs().sum() / of_day["actual_kw"].abs().sum() * 100 == pytest.approx(accuracy["wape"][0])


def test_over_capacity_and_who_is_silent(home: Path, days: list[date]) -> None:
    assert all(row["over_capacity_kva"] > 0 or row["overrun_kw"] for row in rows(home, "over_capacity"))
    heard = rows(home, "meters_last_heard")
    assert [(row["meter_id"], row["last_known"], row["days_ago"]) for row in heard] == [
        ("M1", days[-1], 0), ("M2", days[-1], 0),
    ]  # fmt: skip
    complete = rows(home, "completeness_by_meter")
    assert len(complete) == 2 * len(days)
    assert {row["known_pct"] for row in complete} == {100.0}


def test_how_fresh_everything_is(home: Path, days: list[date], batch: Batch) -> None:
    fresh = {row["table_name"]: row for row in rows(home, "freshness")}
    assert set(fresh) == {*batch.tables}
    assert fresh["daily_load"]["newest_day"] == days[-1]
    assert fresh["daily_load"]["rows"] == 3 * len(days)
    assert fresh["daily_curve"]["newest_at"] is not None
    assert fresh["load_control"]["newest_at"] is None


def test_segments(home: Path) -> None:
    found = rows(home, "peak_valley_by_segment")
    assert {row["segment"] for row in found} == {"large", "important"}
    for row in found:
        assert sum(value for name, value in row.items() if name in ("peak_pct", "flat_pct", "valley_pct")) <= 100.0001
    counts = {(row["list"], row["segment"]): row["to_add"] for row in rows(home, "list_counts")}
    assert counts["large", "large"] == 1
    assert counts["important", "important"] == 1
