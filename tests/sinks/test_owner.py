"""One stream a home: a second is refused by name, a dead one is taken over from."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from metering.errors import OperationError, UserError
from sinks.owner import take

HOLDER = """
import sys, time
from pathlib import Path
from sinks.owner import take
owner = take(Path(sys.argv[1]))
print("taken", flush=True)
time.sleep(600)
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that owns the home; it is gone after the test."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_second_stream_is_told_who_is_running(tmp_path: Path, holder: Callable[[], subprocess.Popen[str]]) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    process = holder()
    with pytest.raises(UserError, match="stop it first") as refused:
        take(tmp_path)
    text = str(refused.value)
    assert f"host {socket.gethostname()}, pid {process.pid}, started " in text
    started = datetime.fromisoformat(text.partition("started ")[2].partition(";")[0])
    assert before <= started <= datetime.now(UTC)
    assert "\n" not in text


def test_what_a_killed_stream_owned_is_taken_over(tmp_path: Path, holder: Callable[[], subprocess.Popen[str]]) -> None:
    process = holder()
    (first,) = (path for path in (tmp_path / "stream").iterdir() if path.is_dir())
    (first / "commits" / "kept").write_bytes(b"x")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    owner = take(tmp_path)
    assert owner.folder.name == f"{int(first.name) + 1}"
    assert not first.exists()
    assert (owner.folder / "commits" / "kept").read_bytes() == b"x"
    owner.check()
    owner.release()


def test_a_refused_start_changes_nothing(tmp_path: Path) -> None:
    owner = take(tmp_path)
    for _ in range(2):
        with pytest.raises(UserError, match=f"pid {os.getpid()}"):
            take(tmp_path)
    owner.check()
    owner.release()
    again = take(tmp_path)
    with pytest.raises(OperationError, match="another stream has taken over"):
        owner.check()
    again.check()
    again.release()


def test_numbers_go_on_past_nine(tmp_path: Path) -> None:
    for number in range(1, 13):
        owner = take(tmp_path)
        assert owner.folder == tmp_path / "stream" / f"{number}"
        assert sorted(path.name for path in owner.folder.iterdir()) == ["commits", "staging"]
        owner.release()


def test_a_first_start_that_got_halfway_is_finished(tmp_path: Path) -> None:
    (tmp_path / "stream" / "1" / "staging").mkdir(parents=True)
    owner = take(tmp_path)
    assert sorted(path.name for path in owner.folder.iterdir()) == ["commits", "staging"]
    owner.release()


@pytest.mark.parametrize("text", ["", "{", "{}", '{"host": "h"}'])
def test_an_owner_that_has_not_signed_yet(tmp_path: Path, text: str) -> None:
    owner = take(tmp_path)
    (tmp_path / "stream" / "owner.json").write_text(text, "utf-8")
    with pytest.raises(UserError, match="it has just started"):
        take(tmp_path)
    owner.release()
