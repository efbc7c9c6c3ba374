"""One fault run from seed to verdict: a fleet's log produced in the background, a stream that is killed all the while.

Not here: the single faults (`harness`), the comparison (`verdict`).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.harness import AFTER, BEFORE, WITHIN, Home, Reader, faults, settings
from tests.faults.oracle import Expected, expected
from tests.faults.records import Records
from tests.faults.telemetry import CAPACITY_KVA, PF_STANDARD, Fleet
from tests.faults.topics import Feed, make_topic, read_log
from tests.faults.verdict import Verdict, judge

PARTITIONS = 3


@dataclass
class Report:
    """What a run did, how it ended, and how long the longest recovery took: from a start to its first commit."""

    fleet: Fleet
    cycles: int
    moments: Counter[str] = field(default_factory=Counter)
    worst_recovery_s: float = 0.0
    worst_stop_s: float = 0.0
    reader_passes: int = 0
    vanished: int = 0
    doubled: int = 0
    received: int = 0
    seconds: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def within_commits(self) -> int:
        """Kills that left a commit half done, by what was on the disk."""
        return sum(self.moments[moment] for moment in (BEFORE, WITHIN, AFTER))

    @property
    def kept(self) -> bool:
        return self.verdict.kept and self.vanished == self.doubled == 0


def fault_run(
    home_path: Path, address: str, prefix: str, fleet: Fleet, cycles: int, say: Callable[[str], None] = lambda _: None
) -> tuple[Report, Expected]:
    """Run `cycles` kills over the fleet's log; every tenth cycle ends with SIGTERM besides. The stream is stopped."""
    begun = time.monotonic()
    report = Report(fleet, cycles)
    make_topic(address, f"{prefix}.readings", PARTITIONS)
    records = Records(address, prefix, fleet.seed, PARTITIONS)
    fleet.write_registry(home_path)
    home = Home(
        home_path,
        settings(address, prefix, partitions=PARTITIONS, commit_interval_s=0.5, windows_kept=8, live_days=100_000),
    )
    per_second = max(2_000.0, fleet.readings / cycles / 2)
    try:
        with Reader(home) as reader, Feed(address, f"{prefix}.readings", fleet.messages(), per_second) as feed:
            _cycles(home, feed, records, report, say)
            feed.finish()
            log = read_log(address, f"{prefix}.readings")
            report.received = log.height
            _drain(home, report, log.height)
            records.wait_for(home)
            home.wait_for(lambda at=reader.passes: reader.passes > at)  # type: ignore[misc]
            report.worst_stop_s = max(report.worst_stop_s, home.terminate())
    finally:
        home.kill()
    report.reader_passes, report.vanished, report.doubled = reader.passes, reader.vanished, reader.doubled
    say(f"{report.received:,} lines in the log; asking the oracle")
    account = expected(log, fleet.meter_versions(), CAPACITY_KVA, PF_STANDARD)
    report.verdict = judge(home, address, prefix, account)
    report.verdict.note("records", *records.wrong(home))
    report.seconds = time.monotonic() - begun
    return report, account


def _cycles(home: Home, feed: Feed, records: Records, report: Report, say: Callable[[str], None]) -> None:
    rng = random.Random(report.fleet.seed)
    for number, fault in enumerate(faults(rng, report.cycles), 1):
        feed.allow(number / (report.cycles + 1))
        records.send(number)
        before = home.commits()
        home.start()
        if fault == "while starting":
            time.sleep(rng.uniform(0.1, 2.5))
        else:
            report.worst_recovery_s = max(report.worst_recovery_s, home.wait_for_commit(before))
            if number % 10 == 0:
                report.worst_stop_s = max(report.worst_stop_s, home.terminate())
                _start_again(home)
            _until(home, fault, rng)
        home.kill()
        moment = home.left_by_the_dead()
        report.moments[moment] += 1
        say(f"{number} of {report.cycles}: killed {fault} ({moment}); worst recovery {report.worst_recovery_s:.1f} s")


def _start_again(home: Home) -> None:
    owner = home.owner()
    home.start()
    home.wait_for(lambda: home.owner() != owner)


def _until(home: Home, fault: str, rng: random.Random) -> None:
    if fault in (BEFORE, WITHIN, AFTER):
        home.wait_for_moment(fault)
        return
    if fault == "at random after a pause":
        time.sleep(rng.uniform(0, 0.5))
        home.pause(rng.uniform(0.2, 1.0))
    time.sleep(rng.uniform(0, 1.0))


def _drain(home: Home, report: Report, received: int) -> None:
    """Start once more and let it come to the end of the log: what is not there after two minutes is lost."""
    before = home.commits()
    home.start()
    report.worst_recovery_s = max(report.worst_recovery_s, home.wait_for_commit(before))
    deadline = time.monotonic() + 120
    while home.rows("readings") + home.rows("rejects") < received and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(1.0)  # what else it would write
