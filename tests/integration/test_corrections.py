"""A file that corrects an earlier one counts, whatever it is called and whenever it comes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

DAY = datetime(2026, 3, 1)
CUSTOMER = "800001,works 1,large,machinery,10,1600,,0.90,large_industry,false,F-01,office,true\n"
METER = "310105200001,800001,3p4w,230,1,100,5,10,6,900,1,2020-01-01,\n"
MAPPING = """timezone = "Asia/Shanghai"
interval = "15m"
meter_id = "310105200001"
[timestamp]
column = "stamp"
format = "%Y-%m-%d %H:%M"
[[channel]]
field = "import_kwh"
columns = { kWh = 1.0 }
kind = "interval_energy"
[[channel]]
field = "p_kw"
columns = { kWh = 4.0 }
"""


def _export(path: Path, kwh: int) -> Path:
    """A day's export of a metering system: the energy of each quarter of an hour."""
    rows = [f"{(DAY + timedelta(minutes=15 * n)):%Y-%m-%d %H:%M},{kwh}" for n in range(1, 97)]
    path.write_text("\n".join(["stamp,kWh", *rows]) + "\n", "utf-8")
    return path


@pytest.mark.parametrize(
    ("first", "second", "in_turn"),
    [
        pytest.param("b-first", "a-corrected", True, id="streamed-in-turn"),
        pytest.param("a-first", "b-corrected", False, id="streamed-once"),
    ],
)
def test_a_corrected_export_counts(
    make_home: Callable[..., Any], tmp_path: Path, first: str, second: str, in_turn: bool
) -> None:
    home = make_home(CUSTOMER, METER)
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(MAPPING, "utf-8")
    home.run("replay", _export(tmp_path / f"{first}.csv", 100), "--mapping", mapping)
    if in_turn:
        home.run("stream")
    home.run("replay", _export(tmp_path / f"{second}.csv", 105), "--mapping", mapping)
    home.run("stream")
    kwh = 105  # in turn, what came later counts; at once, what the last file by name says
    windows = duckdb.sql(
        f"SELECT max_by(energy_kwh, revision), max_by(p_mean_kw, revision), max(revision), count(DISTINCT revision), "
        f"count(*) FROM read_parquet('{home.path}/lake/windows/*/*.parquet') GROUP BY window_end"
    ).fetchall()
    assert len(windows) == 96
    for energy, power, revision, revisions, count in windows:
        assert energy == pytest.approx(kwh, rel=1e-9)
        assert power == pytest.approx(4 * kwh)
        if in_turn:
            assert revision > 0
        assert revisions == count, "a revision stands there twice"
    home.run("materialize", "--from", DAY.date(), "--to", DAY.date())
    sql = "SELECT customer_no, date, energy_kwh FROM daily_load WHERE customer_no = '800001'"
    assert f"800001,2026-03-01,{96 * kwh}" in home.run("query", sql, "--format", "csv")
