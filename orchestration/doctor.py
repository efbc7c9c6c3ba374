"""What is missing on this machine or in this home, and how to mend it.

Here: the checks, one function each; none changes anything. Not here: how they are shown (`orchestration.cli.doctor`).
What only some work needs (Java, Maven: the local broker) is a warning, so that a machine without it passes.
"""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

State = Literal["ok", "warning", "missing"]

PYTHON = ((3, 11), (3, 13))
LOADED = ("polars", "pyarrow", "duckdb", "bytewax", "confluent_kafka")  # compiled: may be there and yet not load
INSTALL = "install Kilowatch again in an environment of its own (in a checkout: make clean, then make test)"
FREE_GB_NEEDED, FREE_GB_WISE = 0.5, 5.0
BROKER_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `mend` says what to do about it; empty when there is nothing to do."""

    name: str
    state: State
    found: str
    mend: str = ""


def examine(home: Path) -> list[Check]:
    """All checks of this machine and of `home`, in the order a user would mend them."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("Python", _python),
        ("packages", _packages),
        *((name, lambda name=name: _loads(name)) for name in LOADED),
        ("time zones", _time_zones),
        ("home", lambda: _home(home)),
        ("free disk", lambda: _disk(home)),
        ("settings", lambda: _settings(home)),
        ("registry", lambda: _registry(home)),
        ("warehouse", lambda: _warehouse(home)),
        ("Java", _java),
        ("Maven", _maven),
        ("Kafka jars", _jars),
        ("Kafka", lambda: _kafka(home)),
    ]
    return [_guarded(name, check) for name, check in checks]


def healthy(checks: list[Check]) -> bool:
    """Whether the essentials are fine: warnings allowed."""
    return all(check.state != "missing" for check in checks)


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """The doctor answers, whatever is broken: an error is a finding."""
    try:
        return check()
    except Exception as error:
        return Check(name, "missing", f"{type(error).__name__}: {' '.join(str(error).split())}"[:300], INSTALL)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if PYTHON[0] <= sys.version_info[:2] < PYTHON[1]:
        return Check("Python", "ok", version)
    return Check("Python", "missing", version, "use Python 3.11 or 3.12")


def _packages() -> Check:
    """Everything that Kilowatch's own metadata requires, without the extras."""
    try:
        required = [text for text in metadata.requires("kilowatch") or [] if "extra ==" not in text]
    except metadata.PackageNotFoundError:
        return Check("packages", "missing", "kilowatch itself is not installed", INSTALL)
    names = [re.split(r"[\s<>=!~;\[(]", text, maxsplit=1)[0] for text in required]
    absent = [name for name in names if not _installed(name)]
    if absent:
        return Check("packages", "missing", f"not installed: {', '.join(absent)}", INSTALL)
    return Check("packages", "ok", f"kilowatch {metadata.version('kilowatch')}, {len(names)} packages")


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _loads(name: str) -> Check:
    importlib.import_module(name)
    return Check(name, "ok", metadata.version(name.replace("_", "-")))


def _time_zones() -> Check:
    ZoneInfo("Asia/Shanghai")
    if not _installed("tzdata"):
        return Check("time zones", "warning", "the system's own", "install the tzdata package, so that days agree")
    return Check("time zones", "ok", f"tzdata {metadata.version('tzdata')}")


def _home(home: Path) -> Check:
    place = _existing(home)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Check("home", "missing", f"{place}: {error.strerror}", "choose another with --home or KILOWATCH_HOME")
    if not home.is_dir():
        return Check("home", "ok", f"{home} (not made yet; kilowatch init makes it)")
    return Check("home", "ok", str(home.resolve()))


def _existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    return next(place for place in (path.resolve(), *path.resolve().parents) if place.exists())


def _disk(home: Path) -> Check:
    free_gb = shutil.disk_usage(_existing(home)).free / 1e9
    found = f"{free_gb:.1f} GB free"
    if free_gb < FREE_GB_NEEDED:
        return Check("free disk", "missing", found, "free some space, or choose another --home")
    if free_gb < FREE_GB_WISE:
        return Check("free disk", "warning", found, f"the lake grows: have {FREE_GB_WISE:.0f} GB or more")
    return Check("free disk", "ok", found)


def _settings(home: Path) -> Check:
    from metering.errors import SettingsError
    from orchestration.home.settings import load_settings

    own = home / "kilowatch.toml"
    try:
        settings = load_settings(home)
    except SettingsError as error:
        return Check("settings", "missing", str(error), f"correct {own}, or the environment")
    return Check("settings", "ok", f"{'own' if own.exists() else 'default'}, {settings.timezone}")


def _registry(home: Path) -> Check:
    from metering.errors import KilowatchError
    from orchestration.home.registry_files import load, registry_paths
    from orchestration.home.settings import load_settings

    if not any(path.exists() for path in registry_paths(home)):
        return Check("registry", "warning", "none yet", "kilowatch init, then fill it in; or kilowatch simulate")
    try:
        registry = load(home, load_settings(home))
    except KilowatchError as error:
        return Check("registry", "missing", str(error), "correct the file, then kilowatch registry check")
    customers, meters = registry.customers["customer_no"].n_unique(), registry.meters["meter_id"].n_unique()
    return Check("registry", "ok", f"{customers:,} customers, {meters:,} meters")


def _warehouse(home: Path) -> Check:
    from metering.errors import KilowatchError
    from sinks.warehouse import query, warehouse_path

    path = warehouse_path(home)
    if not path.exists():
        return Check("warehouse", "ok", "none yet (kilowatch materialize builds it)")
    try:
        tables = query(home, "SELECT count(*) AS n FROM information_schema.tables")["n"][0]
    except KilowatchError as error:
        return Check("warehouse", "missing", str(error), f"delete {path}, then kilowatch materialize")
    return Check("warehouse", "ok", f"{tables} tables, {path.stat().st_size / 1e6:.1f} MB")


def _java() -> Check:
    from orchestration.kafka import jars

    executable = jars.java()
    if executable is None:
        return Check("Java", "warning", "none (only kilowatch broker needs it)", jars.JAVA_HINT)
    version = jars.java_version(executable)
    if version is None or version < jars.JAVA_AT_LEAST:
        return Check("Java", "warning", f"{executable}: {version or 'does not run'}", jars.JAVA_HINT)
    return Check("Java", "ok", f"{version} ({executable})")


def _maven() -> Check:
    from orchestration.kafka import jars

    executable = jars.maven()
    if executable is not None:
        return Check("Maven", "ok", str(executable))
    if jars.jars_folder().is_dir():
        return Check("Maven", "ok", "none, nor needed: the jars are here")
    return Check("Maven", "warning", "none (only the first kilowatch broker start needs it)", jars.MAVEN_HINT)


def _jars() -> Check:
    from orchestration.kafka import jars

    folder = jars.jars_folder()
    if folder.is_dir():
        return Check("Kafka jars", "ok", f"Apache Kafka {jars.kafka_version()} in {folder}")
    return Check(
        "Kafka jars", "ok", f"Apache Kafka {jars.kafka_version()} not fetched yet (kilowatch broker start does)"
    )


def _kafka(home: Path) -> Check:
    """A configured cluster has to answer; a local broker may be off, but not hung."""
    from orchestration.home.settings import load_settings
    from orchestration.kafka import broker
    from sinks.kafka.topics import answers

    settings = load_settings(home)
    if not settings.bootstrap_servers and broker.status(home) is None:
        return Check("Kafka", "ok", "no broker configured or running (files need none; kilowatch broker start)")
    config = broker.client_config(home, settings)
    if answers(config, BROKER_TIMEOUT_S):
        return Check("Kafka", "ok", f"{config['bootstrap.servers']} answers")
    mend = "check bootstrap_servers and [kafka]" if settings.bootstrap_servers else "kilowatch broker stop, then start"
    return Check("Kafka", "missing", f"{config['bootstrap.servers']} does not answer", mend)
