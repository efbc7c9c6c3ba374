"""The daily batch of 100,000 customers x 96 points, against plain DuckDB SQL for the same tables."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import duckdb

from tests.benchmarks.answers import check_rows
from tests.benchmarks.bench import CONTENDERS, Bench, Found
from tests.benchmarks.data import FIELDS, MIDNIGHT, Load
from tests.benchmarks.homes import Home
from tests.benchmarks.measure import ContenderError, Cost, alternate, process

DAY = "2026-03-02"
"""The local day that a load begins with."""
_COMPARED = {
    "daily_curve": ("customer_no, point", "p_kw, q_kvar, energy_kwh"),
    "daily_load": ("customer_no", "energy_kwh, p_max_kw, p_min_kw, load_factor, demand_max_kw, energy_peak_kwh, "
                   "energy_valley_kwh, energy_flat_kwh, completeness, epoch(p_max_at), epoch(p_min_at)"),
    "voltage_daily": ("meter_id, phase", "monitored_min, over_min, under_min, qualification_rate, u_min_v, u_max_v"),
    "power_factor_monthly": ("customer_no", "active_kwh, import_kvarh, power_factor, adjustment_pct"),
    "violations": ("violation_id", "revision, value, limit_value"),
    "kpi": ("period, kpi_id, scope", "numerator, denominator, value, coverage"),
    "reconciliation": ("table_name", "stream_rows, batch_rows, differing_rows"),
}  # fmt: skip

_ASKED = {"kpi": "kpi_id", "reconciliation": "table_name"}
"""What the SQL answers some of only."""


def run(bench: Bench) -> Found:
    load = bench.load(Load(100_000, 1440, 15, start=MIDNIGHT), Load(5_000, 1440, 15, start=MIDNIGHT))
    home = _streamed(bench, load)
    out = bench.folder / "sql.duckdb"

    def kilowatch() -> Cost:
        shutil.rmtree(home.path / "marts", ignore_errors=True)
        (home.path / "warehouse.duckdb").unlink(missing_ok=True)
        return process([sys.executable, CONTENDERS / "daily_kilowatch.py", home.path, DAY], log=home.log)

    def sql() -> Cost:
        out.unlink(missing_ok=True)
        cost = process([sys.executable, CONTENDERS / "daily_sql.py", home.path, DAY, out], log=bench.folder / "sql.log")
        compare(home.path / "warehouse.duckdb", out)
        return cost

    contenders = {"kilowatch": kilowatch, "duckdb sql": sql}
    found = alternate(contenders, dict.fromkeys(contenders, bench.long_runs), load.meters, bench.say)
    home.remove()
    return Found(
        load=f"{load.meters:,} customers x 96 points, a day; what is counted is customers",
        measures={"x_sql": found["kilowatch"].cpu_s / found["duckdb sql"].cpu_s},
        contenders=list(found.values()),
        notes=[
            f"{bench.long_runs} runs each. The assets' bodies, their publishing and the warehouse, without Dagster and "
            "its checks. The SQL has limits and tariff written in; it neither estimates gaps nor minds roll-overs."
        ],
    )


def _streamed(bench: Bench, load: Load) -> Home:
    """A home whose lake holds the load, as the stream writes it."""
    folder = bench.folder / "day"
    folder.mkdir()
    for number, frame in enumerate(load.frames(2_000_000)):
        frame.select(FIELDS).write_parquet(folder / f"{number:03}.parquet", compression="lz4")
    bench.say("streaming the day into the lake")
    home = Home(bench.folder / "daily", load)
    whole = bench.folder / "day.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"copy (from read_parquet('{folder}/*.parquet')) to '{whole}' (format parquet)")
    home.files(whole)
    shutil.rmtree(folder)
    whole.unlink()
    return home


def compare(own: Path, sql: Path) -> None:
    """Raises ContenderError unless both answers have the same rows with the same figures."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(f"attach '{own}' as own (read_only); attach '{sql}' as rival (read_only)")
        for table, (key, figures) in _COMPARED.items():
            mine = f"own.{table}"
            if asked := _ASKED.get(table):
                mine = f"(from {mine} where {asked} in (select {asked} from rival.{table}))"
            rows = [
                connection.sql(f"select count(*) from {side}").fetchall()[0][0] for side in (mine, f"rival.{table}")
            ]
            check_rows(rows[1], rows[0], "kilowatch", f"rows of {table}")
            select = f"select {key}, [{figures}]::double[] as figures from"
            differing = (
                connection.sql(
                    f"select * from ({select} {mine}) a full join ({select} rival.{table}) b using ({key}) "
                    "where not coalesce(list_bool_and(list_transform(list_zip(a.figures, b.figures), "
                    "lambda p: p[1] is not distinct from p[2] "
                    "or abs(p[1] - p[2]) <= 1e-6 * greatest(abs(p[1]), abs(p[2]), 1))), "
                    "false)"
                )
                .limit(1)
                .fetchall()
            )
            if differing:
                raise ContenderError(f"daily batch and SQL differ in {table}, such as {differing[0]}")
