"""Dagster's events: those of a batch are stored together, or none of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from orchestration.batch.event_log import BatchedEventLog


def events(run_id: str, count: int) -> list[dg.EventLogEntry]:
    return [
        dg.EventLogEntry(
            error_info=None, level=20, user_message=f"event {n}", run_id=run_id, timestamp=1.7e9 + n, step_key=None,
            job_name="daily", dagster_event=None,
        )
        for n in range(count)
    ]  # fmt: skip


class Failing(BatchedEventLog):
    """A log in which one event cannot be stored."""

    left = 10**9

    def store_event(self, event: dg.EventLogEntry) -> None:
        super().store_event(event)
        self.left -= 1
        if not self.left:
            raise OSError("disk full")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Failing]:
    log = Failing(str(tmp_path))
    yield log
    log.dispose()


def stored(log: Failing, run_id: str) -> list[str]:
    return [record.user_message for record in log.get_logs_for_run(run_id)]


def test_a_batch_is_stored_whole_and_in_order(log: Failing) -> None:
    log.store_event_batch(events("one", 50))
    log.store_event(events("one", 1)[0])
    assert stored(log, "one") == [*(f"event {n}" for n in range(50)), "event 0"]
    assert stored(log, "other") == []


def test_of_a_batch_that_fails_nothing_is_stored(log: Failing) -> None:
    log.store_event_batch(events("one", 2))
    log.left = 3
    with pytest.raises(OSError, match="disk full"):
        log.store_event_batch(events("one", 5))
    assert stored(log, "one") == ["event 0", "event 1"]
    log.store_event_batch(events("one", 1))  # and it goes on
    assert stored(log, "one") == ["event 0", "event 1", "event 0"]
