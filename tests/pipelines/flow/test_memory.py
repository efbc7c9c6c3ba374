"""Free memory goes back to the system."""

from __future__ import annotations

import ctypes

import psutil
import pytest

from pipelines.flow import memory
from pipelines.flow.memory import Trimmer

_BLOCKS, _BYTES = 60_000, 1_000


@pytest.fixture
def library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        pytest.skip("the C library has no malloc_trim")
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    return library


def test_what_is_free_below_something_kept_is_given_back(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_EVERY_S", 0.0)
    trimmer, process = Trimmer(), psutil.Process()
    blocks = [library.malloc(_BYTES) for _ in range(_BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, _BYTES)
    kept = library.malloc(_BYTES)  # on top: without a trim the heap cannot shrink below it
    for block in blocks:
        library.free(block)
    before = process.memory_info().rss
    trimmer.now_and_then()
    assert before - process.memory_info().rss > _BLOCKS * _BYTES / 2
    library.free(kept)


def test_between_two_times_nothing_is_done(library: ctypes.CDLL) -> None:
    trimmer = Trimmer()
    asked: list[int] = []
    trimmer.trim = asked.append
    trimmer.now_and_then()
    assert asked == []
