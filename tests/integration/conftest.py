"""Homes and processes of the end-to-end tests: the real command line, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from sinks.locking import locked
from tests.signals import terminate

KILOWATCH = Path(sys.executable).with_name("kilowatch")

CUSTOMERS = (
    "customer_no,name,segment,industry,voltage_level_kv,contract_capacity_kva,contract_demand_kw,pf_standard,tariff,"
    "dual_supply,feeder,manager,controllable\n"
)
METERS = (
    "meter_id,customer_no,wiring,nominal_v,pt_ratio,ct_ratio,rated_a,max_a,register_digits,interval_s,source_no,"
    "valid_from,valid_to\n"
)


class Home:
    """A home and the commands run on it."""

    def __init__(self, path: Path, environment: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._environment = {
            **os.environ,
            "KILOWATCH_HOME": str(path),
            "KILOWATCH_STREAM__METRICS_PORT": "0",
            **(environment or {}),
        }

    def run(self, *arguments: object, code: int = 0) -> str:
        """Run a command to its end; gives what it printed."""
        done = subprocess.run(
            [KILOWATCH, *map(str, arguments)],
            env=self._environment, capture_output=True, text=True, timeout=800, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def running(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """A command in the background; whatever is left of it at the end is killed."""
        log = (self.path / "process.log").open("w")
        process = subprocess.Popen(
            [KILOWATCH, *map(str, arguments)], env=self._environment, stdout=log, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            log.close()

    def stop(self, process: subprocess.Popen[str]) -> None:
        """SIGTERM, and a clean end within 10 s."""
        terminate(process)
        assert process.wait(10) == 0, (self.path / "process.log").read_text("utf-8")

    def rows(self, table: str) -> int:
        """Rows of a lake table by a bare glob."""
        import duckdb

        if not list(self.path.glob(f"lake/{table}/*/*.parquet")):
            return 0
        found = duckdb.sql(f"SELECT count(*) FROM read_parquet('{self.path}/lake/{table}/*/*.parquet')").fetchall()
        return int(found[0][0])

    def wait_for(self, what: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, (self.path / "process.log").read_text("utf-8")
            time.sleep(0.2)


@pytest.fixture(scope="session")
def make_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Home]:
    """Makes a home with a registry: rows of customers.csv and meters.csv, and the text of kilowatch.toml."""

    def make(
        customers: str,
        meters: str,
        toml: str = "",
        environment: Mapping[str, str] | None = None,
        path: Path | None = None,
    ) -> Home:
        path = path or tmp_path_factory.mktemp("home")
        if not (path / "registry").exists():
            (path / "registry").mkdir()
            (path / "registry" / "customers.csv").write_text(CUSTOMERS + customers, "utf-8")
            (path / "registry" / "meters.csv").write_text(METERS + meters, "utf-8")
            (path / "kilowatch.toml").write_text(toml, "utf-8")
        return Home(path, environment)

    return make


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Gives a folder that one test process fills and the others find filled: what takes minutes is done once."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def filled(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with locked(shared / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return filled
