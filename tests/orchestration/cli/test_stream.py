"""`kilowatch stream`, as a user calls it: options that exclude each other, several processes, states made anew."""

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
from sinks.lake.commits import CommitLog, records_of
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


def test_folders_are_shared_by_processes_and_read_once(tmp_path: Path, file_home: Callable[[Path], Path]) -> None:
    home = file_home(tmp_path / "home")
    for number, name in enumerate(("north", "south")):
        (home / "telemetry" / name).mkdir()
        lines = (home / "telemetry" / f"{number}.ndjson").read_text("utf-8").replace('"M2"', '"M1"')
        (home / "telemetry" / name / "0.ndjson").write_text(lines if name == "north" else "", "utf-8")
    for workers, accepted in (("2", 240), ("3", 0), ("1", 0)):
        done = _stream(home, "--workers", workers)
        assert done.returncode == 0, done.stderr
        assert f"accepted │ {accepted:>8}" in done.stdout
        assert "going on in one process" not in done.stdout + done.stderr
    readings = LakeReader(home).scan("readings").select("source", "ts").collect()
    assert (readings.height, readings.n_unique()) == (240, 240)


def test_a_meter_in_folders_of_two_processes_has_one_go_on(tmp_path: Path, file_home: Callable[[Path], Path]) -> None:
    home = file_home(tmp_path / "home")
    telemetry = home / "telemetry"
    for number in (1, 2):
        (telemetry / f"{number}").mkdir()
        (telemetry / f"{number}.ndjson").rename(telemetry / f"{number}" / "0.ndjson")
    assert _stream(home, "--workers", "1", "--source", str(telemetry / "0.ndjson")).returncode == 0
    done = _stream(home, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "going on in one process" in done.stdout + done.stderr
    assert _stream(home).returncode == 0
    lake = LakeReader(home)
    readings = lake.scan("readings").select("source", "ts").collect()
    assert (readings.height, readings.n_unique()) == (180, 180)
    windows = lake.scan("windows").collect()
    assert windows.select("window_end", "revision").is_unique().all()
    assert windows.sort("revision").unique("window_end", keep="last")["n"].to_list() == [15] * 12


def _stream(home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestration.cli", "stream", "--home", home, *options],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def _record(home: Path) -> Path:
    (path,) = (home / "stream").glob("*/commits/*.commit")
    return path


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _said_next(home: Path) -> None:
    """The first file grows, and one that comes after all corrects what all of them said."""
    for number, (minutes, p_kw) in enumerate(((range(181, 196), 100.0), (range(31, 46), 700.0))):
        lines = [
            json.dumps({"meter_id": "M2", "ts": (START + timedelta(minutes=minute)).isoformat(), "p_kw": p_kw})
            for minute in minutes
        ]
        with (home / "telemetry" / f"{9 * number}.ndjson").open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def _is_whole(home: Path) -> None:
    """All readings once, and windows that go on in their revisions."""
    lake = LakeReader(home)
    readings = lake.scan("readings").select("source", "source_offset", "log_offset").collect()
    assert (readings.height, readings.n_unique()) == (210, 210)
    assert sorted(readings["log_offset"]) == list(range(210))
    windows = lake.scan("windows").collect()
    assert windows.select("window_end", "revision").is_unique().all()
    current = windows.sort("revision").unique("window_end", keep="last").sort("window_end")
    assert current["n"].to_list() == [15] * 13
    assert current["p_mean_kw"].to_list() == [100.0, 100.0, 700.0, *[100.0] * 10]
    assert current["revision"][2] > 0


@pytest.mark.parametrize("damage", ["of another version", "flipped", "cut", "gone"])
def test_a_state_that_cannot_be_read_is_made_anew_by_itself(
    tmp_path: Path, file_home: Callable[[Path], Path], damage: str
) -> None:
    home = file_home(tmp_path / "home")
    assert _stream(home).returncode == 0
    if damage == "of another version":
        owner = take(home)
        commits = CommitLog(home, owner)
        positions = {shard: commits.position(shard) or {} for shard in commits.shards}
        commits.commit(0, positions, b"from another time", {})
        owner.release()
    else:
        [record] = records_of(_record(home))
        whole = _record(home).read_bytes()
        head = len(whole) - len(record.state)
        damaged = {"flipped": _flipped(whole, head + len(record.state) // 2), "cut": whole[:-10], "gone": whole[:head]}
        _record(home).write_bytes(damaged[damage])
    _said_next(home)
    done = _stream(home)
    assert done.returncode == 0, done.stderr
    assert "state made anew from the lake" in done.stdout + done.stderr
    assert f"accepted │ {30:>8}" in done.stdout
    _is_whole(home)
    again = _stream(home)
    assert again.returncode == 0
    assert "made anew" not in again.stdout + again.stderr


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_record_whose_positions_cannot_be_read_is_made_anew_when_told_to(
    tmp_path: Path, file_home: Callable[[Path], Path], damage: str
) -> None:
    home = file_home(tmp_path / "home")
    assert _stream(home).returncode == 0
    whole = _record(home).read_bytes()
    _record(home).write_bytes(_flipped(whole, 60) if damage == "flipped" else whole[:60])
    _said_next(home)
    refused = _stream(home)
    assert refused.returncode == 1
    assert "kilowatch stream --rebuild" in refused.stderr.replace("\n", " ")
    assert "Traceback" not in refused.stderr
    done = _stream(home, "--rebuild")
    assert done.returncode == 0, done.stderr
    assert f"accepted │ {30:>8}" in done.stdout
    _is_whole(home)
    assert _stream(home).returncode == 0


def test_a_state_is_made_anew_when_told_to_though_nothing_is_wrong(
    tmp_path: Path, file_home: Callable[[Path], Path]
) -> None:
    home = file_home(tmp_path / "home")
    assert _stream(home).returncode == 0
    assert _stream(home, "--rebuild").returncode == 0
    _said_next(home)
    assert _stream(home).returncode == 0
    _is_whole(home)


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
