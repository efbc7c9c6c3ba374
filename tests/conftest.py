"""Fixtures that all tests share: the real meter data, where it is present, the default settings, a real Kafka."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import hypothesis
import polars as pl
import pytest
import structlog
from hypothesis import HealthCheck
from xdist.scheduler import LoadScopeScheduling

from assets.batch import Batch
from assets.readings import readings
from metering.calendar import day_bounds, local_date
from metering.errors import KilowatchError
from metering.load.windows import USED, windows
from metering.settings import MeteringSettings
from metering.supply.compliance import DAYS_SCHEMA, advance, contributions
from metering.tables import LAKE
from metering.tables.schema import no_rows
from orchestration.home.registry_files import load
from orchestration.home.settings import Settings, load_settings
from orchestration.kafka import broker, jars
from sinks.kafka.topics import ensure_topics
from sinks.locking import locked

ROOT = Path(__file__).parents[1]

# A busy machine is no failure: examples have no deadline of their own, tests have.
# The same examples in every run, so that a change is what makes a test fail; KILOWATCH_EXPLORE=1: others each time.
hypothesis.settings.register_profile(
    "kilowatch",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=not os.environ.pop("KILOWATCH_EXPLORE", None),  # it is no setting
)
hypothesis.settings.load_profile("kilowatch")


_SHARED_HOMES = ("tests/assets", "tests/integration", "tests/orchestration/batch", "tests/sinks/test_views.py")
"""Where tests share a home that takes long to fill."""


class _ByHome(LoadScopeScheduling):
    """One test process fills a home and runs all tests of it, instead of each filling, or waiting for, its own."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if not module.startswith(_SHARED_HOMES):
            return nodeid
        return _SHARED_HOMES[0] if module.startswith(_SHARED_HOMES[0]) else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    return _ByHome(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A command that a test runs in this process sets up logging; the next test finds it as it was."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real meter data beside the checkout; tests that read it are skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real meter data is not here: {folder.name} beside the checkout is absent")
    return folder


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Folder with small inputs made after situations from the field; tests that read it are skipped without it."""
    folder = ROOT.parent / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip(f"cases from the field are not here: {folder.name} beside the checkout is absent")
    return folder


@pytest.fixture(scope="session")
def default_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The product's own settings, of a home without a kilowatch.toml."""
    return load_settings(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def metering_settings(default_settings: Settings) -> MeteringSettings:
    return default_settings.metering


@pytest.fixture(scope="session")
def kafka_jars() -> Path:
    """Apache Kafka's jars; tests are skipped where they or Java cannot be had, unless KILOWATCH_REQUIRE_KAFKA=1."""
    try:
        jars.require_java()
        return jars.fetch()
    except KilowatchError as error:
        if os.environ.get("KILOWATCH_REQUIRE_KAFKA") == "1":
            pytest.fail(f"KILOWATCH_REQUIRE_KAFKA=1, but there is no Kafka: {error}")
        pytest.skip(f"no Kafka: {error}")


@pytest.fixture(scope="session")
def kafka(kafka_jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Apache Kafka, one for the whole session: its first user starts it, its last one stops it.

    Tests that use it carry `@pytest.mark.kafka` and `@pytest.mark.xdist_group("kafka")`.
    """
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kafka"
    home.mkdir(exist_ok=True)
    users = home / "users"

    def change_users(by: int) -> int:
        count = int(users.read_text("utf-8")) + by if users.exists() else by
        users.write_text(str(count), "utf-8")
        return count

    with locked(home / "lock"):
        address = broker.start(home)
        change_users(1)
    yield address
    with locked(home / "lock"):
        if change_users(-1) == 0:
            broker.stop(home)


@pytest.fixture
def kafka_topic(kafka: str, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Makes a new topic of its own on the real Kafka: kafka_topic(partitions=1, **configuration) -> its name."""
    numbers = itertools.count()

    def make(partitions: int = 1, **configuration: str) -> str:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        name = f"{request.node.name.translate({ord(c): '-' for c in '[]/:'})}.{worker}.{next(numbers)}"
        config = {"cleanup.policy": "delete", **{key.replace("_", "."): text for key, text in configuration.items()}}
        ensure_topics({"bootstrap.servers": kafka}, {name: config}, partitions, 1)
        return name

    return make


@pytest.fixture(scope="session")
def make_batch_home() -> Callable[[Path, date, int], Path]:
    """Makes a home with a registry and the lake's readings of two customers: one meter at 15 min, one at 1 min."""
    return _batch_home


_CUSTOMERS = """customer_no,name,segment,industry,voltage_level_kv,contract_capacity_kva,contract_demand_kw,\
pf_standard,tariff,dual_supply,feeder,manager,controllable
C1,机械厂 001,large,machinery,10,1000,,0.90,large_industry,false,,,true
C2,水泵站 002,important,water,0.38,400,,0.85,general_industry,false,,,false
"""
_METERS = """meter_id,customer_no,wiring,nominal_v,pt_ratio,ct_ratio,rated_a,max_a,register_digits,\
interval_s,source_no,valid_from,valid_to
M1,C1,3p4w,220,1,200,1.5,6,8,900,1,2020-01-01,
M2,C2,1p,220,1,40,5,60,8,60,1,2020-01-01,
"""


def _batch_home(home: Path, first: date, days: int) -> Path:
    (home / "registry").mkdir(parents=True)
    (home / "registry" / "customers.csv").write_text(_CUSTOMERS, "utf-8")
    (home / "registry" / "meters.csv").write_text(_METERS, "utf-8")
    meters = (("M1", "C1", 900, 400.0, 0), ("M2", "C2", 60, 120.0, 1))
    for partition, rows in enumerate(_readings(*meter, first, days) for meter in meters):
        for (day,), of_day in rows.partition_by("date", as_dict=True).items():
            folder = home / "lake" / "readings" / f"date={day}"
            folder.mkdir(parents=True, exist_ok=True)
            of_day.drop("date").write_parquet(folder / f"{partition}.parquet")
    if days:
        _stream_results(home, first, days)
    return home


def _stream_results(home: Path, first: date, days: int) -> None:
    """Windows and compliance as a stream has written them at its files' end."""
    settings = load_settings(home)
    meter_versions = load(home, settings).meter_versions
    batch = Batch(home, settings.metering, lambda: load(home, settings))
    rows = readings(batch, [first + timedelta(days=n) for n in range(days)], USED)
    made = windows(rows, meter_versions, settings.timezone)
    dated = made.with_columns(date=local_date(pl.col("window_end"), settings.timezone))
    _, told = advance(
        no_rows(DAYS_SCHEMA),
        contributions(dated, settings.metering),
        no_rows(DAYS_SCHEMA),
        meter_versions,
        settings.timezone,
    )
    frames = {
        "windows": LAKE["windows"].conform(dated, revision=0),
        "compliance": told.with_columns(revision=pl.lit(0, pl.Int32)),
    }
    for table, frame in frames.items():
        for (day,), of_day in frame.partition_by("date", as_dict=True).items():
            folder = home / "lake" / table / f"date={day}"
            folder.mkdir(parents=True, exist_ok=True)
            of_day.drop("date").write_parquet(folder / "0.parquet")


def _readings(
    meter: str, customer: str, interval_s: int, base_kw: float, partition: int, first: date, days: int
) -> pl.DataFrame:
    """Power that follows the hour and the day, reactive power a third of it, registers that integrate both."""
    zone = "Asia/Shanghai"
    start, _ = day_bounds(first, zone)
    step = timedelta(seconds=interval_s)
    count = days * 86400 // interval_s
    ts = pl.datetime_range(start + step, start + count * step, step, time_unit="us", time_zone="UTC", eager=True)
    local = pl.col("ts").dt.convert_time_zone(zone) - pl.duration(seconds=interval_s)
    shape = 1 + 0.5 * (local.dt.hour() - 8).abs().neg() / 16 + 0.1 * (local.dt.ordinal_day() % 5)
    hours = interval_s / 3600
    rows = pl.DataFrame({"ts": ts}).with_columns(p_kw=base_kw * shape, date=local_date(pl.col("ts"), zone))
    rows = rows.with_columns(
        q_kvar=pl.col("p_kw") / 3,
        import_kwh=(pl.col("p_kw") * hours).cum_sum() + 1000,
        import_kvarh=(pl.col("p_kw") / 3 * hours).cum_sum() + 10,
        ua_v=220 + pl.col("p_kw") / base_kw * 12,
        source_offset=pl.int_range(pl.len()),
    )
    return LAKE["readings"].conform(
        rows, meter_id=meter, customer_no=customer, source="meter.readings.v1", source_partition=partition, source_row=0
    )
