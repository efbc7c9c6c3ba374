"""One stream a home: a second is refused by name, a dead one is taken over from."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from metering.errors import OperationError, UserError
from sinks.lake.owner import join, take

HOLDER = """
import sys, time
from pathlib import Path
from sinks.lake.owner import join, take
owner = take(Path(sys.argv[1]))
print("taken", flush=True)
time.sleep(600)
"""
ROOT = Path(__file__).parents[3]


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


def test_a_stalled_stream_is_taken_over_and_one_that_lives_is_not(
    tmp_path: Path, holder: Callable[[], subprocess.Popen[str]]
) -> None:
    process = holder()
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(UserError, match=f"pid {process.pid}"):
        take(tmp_path, stalled_after_s=60)
    past = time.time() - 100
    os.utime(tmp_path / "stream" / "owner.json", (past, past))
    owner = take(tmp_path, stalled_after_s=60)
    owner.check()
    os.kill(process.pid, signal.SIGCONT)
    with pytest.raises(UserError, match=f"pid {os.getpid()}"):
        take(tmp_path)
    owner.release()


def test_an_owner_gives_signs_of_life(tmp_path: Path) -> None:
    owner = take(tmp_path)
    signed = tmp_path / "stream" / "owner.json"
    past = time.time() - 100
    os.utime(signed, (past, past))
    with pytest.raises(UserError, match="running"):  # a clock that was set makes no owner stalled
        take(tmp_path)
    assert signed.stat().st_mtime > past + 50
    owner.release()


def test_a_home_keeps_its_identity(tmp_path: Path) -> None:
    found = []
    for processes in (3, 1):
        owner = take(tmp_path, processes=processes)
        found.append((owner.identity, owner.processes_before))
        owner.release()
    assert found == [(found[0][0], 1), (found[0][0], 3)]
    assert len(found[0][0]) == 32


def test_processes_join_the_owner_that_announces_them(tmp_path: Path) -> None:
    addresses = ["127.0.0.1:1", "127.0.0.2:2"]
    owner = take(tmp_path, processes=2)
    owner.announce(addresses)
    other = join(tmp_path, addresses)
    assert (other.folder, other.identity) == (owner.folder, owner.identity)
    owner.release()
    next_owner = take(tmp_path)
    with pytest.raises(OperationError, match="taken over"):
        other.check()
    assert next_owner.processes_before == 2
    next_owner.release()
