"""Load control by day: what the stream judged is what batch work makes of the readings; settlement and KPIs follow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.batch import Batch
from assets.reconciliations import reconciliations
from orchestration.home.settings import load_settings
from orchestration.stream.run import stream_files
from pipelines.flow.dataflow import Run

DAY = date(2026, 3, 11)  # a Wednesday
MIDNIGHT = datetime(2026, 3, 10, 16, tzinfo=UTC)
TABLES = (
    "windows", "meter_curve", "meter_daily", "daily_curve", "daily_load", "voltage_daily", "load_control",
    "load_control_daily", "load_control_settlement", "controllable_load", "kpi",
)  # fmt: skip


def _at(hour: float) -> str:
    return (MIDNIGHT + timedelta(hours=hour)).isoformat()


def _lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture(scope="module")
def batch(
    tmp_path_factory: pytest.TempPathFactory,
    make_batch_home: Callable[[Path, date, int], Path],
    batch_of: Callable[[Path], Batch],
    materialise: Callable[..., None],
) -> Batch:
    """Three days of one customer with a plan on the last, which it refuses half-way; streamed from files."""
    home = make_batch_home(tmp_path_factory.mktemp("control") / "home", DAY, 0)
    (home / "kilowatch.toml").write_text("[stream]\nmetrics_port = -1\n", "utf-8")
    readings = [
        {"meter_id": "M1", "ts": _at(n / 4), "p_kw": 100.0 if 40 < n <= 42 else 250.0 if 42 < n <= 48 else 300.0}
        for n in range(-2 * 96 + 1, 97)
    ]
    late = {"meter_id": "M1", "ts": _at(10.75), "p_kw": 280.0}
    _lines(home / "telemetry" / "a.ndjson", [*readings, late])
    plan = {
        "plan_id": "P-1", "revision": 1, "from": _at(10), "to": _at(12), "issued_at": _at(-4), "customers": ["C1"],
        "cap_kw": 200,
    }  # fmt: skip
    response = {**plan, "plan_id": "P-2", "kind": "demand_response", "cap_kw": None, "reduction_kw": 40}
    _lines(home / "control" / "plans.ndjson", [plan, response])
    answer = {"event_id": "e", "type": "plan.opted_out", "at": _at(11), "customer_no": "C1", "plan_id": "P-2"}
    _lines(home / "service" / "answers.ndjson", [answer])
    stream_files(home, load_settings(home), home / "telemetry", Run())
    batch = batch_of(home)
    materialise(batch, [DAY], TABLES)
    return batch


def test_the_stream_and_the_batch_agree_and_the_suite_finds_nothing(batch: Batch) -> None:
    (part,) = reconciliations(batch, [DAY])
    found = part.rows.filter(pl.col("table_name") == "load_control")
    assert found.select("stream_rows", "batch_rows", "differing_rows").row(0) == (12, 12, 0)
    told = batch.lake.scan("load_control").collect()
    assert told.filter(pl.col("revision") == 1).height == 4, "of its window, at the next one's edge, twice"
    assert batch.marts.read(batch.tables["load_control"], [DAY])["actual_kw"].to_list()[2] == 280.0


def test_a_day_is_settled(batch: Batch) -> None:
    rows = batch.marts.read(batch.tables["load_control_daily"], [DAY])
    columns = ("plan_id", "kind", "windows", "compliant_windows", "instructed_kwh", "counted_kwh", "answer")
    assert rows.select(columns).rows() == [
        ("P-1", "orderly_usage", 8, 2, 200.0, 117.5, None),
        ("P-2", "demand_response", 4, 3, 40.0, 35.0, "opted_out"),
    ]
    assert rows["execution_rate"].to_list() == pytest.approx([58.75, 87.5])
    assert rows["baseline_days"].to_list() == [2, 2]
    assert rows["settled_kwh"].to_list() == [117.5, 20.0], "what P-1 comes first for is not settled twice"
    assert rows["offered_kwh"].to_list() == [200.0, 40.0]
    assert rows["availability_rate"].to_list() == [100.0, 100.0]
    whole = batch.marts.scan(batch.tables["load_control_settlement"]).collect()
    shared = [name for name in whole.columns if name in rows.columns]
    assert whole.select(shared).equals(rows.select(shared))


def test_both_kpis_are_counted(batch: Batch) -> None:
    rows = batch.marts.read(batch.tables["kpi"], [DAY]).filter(pl.col("scope") == "*")
    found = {row["kpi_id"]: (row["value"], row["status"]) for row in rows.to_dicts()}
    assert found["orderly_usage_implementation"] == (pytest.approx(58.75), "missed")
    assert found["load_control_coverage"] == (100.0, "met")
