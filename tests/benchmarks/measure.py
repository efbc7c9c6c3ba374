"""Measuring a contender: a fresh process each time, start-up included, the CPU of it and all its children.

Here: processes, costs and medians. Not here: which contenders there are, what their answers should be.

Costs come from the kernel (`wait4`): user and system time of the process and of every child it waited for. A broker is
no child of a contender, so its time is not in it.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KILOWATCH = Path(sys.executable).with_name("kilowatch")
ROOT = Path(__file__).parents[2]
LONGEST_S = 900.0
LOOK_EVERY_S = 0.2
"""Seldom enough that answering costs the contender nothing that shows."""


class ContenderError(Exception):
    """A contender failed, gave a wrong answer, or did not end in time."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a process took."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Result:
    """A contender's runs of `amount` readings (or whatever is counted)."""

    name: str
    amount: int
    runs: tuple[Cost, ...]

    @property
    def cpu_s(self) -> float:
        return statistics.median(run.cpu_s for run in self.runs)

    @property
    def wall_s(self) -> float:
        return statistics.median(run.wall_s for run in self.runs)

    @property
    def per_cpu_s(self) -> float:
        return self.amount / self.cpu_s

    def as_dict(self) -> dict[str, Any]:
        spread = [min(run.cpu_s for run in self.runs), max(run.cpu_s for run in self.runs)]
        return {
            "name": self.name, "amount": self.amount, "runs": len(self.runs), "cpu_s": self.cpu_s,
            "wall_s": self.wall_s,
            "cpu_s_range": spread, "per_cpu_s": self.per_cpu_s, "peak_bytes": max(run.peak_bytes for run in self.runs),
            "costs": [asdict(run) for run in self.runs],
        }  # fmt: skip


def process(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    done: Callable[[], bool] | None = None,
    cores: set[int] | None = None,
    log: Path | None = None,
    longest_s: float = LONGEST_S,
) -> Cost:
    """Run `command` to its end, or until `done` says that it may be told to stop (SIGTERM). `wall_s` ends when it is.

    `cores`: those it may use. Raises ContenderError with the end of its output when it fails or takes over `longest_s`.
    """
    output = (log or Path(os.devnull)).open("wb")
    own = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **(environment or {})}
    start = time.monotonic()
    running = subprocess.Popen(command, env=own, stdout=output, stderr=output)
    if cores:
        os.sched_setaffinity(running.pid, cores)
    output.close()
    try:
        finished = _await(running, done, start + longest_s)
        _, status, usage = os.wait4(running.pid, 0)
    except BaseException:
        running.kill()
        running.wait()
        raise
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode != 0:
        said = log.read_text("utf-8", "replace")[-2000:] if log and log.exists() else ""
        raise ContenderError(f"{command[0]} ended with {running.returncode}: {said}")
    wall_s = (finished or time.monotonic()) - start
    return Cost(usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss * 1024)


def _await(running: subprocess.Popen[bytes], done: Callable[[], bool] | None, deadline: float) -> float | None:
    """When `done` was so, after telling the process to stop; None when it ended by itself."""
    if done is None:
        return None
    while not done():
        if os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return None
        if time.monotonic() > deadline:
            raise ContenderError(f"{running.args!r} did not finish in time")
        time.sleep(LOOK_EVERY_S)
    finished = time.monotonic()
    running.send_signal(signal.SIGTERM)
    return finished


def alternate(
    contenders: Mapping[str, Callable[[], Cost]], runs: Mapping[str, int], amount: int, say: Callable[[str], None]
) -> dict[str, Result]:
    """Run the contenders in turn, so that a slow moment of the machine hits all of them alike; each `runs[name]` times.

    Each checks its answer itself and raises ContenderError when it is wrong.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for turn in range(max(runs.values(), default=0)):
        for name, run in contenders.items():
            if turn < runs[name]:
                costs[name].append(run())
                say(f"{name}: run {turn + 1} of {runs[name]}, {costs[name][-1].cpu_s:.2f} CPU s")
    return {name: Result(name, amount, tuple(found)) for name, found in costs.items() if found}
