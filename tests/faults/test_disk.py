"""A disk that fills: one clear line, no false commit, and with space again nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Home
from tests.faults.oracle import expected
from tests.faults.telemetry import CAPACITY_KVA, PF_STANDARD, Fleet
from tests.faults.topics import Feed, make_topic, read_log
from tests.faults.verdict import judge

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB of its own."""
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_stops_the_stream_and_loses_nothing(
    kafka: str, prefix: str, make_home: Callable[..., Home], small_disk: Path
) -> None:
    fleet = Fleet(seed=8, meters=60, readings=20_000)
    make_topic(kafka, f"{prefix}.readings", 3)
    home = make_home(fleet, path=small_disk / "home", commit_interval_s=0.2, live_days=100_000)
    ballast = small_disk / "ballast"
    with Feed(kafka, f"{prefix}.readings", fleet.messages(), per_second=4_000) as feed:
        feed.allow(0.2)
        process = home.start()
        home.wait_for_commit({})
        _fill(ballast)
        feed.finish()
        assert process.wait(60) == 1
    errors = [line for line in home.log.read_text("utf-8").splitlines() if "is full" in line]
    assert len(errors) == 1, home.said()
    assert "free space and start again" in errors[0]
    assert "Traceback" not in home.said()

    log = read_log(kafka, f"{prefix}.readings")
    before = home.rows("readings") + home.rows("rejects")
    assert before < log.height
    ballast.unlink()
    home.start()
    home.wait_for(lambda: home.rows("readings") + home.rows("rejects") == log.height, seconds=120, every=0.3)
    home.terminate()
    verdict = judge(home, kafka, f"{prefix}.home", expected(log, fleet.meter_versions(), CAPACITY_KVA, PF_STANDARD))
    assert verdict.kept, verdict.examples


def _fill(path: Path) -> None:
    """Leave no space at all."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
