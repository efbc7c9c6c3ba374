"""Locks between processes: alone, shared, with patience, and gone with their holder."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from sinks.locking import LockedError, locked, locked_folder, try_lock

Lock = Callable[..., AbstractContextManager[None]]


@pytest.fixture(params=["file", "folder"])
def lock(request: pytest.FixtureRequest, tmp_path: Path) -> Lock:
    if request.param == "file":
        return partial(locked, tmp_path / "x.lock")
    (tmp_path / "folder").mkdir()
    return partial(locked_folder, tmp_path / "folder")


def test_one_at_a_time(lock: Lock) -> None:
    with lock():
        with pytest.raises(LockedError), lock(patience_s=0):
            pass
        began = time.monotonic()
        with pytest.raises(LockedError), lock(patience_s=0.2):
            pass
        assert time.monotonic() - began >= 0.2
    with lock(patience_s=0):
        pass


def test_it_is_let_go_when_what_was_done_under_it_fails(lock: Lock) -> None:
    with pytest.raises(ZeroDivisionError), lock():
        _ = 1 / 0
    with lock(patience_s=0):
        pass


def test_who_waits_gets_it_once_the_other_lets_go(lock: Lock) -> None:
    inside: list[str] = []

    def second(**patience: float) -> None:
        with lock(**patience):
            inside.append("second")

    for patience in ({}, {"patience_s": 10.0}):
        waiting = threading.Thread(target=second, kwargs=patience)
        with lock():
            waiting.start()
            time.sleep(0.1)
            inside.append("first")
        waiting.join(10)
    assert inside == ["first", "second"] * 2


def test_many_share_a_folder_and_one_alone_waits_for_all(tmp_path: Path) -> None:
    with locked_folder(tmp_path, shared=True):
        with locked_folder(tmp_path, shared=True, patience_s=0), pytest.raises(LockedError):
            locked_folder(tmp_path, patience_s=0).__enter__()
        with pytest.raises(LockedError), locked_folder(tmp_path, patience_s=0):
            pass
    with (
        locked_folder(tmp_path),
        pytest.raises(LockedError),
        locked_folder(tmp_path, shared=True, patience_s=0),
    ):
        pass


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    for shared in (True, False):
        with pytest.raises(FileNotFoundError), locked_folder(tmp_path / "lake", shared=shared):
            pass
    assert list(tmp_path.iterdir()) == []


def test_it_goes_with_the_process_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    hold = (
        "import sys, time\nfrom pathlib import Path\nfrom sinks.locking import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", hold, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with path.open("a") as other:
            assert not try_lock(other.fileno())
        holder.kill()
        holder.wait()
    with locked(path, patience_s=5):
        pass
