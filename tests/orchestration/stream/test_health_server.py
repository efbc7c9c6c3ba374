"""Metrics and health over HTTP."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import time
from datetime import UTC, datetime

from orchestration.stream.health_server import served
from pipelines.flow.dataflow import Run
from pipelines.flow.health import Progress


def get(port: int | None, path: str, method: str = "GET", **heads: str) -> tuple[int, str]:
    assert port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers=heads)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, (gzip.decompress(body) if answer.headers["Content-Encoding"] else body).decode()
    finally:
        connection.close()


def test_health_is_200_or_503_and_metrics_are_there() -> None:
    run = Run()
    run.metrics.rejected.labels("no_time").inc(3)
    run.metrics.received.inc(5)
    run.metrics.committed("t-0")
    with served(0, run.metrics.registry, run.health) as port:
        code, text = get(port, "/healthz")
        assert (code, json.loads(text)["status"]) == (200, "ok")
        run.health.turned(datetime.now(UTC), Progress({}, 0.0))
        code, text = get(port, "/healthz?full=1")
        assert (code, json.loads(text)["status"]) == (503, "stale")
        code, text = get(port, "/metrics")
        assert code == 200
        assert get(port, "/elsewhere")[0] == 404
        assert get(port, "/healthz", "POST")[0] == get(port, "/metrics", "DELETE")[0] == 405
        packed = get(port, "/metrics?name[]=kilowatch_readings_received_total", **{"Accept-Encoding": "gzip"})
        assert packed[0] == 200
        assert "kilowatch_readings_received_total 5.0" in packed[1]
        assert "kilowatch_source_stale" not in packed[1]  # Prometheus's own filter by name
        opened = get(port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert opened[1].endswith("# EOF\n")
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert figures["kilowatch_source_stale"] == "1.0"
    assert figures["kilowatch_readings_received_total"] == "5.0"
    assert figures['kilowatch_readings_rejected_total{reason="no_time"}'] == "3.0"
    assert 0 <= float(figures["kilowatch_last_commit_age_seconds"]) < 5
    assert not [name for name in figures if "_created" in name]


def test_another_port_is_used_when_the_wanted_one_is_taken() -> None:
    run = Run()
    with (
        served(0, run.metrics.registry, run.health) as first,
        served(first or 0, run.metrics.registry, run.health) as other,
    ):
        assert other != first
        assert get(other, "/healthz")[0] == 200
    with served(-1, run.metrics.registry, run.health) as off:
        assert off is None


def test_a_client_that_dawdles_holds_up_neither_others_nor_the_end() -> None:
    run = Run()
    with (
        served(0, run.metrics.registry, run.health) as port,
        socket.create_connection(("127.0.0.1", port or 0)) as idle,
    ):
        idle.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert get(port, "/healthz")[0] == 200
        began = time.monotonic()
    assert time.monotonic() - began < 5
