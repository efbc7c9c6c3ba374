"""DuckDB in batch: parse a telemetry file and aggregate its 15-minute windows, in one statement, on one thread.

    python duckdb_batch.py FILE OUT.parquet [--plain]

It has no state, no rules and no sinks but the answer itself. Readings that came twice count once; with --plain they
count as they came, which is the least that parsing and aggregating can cost, and a wrong answer.
"""

import sys

import duckdb

MEASURED = ("ua_v", "ub_v", "uc_v", "ia_a", "ib_a", "ic_a", "p_kw", "q_kvar", "import_kwh", "import_kvarh")
COLUMNS = {"meter_id": "VARCHAR", "ts": "BIGINT"} | dict.fromkeys(MEASURED, "DOUBLE")
WINDOWS = """
select meter_id, to_timestamp((ts + 899999) // 900000 * 900) as window_end, count(*)::int as n,
  avg(p_kw) as p_mean_kw, max(p_kw) as p_max_kw, min(p_kw) as p_min_kw, avg(q_kvar) as q_mean_kvar,
  avg(ua_v) as ua_mean_v, avg(ub_v) as ub_mean_v, avg(uc_v) as uc_mean_v,
  min(least(ua_v, ub_v, uc_v)) as u_min_v, max(greatest(ua_v, ub_v, uc_v)) as u_max_v,
  max(import_kwh) - min(import_kwh) as energy_kwh
from ({rows}) where ts >= 946684800000 group by all
"""
ONCE = (
    "select meter_id, ts, "
    + ", ".join(f"any_value({name}) as {name}" for name in MEASURED)
    + " from {rows} group by all"
)


def main() -> None:
    source, out = sys.argv[1:3]
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("set TimeZone = 'UTC'")
        columns = ", ".join(f"{name}: '{kind}'" for name, kind in COLUMNS.items())
        rows = f"read_json('{source}', format = 'newline_delimited', columns = {{{columns}}})"
        counted = f"from {rows}" if "--plain" in sys.argv else ONCE.format(rows=rows)
        connection.execute(f"copy ({WINDOWS.format(rows=counted)}) to '{out}' (format parquet, compression zstd)")


if __name__ == "__main__":
    main()
