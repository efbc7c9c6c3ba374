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

from metering.errors import UserError
from metering.tables import warehouse
from metering.tables.views import views
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
    build(home, TABLES, views(TABLES.values(), ("flat",)).values())
    return home


def run(home: Path, *arguments: str, columns: int = 80) -> str:
    ran = CliRunner().invoke(
        cli, ["query", "--home", str(home), *arguments], env={"COLUMNS": str(columns)}, catch_exceptions=False
    )
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


def test_wide_rows_are_shown_one_below_the_other(home: Path) -> None:
    """No value is lost, however narrow the terminal, and nothing is between the columns of a table that fits."""
    sql = "SELECT * FROM daily_load ORDER BY customer_no"
    for columns in (12, 80, 200):
        lines = run(home, sql, columns=columns).splitlines()
        assert [line for line in lines if line.startswith("-[")] == ["-[ 1 ]-", "-[ 2 ]-"]
        assert len(lines) == 2 * (1 + len(TABLES["daily_load"].columns))
        assert lines[1].split() == ["customer_no", "C1"]
        assert lines[3].split() == ["energy_kwh", "1234.5"]
    assert "-[" not in run(home, sql, columns=1000)
    wide = run(home, "SELECT repeat('长', 100) AS message_zh, 'C1' AS customer_no")
    assert wide.count("长") == 100
    assert "customer_no  C1" in wide
    assert run(home, f"{sql} LIMIT 0").splitlines()[:2] == ["no rows; columns:", "customer_no"]


def test_brackets_and_markup_are_shown_as_they_are(home: Path) -> None:
    assert "[red]x[/red]" in run(home, "SELECT '[red]x[/red]' AS \"[bold]\"")


def test_markdown_keeps_its_columns(home: Path) -> None:
    lines = run(home, "--format", "markdown", "SELECT 'a|b' AS text, 1.5 AS n, NULL::VARCHAR AS nothing").splitlines()
    assert lines == ["| text | n | nothing |", "| --- | ---: | --- |", "| a\\|b | 1.5 |  |"]


def test_parquet_to_a_file_and_to_standard_output(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "load.parquet"
    assert run(home, "--out", str(out), SQL) == ""
    ran = CliRunner().invoke(cli, ["query", "--home", str(home), "--format", "parquet", SQL], catch_exceptions=False)
    for content in (out.read_bytes(), ran.stdout_bytes):
        frame = pl.read_parquet(io.BytesIO(content))
        assert frame["customer_no"].to_list() == ["C1", "C2"]
        assert str(frame["p_max_at"][0]) == "2026-01-01 12:00:00+08:00"
    run(home, "--out", str(tmp_path / "load.md"), SQL)
    assert (tmp_path / "load.md").read_text("utf-8").startswith("| customer_no |")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["load.md", "load.parquet"]


def test_bytes_and_duplicates(home: Path) -> None:
    assert json.loads(run(home, "--format", "json", "SELECT 'ab'::BLOB AS b")) == [{"b": "YWI="}]
    assert run(home, "--format", "csv", "SELECT 'ab'::BLOB AS b") == "b\nYWI=\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["SELECT 1 AS a, 2 AS a"], "rename"),
        (["--format", "csv", "SELECT [1, 2] AS numbers"], "csv cannot hold"),
        (["--out", "load.txt", "SELECT 1"], "--format"),
        (["--out", "nowhere/load.csv", "SELECT 1"], "nowhere/load.csv: No such file"),
        ([], "either SQL"),
        (["--list", "SELECT 1"], "either SQL"),
    ],
)
def test_what_cannot_be_given_is_said_in_one_line(home: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        run(home, *arguments)
    assert "\n" not in str(raised.value)


def test_a_reader_that_leaves_is_no_error(home: Path) -> None:
    code = "from orchestration.cli import main; main()"
    sql = "SELECT * FROM range(2000000)"
    command = [sys.executable, "-c", code, "query", "--home", str(home), "--format", "csv", sql]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(60), said) == (0, b"")


def test_tables_and_views_are_listed_with_their_meaning(home: Path) -> None:
    listed = run(home, "--list")
    for name, meaning in (("daily_load", "Load indices"), ("voltage_worst", "Worst voltage"), ("freshness", "How far")):
        (line,) = [line for line in listed.splitlines() if line.startswith(f"{name} (")]
        assert meaning in listed.split(line)[1].splitlines()[1]
    shown = run(home, "SHOW TABLES", "--format", "csv").split()
    assert {"daily_load", "voltage_worst"} <= {*shown}


@pytest.mark.parametrize("sql", ["SELEC", "SELECT * FROM nowhere", "DROP TABLE kpi"])
def test_wrong_sql_is_one_line_and_exit_code_2(home: Path, sql: str) -> None:
    code = "from orchestration.cli import main; main()"
    command = [sys.executable, "-c", code, "query", "--home", str(home), sql]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("kilowatch: ")
