"""The doctor finds what is missing, says how to mend it, and calls a machine without Java healthy."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestration import doctor
from orchestration.cli import cli
from orchestration.doctor import Check, examine, healthy
from orchestration.kafka import broker, jars


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No Java, no Maven, no jars, nothing on the PATH. Gives the folder the PATH names."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", str(bin_folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return bin_folder


def found(home: Path) -> dict[str, Check]:
    return {check.name: check for check in examine(home)}


def test_a_machine_without_java_is_healthy_and_told_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    checks = found(home)
    assert (checks["Java"].state, checks["Maven"].state) == ("warning", "warning")
    assert "openjdk-17" in checks["Java"].mend
    assert "maven" in checks["Maven"].mend
    assert not [check for check in checks.values() if check.state == "missing"]
    result = CliRunner().invoke(cli, ["doctor", "--home", str(home)], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "Ready, with 3 warnings." in result.output  # Java, Maven, no registry yet
    assert not home.exists(), "the doctor changes nothing"


def test_with_everything_there_is_nothing_to_mend(tmp_path: Path, bare_machine: Path) -> None:
    for name, text in {"java": "echo 'openjdk version \"21.0.1\"' >&2", "mvn": "true"}.items():
        (bare_machine / name).write_text(f"#!/bin/sh\n{text}\n", "utf-8")
        (bare_machine / name).chmod(0o755)
    jars.jars_folder().mkdir(parents=True)
    checks = found(tmp_path)
    assert [checks[name].state for name in ("Java", "Maven", "Kafka jars")] == ["ok"] * 3
    assert checks["Java"].found.startswith("21 ")
    assert all(bool(check.mend) == (check.state != "ok") for check in checks.values())


def test_an_old_or_broken_java_is_a_warning(tmp_path: Path, bare_machine: Path) -> None:
    java = bare_machine / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n", "utf-8")
    java.chmod(0o755)
    assert (found(tmp_path)["Java"].state, found(tmp_path)["Java"].found) == ("warning", f"{java}: 11")
    java.write_text("#!/no/such/shell\n", "utf-8")
    assert found(tmp_path)["Java"].found == f"{java}: does not run"


def test_jars_without_maven_are_enough(tmp_path: Path) -> None:
    jars.jars_folder().mkdir(parents=True)
    assert found(tmp_path)["Maven"].state == "ok"


def test_a_python_that_is_too_new_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0, "final", 0))
    check = doctor._python()
    assert (check.state, check.found, check.mend) == ("missing", "3.13.0", "use Python 3.11 or 3.12")


def test_a_package_that_is_absent_or_does_not_load_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["polars>=2.1", "no-such-thing[x]<3; python_version>'3'"])
    monkeypatch.setitem(sys.modules, "bytewax", None)
    checks = examine(tmp_path)
    assert not healthy(checks)
    named = {check.name: check for check in checks}
    assert named["packages"].found == "not installed: no-such-thing"
    assert named["bytewax"].state == "missing"
    assert "bytewax" in named["bytewax"].found
    assert named["duckdb"].state == "ok"


def test_wrong_settings_are_shown_and_do_not_stop_the_rest(tmp_path: Path) -> None:
    (tmp_path / "kilowatch.toml").write_text('timezone = "Asia/Nowhere"\n', "utf-8")
    checks = found(tmp_path)
    assert checks["settings"].state == "missing"
    assert "Asia/Nowhere" in checks["settings"].found
    assert checks["Java"].state == "warning"
    result = CliRunner().invoke(cli, ["doctor", "--home", str(tmp_path)], env={"COLUMNS": "200"})
    assert result.exit_code == 1
    assert "Not ready: settings" in result.output


def test_a_bad_registry_is_shown_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "customers.csv").write_text("customer_no\n", "utf-8")
    (tmp_path / "registry" / "meters.csv").write_text("meter_id\n", "utf-8")
    check = found(tmp_path)["registry"]
    assert check.state == "missing"
    assert "customers.csv, line 1" in check.found


def test_a_warehouse_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "warehouse.duckdb").write_bytes(b"not a database")
    check = found(tmp_path)["warehouse"]
    assert check.state == "missing"
    assert "kilowatch materialize" in check.mend


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", "utf-8")
    check = found(tmp_path / "file" / "home")["home"]
    assert (check.state, check.mend) == ("missing", "choose another with --home or KILOWATCH_HOME")


def test_little_disk_is_a_warning_and_none_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((1e8, "missing"), (2e9, "warning"), (1e11, "ok")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        assert found(tmp_path)["free disk"].state == state


def test_a_configured_cluster_has_to_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILOWATCH_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setattr(doctor, "BROKER_TIMEOUT_S", 0.5)
    check = found(tmp_path)["Kafka"]
    assert (check.state, check.found) == ("missing", "127.0.0.1:1 does not answer")


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_a_cluster_that_answers_is_ok(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(tmp_path)["Kafka"].state == "ok"
    assert broker.status(tmp_path) is None
    monkeypatch.setenv("KILOWATCH_BOOTSTRAP_SERVERS", kafka)
    assert found(tmp_path)["Kafka"].found == f"{kafka} answers"
