"""`make bench`: run rows, keep what was found in docs/performance.json, and write the report from it.

python -m tests.benchmarks [--rows file,kafka] [--hours 24] [--before]
python -m tests.benchmarks --quick           compare with the recorded quick run; write nothing
python -m tests.benchmarks --quick --record  record one
python -m tests.benchmarks --render          the report again, from what is recorded
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from importlib import import_module
from typing import Any

from tests.benchmarks import drift, record, report
from tests.benchmarks.bench import Bench
from tests.benchmarks.measure import ContenderError
from tests.benchmarks.targets import BY_NAME, ROWS

QUICK = ("file", "kafka", "arrow", "pace")


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the broker is stopped
    if options.render:
        report.write()
        return 0
    names = options.rows.split(",") if options.rows else [row.name for row in ROWS]
    if options.quick and not options.rows:
        names = list(QUICK)
    if unknown := sorted(set(names) - set(BY_NAME)):
        sys.stderr.write(f"there is no row '{unknown[0]}'; there are {', '.join(BY_NAME)}\n")
        return 2
    found, failed = run(names, options.quick, options.hours, options.runs)
    if options.quick and not options.record:
        drift.show(found, _say)
    else:
        record.merge(found, "quick" if options.quick else "before" if options.before else "rows")
        report.write()
    return 1 if failed else 0


def run(
    names: list[str], quick: bool, hours: float | None, runs: int | None = None
) -> tuple[dict[str, Any], list[str]]:
    """What was found by row, and the rows that failed."""
    bench = Bench(_say, quick=quick, hours=hours, most_runs=runs)
    found: dict[str, Any] = {}
    failed = []
    try:
        for number, name in enumerate(names, 1):
            start = time.monotonic()
            _say(f"[{number}/{len(names)}] {name}: {BY_NAME[name].work}")
            try:
                found[name] = import_module(f"tests.benchmarks.rows.{name}").run(bench).as_dict()
            except ContenderError as error:
                failed.append(name)
                _say(f"{name} FAILED: {error}")
                continue
            found[name]["took_s"] = round(time.monotonic() - start, 1)
            _tell(name, found[name])
    finally:
        bench.brokers.stop()
        shutil.rmtree(bench.folder, ignore_errors=True)
    return found, failed


def _tell(name: str, row: dict[str, Any]) -> None:
    for target in BY_NAME[name].targets:
        if target.measure in row["measures"]:
            value = row["measures"][target.measure]
            _say(f"  {target.what}: {value:,.{target.decimals}f} {target.unit} {target.verdict(value)}".rstrip())
    for contender, reason in row["skipped"].items():
        _say(f"  {contender} skipped: {reason}")
    _say(f"  took {row['took_s']:.0f} s")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rows", default="", help=f"comma-separated, of {', '.join(BY_NAME)} (default: all)")
    parser.add_argument(
        "--hours", type=float, help="of the outage that is caught up with (default: 24), of the pace (default: 4 min)"
    )
    parser.add_argument("--runs", type=int, help="of each contender (default: 5, or 3 of those that take long)")
    parser.add_argument(
        "--before", action="store_true", help="record as what was before, which the report shows beside"
    )
    parser.add_argument("--quick", action="store_true", help="small loads; shows drift against the recorded quick run")
    parser.add_argument("--record", action="store_true", help="with --quick: record it")
    parser.add_argument("--render", action="store_true", help="only write the report again")
    return parser.parse_args()


_STARTED = time.monotonic()


def _say(text: str) -> None:
    sys.stdout.write(f"{time.monotonic() - _STARTED:7.1f} s  {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
