"""The local broker: found, started, stopped, and honest when it cannot be."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from metering.errors import OperationError, UserError
from orchestration.cli import cli
from orchestration.home.settings import Settings, load_settings
from orchestration.kafka import broker, jars
from sinks.kafka import topics


def test_without_a_broker_the_user_is_told_how_to_get_one(tmp_path: Path, default_settings: Settings) -> None:
    with pytest.raises(UserError, match="kilowatch broker start"):
        broker.bootstrap(tmp_path, default_settings)
    assert broker.status(tmp_path) is None
    assert broker.stop(tmp_path) is False


def test_the_settings_cluster_comes_first_and_their_section_goes_along(tmp_path: Path) -> None:
    text = (
        'bootstrap_servers = "10.0.0.1:9092"\n[kafka]\n"linger.ms" = 7\n"enable.ssl.certificate.verification" = false\n'
    )
    (tmp_path / "kilowatch.toml").write_text(text, "utf-8")
    assert broker.client_config(tmp_path, load_settings(tmp_path)) == {
        "bootstrap.servers": "10.0.0.1:9092",
        "linger.ms": "7",
        "enable.ssl.certificate.verification": "false",
    }


def test_a_cluster_of_the_settings_is_neither_started_nor_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens there; a local broker would answer all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    (tmp_path / "kilowatch.toml").write_text(f'bootstrap_servers = "{address}"\n', "utf-8")
    monkeypatch.setattr(broker, "start", lambda *_, **__: pytest.fail("a local broker was started"))
    run = CliRunner()

    def invoke(verb: str) -> tuple[int, str]:
        result = run.invoke(cli, ["broker", verb, "--home", str(tmp_path)])
        return result.exit_code, result.stdout.strip()

    assert invoke("start") == (0, address)
    assert not (tmp_path / "broker").exists()
    assert invoke("status") == (1, f"{address} does not answer")
    assert invoke("stop") == (0, f"bootstrap_servers is set: {address} is not Kilowatch's to stop")


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_status_asks_the_cluster_of_the_settings(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILOWATCH_BOOTSTRAP_SERVERS", kafka)
    status = CliRunner().invoke(cli, ["broker", "status", "--home", str(tmp_path)])
    assert (status.exit_code, status.stdout.strip()) == (0, kafka)


def test_another_process_with_the_recorded_pid_is_not_the_broker(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    record = {"address": "127.0.0.1:9", "pid": os.getpid(), "started": psutil.Process().create_time()}
    (folder / "broker.json").write_text(json.dumps(record), "utf-8")
    assert broker.status(tmp_path) is None
    assert broker.stop(tmp_path) is False


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_broken_record_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker" / "broker.json").write_text(text, "utf-8")
    assert broker.status(tmp_path) is None


def test_without_java_start_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(UserError, match="needs Java, and there is none: install Java 17"):
        broker.start(tmp_path)


def test_stopping_does_not_wait_for_whoever_started_the_broker(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    sleeper = "import os, sys, time; pid = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)"
    code = f"{sleeper}; print(pid, flush=True); time.sleep(60)"  # never looks after its child
    broker_like = ["-c", "import time; time.sleep(60)", str(broker._properties_path(tmp_path / "broker"))]
    with subprocess.Popen([sys.executable, "-c", code, *broker_like], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        record = {"address": "127.0.0.1:9", "pid": pid, "started": psutil.Process(pid).create_time()}
        (tmp_path / "broker" / "broker.json").write_text(json.dumps(record), "utf-8")
        try:
            before = time.monotonic()
            assert broker.stop(tmp_path) is True
            assert time.monotonic() - before < 10
            assert broker.status(tmp_path) is None
        finally:
            parent.kill()


def test_an_old_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n", "utf-8")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert jars.java_version(java) == 8
    with pytest.raises(UserError, match="is Java 8, too old"):
        jars.require_java()


def test_without_maven_fetching_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="there is none: install Maven"):
        jars.fetch()


def test_a_failing_maven_leaves_no_half_filled_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mvn = tmp_path / "mvn"
    mvn.write_text("#!/bin/sh\necho '[ERROR] Could not resolve kafka: no route to host'\nexit 1\n", "utf-8")
    mvn.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(OperationError, match="Maven could not fetch Apache Kafka: Could not resolve kafka: no route"):
        jars.fetch()
    assert [path for path in (tmp_path / "cache" / "kilowatch").iterdir() if path.is_dir()] == []


def test_the_pom_is_part_of_the_package() -> None:
    assert jars.POM.is_file()
    assert jars.kafka_version().startswith("4.")


def test_properties_survive_any_folder_name() -> None:
    assert broker._escaped(r"/a\b") == r"/a\\b"
    assert broker._escaped("/hö/数据/😀") == r"/h\u00f6/\u6570\u636e/\ud83d\ude00"


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_a_broker_starts_once_keeps_its_address_and_its_data(kafka_jars: Path, tmp_path: Path) -> None:
    home = tmp_path / "a home"
    run = CliRunner()
    started = run.invoke(cli, ["broker", "start", "--home", str(home)])
    try:
        assert started.exit_code == 0
        address = started.stdout.strip()
        assert broker.start(home) == address
        assert run.invoke(cli, ["broker", "status", "--home", str(home)]).output.strip() == address
        topics.ensure_topics({"bootstrap.servers": address}, {"kept": "delete"}, 1, 1)
        assert run.invoke(cli, ["broker", "stop", "--home", str(home)]).output.strip() == "stopped"
        assert broker.status(home) is None
        assert run.invoke(cli, ["broker", "status", "--home", str(home)]).exit_code == 1
        assert broker.start(home) == address
        assert topics.ensure_topics({"bootstrap.servers": address}, {"kept": "delete"}, 1, 1) == []
    finally:
        broker.stop(home)


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_a_broker_that_cannot_start_says_why(kafka_jars: Path, tmp_path: Path) -> None:
    with pytest.raises(OperationError, match=r"Apache Kafka cannot format .*num\.io\.threads"):
        broker.start(tmp_path, extra_properties={"num.io.threads": "many"})
    with pytest.raises(OperationError, match=r"Apache Kafka did not start: .*no\.such\.Reporter"):
        broker.start(tmp_path, extra_properties={"metric.reporters": "no.such.Reporter"})
    assert broker.status(tmp_path) is None


def test_a_port_in_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "require_java", lambda: Path("java"))
    monkeypatch.setattr(jars, "fetch", lambda _: tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match=r"port \d+ is in use"):
        broker.start(tmp_path, taken.getsockname()[1])


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_all_topics_of_the_settings_are_created(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILOWATCH_BOOTSTRAP_SERVERS", kafka)
    for name in ("readings", "windows", "violations", "compliance", "rejected"):
        monkeypatch.setenv(f"KILOWATCH_TOPICS__{name.upper()}", f"test.broker.{name}")
    settings = load_settings(tmp_path)
    config = broker.ensure_topics(tmp_path, settings)
    assert config == {"bootstrap.servers": kafka}
    client = topics.admin_client(config)
    assert {topics.partition_count(client, f"test.broker.{n}") for n in ("readings", "windows", "rejected")} == {
        settings.topics.partitions
    }
