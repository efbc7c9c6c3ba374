"""The stream as a process: stopped, killed at any moment, and refused where another one runs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metering.tables.lake import LAKE
from orchestration.home.registry_files import save
from pipelines.flow.dataflow import Run
from sinks.lake.owner import take
from tests.pipelines.flow.flows import customers_of, lake_of, log_of, meters_of, same

Stream = Callable[..., Run]

ENV = {
    "KILOWATCH_STREAM__BATCH_ROWS": "150", "KILOWATCH_STREAM__COMMIT_ROWS": "300",
    "KILOWATCH_STREAM__METRICS_PORT": "-1", "POLARS_MAX_THREADS": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen hours of six meters at one minute, in one file."""
    file = tmp_path_factory.mktemp("telemetry") / "six.ndjson"
    file.write_bytes(b"\n".join(log_of(6, 900, seed=1)) + b"\n")
    return file


@pytest.fixture
def uninterrupted(tmp_path: Path, telemetry: Path, stream: Stream) -> dict[str, pl.DataFrame]:
    stream(tmp_path / "uninterrupted", telemetry)
    return lake_of(tmp_path / "uninterrupted")


def _start(home: Path, telemetry: Path) -> subprocess.Popen[str]:
    save(home, customers_of(), meters_of(*(f"M{i}" for i in range(6))))
    command = [Path(sys.executable).with_name("kilowatch"), "stream", "--source", telemetry, "--home", home]
    return subprocess.Popen(
        command, env={**os.environ, **ENV}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _until_commits(home: Path, process: subprocess.Popen[str], more_than: float) -> None:
    """Wait until the home holds more than so many parts of readings, or the process is over."""
    end = time.monotonic() + 60
    while process.poll() is None and len(list(home.glob("lake/readings/*/*.parquet"))) <= more_than:
        assert time.monotonic() < end, "the stream commits nothing"
        time.sleep(0.005)


def _ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    return output


def test_sigterm_commits_ends_with_0_and_the_next_run_goes_on(
    tmp_path: Path, telemetry: Path, uninterrupted: dict[str, pl.DataFrame]
) -> None:
    home = tmp_path / "home"
    process = _start(home, telemetry)
    _until_commits(home, process, 2)
    process.send_signal(signal.SIGTERM)
    output = _ended(process)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    stopped = lake_of(home)
    assert 0 < stopped["readings"].height < uninterrupted["readings"].height
    second = _start(home, telemetry)
    output = _ended(second)
    assert second.returncode == 0, output
    same(lake_of(home), uninterrupted)


def test_killed_at_any_moment_nothing_is_lost_and_nothing_stands_twice(
    tmp_path: Path, telemetry: Path, uninterrupted: dict[str, pl.DataFrame]
) -> None:
    home = tmp_path / "home"
    rng = random.Random()
    seen = pl.DataFrame(schema=LAKE["readings"].schema)
    killed = 0
    for _ in range(3):
        process = _start(home, telemetry)
        _until_commits(home, process, len(list(home.glob("lake/readings/*/*.parquet"))) + rng.randrange(4))
        time.sleep(rng.random() * 0.1)
        process.kill()
        _ended(process)
        killed += process.returncode == -signal.SIGKILL
        here = lake_of(home)["readings"]
        assert seen.join(here, on=LAKE["readings"].key, how="anti").is_empty(), "rows that were seen are gone"
        seen = here
    assert killed
    last = _start(home, telemetry)
    output = _ended(last)
    assert last.returncode == 0, output
    same(lake_of(home), uninterrupted)


def test_a_second_stream_is_refused_in_one_line(tmp_path: Path, telemetry: Path) -> None:
    owner = take(tmp_path)
    process = _start(tmp_path, telemetry)
    output: Any = _ended(process)
    owner.release()
    assert process.returncode == 2
    assert f"pid {os.getpid()}" in output
    assert "Traceback" not in output
