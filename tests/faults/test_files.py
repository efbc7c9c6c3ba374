"""A log in files under kill -9: nothing lost, nothing twice, and in the end what an independent account gives.

Where a folder's subfolders are shards, the log of each is a file an hour, so a meter is in many files.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.faults.harness import Home
from tests.faults.oracle import expected
from tests.faults.telemetry import CAPACITY_KVA, PF_STANDARD, Fleet
from tests.faults.topics import read_files
from tests.faults.verdict import judge_files

KILLS = 3


def test_a_log_in_files_is_worked_off_exactly_whatever_is_killed(tmp_path: Path) -> None:
    fleet = Fleet(seed=41, meters=60, readings=15_000)
    telemetry = tmp_path / "telemetry"
    fleet.write_files(telemetry, shards=3)
    fleet.write_registry(tmp_path / "home")
    home = Home(tmp_path / "home", "[stream]\nbatch_rows = 1000\ncommit_interval_s = 0.1\nwindows_kept = 8\n")
    rng = random.Random(41)
    try:
        for _ in range(KILLS):
            before = home.commits()
            home.start(source=telemetry)
            home.wait_for_commit(before)
            time.sleep(rng.uniform(0, 0.2))
            home.kill()
        begun = home.rows("readings")
        assert home.start(source=telemetry).wait(120) == 0, home.said()
    finally:
        home.kill()
    log = read_files(telemetry)
    assert 0 < begun < log.height
    account = expected(log, fleet.meter_versions(), CAPACITY_KVA, PF_STANDARD, ends=True)
    assert account.positions["good"].sum() > 0.9 * log.height
    verdict = judge_files(home, account)
    assert verdict.kept, (verdict.differing, [str(x)[:3000] for x in verdict.examples])
