"""What every contender must find: the 15-minute windows of a load, and its violations.

Here: the windows of a load, from its readings, and comparing answers with them; energy by version of a meter, in SQL.
Not here: who answers. DuckDB, which answers from the file in SQL of its own, keeps this account honest.

A window is (end - 15 min, end]. Figures that all contenders give: n, p_mean_kw, p_max_kw, p_min_kw, q_mean_kvar,
u_min_v, u_max_v. Sums may be added in any order, so means may differ in the last digits.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import duckdb
import polars as pl

from metering.tables import LAKE
from tests.benchmarks.contenders.polars_batch import windows
from tests.benchmarks.data import RULES, Load
from tests.benchmarks.measure import ContenderError

KEY = ("meter_id", "window_end")
VALUES = ("n", "p_mean_kw", "p_max_kw", "p_min_kw", "q_mean_kvar", "u_min_v", "u_max_v")


def windows_of(load: Load, folder: Path) -> pl.DataFrame:
    """The load's windows, from what counts of it and not from any file a contender reads; kept in `folder`."""
    path = folder / f"{load.name}.windows.parquet"
    if not path.exists():
        whole_windows = load.meters * (15 // load.interval_min) * 32
        frames = [windows(frame.lazy()).collect() for frame in load.readings_in_time(whole_windows)]
        pl.concat(frames).select(*KEY, *VALUES).write_parquet(path)
    return pl.read_parquet(path)


def check_windows(expected: pl.DataFrame, found: pl.DataFrame, who: str) -> None:
    """Raises ContenderError unless `found` has the same windows with the same figures."""
    keyed = found.with_columns(pl.col("window_end").dt.cast_time_unit("us").dt.convert_time_zone("UTC"))
    both = expected.join(keyed.select(*KEY, *VALUES), on=KEY, how="full", suffix="_found", coalesce=True)
    if found.height != expected.height or both.height != expected.height:
        raise ContenderError(f"{who}: {found.height} windows, not {expected.height}")
    differing = both.filter(~pl.all_horizontal(_close(name) for name in VALUES))
    if differing.height:
        raise ContenderError(f"{who}: {differing.height} windows differ, such as {differing.row(0, named=True)}")


def _close(name: str) -> pl.Expr:
    expected, found = pl.col(name).cast(pl.Float64), pl.col(f"{name}_found").cast(pl.Float64)
    return ((expected - found).abs() <= 1e-9 * pl.max_horizontal(expected.abs(), pl.lit(1.0))).fill_null(False)


def check_violations(expected: pl.DataFrame, found: pl.DataFrame, who: str) -> None:
    """Raises ContenderError unless the last state of each violation in `found` (rows of `violations`) is as expected.

    A voltage rule broken on phase a only, as the loads do it, counts once. What was withdrawn does not count;
    rules that no load breaks are not looked at.
    """
    last = found.sort("violation_id", "revision").unique("violation_id", keep="last")
    last = last.filter(pl.col("rule").is_in(RULES), pl.col("state") != "withdrawn")
    columns = ("meter_id", "rule", "started_at", "ended_at")
    missing = expected.join(last.select(columns), on=columns, how="anti", nulls_equal=True)
    if missing.height or last.height != expected.height:
        raise ContenderError(f"{who}: {last.height} violations, not {expected.height}; {missing.height} are not found")


def check_rows(expected: int, found: int, who: str, what: str) -> None:
    if expected != found:
        raise ContenderError(f"{who}: {found} {what}, not {expected}")


def lake(home: Path, table: str) -> pl.DataFrame:
    """All rows of a lake table, as an analyst reads it; empty when it has no part."""
    parts = sorted(home.glob(f"lake/{table}/date=*/*.parquet"))
    return pl.read_parquet(parts) if parts else LAKE[table].empty()


def current(found: pl.DataFrame) -> pl.DataFrame:
    """The last revision of each window."""
    return found.sort("revision").unique(KEY, keep="last")


_ENERGY = """
with version as (
  select meter_id::varchar as meter_id, valid_from, interval_s,
    epoch_ms(timezone('Asia/Shanghai', valid_from::timestamp)) as from_ms,
    coalesce(epoch_ms(timezone('Asia/Shanghai', valid_to::timestamp + interval 1 day)), 9e15) as to_ms
  from read_csv('{registry}/meters.csv')
), counted as (
  select meter_id, ts, any_value(p_kw) as p_kw, any_value(import_kwh) as import_kwh
  from read_json('{source}', format = 'newline_delimited', columns = {{
    meter_id: 'VARCHAR', ts: 'BIGINT', p_kw: 'DOUBLE', import_kwh: 'DOUBLE'}})
  group by all
), r as (
  select counted.*, valid_from, interval_s, (ts + 899999) // 900000 * 900000 as w
  from counted join version on counted.meter_id = version.meter_id and ts > from_ms and ts <= to_ms
), g as (
  select meter_id, valid_from, w, sum(p_kw) * any_value(interval_s) / 3600 as powered from r group by all
)
select g.meter_id, to_timestamp(g.w / 1000) as window_end, coalesce(b.import_kwh - a.import_kwh, powered) as energy_kwh
from g left join r a on a.meter_id = g.meter_id and a.valid_from = g.valid_from and a.ts = g.w - 900000
  left join r b on b.meter_id = g.meter_id and b.valid_from = g.valid_from and b.ts = g.w
"""


def check_energy(source: Path, home: Path) -> None:
    """Raises ContenderError unless the energy of each window in the lake of `home` is what SQL makes of the telemetry
    file and the registry: the step of the register within one version of the meter, else power over time.
    """
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        expected = connection.sql(_ENERGY.format(registry=home / "registry", source=source)).pl()
    found = current(lake(home, "windows")).select(*KEY, pl.col("energy_kwh").alias("energy_kwh_found"))
    both = expected.cast({"window_end": found.schema["window_end"]}).join(found, on=KEY, how="full", coalesce=True)
    differing = both.filter(~_close("energy_kwh"))
    if differing.height or both.height != expected.height:
        raise ContenderError(f"kilowatch: {differing.height} energies differ, such as {differing.rows()[:1]}")


def check_lake(load: Load, expected: pl.DataFrame, home: Path, closed_by: datetime | None = None) -> None:
    """Raises ContenderError unless the lake of `home` holds the load: readings, rejects, windows, violations.

    On Kafka windows after the watermark are open: only those up to `closed_by` are expected then.
    """
    readings = pl.scan_parquet(home / "lake/readings/*/*.parquet").select(
        pl.len(), pl.struct("source", "source_partition", "source_offset", "source_row").n_unique().alias("distinct")
    )
    found = readings.collect()
    for name in ("len", "distinct"):
        check_rows(load.accepted, found[name][0], "kilowatch", f"readings ({name})")
    check_rows(load.wrong, lake(home, "rejects").height, "kilowatch", "rejects")
    due = expected if closed_by is None else expected.filter(pl.col("window_end") <= closed_by)
    check_windows(due, current(lake(home, "windows")), "kilowatch")
    if load.violations().height or lake(home, "violations").height:
        check_violations(load.violations(), lake(home, "violations"), "kilowatch")
