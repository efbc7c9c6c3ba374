"""The stream's promise under kill -9: nothing lost, nothing twice, and in the end what an independent account gives."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from pipelines.flow.batch_result import FROM_LOOKING
from tests.faults.harness import Home
from tests.faults.run import fault_run
from tests.faults.telemetry import Fleet
from tests.faults.topics import read_topic
from tests.faults.verdict import KEYS, final, judge

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]


def _bytes(home: Home) -> dict[str, bytes]:
    found = {}
    for table in KEYS:
        rows = final(home, table)
        rows = rows.filter(~pl.col("rule").is_in(FROM_LOOKING)) if table == "violations" else rows
        found[table] = rows.write_ndjson().encode()  # Arrow's own would hold what is left out, and what is under nulls
    return found


def _ends(address: str, prefix: str) -> dict[str, int]:
    """How many messages each result topic holds; a row that came of looking may be there once more, and counts once."""
    found = {}
    for name in (*KEYS, "rejected"):
        values = [message.value() for message in read_topic(address, f"{prefix}.{name}")]
        looked = {value for value in values if json.loads(value).get("rule") in FROM_LOOKING}
        found[name] = len(looked) + sum(value not in looked for value in values)
    return found


def test_kills_lose_and_repeat_nothing_and_a_replay_ends_in_the_same_bytes(
    tmp_path: Path, kafka: str, prefix: str, make_home: Callable[..., Home]
) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    fleet = Fleet(seed=3, meters=60, readings=20_000, very_late=0.003)
    report, account = fault_run(killed, kafka, prefix, fleet, cycles=6)
    assert report.kept, (report, report.verdict.examples)
    assert report.reader_passes > 3
    assert sum(report.moments.values()) == 6
    good = account.positions["good"]
    assert good.sum() > 15_000
    assert (~good).sum() > 50
    assert account.windows["revision"].max() > 1  # type: ignore[operator]
    assert {"over_voltage", "under_voltage", "over_capacity", "low_power_factor"} <= set(account.violations["rule"])

    other = make_home(fleet, "again", batch_rows=777, commit_interval_s=3, windows_kept=8)
    other.start()
    other.wait_for(lambda: other.rows("readings") + other.rows("rejects") == report.received, seconds=120, every=0.5)
    other.terminate()
    first = Home(killed, (killed / "kilowatch.toml").read_text("utf-8"))
    assert _bytes(other) == _bytes(first)

    # The comparison itself sees what goes wrong.
    part, *_ = sorted(killed.glob("lake/readings/*/*.parquet"), key=lambda path: path.stat().st_size, reverse=True)
    shutil.copy(part, part.with_name("again.parquet"))
    assert judge(first, kafka, prefix, account).duplicated > 0
    for path in (part, part.with_name("again.parquet"), next(killed.glob("lake/windows/*/*.parquet"))):
        path.unlink()
    broken = judge(first, kafka, prefix, account)
    assert broken.duplicated == 0
    assert broken.lost > 0
    assert broken.differing["windows"] > 0
    assert broken.differing["topic of windows"] > 0

    # After a clean stop a start has nothing to do again.
    files, told = sorted(other.path.glob("lake/**/*.parquet")), _ends(kafka, f"{prefix}.again")
    owner = other.owner()
    other.start()
    other.wait_for(lambda: other.owner() != owner)
    time.sleep(3)
    other.terminate()
    assert sorted(other.path.glob("lake/**/*.parquet")) == files
    assert _ends(kafka, f"{prefix}.again") == told
