"""`kilowatch stream`: options that exclude each other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from metering.errors import UserError
from orchestration.cli import cli
from sinks.lake.commits import CommitLog
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader

START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def file_home(make_batch_home: Callable[[Path, date, int], Path]) -> Callable[[Path], Path]:
    """Makes a home with three files of telemetry, an hour of one meter each."""

    def make(path: Path) -> Path:
        home = make_batch_home(path, START.date(), 0)
        (home / "kilowatch.toml").write_text("[stream]\nmetrics_port = -1\n", "utf-8")
        (home / "telemetry").mkdir()
        for number in range(3):
            at = [START + timedelta(hours=number, minutes=minute + 1) for minute in range(60)]
            lines = [json.dumps({"meter_id": "M2", "ts": ts.isoformat(), "p_kw": 100.0}) for ts in at]
            (home / "telemetry" / f"{number}.ndjson").write_text("\n".join(lines) + "\n", "utf-8")
        return home

    return make


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--accept-gap"], "--accept-gap goes with --kafka"),
        (["--kafka", "--source", "x"], "exclude each other"),
        (["--workers", "2", "--addresses", "a:1,b:2"], "exclude each other"),
        (["--addresses", "a:1,b"], "give host:port of each process"),
        (["--addresses", "a:1,b:2", "--process", "2"], "names 2, counted from 0"),
    ],
)
def test_options_that_do_not_go_together_are_a_users_mistake(tmp_path: Path, options: list[str], said: str) -> None:
    result = CliRunner().invoke(cli, ["stream", "--home", str(tmp_path), *options])
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)


def test_files_are_shared_by_processes_and_read_once(tmp_path: Path, file_home: Callable[[Path], Path]) -> None:
    home = file_home(tmp_path / "home")
    for workers, accepted in (("2", 180), ("3", 0), ("1", 0)):
        done = subprocess.run(
            [sys.executable, "-m", "orchestration.cli", "stream", "--home", home, "--workers", workers],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"accepted │ {accepted:>8}" in done.stdout
    assert LakeReader(home).scan("readings").select("source", "ts").collect().n_unique() == 180


def test_a_state_that_cannot_be_read_is_made_anew(tmp_path: Path, file_home: Callable[[Path], Path]) -> None:
    home = file_home(tmp_path / "home")

    def stream(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchestration.cli", "stream", "--home", home, *options],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    assert stream().returncode == 0
    owner = take(home)
    try:
        commits = CommitLog(home, owner)
        for shard in commits.shards:
            record = commits.last(shard)
            assert record is not None
            commits.commit(shard, record.position, b"from another time", {})
    finally:
        owner.release()
    with (home / "telemetry" / "0.ndjson").open("a", encoding="utf-8") as file:
        ts = START + timedelta(minutes=61)
        file.write(json.dumps({"meter_id": "M2", "ts": ts.isoformat(), "p_kw": 100.0}) + "\n")
    refused = stream()
    assert refused.returncode == 1
    assert "kilowatch stream --rebuild" in refused.stderr.replace("\n", " ")
    assert "Traceback" not in refused.stderr
    assert stream("--rebuild").returncode == 0
    assert stream().returncode == 0
    readings = LakeReader(home).scan("readings").select("source", "source_offset").collect()
    assert (readings.height, readings.n_unique()) == (181, 181)


def test_a_mistake_of_one_process_is_said_once_and_ends_all(tmp_path: Path, file_home: Callable[[Path], Path]) -> None:
    home = file_home(tmp_path / "home")
    (home / "registry" / "meters.csv").write_text("nonsense\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "orchestration.cli", "stream", "--home", home, "--workers", "2"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "meters.csv" in done.stderr
