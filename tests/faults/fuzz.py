"""`make fuzz`: a million inputs from hell through `decode`, in a process of its own; figures go to docs/reliability.md.

    python -m tests.faults.fuzz --inputs 1000000 --seed 1

Ends with exit code 1 if a line differs or the process did not live to the end. Not here: the inputs and what should
become of them (`tests.metering.readings.fuzz`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

from tests.faults.page import add_row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="lines and streams (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the inputs (default: %(default)s)")
    options = parser.parse_args()
    arguments = ["--inputs", str(options.inputs), "--seed", str(options.seed)]
    run = subprocess.run(
        [sys.executable, "-m", "tests.metering.readings.fuzz", *arguments], stdout=subprocess.PIPE, check=False
    )
    report = json.loads(run.stdout) if run.returncode in (0, 1) and run.stdout else None
    add_row("fuzz", _row(report, f"make fuzz INPUTS={options.inputs} SEED={options.seed}"))
    for example in report["examples"] if report else [f"the process ended with {run.returncode}"]:
        sys.stderr.write(f"{example}\n")
    return 0 if run.returncode == 0 else 1


def _row(report: dict[str, Any] | None, command: str) -> tuple[str, ...]:
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    if report is None:
        return (date, "-", "-", "-", "-", "1", "-", f"`{command}`")
    figures = (f"{report[name]:,}" for name in ("inputs", "arrow", "accepted", "rejected"))
    return (date, *figures, "0", f"{report['differing']}", f"`{command}`")


if __name__ == "__main__":
    sys.exit(main())
