"""Health of a flow: what counts as stale, and that beginning and end are each said once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from pipelines.flow import health as health_module
from pipelines.flow.dataflow import Run
from pipelines.flow.health import Health, Progress, ShardHealth

QUIET = Progress({"t-0": ShardHealth(None, 0.0, 0.0)}, 0.0)
AWAY = datetime(2026, 3, 1, tzinfo=UTC)


def overdue(seconds: float) -> Progress:
    return Progress({"t-0": ShardHealth(AWAY, seconds + 10, seconds), "t-1": ShardHealth(None, 0.0, 0.0)}, 0.0)


@pytest.mark.parametrize(
    ("source", "progress", "status"),
    [
        (None, QUIET, "ok"),
        (AWAY, QUIET, "stale"),
        (None, Progress({}, 4.9), "ok"),
        (None, Progress({}, 5.1), "stale"),
        (None, overdue(29), "ok"),
        (None, overdue(31), "stale"),
    ],
)
def test_what_counts_as_stale(source: datetime | None, progress: Progress, status: str) -> None:
    health = Health()
    health.turned(source, progress)
    assert health.report()["status"] == status
    assert health.stale == (status == "stale")


def test_beginning_and_end_are_said_once() -> None:
    run = Run()
    with capture_logs() as logs:
        for source, progress in [(None, QUIET), (AWAY, QUIET), (AWAY, Progress({}, 9.0)), (None, Progress({}, 9.0))]:
            run.health.turned(source, progress)
        assert run.metrics.registry.get_sample_value("kilowatch_source_stale") == 1
        for _ in range(3):
            run.health.turned(None, QUIET)
    assert [(line["log_level"], line["event"]) for line in logs] == [("warning", "stale"), ("info", "no longer stale")]
    assert run.metrics.registry.get_sample_value("kilowatch_source_stale") == 0


def test_a_flow_that_stands_still_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health()
    monkeypatch.setattr(health_module, "STALE_AFTER_S", -1.0)
    report = health.report()
    assert (report["status"], report["last_commit_age_s"]) == ("stale", None)
    assert "stood still" in report["reason"]


def test_a_flow_that_failed_is_failing_and_shards_are_told() -> None:
    run = Run()
    run.health.turned(None, overdue(0))
    run.failed(RuntimeError("sasl.password=secret"))
    run.failed(ValueError("a consequence"))
    report = run.health.report()
    assert (report["status"], report["reason"]) == ("failing", "RuntimeError")
    assert set(report["shards"]) == {"t-0", "t-1"}
    assert report["shards"]["t-0"]["pending_s"] == 10
    assert report["last_commit_age_s"] == report["shards"]["t-0"]["last_commit_age_s"] > 0
    assert report["shards"]["t-1"]["last_commit_age_s"] is None
