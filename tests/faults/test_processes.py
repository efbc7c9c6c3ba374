"""A stream of several processes: shards shared, another number at each start, one death ends all and loses nothing."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from tests.faults.harness import Home
from tests.faults.oracle import expected
from tests.faults.telemetry import CAPACITY_KVA, PF_STANDARD, Fleet
from tests.faults.topics import Feed, make_topic, read_log
from tests.faults.verdict import judge
from tests.signals import terminate

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]


def addresses(*hosts: str) -> str:
    """Addresses whose ports are free now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in hosts]
        for one, host in zip(sockets, hosts, strict=True):
            one.bind((host, 0))
        return ",".join(f"{host}:{one.getsockname()[1]}" for one, host in zip(sockets, hosts, strict=True))


@contextmanager
def both(home: Home, at: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The two processes of a stream, each started as on a machine of its own."""
    started = [home.start("--addresses", at, "--process", str(number)) for number in (1, 0)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_processes_share_the_partitions_and_their_number_may_change(
    kafka: str, prefix: str, make_home: Callable[..., Home]
) -> None:
    fleet = Fleet(seed=21, meters=60, readings=12_000)
    make_topic(kafka, f"{prefix}.readings", 3)
    home = make_home(fleet, commit_interval_s=0.3)
    with Feed(kafka, f"{prefix}.readings", fleet.messages(), per_second=6_000) as feed:
        feed.allow(0.3)
        parent = home.start("--workers", "2")
        home.wait_for(lambda: len(home.commits()) == 3)
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        feed.allow(0.6)
        children[1].kill()  # one death ends all
        assert parent.wait(60) == 1

        with both(home, addresses("127.0.0.1", "127.0.0.2")) as started:
            before = home.commits()
            home.wait_for(lambda: all(home.commits().get(shard) != at for shard, at in before.items()))
            feed.allow(0.8)
            terminate(started[0])  # and so does one end
            assert [process.wait(30) for process in started] == [0, 0]

        feed.finish()
        home.start("--workers", "3")
        log = read_log(kafka, f"{prefix}.readings")
        home.wait_for(lambda: home.rows("readings") + home.rows("rejects") == log.height, seconds=120, every=0.3)
        home.terminate()
    assert "Traceback" not in home.log.read_text("utf-8")
    verdict = judge(home, kafka, f"{prefix}.home", expected(log, fleet.meter_versions(), CAPACITY_KVA, PF_STANDARD))
    assert verdict.kept, verdict.examples


def test_processes_whose_parent_is_killed_commit_and_end(
    kafka: str, prefix: str, make_home: Callable[..., Home]
) -> None:
    fleet = Fleet(seed=22, meters=20, readings=2_000)
    make_topic(kafka, f"{prefix}.readings", 2)
    home = make_home(fleet, commit_interval_s=0.3)
    with Feed(kafka, f"{prefix}.readings", fleet.messages(), per_second=4_000) as feed:
        feed.finish()
        parent = home.start("--workers", "2")
        home.wait_for_commit({})
        children = psutil.Process(parent.pid).children()
        home.kill()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
