"""Brokers that demand TLS and a password: the `[kafka]` settings reach every client, and secrets reach nobody."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from orchestration.kafka import broker, jars

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

PASSWORD, WRONG, STORE = "correct-horse-7", "wrong-battery-9", "store-staple-5"


@dataclass(frozen=True, slots=True)
class SecureBroker:
    address: str
    authority: Path

    def settings(self, password: str = PASSWORD, authority: Path | None = None) -> str:
        return f"""bootstrap_servers = "{self.address}"
[topics]
partitions = 1
[stream]
commit_interval_s = 0.5
[kafka]
"security.protocol" = "SASL_SSL"
"sasl.mechanism" = "PLAIN"
"sasl.username" = "kilowatch"
"sasl.password" = "{password}"
"ssl.ca.location" = "{authority or self.authority}"
"""


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A key store with a certificate for the loopback address, and that certificate as PEM."""
    store, pem = folder / f"{name}.p12", folder / f"{name}.pem"
    keytool = jars.require_java().with_name("keytool")
    common = ["-keystore", store, "-storetype", "PKCS12", "-storepass", STORE, "-alias", name]
    make = ["-genkeypair", "-keyalg", "RSA", "-keysize", "2048", "-validity", "2", "-dname", "CN=localhost"]
    for command in ([*make, "-ext", "SAN=IP:127.0.0.1,DNS:localhost"], ["-exportcert", "-rfc", "-file", pem]):
        subprocess.run([keytool, *command, *common], check=True, capture_output=True)
    return store, pem


@pytest.fixture(scope="module")
def secure_broker(kafka_jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    home = tmp_path_factory.mktemp("secure")
    store, pem = make_certificate(home, "broker")
    plain, controller, secure = (broker._free_port() for _ in range(3))
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    broker.start(
        home,
        plain,
        {
            "listeners": f"PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},SAFE://127.0.0.1:{secure}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},SAFE://127.0.0.1:{secure}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SAFE:SASL_SSL",
            "listener.name.safe.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.safe.plain.sasl.jaas.config": f'{login} user_kilowatch="{PASSWORD}";',
            "listener.name.safe.ssl.keystore.location": str(store),
            "listener.name.safe.ssl.keystore.type": "PKCS12",
            "listener.name.safe.ssl.keystore.password": STORE,
            "listener.name.safe.ssl.key.password": STORE,
        },
    )
    yield SecureBroker(f"127.0.0.1:{secure}", pem)
    broker.stop(home)


def files_with(folder: Path, secret: str) -> list[Path]:
    """Files under a home, its settings aside, that hold a secret."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "kilowatch.toml"]
    return [path for path in files if secret.encode() in path.read_bytes()]


def test_readings_go_through_tls_and_sasl(secure_broker: SecureBroker, stream_home: Callable[..., Any]) -> None:
    home = stream_home(secure_broker.settings(), KILOWATCH_LOG_LEVEL="DEBUG")
    home.start()
    home.wait_until_started()
    producer = Producer(
        {
            "bootstrap.servers": secure_broker.address,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "kilowatch",
            "sasl.password": PASSWORD,
            "ssl.ca.location": str(secure_broker.authority),
        }
    )
    for minute in range(30):
        value = {"meter_id": "M0", "ts": f"2026-03-01T00:{minute:02}:00Z", "p_kw": 100.0}
        producer.produce("meter.readings.v1", json.dumps(value), "M0")
    assert producer.flush(30) == 0
    home.wait_for(lambda: home.rows("readings") == 30)
    assert home.rows("windows") > 0, "results were acknowledged before they were committed"
    answers = home.get("/metrics")[1] + home.get("/healthz")[1]
    assert home.terminate()[0] == 0
    assert PASSWORD not in answers
    assert files_with(home.path, PASSWORD) == []


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_a_wrong_password_is_one_clear_line(
    secure_broker: SecureBroker, stream_home: Callable[..., Any], level: str
) -> None:
    home = stream_home(secure_broker.settings(password=WRONG), KILOWATCH_LOG_LEVEL=level)
    assert home.run() == 1
    [line] = [line for line in home.said.splitlines() if not line.startswith("{")]
    assert line.startswith("kilowatch: Kafka denies access: ")
    assert "uthentication" in line
    assert "[kafka]" in line
    assert files_with(home.path, WRONG) == []


def test_an_unknown_authority_is_one_clear_line(
    secure_broker: SecureBroker, stream_home: Callable[..., Any], tmp_path: Path
) -> None:
    _, stranger = make_certificate(tmp_path, "stranger")
    home = stream_home(secure_broker.settings(authority=stranger))
    assert home.run() == 1
    [line] = [line for line in home.said.splitlines() if not line.startswith("{")]
    assert line.startswith("kilowatch: Kafka denies access: ")
    assert "certificate" in line
    assert files_with(home.path, PASSWORD) == []


def test_a_setting_that_does_not_exist_is_a_users_mistake(
    secure_broker: SecureBroker, stream_home: Callable[..., Any]
) -> None:
    home = stream_home(secure_broker.settings() + '"sasl.pasword" = "typo-secret-3"\n')
    assert home.run() == 2
    [line] = home.said.splitlines()
    assert "[kafka] settings" in line
    assert "sasl.pasword" in line
    assert files_with(home.path, "typo-secret-3") == []
