"""Rejects replayed on a real Kafka, while the stream runs, after a kill, and with no stream at all.

All ends as the independent account has it: as if the registry had been right from the start.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest

from pipelines.sources.redrive_requests import Requests
from tests.faults.harness import KILOWATCH, Home
from tests.faults.oracle import Expected, expected
from tests.faults.telemetry import CAPACITY_KVA, PF_STANDARD, Fleet, meter_id
from tests.faults.topics import Feed, make_topic, read_log
from tests.faults.verdict import judge

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

PARTITIONS = 3
FIRST, SECOND, THIRD = (meter_id(1), meter_id(6)), (meter_id(10),), (meter_id(3), meter_id(8))
CHANGED = {"readings and rejects", "topic of rejects"}
"""What a replay does change for good: rejects stay where they are, in the lake and on their topic."""


def _register(home: Home, lines: list[str], without: tuple[str, ...]) -> None:
    """A registry of all meters but those."""
    path = home.path / "registry" / "meters.csv"
    aside = path.with_suffix(".new")
    aside.write_text("".join(line for line in lines if not line.startswith(("-", *without))), "utf-8")
    aside.rename(path)


def _replayed(home: Home) -> int:
    """Run `kilowatch rejects replay`; how many it says it has replayed."""
    environment = {**os.environ, "KILOWATCH_HOME": str(home.path), "COLUMNS": "200"}
    done = subprocess.run(
        [KILOWATCH, "rejects", "replay"], env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + home.said()
    row = next(line.replace(",", "").split() for line in done.stdout.splitlines() if "unknown_meter" in line)
    return int(next(cell for cell in row if cell.isdigit()))


def _rejects(home: Home, meters: tuple[str, ...]) -> int:
    if not home.rows("rejects"):
        return 0
    names = ", ".join(f"'{name}'" for name in meters)
    query = f"select count(*) from {home.lake('rejects')} where reason = 'unknown_meter' and meter_id in ({names})"
    return int(home.query(query)[0][0])  # type: ignore[call-overload]


def _unrevised(account: Expected) -> Expected:
    """The account without revisions: a replay may need more of them."""
    return replace(account, windows=account.windows.drop("revision"), compliance=account.compliance.drop("revision"))


def test_replays_end_as_if_the_registry_had_been_right(kafka: str, prefix: str, make_home: Callable[..., Home]) -> None:
    fleet = Fleet(seed=9, meters=12, readings=4_000, very_late=0.003)
    make_topic(kafka, f"{prefix}.readings", PARTITIONS)
    home = make_home(fleet, partitions=PARTITIONS, commit_interval_s=0.5, windows_kept=8)
    meters = (home.path / "registry" / "meters.csv").read_text("utf-8").splitlines(keepends=True)
    _register(home, meters, FIRST + SECOND + THIRD)
    home.start()
    with Feed(kafka, f"{prefix}.readings", fleet.messages(), per_second=2_000) as feed:
        feed.allow(0.4)
        home.wait_for(lambda: _rejects(home, FIRST) > 100, every=0.3)
        _register(home, meters, SECOND + THIRD)
        feed.allow(0.6)
        replayed = _replayed(home)  # by the stream that runs, while readings keep coming
        assert replayed == _rejects(home, FIRST) > 100

        _register(home, meters, THIRD)
        asked = Requests(home.path).ask()
        home.wait_for(lambda: bool(Requests(home.path).answers(asked)), every=0.005)
        home.kill()  # somewhere in the middle of it
        feed.allow(0.8)
        home.start()  # finds the request
        home.wait_for(lambda: Requests(home.path).answered(asked), every=0.1)
        Requests(home.path).take_back()
        replayed += _rejects(home, SECOND)
        feed.finish()
    log = read_log(kafka, f"{prefix}.readings")
    home.wait_for(lambda: home.rows("readings") + home.rows("rejects") == log.height + replayed, every=0.3)
    home.terminate()

    _register(home, meters, ())
    assert _replayed(home) == _rejects(home, THIRD) > 50  # with no stream
    replayed += _rejects(home, THIRD)
    assert _replayed(home) == 0
    assert Requests(home.path).asked() is None

    account = expected(log, fleet.meter_versions(), CAPACITY_KVA, PF_STANDARD)
    verdict = judge(home, kafka, f"{prefix}.home", _unrevised(account))
    assert (verdict.lost, verdict.duplicated) == (0, replayed)
    wrong = {what: count for what, count in verdict.differing.items() if count and what not in CHANGED}
    assert not wrong, verdict.examples
    accepted = home.query(f"select count(*) from {home.lake('readings')}")[0][0]
    assert accepted == account.positions["good"].sum()
    assert account.violations.height > 5


def test_replays_by_several_processes_end_as_a_clean_run(
    kafka: str, prefix: str, make_home: Callable[..., Home]
) -> None:
    fleet = Fleet(seed=10, meters=12, readings=3_000, very_late=0.003)
    make_topic(kafka, f"{prefix}.readings", PARTITIONS)
    home = make_home(fleet, partitions=PARTITIONS, commit_interval_s=0.5, windows_kept=8)
    meters = (home.path / "registry" / "meters.csv").read_text("utf-8").splitlines(keepends=True)
    _register(home, meters, FIRST + SECOND)
    parent = home.start("--workers", "2")
    with Feed(kafka, f"{prefix}.readings", fleet.messages(), per_second=2_000) as feed:
        feed.allow(0.5)
        home.wait_for(lambda: _rejects(home, FIRST) > 100 and _rejects(home, SECOND) > 20, every=0.3)
        _register(home, meters, SECOND)
        assert _replayed(home) == _rejects(home, FIRST)  # while readings keep coming

        _register(home, meters, ())
        asked = Requests(home.path).ask()
        home.wait_for(lambda: bool(Requests(home.path).answers(asked)), every=0.005)
        psutil.Process(parent.pid).children()[1].kill()  # somewhere in the middle of it, and all end
        assert parent.wait(60) == 1
        home.start("--workers", "2")
        home.wait_for(lambda: Requests(home.path).answered(asked), every=0.1)
        Requests(home.path).take_back()
        feed.finish()
    replayed = _rejects(home, FIRST) + _rejects(home, SECOND)
    log = read_log(kafka, f"{prefix}.readings")
    home.wait_for(lambda: home.rows("readings") + home.rows("rejects") == log.height + replayed, every=0.3)
    home.terminate()
    assert "going on in one process" not in home.log.read_text("utf-8")
    assert _replayed(home) == 0

    account = expected(log, fleet.meter_versions(), CAPACITY_KVA, PF_STANDARD)
    verdict = judge(home, kafka, f"{prefix}.home", _unrevised(account))
    assert (verdict.lost, verdict.duplicated) == (0, replayed)
    wrong = {what: count for what, count in verdict.differing.items() if count and what not in CHANGED}
    assert not wrong, verdict.examples
