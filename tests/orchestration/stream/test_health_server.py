"""Metrics and health over HTTP."""

from __future__ import annotations

import http.client
import json
from datetime import UTC, datetime

from orchestration.stream.health_server import served
from pipelines.flow.dataflow import Run
from pipelines.flow.health import Progress


def get(port: int | None, path: str) -> tuple[int, str]:
    assert port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
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
