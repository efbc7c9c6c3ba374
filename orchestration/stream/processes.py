"""One stream in several processes of this machine: started together, watched, ended together.

Here: starting the processes, their progress, the end of all when one ends, and going on in one process where meters
move between those of several (docs/adr/0003-meters-move-with-their-state.md). Not here: what a process does
(`run`), which of them owns the home (`sinks.lake.owner`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import structlog

from orchestration.stream.process import Outcome, Progress, stopped_by_signals

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 0.2
_END_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class _Process:
    process: subprocess.Popen[bytes]
    report: Path

    def progress(self) -> Progress:
        with contextlib.suppress(FileNotFoundError):
            return Progress(**json.loads(self.report.read_text("utf-8")))
        return Progress()


Show = Callable[[Progress, int], None]
"""Is told how far all processes are, and how many there are."""


def stream_in_processes(options: Sequence[str], count: int, show: Show) -> tuple[Outcome, int]:
    """Run `kilowatch stream` with `options` in `count` processes until all have ended; SIGTERM ends them all.

    Gives what they did and an exit code: that of the first to fail, which has said why; then the others commit and end.
    Where meters move from one process to another, all commit and end, and one process goes on.
    """
    stopping = Event()
    with stopped_by_signals(stopping.set):
        done, code = _run(options, count, show, stopping)
        if done.apart and not code and not stopping.is_set():
            log.info("going on in one process", reason=done.apart)
            alone, code = _run(options, 1, lambda now, one: show(_sum([done, now]), one), stopping)
            done = _sum([done, alone])
    return Outcome(done.accepted, done.rejected), code


def _run(options: Sequence[str], count: int, show: Show, stopping: Event) -> tuple[Progress, int]:
    addresses = ",".join(_free_addresses(count))
    with tempfile.TemporaryDirectory(prefix="kilowatch-") as folder:
        started = [_start(options, addresses, count, number, Path(folder)) for number in range(count)]
        try:
            while any(one.process.poll() is None for one in started):
                show(_sum([one.progress() for one in started]), count)
                if stopping.wait(_LOOK_EVERY_S) or any(one.process.poll() for one in started):
                    break
        finally:
            codes = _ended(started)
        done = _sum([one.progress() for one in started])
    return done, _exit_code(codes, stopping.is_set())


def _exit_code(codes: Sequence[int], stopped: bool) -> int:
    untold = -signal.SIGTERM  # told to end before it could listen
    failed = [code for code in codes if code and not (stopped and code == untold)]
    return max(failed) if failed and max(failed) > 0 else int(bool(failed))


def _start(options: Sequence[str], addresses: str, count: int, number: int, folder: Path) -> _Process:
    report = folder / f"{number}.json"
    own = ["--addresses", addresses, "--process", str(number), "--report", str(report)]
    command = [sys.executable, "-P", "-m", "orchestration.cli", "stream", *options, *own]
    threads = max(1, len(os.sched_getaffinity(0)) // count)  # more would only take each other's turn
    environment = {"POLARS_MAX_THREADS": str(threads), **os.environ}
    return _Process(subprocess.Popen(command, env=environment), report)


def _ended(started: Sequence[_Process]) -> list[int]:
    """Exit codes once all have ended: what still runs is told to, and killed when it does not."""
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
    deadline = time.monotonic() + _END_TIMEOUT_S
    for one in started:
        try:
            one.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
    return [one.process.returncode for one in started]


def _sum(parts: Sequence[Progress]) -> Progress:
    rejected: Counter[str] = Counter()
    for part in parts:
        rejected.update(part.rejected)
    return Progress(
        sum(part.accepted for part in parts),
        dict(rejected),
        sum(part.read_bytes for part in parts),
        sum(part.total_bytes for part in parts),
        next((part.apart for part in parts if part.apart), ""),
    )


def _free_addresses(count: int) -> list[str]:
    """Loopback addresses whose ports are free now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
