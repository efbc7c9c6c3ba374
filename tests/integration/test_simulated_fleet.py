"""The simulated fleet through stream and batch: what its special meters, glitches and corrections come to."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from click.testing import CliRunner

from metering.errors import UserError
from metering.tables import warehouse as tables
from orchestration.cli import cli
from orchestration.explain import Walk
from orchestration.home.settings import load_settings
from sinks.lake.reader import LakeReader

START = "2026-03-02"
DAYS = ("2026-03-02", "2026-03-03", "2026-03-04")
EXCHANGED, HOURLY, TEN_MINUTES = "M100008-1", "M100009-1", "M100010-1"
CUTS = (0.0, 0.21, 0.505, 0.83, 1.0)
TABLES = ("daily_curve", "daily_load", "meter_daily", "power_factor_monthly", "voltage_daily", "kpi")


@pytest.fixture(scope="module")
def home(once: Callable[[str, Callable[[Path], None]], Path], make_home: Callable[..., Any]) -> Path:
    def fill(folder: Path) -> None:
        (folder / "registry").mkdir()
        filled = make_home("", "", path=folder)
        filled.run("simulate", "--customers", 12, "--start", START, "--days", 3, "--interval", "5m", "--seed", 5)
        filled.run("stream", "--source", folder / "telemetry")
        filled.run("materialize", "--from", DAYS[0], "--to", DAYS[-1])

    return once("simulated", fill)


@pytest.fixture(scope="module")
def labels(home: Path) -> pl.DataFrame:
    return pl.read_parquet(home / "labels.parquet")


@pytest.fixture(scope="module")
def telemetry(home: Path) -> pl.DataFrame:
    """What was sent, in order, with the local day that a reading's interval lies in."""
    meters = pl.read_csv(home / "registry" / "meters.csv").select("meter_id", "interval_s").unique()
    sent = pl.read_ndjson(home / "telemetry" / "fleet.ndjson").with_columns(
        pl.col("ts").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    )
    local = (pl.col("ts") - pl.duration(microseconds=1)).dt.convert_time_zone("Asia/Shanghai")
    return sent.with_columns(date=local.dt.to_string("%Y-%m-%d")).join(
        meters, on="meter_id", how="left", maintain_order="left"
    )


@pytest.fixture(scope="module")
def counting(telemetry: pl.DataFrame) -> pl.DataFrame:
    """Of readings of one time the later one, in order of time."""
    return telemetry.unique(["meter_id", "ts"], keep="last", maintain_order=True).sort("meter_id", "ts")


def rows(home: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(home / "warehouse.duckdb", read_only=True) as warehouse:
        warehouse.execute("SET TimeZone = 'UTC'")
        return warehouse.execute(sql).fetchall()


def windows(home: Path) -> pl.DataFrame:
    """The last revision of each window."""
    lake = LakeReader(home)
    with lake.held():
        found = lake.scan("windows", lake.dates("windows")).collect()
    return found.sort("revision").unique(["meter_id", "window_end"], keep="last").sort("meter_id", "window_end")


def energies(home: Path) -> dict[tuple[str, str], float]:
    return {
        (meter, str(day)): kwh for meter, day, kwh in rows(home, "SELECT meter_id, date, energy_kwh FROM meter_daily")
    }


def test_stream_and_batch_agree_to_the_last_row(home: Path) -> None:
    found = rows(home, "SELECT date::VARCHAR, table_name, stream_rows, batch_rows, differing_rows FROM reconciliation")
    assert {(day, table) for day, table, *_ in found} == {
        (d, t) for d in DAYS for t in ("windows", "compliance", "load_control")
    }
    for day, table, stream_rows, batch_rows, differing_rows in found:
        assert (stream_rows, differing_rows) == (batch_rows, 0), (day, table)
        assert stream_rows >= {"windows": 15 * 90, "compliance": 15, "load_control": 0}[table]


def test_every_whole_day_is_the_integral_of_power(home: Path, counting: pl.DataFrame) -> None:
    """Of what is drawn; glitches, corrections, the exchange, power that flows back and every interval among them."""
    hours = pl.col("interval_s") / 3600
    days = counting.group_by("meter_id", "date").agg(
        (pl.col("p_kw").clip(0) * hours).sum().alias("kwh"),
        (pl.len() == 86_400 // pl.col("interval_s").first()).alias("whole"),
    )
    whole = days.filter("whole")
    assert whole.height > days.height * 0.7
    of_day = energies(home)
    for meter, day, kwh, _ in whole.iter_rows():
        assert of_day[meter, day] == pytest.approx(kwh, rel=1e-5), (meter, day)


def test_every_day_is_what_its_registers_counted(home: Path, counting: pl.DataFrame) -> None:
    """Days with gaps and glitches in them too; the exchanged meter's day has two registers."""
    digits = pl.read_csv(home / "registry" / "meters.csv").select("meter_id", "register_digits").unique()
    ends = counting.filter(pl.col("ts").dt.hour() == 16, pl.col("ts").dt.minute() == 0).join(digits, on="meter_id")
    step = pl.col("import_kwh").diff().over("meter_id", order_by="ts") % 10 ** pl.col("register_digits")
    steps = ends.select("meter_id", "date", step.alias("kwh")).drop_nulls("kwh")
    steps = steps.filter((pl.col("meter_id") != EXCHANGED) | (pl.col("date") != DAYS[1]))
    assert steps.height == 2 * 15 - 1
    of_day = energies(home)
    for meter, day, kwh in steps.iter_rows():
        assert of_day[meter, day] == pytest.approx(kwh, abs=2e-4), (meter, day)


def test_each_misread_register_is_one_alarm_and_nothing_else_is(home: Path, labels: pl.DataFrame) -> None:
    glitches = labels.filter(pl.col("kind").is_in(["register_decrease", "runaway"]))
    names = ["register_decrease", "runaway", "energy_mismatch", "stopped"]
    told = rows(
        home,
        "SELECT meter_id, rule, phase, started_at, ended_at FROM violations "
        f"WHERE rule IN {tuple(names)} AND state <> 'withdrawn'",
    )
    label = glitches.select("meter_id", "kind", "phase", "started_at", "ended_at").rows()
    assert sorted(row[:4] for row in told) == sorted(row[:4] for row in label)
    assert len(told) == 2
    ends = {row[0]: row[4] for row in label}
    assert all(row[4] - ends[row[0]] == timedelta(minutes=5) for row in told)  # the way back is no sane step


def test_nothing_of_a_glitch_reaches_energy(home: Path, labels: pl.DataFrame, telemetry: pl.DataFrame) -> None:
    glitches = labels.filter(pl.col("kind").is_in(["register_decrease", "runaway"]))
    shown = glitches.join(telemetry, left_on=["meter_id", "ended_at"], right_on=["meter_id", "ts"])
    assert sorted(shown["import_kwh"]) == [0.0, 2.0**32 - 1]
    hours = pl.col("interval_s") / 3600
    seen = windows(home).select("meter_id", "window_end", "energy_kwh", "energy_basis", "reason")
    for meter, at, day in shown.select("meter_id", "ended_at", "date").iter_rows():
        own = telemetry.filter(pl.col("meter_id") == meter, pl.col("date") == day)
        kwh = own.select((pl.col("p_kw") * hours).sum()).item()
        assert energies(home)[meter, day] == pytest.approx(kwh, rel=1e-6)
        touched = seen.filter(pl.col("meter_id") == meter, pl.col("reason").is_not_null())
        assert touched["window_end"].to_list() == [at, at + timedelta(minutes=15)]
        assert touched["energy_basis"].to_list() == ["power", "power"]
        (curve,) = rows(
            home, f"SELECT DISTINCT reason FROM daily_curve JOIN meters USING (customer_no) WHERE meter_id = '{meter}' "
            f"AND window_end = TIMESTAMPTZ '{at.isoformat()}' AND status = 'raw'"
        )  # fmt: skip
        assert "import_kwh" in curve[0]


def test_no_energy_is_lost_or_won_over_an_exchange(home: Path, labels: pl.DataFrame, counting: pl.DataFrame) -> None:
    exchange = labels.filter(pl.col("kind") == "meter_exchange").row(0, named=True)
    assert exchange["meter_id"] == EXCHANGED
    own = counting.filter(pl.col("meter_id") == EXCHANGED, pl.col("date") == DAYS[1])
    steps = dict(zip(own["ts"][1:], own["import_kwh"].diff()[1:], strict=True))
    assert steps[exchange["started_at"] + timedelta(minutes=5)] < -1e6  # the new one's register is another
    seen = windows(home).filter(pl.col("meter_id") == EXCHANGED).filter(
        (pl.col("window_end") - exchange["started_at"]).dt.total_minutes().is_between(-15, 30)
    )  # fmt: skip
    assert seen["energy_basis"].to_list() == ["registers", "registers", "power", "registers"]
    assert seen["covered_min"].to_list() == [15.0] * 4
    assert seen["reason"].null_count() == 4
    assert energies(home)[EXCHANGED, DAYS[1]] == pytest.approx((own["p_kw"] / 12).sum(), abs=0.01)
    statuses = rows(home, f"SELECT DISTINCT status FROM daily_curve WHERE customer_no = '{exchange['customer_no']}'")
    assert statuses == [("validated",)]


@pytest.mark.parametrize("meter", [HOURLY, TEN_MINUTES])
def test_days_of_seldom_meters_are_exact_from_their_registers(home: Path, counting: pl.DataFrame, meter: str) -> None:
    ends = counting.filter(pl.col("meter_id") == meter).group_by("date", maintain_order=True).last()["import_kwh"]
    of_day = energies(home)
    used = [round(after - before, 4) for before, after in pairwise(ends)]
    assert [round(of_day[meter, day], 4) for day in DAYS[1:]] == used
    customer = meter[1:7]
    curve = rows(home, f"SELECT status, rule, count(*) FROM daily_curve WHERE customer_no = '{customer}' GROUP BY ALL")
    assert curve == [("estimated", "spread", 3 * 96)]
    loads = rows(home, f"SELECT energy_kwh FROM daily_load WHERE customer_no = '{customer}' AND date > '{START}'")
    assert sorted(round(kwh, 4) for (kwh,) in loads) == sorted(used)


def test_a_correction_counts_and_has_revisions(home: Path, labels: pl.DataFrame, counting: pl.DataFrame) -> None:
    label = labels.filter(pl.col("kind") == "correction").row(0, named=True)
    own = counting.filter(pl.col("meter_id") == label["meter_id"], pl.col("date") == DAYS[2]).with_columns(
        window_end=pl.col("ts").dt.offset_by("-1us").dt.truncate("15m").dt.offset_by("15m")
    )
    means = own.group_by("window_end").agg(pl.col("p_kw").mean().alias("expected_kw"))
    seen = windows(home).filter(pl.col("meter_id") == label["meter_id"]).join(means, on="window_end")
    assert (seen["p_mean_kw"] - seen["expected_kw"]).abs().max() < 1e-6
    assert (seen["energy_kwh"] - seen["expected_kw"] / 4).abs().max() < 1e-3
    last = pl.col("window_end") >= label["started_at"]
    struck = seen.filter(last, pl.col("window_end") - timedelta(minutes=15) < label["ended_at"])
    assert struck.height in {4, 5}
    assert (struck["revision"] > 0).all()
    assert struck["reason"].null_count() == struck.height
    assert seen.join(struck, on="window_end", how="anti")["revision"].max() <= 1  # one whose edge was corrected


def test_the_same_log_cut_into_files_gives_the_same(home: Path, make_home: Callable[..., Any], tmp_path: Path) -> None:
    """Four files that come one after the other, each streamed by itself, and days looked at while they run."""
    lines = (home / "telemetry" / "fleet.ndjson").read_bytes().splitlines(keepends=True)
    shutil.copytree(home / "registry", tmp_path / "registry")
    (tmp_path / "telemetry").mkdir()
    cut = make_home("", "", path=tmp_path)
    for number, (begin, end) in enumerate(pairwise(int(len(lines) * part) for part in CUTS)):
        (tmp_path / "telemetry" / f"{number}.ndjson").write_bytes(b"".join(lines[begin:end]))
        cut.run("stream", "--source", tmp_path / "telemetry")
        if number == 1:
            cut.run("materialize", "--from", DAYS[0], "--to", DAYS[1])
    cut.run("materialize", "--from", DAYS[0], "--to", DAYS[-1])
    test_stream_and_batch_agree_to_the_last_row(tmp_path)
    for table in TABLES:
        # what was missing when a file ended was told of, so that alarms are more
        but = "WHERE kpi_id NOT LIKE 'alarm%'" if table == "kpi" else ""
        sql = f"SELECT * FROM {table} {but} ORDER BY ALL"
        assert rows(tmp_path, sql) == rows(home, sql), table


def test_every_column_of_every_table_is_explained_down_to_its_readings(home: Path) -> None:
    settings = load_settings(home)
    walk = Walk(home, settings, None)
    down = set()
    with duckdb.connect(home / "warehouse.duckdb", read_only=True) as warehouse:
        for name, table in tables(settings.metering.periods).items():
            named = ", ".join(f'"{part}"' for part in table.key)
            found = warehouse.execute(f"SELECT {named} FROM {name} LIMIT 1").fetchone()
            if found is None:
                continue
            key = [
                f"{part}={_written(value)}" for part, value in zip(table.key, found, strict=True) if value is not None
            ]
            for column in table.names:
                told = walk.explained(name, key, column)
                assert (told["value"] is None) == (_value(warehouse, name, column, table.key, found) is None)
                assert told["meaning"]
            if any(step["table"] == "lake readings" and step["rows"] for step in told["inputs"]):
                down.add(name)
    assert down >= {"daily_curve", "daily_load", "meter_daily", "voltage_daily", "power_factor_monthly", "violations"}
    assert down >= {"demand_monthly", "charges_monthly", "load_indices", "forecast", "reconciliation"}


def _written(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _value(warehouse: duckdb.DuckDBPyConnection, name: str, column: str, key: Sequence[str], of: Sequence[Any]) -> Any:
    where = " AND ".join(f'"{part}" IS NOT DISTINCT FROM ?' for part in key)
    found = warehouse.execute(f'SELECT "{column}" FROM {name} WHERE {where}', list(of)).fetchone()
    return found and found[0]


def test_a_total_is_explained_by_what_adds_up_to_it(home: Path) -> None:
    told = Walk(home, load_settings(home), None).explained("daily_load", ["*", DAYS[1]], "energy_kwh")
    points = next(step for step in told["inputs"] if step["table"] == "daily_curve")
    assert points["figures"]["energy_kwh"]["sum"] == pytest.approx(told["value"], rel=1e-9)
    assert sum(status["rows"] for status in points["statuses"]) == points["rows"] == 12 * 96
    first = next(step for step in told["inputs"] if step["table"] == "lake readings")["places"][0]
    assert first["source"].endswith(".ndjson")
    assert first["last_offset"] > first["first_offset"]


def test_what_was_known_then_has_the_days_that_were_over(home: Path) -> None:
    then = kilowatch(home, "query", "--as-of", "2026-03-04", "--format", "csv", "SELECT DISTINCT date FROM daily_load")
    assert sorted(then.split()[1:]) == list(DAYS[:2])
    assert "daily_load has no row * 2026-03-04 as of" in kilowatch(
        home, "explain", "daily_load", "*", DAYS[2], "energy_kwh", "--as-of", "2026-03-04T12:00", code=2
    )
    shown = kilowatch(home, "explain", "daily_load", "*", DAYS[0], "energy_kwh", "--as-of", "2026-03-04T12:00")
    assert "From lake readings" in shown
    assert "daily_load.energy_kwh = " in shown


def kilowatch(home: Path, name: str, *arguments: str, code: int = 0) -> str:
    found = CliRunner().invoke(cli, [name, "--home", str(home), *arguments])
    said = found.output + (str(found.exception) if isinstance(found.exception, UserError) else "")
    assert bool(found.exit_code) == bool(code), said
    return said
