"""Memory that is free but still held by the C library: result messages come and go in great numbers, a few at a time.

Not here: what the stream keeps (`state`).
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable

_EVERY_S = 5.0


class Trimmer:
    """Gives free memory back to the system now and then, where the C library can (glibc)."""

    def __init__(self) -> None:
        self._due = time.monotonic() + _EVERY_S
        self.trim: Callable[[int], object] | None = None
        with contextlib.suppress(OSError, AttributeError):
            self.trim = ctypes.CDLL(None).malloc_trim

    def now_and_then(self) -> None:
        if self.trim is not None and time.monotonic() >= self._due:
            self.trim(0)
            self._due = time.monotonic() + _EVERY_S
