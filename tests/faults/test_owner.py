"""One owner: a second stream is refused, a dead one is taken over from, and one that wakes up can commit no more."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.faults.harness import KILOWATCH, Home
from tests.faults.oracle import expected
from tests.faults.telemetry import CAPACITY_KVA, PF_STANDARD, Fleet
from tests.faults.topics import Feed, make_topic, read_log
from tests.faults.verdict import judge

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]


def _second(home: Home) -> tuple[subprocess.CompletedProcess[str], float]:
    start = time.monotonic()
    done = subprocess.run(
        [KILOWATCH, "stream", "--kafka", "--home", home.path], capture_output=True, text=True, timeout=60, check=False
    )
    return done, time.monotonic() - start


def test_a_second_stream_is_refused_at_once_and_a_dead_one_is_taken_over_from(
    kafka: str, prefix: str, make_home: Callable[..., Home]
) -> None:
    fleet = Fleet(seed=5, meters=20, readings=2_000)
    make_topic(kafka, f"{prefix}.readings", 3)
    home = make_home(fleet, commit_interval_s=0.2)
    with Feed(kafka, f"{prefix}.readings", fleet.messages(), per_second=2_000) as feed:
        feed.allow(0.5)
        process = home.start()
        home.wait_for_commit({})
        tries = [_second(home) for _ in range(3)]
        for done, _ in tries:
            assert done.returncode == 2
            (line,) = done.stderr.strip().splitlines()
            assert f"host {socket.gethostname()}, pid {process.pid}, started 20" in line
        assert min(seconds for _, seconds in tries) < 2
        before, owner = home.commits(), home.owner()
        home.kill()
        feed.finish()
        home.start()
        home.wait_for_commit(before)
        assert int(home.owner()) == int(owner) + 1
    home.terminate()
    assert f"pid {process.pid}" not in (home.path / "stream" / "owner.json").read_text("utf-8")


def test_a_stop_while_it_starts_ends_it_cleanly(kafka: str, prefix: str, make_home: Callable[..., Home]) -> None:
    make_topic(kafka, f"{prefix}.readings", 3)
    home = make_home(Fleet(seed=8, meters=5, readings=100))
    for _ in range(3):
        before = home.owner()
        home.start()
        home.wait_for(lambda owner=before: home.owner() != owner, every=0.001)  # type: ignore[misc]
        home.terminate()


def test_a_stalled_owner_that_wakes_up_can_commit_no_more(
    kafka: str, prefix: str, make_home: Callable[..., Home]
) -> None:
    """It still holds the lock; without a sign of life for three seconds it is taken over from. What it has under way
    when it wakes up is neither in the lake nor, for readers of committed messages, on a topic."""
    fleet = Fleet(seed=6, meters=40, readings=8_000)
    make_topic(kafka, f"{prefix}.readings", 3)
    home = make_home(fleet, commit_interval_s=0.3, stalled_after_s=3)
    with Feed(kafka, f"{prefix}.readings", fleet.messages(), per_second=4_000) as feed:
        feed.allow(0.6)
        stalled = home.start()
        try:
            home.wait_for_commit({})
            stalled.send_signal(signal.SIGSTOP)
            before = home.commits()
            time.sleep(4)
            home.start()  # the next owner; `stalled` is the old one
            feed.allow(0.8)
            home.wait_for_commit(before)
            stalled.send_signal(signal.SIGCONT)
            feed.finish()
            assert stalled.wait(30) == 1
        finally:
            stalled.kill()
            stalled.wait()
    log = read_log(kafka, f"{prefix}.readings")
    home.wait_for(lambda: home.rows("readings") + home.rows("rejects") == log.height, seconds=120, every=0.3)
    home.terminate()
    assert "another stream has taken over" in home.log.read_text("utf-8")
    assert "Traceback" not in home.log.read_text("utf-8")
    account = expected(log, fleet.meter_versions(), CAPACITY_KVA, PF_STANDARD)
    verdict = judge(home, kafka, f"{prefix}.home", account)
    assert verdict.kept, verdict.examples
