"""Who may write into a home: one stream at a time, and an old one that wakes up can write no more.

Here: the lock and the owner's own folder `<home>/stream/<number>/`. Not here: what is kept in it (`commits`).

The lock is the kernel's and goes with the process that holds it. The number is in the path of everything that a stream
writes before it is revealed: the next owner renames the folder, and the old one finds none of its paths.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from metering.errors import OperationError, UserError


@dataclass(slots=True)
class Owner:
    """This process, as the one stream of `home`. `folder` is where it keeps what is not revealed yet."""

    folder: Path
    _lock: IO[str]

    def check(self) -> None:
        """Raises OperationError once another stream has taken over."""
        if not self.folder.is_dir():
            raise OperationError(f"another stream has taken over {self.folder.parent.parent}: this one stops")

    def release(self) -> None:
        self._lock.close()


def take(home: Path) -> Owner:
    """Become the owner of `home`. Raises UserError naming the owner that is running."""
    root = home / "stream"
    make_folder(root)
    lock = (root / "owner.json").open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        held_by = _described(lock.read())
        lock.close()
        raise UserError(f"a stream is running on {home} already: {held_by}; stop it first") from None
    try:
        folder = _next_folder(root)
        _sign(lock)
    except BaseException:
        lock.close()
        raise
    return Owner(folder, lock)


def _sign(lock: IO[str]) -> None:
    lock.truncate(0)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    lock.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": started}))
    lock.flush()


def _described(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"host {owner['host']}, pid {owner['pid']}, started {owner['started']}"
    except (ValueError, KeyError):
        return "it has just started"


def _next_folder(root: Path) -> Path:
    """Rename the last owner's folder to the next number; that is the whole of taking over."""
    numbers = sorted(int(path.name) for path in root.iterdir() if path.name.isdigit())
    folder = root / f"{(numbers[-1] if numbers else 0) + 1}"
    if numbers:
        (root / f"{numbers[-1]}").rename(folder)
        sync_folder(root)
    for name in ("staging", "commits"):  # also where a first start got no further
        make_folder(folder / name)
    return folder


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
