"""The warehouse: built from Parquet, published whole, commented throughout, read-only to whoever asks."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from metering.errors import OperationError, UserError
from metering.tables import warehouse
from sinks.marts import CURRENT, Marts, day_partition, month_partition
from sinks.warehouse import BUILDING, build, query, warehouse_path

TABLES = warehouse(("peak", "flat"))


def curve(day: date, customer: str = "C1", kw: float = 1.0) -> pl.DataFrame:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    rows = [
        {"customer_no": customer, "date": day, "point": n, "window_end": start + n * timedelta(minutes=15), "p_kw": kw}
        for n in range(96, 0, -1)
    ]
    return TABLES["daily_curve"].conform(pl.DataFrame(rows), status="raw")


def publish(home: Path, table: str, partition: str, frame: pl.DataFrame) -> None:
    stage = Marts(home).stage()
    stage.write(TABLES[table], partition, frame)
    stage.publish()


def test_all_tables_exist_and_are_commented_even_when_nothing_was_materialised(tmp_path: Path) -> None:
    rows = build(tmp_path, TABLES)
    assert rows == dict.fromkeys(TABLES, 0)
    columns = query(
        tmp_path,
        "SELECT table_name, column_name, data_type, is_nullable, comment FROM duckdb_columns() WHERE NOT internal",
    )
    assert columns.height == sum(len(t.columns) for t in TABLES.values())
    assert columns["comment"].null_count() == 0
    tables = query(tmp_path, "SELECT table_name, comment FROM duckdb_tables() WHERE NOT internal ORDER BY table_name")
    assert dict(tables.iter_rows()) == {name: table.meaning for name, table in TABLES.items()}
    kinds = {(t, c): k for t, c, k, _, _ in columns.iter_rows()}
    assert kinds["daily_curve", "window_end"] == "TIMESTAMP WITH TIME ZONE"
    assert kinds["power_factor_monthly", "month"] == "DATE"
    said = {(t, c): text for t, c, _, _, text in columns.iter_rows()}
    assert said["voltage_daily", "over_min"] == "Minutes above the upper limit [min] (GB/T 12325-2008)"


def test_rows_come_from_the_marts_in_key_order_and_a_partition_is_replaced_whole(tmp_path: Path) -> None:
    for day in (date(2026, 1, 2), date(2026, 1, 1)):
        publish(tmp_path, "daily_curve", day_partition(day), curve(day))
    publish(tmp_path, "daily_curve", day_partition(date(2026, 1, 2)), curve(date(2026, 1, 2), "C0", 2.5))
    assert build(tmp_path, TABLES)["daily_curve"] == 192
    rows = query(tmp_path, "SELECT customer_no, date, point, p_kw, window_end FROM daily_curve")
    assert rows.sort("customer_no", "date", "point").equals(rows)
    assert rows.filter(pl.col("customer_no") == "C0")["p_kw"].unique().to_list() == [2.5]
    assert rows["window_end"].max() == datetime(2026, 1, 3, tzinfo=UTC)


def test_two_builds_from_the_same_marts_hold_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    publish(tmp_path, "daily_curve", day_partition(date(2026, 1, 1)), curve(date(2026, 1, 1)))
    build(tmp_path, TABLES)
    first = query(tmp_path, "SELECT * FROM daily_curve")
    build(tmp_path, TABLES)
    assert query(tmp_path, "SELECT * FROM daily_curve").equals(first)


def test_a_column_that_older_partitions_lack_is_null_there(tmp_path: Path) -> None:
    older, newer = warehouse(("flat",)), warehouse(("flat", "peak"))
    day = {"customer_no": ["C1"], "energy_flat_kwh": [3.0], "completeness": [1.0]}
    for tables, n in ((older, 1), (newer, 2)):
        stage = Marts(tmp_path).stage()
        frame = pl.DataFrame({**day, "date": [date(2026, 1, n)], "energy_peak_kwh": [1.0]})
        stage.write(tables["daily_load"], day_partition(date(2026, 1, n)), frame)
        stage.publish()
    build(tmp_path, newer)
    rows = query(tmp_path, "SELECT energy_flat_kwh, energy_peak_kwh FROM daily_load ORDER BY date").rows()
    assert rows == [(3.0, None), (3.0, 1.0)]
    build(tmp_path, warehouse(("flat", "deep_valley")))
    assert query(tmp_path, "SELECT energy_deep_valley_kwh FROM daily_load").rows() == [(None,), (None,)]


def test_a_reader_keeps_its_file_while_another_sees_the_new_one(tmp_path: Path) -> None:
    publish(tmp_path, "daily_curve", day_partition(date(2026, 1, 1)), curve(date(2026, 1, 1)))
    build(tmp_path, TABLES)
    code = (
        "import duckdb, sys\n"
        "c = duckdb.connect(sys.argv[1], read_only=True)\n"
        "ask = lambda: c.execute('SELECT count(*) FROM daily_curve').fetchone()[0]\n"
        "print(ask(), flush=True); sys.stdin.readline(); print(ask(), flush=True)\n"
    )
    path = str(warehouse_path(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "96\n"
        publish(tmp_path, "daily_curve", day_partition(date(2026, 1, 2)), curve(date(2026, 1, 2)))
        assert build(tmp_path, TABLES)["daily_curve"] == 192
        assert query(tmp_path, "SELECT count(*) FROM daily_curve").item() == 192
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "96\n"


def test_a_build_that_fails_leaves_the_published_warehouse_and_no_debris(tmp_path: Path) -> None:
    publish(tmp_path, "daily_curve", day_partition(date(2026, 1, 1)), curve(date(2026, 1, 1)))
    build(tmp_path, TABLES)
    before = warehouse_path(tmp_path).read_bytes()
    broken = Marts(tmp_path).path("kpi", "date=2026-01-01")
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not parquet")
    with pytest.raises(OperationError, match="could not be built") as error:
        build(tmp_path, TABLES)
    assert "\n" not in str(error.value)
    assert warehouse_path(tmp_path).read_bytes() == before
    assert not list(tmp_path.glob(f"{BUILDING}*"))


def test_the_file_is_in_a_storage_version_that_older_duckdb_reads(tmp_path: Path) -> None:
    build(tmp_path, TABLES)
    with duckdb.connect(str(warehouse_path(tmp_path)), read_only=True) as connection:
        tags = connection.execute("SELECT tags FROM duckdb_databases() WHERE database_name = 'warehouse'").fetchone()
    assert tags is not None
    assert tags[0]["storage_version"].startswith("v1.2.0")


def test_a_query_gives_polars_types_also_for_sums_intervals_and_local_times(tmp_path: Path) -> None:
    publish(tmp_path, "daily_curve", day_partition(date(2026, 1, 1)), curve(date(2026, 1, 1)))
    build(tmp_path, TABLES)
    sql = "SELECT sum(point) AS n, max(window_end) - min(window_end) AS span, max(window_end) AS last FROM daily_curve"
    row = query(tmp_path, sql, timezone="Asia/Shanghai")
    assert row.schema == {"n": pl.Int64, "span": pl.String, "last": pl.Datetime("us", "Asia/Shanghai")}
    assert row["n"].to_list() == [96 * 97 // 2]
    assert row["span"].to_list() == ["23:45:00"]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM kpis", "kpis"),
        ("DELETE FROM kpi", "read-only"),
        ("CREATE TABLE x (a INT)", "read-only"),
        ("SELECT * FROM read_csv('/etc/hostname')", "disabled"),
        ("", "yields no table"),
    ],
)
def test_sql_that_cannot_be_answered_is_one_line(tmp_path: Path, sql: str, said: str) -> None:
    build(tmp_path, TABLES)
    with pytest.raises(UserError, match=said) as error:
        query(tmp_path, sql)
    assert "\n" not in str(error.value)


def test_without_a_warehouse_the_error_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kilowatch materialize"):
        query(tmp_path, "SELECT 1")


def test_what_is_staged_is_not_seen_until_published_and_can_be_discarded(tmp_path: Path) -> None:
    marts = Marts(tmp_path)
    kept = month_partition(date(2026, 1, 31))
    assert kept == "month=2026-01-01"
    stage = marts.stage()
    stage.write(TABLES["daily_curve"], CURRENT, curve(date(2026, 1, 1)))
    assert marts.files("daily_curve") == []
    stage.discard()
    assert list(marts.root.rglob("*.*")) == []
    stage.write(TABLES["daily_curve"], CURRENT, curve(date(2026, 1, 1)))
    stage.publish()
    assert marts.scan(TABLES["daily_curve"]).collect().height == 96
    assert marts.scan(TABLES["daily_curve"], ["date=2026-01-05"]).collect().schema == TABLES["daily_curve"].schema
