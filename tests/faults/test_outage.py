"""Brokers that go away: a real Kafka is killed under a running stream, and nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from orchestration.kafka import broker

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

START = datetime(2026, 3, 1, tzinfo=UTC)
OUTAGE_S = float(os.environ.get("OUTAGE_S", "10"))
SETTINGS = """bootstrap_servers = "{address}"
[topics]
partitions = 3
[stream]
commit_interval_s = 1
"""


@pytest.fixture
def own_broker(kafka_jars: Path, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A broker of the test's own: home and address."""
    home = tmp_path / "kafka"
    address = broker.start(home)
    yield home, address
    broker.stop(home)


def kill_broker(home: Path) -> None:
    running = broker.status(home)
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    os.waitpid(running.pid, 0)


class Telemetry:
    """Six meters, a reading each minute of theirs, sent as long as it is open whether brokers answer or not."""

    def __init__(self, address: str, minutes_per_s: float) -> None:
        patient = {"enable.idempotence": True, "message.timeout.ms": 0}  # gives nothing up, however long it takes
        self._producer = Producer({"bootstrap.servers": address, "linger.ms": 5, "log_level": 2, **patient})
        self._pause_s = 1 / minutes_per_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self.minutes = 0
        self._thread.start()

    def _send(self) -> None:
        while not self._over.wait(self._pause_s):
            self.minutes += 1
            at = (START + timedelta(minutes=self.minutes)).isoformat()
            for meter in range(6):
                value = {"meter_id": f"M{meter}", "ts": at, "p_kw": power(meter, self.minutes)}
                self._producer.produce("meter.readings.v1", json.dumps(value), f"M{meter}")
            self._producer.poll(0)

    def finish(self) -> int:
        """Gives how many readings were sent."""
        self._over.set()
        self._thread.join()
        assert self._producer.flush(60) == 0
        return self.minutes * 6


def power(meter: int, minute: int) -> float:
    return 100.0 * (meter + 1) + minute % 7


def windows(minutes: int) -> dict[tuple[str, str], tuple[int, float]]:
    """Closed windows by (meter, end): readings and mean power. The watermark is five minutes behind."""
    found = {}
    for meter in range(6):
        for last in range(15, minutes - 5 + 1, 15):
            sums = sum(power(meter, minute) for minute in range(last - 14, last + 1))
            found[f"M{meter}", f"{START + timedelta(minutes=last):%Y-%m-%dT%H:%M:%SZ}"] = (15, sums / 15)
    return found


def test_a_killed_broker_is_waited_for_and_nothing_is_lost(
    own_broker: tuple[Path, str],
    stream_home: Callable[..., Any],
    last_by_key: Callable[[str, str], dict[bytes, Any]],
) -> None:
    kafka_home, address = own_broker
    home = stream_home(SETTINGS.format(address=address))
    home.start()
    home.wait_until_started()
    telemetry = Telemetry(address, 10)
    home.wait_for(lambda: home.rows("readings") > 60 and home.get("/healthz")[0] == 200)

    kill_broker(kafka_home)
    killed = time.monotonic()
    assert home.wait_for(lambda: home.get("/healthz")[0] == 503, 30) < 30
    assert json.loads(home.get("/healthz")[1])["status"] == "stale"
    assert "\nkilowatch_source_stale 1.0" in home.get("/metrics")[1]
    time.sleep(max(0.0, killed + OUTAGE_S - time.monotonic()))
    broker.start(kafka_home)
    assert home.wait_for(lambda: home.get("/healthz")[0] == 200, 30) < 30
    assert "\nkilowatch_source_stale 0.0" in home.get("/metrics")[1]

    sent = telemetry.finish()
    assert_whole(home, address, telemetry.minutes, sent, last_by_key)
    assert [line["event"] for line in home.events].count("stale") == 1
    assert [line["event"] for line in home.events].count("no longer stale") == 1


def assert_whole(home: Any, address: str, minutes: int, sent: int, last_by_key: Callable[..., Any]) -> None:
    """The stream ends cleanly; every reading is in the lake once; windows in lake and topic are what they should be."""
    home.wait_for(lambda: home.rows("readings") >= sent, 30)
    code, took_s = home.terminate()
    assert (code, took_s < 10) == (0, True), home.said[-3000:]
    [(rows, distinct)] = home.sql("readings", "select count(*), count(distinct (meter_id, ts)) from lake")
    assert rows == distinct == sent
    wanted = windows(minutes)
    assert len(wanted) >= 12
    lake = home.sql("windows", "select meter_id, epoch(window_end), n, p_mean_kw, revision from lake")
    instants = [(meter, f"{datetime.fromtimestamp(end, UTC):%Y-%m-%dT%H:%M:%SZ}", *rest) for meter, end, *rest in lake]
    assert {(meter, end): (n, pytest.approx(p)) for meter, end, n, p, _ in instants} == wanted
    assert (len(lake), {row[-1] for row in lake}) == (len(wanted), {0})
    topic = last_by_key(address, "load.windows.v1")
    assert {
        (value["meter_id"], value["window_end"]): (value["n"], pytest.approx(value["p_mean_kw"]))
        for value in topic.values()
    } == wanted


def test_a_broker_that_hangs_and_then_dies_is_survived(
    own_broker: tuple[Path, str],
    stream_home: Callable[..., Any],
    last_by_key: Callable[[str, str], dict[bytes, Any]],
) -> None:
    kafka_home, address = own_broker
    home = stream_home(SETTINGS.format(address=address))
    home.start()
    home.wait_until_started()
    telemetry = Telemetry(address, 10)
    home.wait_for(lambda: home.rows("readings") > 60)
    running = broker.status(kafka_home)
    assert running is not None
    os.kill(running.pid, signal.SIGSTOP)  # connections stay open, and nobody answers
    try:
        assert home.wait_for(lambda: home.get("/healthz")[0] == 503, 30) < 30
    finally:
        os.kill(running.pid, signal.SIGCONT)
    assert home.wait_for(lambda: home.get("/healthz")[0] == 200, 30) < 30
    kill_broker(kafka_home)
    broker.start(kafka_home)
    rows = home.rows("readings")
    home.wait_for(lambda: home.rows("readings") > rows, 30)
    sent = telemetry.finish()
    assert_whole(home, address, telemetry.minutes, sent, last_by_key)


def test_a_stop_while_brokers_are_away_says_what_does_not_count(
    own_broker: tuple[Path, str], stream_home: Callable[..., Any]
) -> None:
    kafka_home, address = own_broker
    home = stream_home(SETTINGS.format(address=address).replace("interval_s = 1", "interval_s = 600\nbatch_rows = 100"))
    home.start()
    home.wait_until_started()
    sent = backlog(address, 2_500)  # the client has much of it before the stream has worked through it
    home.wait_for(lambda: "\nkilowatch_readings_received_total 0.0" not in home.get("/metrics")[1])
    kill_broker(kafka_home)
    home.wait_for(lambda: home.get("/healthz")[0] == 503, 30)
    code, took_s = home.terminate()
    assert (code, took_s < 10) == (1, True), home.said[-3000:]
    assert "readings since the last commit do not count" in home.said.splitlines()[-1]
    settled = home.rows("readings")
    assert settled < sent

    broker.start(kafka_home)
    home.start()
    home.wait_until_started()
    home.wait_for(lambda: f"\nkilowatch_readings_received_total {float(sent - settled)}" in home.get("/metrics")[1])
    code, took_s = home.terminate()
    assert (code, took_s < 10) == (0, True), home.said[-3000:]
    [(rows, distinct)] = home.sql(
        "readings", "select count(*), count(distinct source_offset * 10 + source_partition) from lake"
    )
    assert rows == distinct == sent


def test_sigterm_under_load_commits_in_time_and_nothing_is_read_again(
    own_broker: tuple[Path, str], stream_home: Callable[..., Any]
) -> None:
    _, address = own_broker
    home = stream_home(SETTINGS.format(address=address) + "batch_rows = 2000\n")
    home.start()
    home.wait_until_started()
    sent = backlog(address, 20_000)
    home.wait_for(lambda: home.rows("readings") > 0)
    code, took_s = home.terminate()
    assert (code, took_s < 10) == (0, True), home.said[-3000:]
    done = home.rows("readings")
    assert 0 < done < sent
    home.start()
    home.wait_until_started()
    home.wait_for(lambda: home.rows("readings") >= sent)
    received = f"\nkilowatch_readings_received_total {float(sent - done)}\n"
    assert received in home.get("/metrics")[1], "the second run reads what the first did not commit, and only that"
    assert home.terminate()[0] == 0
    [(rows, distinct)] = home.sql("readings", "select count(*), count(distinct (meter_id, ts)) from lake")
    assert rows == distinct == sent


def backlog(address: str, minutes: int) -> int:
    """Minutes of six meters, all at once; gives how many readings."""
    producer = Producer({"bootstrap.servers": address, "queue.buffering.max.messages": 0})
    for minute in range(1, minutes + 1):
        at = (START + timedelta(minutes=minute)).isoformat()
        for meter in range(6):
            value = {"meter_id": f"M{meter}", "ts": at, "p_kw": power(meter, minute)}
            producer.produce("meter.readings.v1", json.dumps(value), f"M{meter}")
    assert producer.flush(60) == 0
    return minutes * 6
