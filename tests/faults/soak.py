"""`make soak`: many kill cycles over many readings on a broker of its own, and the figures in docs/reliability.md.

    python -m tests.faults.soak --cycles 200 --readings 1000000 --seed 1

Ends with exit code 1 if the promise was broken; the row says so then.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from orchestration.kafka import broker
from tests.faults.page import add_row
from tests.faults.run import Report, fault_run
from tests.faults.telemetry import Fleet


def main() -> int:
    options = _options()
    fleet = Fleet(options.seed, options.meters, options.readings, options.very_late)
    base = Path(tempfile.mkdtemp(prefix="kilowatch-soak-"))
    home = base / "home"
    home.mkdir()
    try:
        address = broker.start(base / "kafka", notify=_say)
        report, _ = fault_run(home, address, "soak", fleet, options.cycles, _say)
    finally:
        broker.stop(base / "kafka")
    add_row("runs", _row(report))
    for line in (str(_row(report)), str(dict(report.moments)), str(report.verdict.compared), *report.verdict.examples):
        _say(line)
    if report.kept:
        shutil.rmtree(base)
        return 0
    _say(f"The promise is broken; what the run left is in {base}")
    return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--cycles", type=int, default=200, help="kills (default: %(default)s)")
    parser.add_argument("--readings", type=int, default=1_000_000, help="readings, about (default: %(default)s)")
    parser.add_argument("--meters", type=int, default=300, help="meters (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the log and the faults (default: %(default)s)")
    parser.add_argument("--very-late", type=float, default=0.0, help="share of readings that come hours late")
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")
    sys.stdout.flush()


def _row(report: Report) -> tuple[str, ...]:
    verdict, fleet = report.verdict, report.fleet
    cycles = f"{report.cycles} ({report.within_commits} inside a commit)"
    differing = f"{sum(verdict.differing.values())} of {sum(verdict.compared.values()):,}"
    seen = f"{report.vanished + report.doubled} in {report.reader_passes:,} reads"
    return (
        f"{fleet.meters} meters, seed {fleet.seed}", f"{datetime.now(UTC):%Y-%m-%d}", cycles, f"{report.received:,}",
        f"{verdict.lost}", f"{verdict.duplicated}", differing, seen, f"{report.worst_recovery_s:.1f} s",
        f"{report.worst_stop_s:.1f} s", f"`{_command(fleet, report.cycles)}`",
    )  # fmt: skip


def _command(fleet: Fleet, cycles: int) -> str:
    late = f" VERY_LATE={fleet.very_late}" if fleet.very_late else ""
    return f"make soak CYCLES={cycles} READINGS={fleet.readings} SEED={fleet.seed}{late}"


if __name__ == "__main__":
    sys.exit(main())
