"""`kilowatch query`: a table to read, csv and json to go on with, one line for what is wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from metering.tables import warehouse
from orchestration.cli import cli
from sinks.marts import Marts, day_partition
from sinks.warehouse import build

TABLES = warehouse(("flat",))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    rows = {"customer_no": ["C1", "C2"], "energy_kwh": [1234.5, None], "completeness": [1.0, 0.5]}
    load = TABLES["daily_load"].conform(
        pl.DataFrame(rows), date=date(2026, 1, 1), p_max_at=datetime(2026, 1, 1, 4, tzinfo=UTC)
    )
    stage = Marts(home).stage()
    stage.write(TABLES["daily_load"], day_partition(date(2026, 1, 1)), load)
    stage.publish()
    build(home, TABLES)
    return home


def run(home: Path, *arguments: str) -> str:
    ran = CliRunner().invoke(cli, ["query", "--home", str(home), *arguments], catch_exceptions=False)
    assert ran.exit_code == 0
    return ran.output


SQL = "SELECT customer_no, energy_kwh, p_max_at FROM daily_load ORDER BY customer_no"


def test_a_table_shows_local_times_and_leaves_null_empty(home: Path) -> None:
    lines = [line.split() for line in run(home, SQL).splitlines() if "C" in line]
    assert lines == [["C1", "1234.5", "2026-01-01", "12:00:00"], ["C2", "2026-01-01", "12:00:00"]]


def test_csv_and_json_give_everything(home: Path) -> None:
    sql = "SELECT range AS n, 'a,b' AS s FROM range(300)"
    csv = pl.read_csv(io.StringIO(run(home, "--format", "csv", sql)))
    assert (csv.height, csv["s"][0]) == (300, "a,b")
    assert json.loads(run(home, "--format", "json", sql))[299] == {"n": 299, "s": "a,b"}
    assert "200 of 300 rows" in run(home, sql)


@pytest.mark.parametrize("sql", ["SELEC", "SELECT * FROM nowhere", "DROP TABLE kpi"])
def test_wrong_sql_is_one_line_and_exit_code_2(home: Path, sql: str) -> None:
    code = "from orchestration.cli import main; main()"
    command = [sys.executable, "-c", code, "query", "--home", str(home), sql]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("kilowatch: ")
