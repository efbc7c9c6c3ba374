"""Ending a process by SIGTERM as a supervisor does: once it is up, so that it can end by itself."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path


def terminate(process: subprocess.Popen[str] | subprocess.Popen[bytes], starting_s: float = 60) -> None:
    """Send SIGTERM as soon as the process handles it; until then it would die of it, as any that is just starting."""
    deadline = time.monotonic() + starting_s
    while process.poll() is None and not _handles(process.pid, signal.SIGTERM):
        assert time.monotonic() < deadline, f"{process.args!r} does not handle SIGTERM after {starting_s} s"
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)


def _handles(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal; a bit of its own line in Linux's account of the process."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
