"""Homes whose stream runs as a process, against brokers that tests stop, kill and start as they need."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.faults import topics
from tests.faults.harness import Home, settings
from tests.faults.telemetry import Fleet
from tests.signals import terminate

KILOWATCH = Path(sys.executable).with_name("kilowatch")
CUSTOMERS = (
    "customer_no,name,segment,industry,voltage_level_kv,contract_capacity_kva,contract_demand_kw,pf_standard,tariff,"
    "dual_supply,feeder,manager,controllable\nC1,机械厂 001,large,machinery,10,630,,0.90,large_industry,false,,,true\n"
)
METERS = (
    "meter_id,customer_no,wiring,nominal_v,pt_ratio,ct_ratio,rated_a,max_a,register_digits,interval_s,source_no,"
    "valid_from,valid_to\n"
) + "".join(f"M{i},C1,3p4w,57.7,100,20,5,6,8,60,1,2020-01-01,\n" for i in range(6))


class StreamHome:
    """A home with six meters, M0 to M5, reporting every minute, and its `kilowatch stream --kafka`."""

    def __init__(self, path: Path, toml: str, environment: Mapping[str, str]) -> None:
        self.path, self._log = path, path / "process.log"
        (path / "registry").mkdir()
        (path / "registry" / "customers.csv").write_text(CUSTOMERS, "utf-8")
        (path / "registry" / "meters.csv").write_text(METERS, "utf-8")
        (path / "kilowatch.toml").write_text(toml, "utf-8")
        own = {"KILOWATCH_HOME": str(path), "KILOWATCH_STREAM__METRICS_PORT": "0"}
        self._environment = {**os.environ, **own, **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [KILOWATCH, "stream", "--kafka", *options], env=self._environment, stdout=log, stderr=log
            )
        return self.process

    def run(self, *options: str, seconds: float = 60) -> int:
        """Run the stream to its end; gives its exit code."""
        return self.start(*options).wait(seconds)

    def terminate(self) -> tuple[int, float]:
        """SIGTERM; gives exit code and how long the end took."""
        assert self.process is not None
        start = time.monotonic()
        terminate(self.process)
        return self.process.wait(60), time.monotonic() - start

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def said(self) -> str:
        return self._log.read_text("utf-8") if self._log.exists() else ""

    @property
    def events(self) -> list[dict[str, Any]]:
        """Log lines so far."""
        found = []
        for line in self.said.splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def get(self, path: str) -> tuple[int, str]:
        """What the running stream answers over HTTP."""
        address = next(line["health"] for line in reversed(self.events) if "health" in line)
        connection = http.client.HTTPConnection(address.split("/")[2], timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def wait_for(self, what: Callable[[], bool], seconds: float = 60) -> float:
        """Gives how long it took."""
        start = time.monotonic()
        while not what():
            assert time.monotonic() < start + seconds, self.said[-3000:]
            time.sleep(0.1)
        return time.monotonic() - start

    def wait_until_started(self) -> None:
        starts = sum("health" in line for line in self.events)
        self.wait_for(lambda: sum("health" in line for line in self.events) > starts or self.ended)
        assert not self.ended, self.said[-3000:]

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def sql(self, table: str, query: str) -> list[Any]:
        """Rows of a query over a lake table, which it calls `lake`."""
        if not list(self.path.glob(f"lake/{table}/*/*.parquet")):
            return []
        whole = f"{self.path}/lake/{table}/*/*.parquet"
        return duckdb.sql(f"with lake as (select * from read_parquet('{whole}')) {query}").fetchall()

    def rows(self, table: str) -> int:
        return sum(count for (count,) in self.sql(table, "select count(*) from lake"))


@pytest.fixture
def stream_home(tmp_path: Path) -> Iterator[Callable[..., StreamHome]]:
    """Makes a home from the text of its kilowatch.toml, and KILOWATCH_* settings; its stream is killed at the end."""
    made: list[StreamHome] = []

    def make(toml: str, **environment: str) -> StreamHome:
        path = tmp_path / f"home{len(made)}"
        path.mkdir()
        made.append(StreamHome(path, toml, environment))
        return made[-1]

    yield make
    for home in made:
        home.kill()


@pytest.fixture(scope="session")
def last_by_key() -> Callable[[str, str], dict[bytes, Any]]:
    """What a keyed consumer ends up with: the last value of each key of a topic, by a plain consumer."""
    return lambda address, topic: {key: json.loads(value) for key, value in topics.last_by_key(address, topic).items()}


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Begins the names of this test's topics."""
    return f"{request.node.name}.{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"


@pytest.fixture
def make_home(tmp_path: Path, kafka: str, prefix: str) -> Iterator[Callable[..., Home]]:
    """Makes a home of `fleet` at `path`, with results in topics of `name`; whatever runs on it is killed at the end.

    All homes of a test read the same log, `<prefix>.readings`.
    """
    made: list[Home] = []

    def make(fleet: Fleet, name: str = "home", path: Path | None = None, **stream: object) -> Home:
        folder = path or tmp_path / name
        fleet.write_registry(folder)
        text = settings(kafka, f"{prefix}.{name}", readings=f"{prefix}.readings", **stream)
        made.append(Home(folder, text, log=tmp_path / f"{name}.log"))
        return made[-1]

    yield make
    for home in made:
        home.kill()
