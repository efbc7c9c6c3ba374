"""One stream in several processes of this machine: started together, watched, ended together.

Here: starting the processes, their progress, the end of all when one ends. Not here: what a process does
(`streaming`), which of them owns the home (`sinks.owner`).
"""

from __future__ import annotations

import contextlib
import json
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

from orchestration.streaming import Outcome, Progress, stopped_by_signals

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


def stream_in_processes(options: Sequence[str], count: int, show: Callable[[Progress], None]) -> tuple[Outcome, int]:
    """Run `kilowatch stream` with `options` in `count` processes until all have ended; SIGTERM ends them all.

    Gives what they did and an exit code: that of the first to fail, which has said why; then the others commit and end.
    """
    addresses = ",".join(_free_addresses(count))
    stopping = Event()
    with tempfile.TemporaryDirectory(prefix="kilowatch-") as folder, stopped_by_signals(stopping.set):
        started = [_start(options, addresses, number, Path(folder)) for number in range(count)]
        try:
            while any(one.process.poll() is None for one in started):
                show(_sum(started))
                if stopping.wait(_LOOK_EVERY_S) or any(one.process.poll() for one in started):
                    break
        finally:
            codes = _ended(started)
        done = _sum(started)
    return Outcome(done.accepted, done.rejected), _exit_code(codes, stopping.is_set())


def _exit_code(codes: Sequence[int], stopped: bool) -> int:
    untold = -signal.SIGTERM  # told to end before it could listen
    failed = [code for code in codes if code and not (stopped and code == untold)]
    return max(failed) if failed and max(failed) > 0 else int(bool(failed))


def _start(options: Sequence[str], addresses: str, number: int, folder: Path) -> _Process:
    report = folder / f"{number}.json"
    own = ["--addresses", addresses, "--process", str(number), "--report", str(report)]
    command = [sys.executable, "-P", "-m", "orchestration.cli", "stream", *options, *own]
    return _Process(subprocess.Popen(command), report)


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


def _sum(started: Sequence[_Process]) -> Progress:
    parts = [one.progress() for one in started]
    rejected: Counter[str] = Counter()
    for part in parts:
        rejected.update(part.rejected)
    return Progress(
        sum(part.accepted for part in parts),
        dict(rejected),
        sum(part.read_bytes for part in parts),
        sum(part.total_bytes for part in parts),
    )


def _free_addresses(count: int) -> list[str]:
    """Loopback addresses whose ports are free now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
