"""Readers of the warehouse while it is published again and again: `python -m tests.faults.readers --publishes 1000`.

Each publishing writes one number into every row of two tables; a reader that ever sees two numbers at once, a number
that is lower than one it has seen, or an error, has seen what it must not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import polars as pl

from metering.tables import warehouse
from metering.tables.views import views
from sinks.marts import Marts, day_partition, month_partition
from sinks.warehouse import build

READERS = 4
DAY = date(2026, 3, 2)
ROWS = 200
_PERIODS = ("flat",)
_READER = """
import json, pathlib, sys, time
import duckdb
path, stop = sys.argv[1], pathlib.Path(sys.argv[2])
reads, seen, wrong = 0, set(), []
last = 0
while not stop.exists() or not reads:
    try:
        with duckdb.connect(path, read_only=True, config={"threads": 1}) as connection:
            found = [connection.execute(
                "SELECT min(v), max(v), count(*) FROM (SELECT energy_kwh AS v FROM daily_load "
                "UNION ALL SELECT active_kwh FROM power_factor_monthly)").fetchone() for _ in range(2)]
            rows = connection.execute("SELECT \\"rows\\" FROM freshness WHERE table_name = 'daily_load'").fetchone()[0]
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}")
        break
    low, high, count = found[0]
    if low != high or found[0] != found[1] or (count, rows) != (int(sys.argv[3]) + 1, int(sys.argv[3])) or low < last:
        wrong.append(f"{found}, {rows} rows after {last}")
    last = low
    seen.add(low)
    reads += 1
    time.sleep(0.05)
print(json.dumps({"reads": reads, "versions": len(seen), "wrong": wrong[:3]}))
"""


def publish(home: Path, number: int) -> None:
    """Materialise both tables with `number` in every row, and publish the warehouse."""
    tables = warehouse(_PERIODS)
    known = {name: tables[name] for name in ("customers", "daily_load", "power_factor_monthly")}
    numbers = pl.DataFrame({"customer_no": [f"{100001 + n}" for n in range(ROWS)]})
    load = numbers.with_columns(pl.lit(float(number)).alias("energy_kwh"))
    month = pl.DataFrame({"customer_no": ["100001"], "active_kwh": [float(number)], "pf_standard": [0.9]})
    stage = Marts(home).stage()
    stage.write(known["daily_load"], day_partition(DAY), known["daily_load"].conform(load, date=DAY))
    factor = known["power_factor_monthly"]
    stage.write(factor, month_partition(DAY), factor.conform(month, month=DAY.replace(day=1)))
    stage.publish()
    build(home, known, [views(known.values(), _PERIODS)["freshness"]])


def watched(home: Path, publishes: int, readers: int = READERS) -> list[dict[str, object]]:
    """Publish so often while so many processes read; gives what each of them saw: reads, versions, wrong."""
    stop = home / "stop"
    publish(home, 1)
    command = [sys.executable, "-c", _READER, str(home / "warehouse.duckdb"), str(stop), str(ROWS)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(readers)]
    try:
        for number in range(2, publishes + 1):
            publish(home, number)
    finally:
        stop.touch()
        said = [process.communicate(timeout=120)[0] for process in running]
    return [json.loads(line) for line in said]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publishes", type=int, default=1000)
    parser.add_argument("--readers", type=int, default=READERS)
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seen = watched(Path(folder), given.publishes, given.readers)
    for number, reader in enumerate(seen, 1):
        sys.stdout.write(f"reader {number}: {reader}\n")
    sys.stdout.write(f"{given.publishes} publishings in {time.monotonic() - begun:.0f} s\n")
    sys.exit(any(reader["wrong"] for reader in seen))


if __name__ == "__main__":
    main()
