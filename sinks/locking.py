"""Locks between processes: the kernel's, on a file or a folder, gone with the process that holds them.

Here: all use of flock. Not here: what is done under a lock, and what its names mean (`lake.lock`, `lake.owner`).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RETRY_S = 0.02


class LockedError(Exception):
    """Others did not let go in time. Whoever asked for the lock says what that means."""


@contextmanager
def locked(path: Path, patience_s: float | None = None) -> Iterator[None]:
    """Hold a lock file alone; it is made where it is absent.

    Without `patience_s` this waits in line. With it, it asks again and again for so many seconds (0: once), and raises
    LockedError then.
    """
    with _closed(os.open(path, os.O_RDWR | os.O_CREAT, 0o666)) as descriptor:
        _lock(descriptor, path, False, patience_s)
        yield


@contextmanager
def locked_folder(folder: Path, *, shared: bool = False, patience_s: float | None = None) -> Iterator[None]:
    """Hold a folder, alone or `shared` with all who share it; `patience_s` as for `locked`.

    Who wants it alone and has patience does not wait in line, so those who share it never wait for him.
    Raises FileNotFoundError where there is no such folder.
    """
    with _closed(os.open(folder, os.O_RDONLY | os.O_DIRECTORY)) as descriptor:
        _lock(descriptor, folder, shared, patience_s)
        yield


def try_lock(descriptor: int, shared: bool = False) -> bool:
    """Whether an open file could be locked at once. It stays so until it is closed."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _closed(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, shared: bool, patience_s: float | None) -> None:
    if patience_s is None:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        return
    until = time.monotonic() + patience_s
    while not try_lock(descriptor, shared):
        if time.monotonic() >= until:
            raise LockedError(path)
        time.sleep(_RETRY_S)
