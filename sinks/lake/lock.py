"""Who may be in the lake's folders at a time: many who read or add parts, or one who takes parts away.

Here: the lock, on the folder `<home>/lake` itself; it goes with the process that holds it. Not here: what is done under
it. A reader that knows nothing of the lock may at worst find that a part it has listed is gone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metering.errors import OperationError

_RETRY_S = 0.02


class BusyError(OperationError):
    """Readers did not let go of the lake in time."""


@contextmanager
def shared(home: Path) -> Iterator[None]:
    """No part is taken away meanwhile. Where there is no lake yet, there is nothing to lock."""
    try:
        folder = os.open(home / "lake", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)


@contextmanager
def exclusive(home: Path, patience_s: float) -> Iterator[None]:
    """Nobody reads or adds parts meanwhile. Raises BusyError when others have not let go after `patience_s` seconds.

    It asks again and again rather than wait in line, so that readers and the stream never wait for other readers.
    """
    folder = os.open(home / "lake", os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(folder, home, time.monotonic() + patience_s)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, home: Path, until: float) -> None:
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise BusyError(f"{home / 'lake'} is being read all the time: try again later") from None
            time.sleep(_RETRY_S)
