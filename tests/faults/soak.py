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

from orchestration import broker
from tests.faults.run import Report, fault_run
from tests.faults.telemetry import Fleet

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- runs -->\n", "<!-- end of runs -->"
COLUMNS = (
    "run", "date", "kill cycles", "lines in the log", "lost", "twice", "differing", "seen to vanish or double",
    "worst recovery", "worst SIGTERM", "repeat with",
)  # fmt: skip
TEXT = f"""# Reliability: what the fault runs found

A fault run streams a seeded log through the real `kilowatch stream --kafka`, a process on a real Apache Kafka, and
kills it (`kill -9`) again and again while telemetry keeps coming: while it starts, at random moments, after a stop of
up to a second (SIGSTOP, SIGCONT), and inside the commit - with parts staged and no record, with the record aside, and
with the record in place and parts not revealed. Those moments are found by watching the home's folders; the product
has no hook for them. Every tenth cycle the stream is ended by SIGTERM besides and started again.

The log holds what meters do: jitter within the allowed lateness, readings up to 95 minutes late, repeats,
corrections, gaps, registers that roll over, bursts over every limit, head-end messages with many readings, and lines
that cannot be used; with VERY_LATE=0.001 that share of readings comes up to ten hours late besides, when the state has
let go of their windows. In the end an independent account (DuckDB SQL over the messages as they stand in the topic; for
violations, reading by reading) is compared with the lake and with what a keyed consumer of each topic ends with:

- **lost**: lines of the log that are neither in `readings` nor in `rejects`;
- **twice**: positions (partition, offset, row) that stand there more than once;
- **differing**: final values that are not the account's, over readings, rejects, windows (every column, revision
  included), compliance, violations, each topic's last value by key, and revisions that a key has twice;
- **seen to vanish or double**: rows that a reader with a bare glob over `lake/readings`, reading all the while, saw
  vanish or stand twice;
- **worst recovery**: the longest time from a start to its first commit.

{BEGIN}{END}

The table holds the runs that were made, no others, on a busy machine of two cores.
The run of `make soak` is 200 kill cycles over 1,000,000 readings; `make soak CYCLES=30 READINGS=200000 SEED=7` is a
smaller one. A run of 6 cycles, and the replay of its log into a second home with other batches, which must end in the
same bytes, is part of `make test` (`tests/faults/test_kills.py`). Full disks and owners that stall are tested there
too (`test_disk.py`, `test_owner.py`). A run writes its own row here, whatever it finds.
"""


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
    _write(report)
    for line in (_row(report), str(dict(report.moments)), str(report.verdict.compared), *report.verdict.examples):
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


def _row(report: Report) -> str:
    verdict, fleet = report.verdict, report.fleet
    cycles = f"{report.cycles} ({report.within_commits} inside a commit)"
    differing = f"{sum(verdict.differing.values())} of {sum(verdict.compared.values()):,}"
    seen = f"{report.vanished + report.doubled} in {report.reader_passes:,} reads"
    values = (
        f"{fleet.meters} meters, seed {fleet.seed}", f"{datetime.now(UTC):%Y-%m-%d}", cycles, f"{report.received:,}",
        f"{verdict.lost}", f"{verdict.duplicated}", differing, seen, f"{report.worst_recovery_s:.1f} s",
        f"{report.worst_stop_s:.1f} s", f"`{_command(fleet, report.cycles)}`",
    )  # fmt: skip
    return f"| {' | '.join(values)} |"


def _command(fleet: Fleet, cycles: int) -> str:
    late = f" VERY_LATE={fleet.very_late}" if fleet.very_late else ""
    return f"make soak CYCLES={cycles} READINGS={fleet.readings} SEED={fleet.seed}{late}"


def _write(report: Report) -> None:
    """Add the run's row, in place of one of the same command."""
    old = PAGE.read_text("utf-8") if PAGE.exists() else TEXT
    before = old.partition(BEGIN)[2].partition(END)[0].splitlines()[2:]
    kept = [line for line in before if f"`{_command(report.fleet, report.cycles)}`" not in line]
    table = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *kept, _row(report)]
    head, _, tail = TEXT.partition(BEGIN + END)
    PAGE.write_text(f"{head}{BEGIN}" + "\n".join(table) + f"\n{END}{tail}", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
