"""The lake as a source: rows of violations and records as their topics' messages, each part once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from metering.notices.dispatch import Known
from metering.notices.events import Event, Feedback, read
from metering.tables import LAKE
from orchestration.notify.lake_source import LakeSource
from sinks.notices.ledger import Ledger
from tests.metering.notices.events import COLD, NOW, SETTINGS, STEEL, violation

DAY = NOW.date()
_OF_RECORDS = {"source": "files", "source_partition": 0, "source_offset": 0, "source_row": 0, "date": DAY}


def _part(home: Path, table: str, name: str, *rows: dict[str, Any]) -> Path:
    declared = LAKE[table]
    folder = home / "lake" / table / f"date={DAY}"
    folder.mkdir(parents=True, exist_ok=True)
    own = [{n: v for n, v in row.items() if n in declared.names} for row in rows]
    frame = pl.DataFrame(own, infer_schema_length=None)
    more = {n: v for n, v in _OF_RECORDS.items() if n in declared.names and n not in frame.columns}
    declared.conform(frame, **more).drop("date").write_parquet(folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


def _violation(name: str, revision: int = 0) -> dict[str, Any]:
    row = violation(revision=revision, violation_id=name)
    return {
        **row, "at": NOW, "started_at": NOW, "ended_at": None, "value": 1.0, "limit_value": 1.0, "unit": "V",
        "meter_id": "M", "ruleset": "1",
    }  # fmt: skip


def _polled(source: LakeSource, ledger: Ledger) -> list[Event | Feedback]:
    said: list[Event | Feedback] = []
    while True:
        told = source.poll(2, 0)
        for message in told:
            assert message.value is not None
            said.append(read(message.kind, message.value, SETTINGS))
            ledger.keep_position(message.source, message.part, message.position)
        if not told and source.at_end:
            return said


def test_rows_of_every_table_say_what_their_topics_messages_do(tmp_path: Path) -> None:
    hour = timedelta(hours=1)
    figures = [{"name": STEEL, "value": 300.0}, {"name": COLD, "value": 50.0}]
    _part(tmp_path, "violations", "one", _violation("v1"), _violation("v2"), _violation("v3"))
    _part(
        tmp_path, "load_control_plans", "one",
        {"plan_id": "P", "revision": 1, "kind": "orderly_usage", "level": "red", "from_at": NOW, "to_at": NOW + hour,
         "customers": [STEEL], "cap_kw": figures, "state": "active", "issued_at": NOW},
    )  # fmt: skip
    _part(tmp_path, "outages", "one", {"outage_id": "O", "kind": "fault", "feeder": "10kV-01", "from_at": NOW})
    _part(tmp_path, "feedback", "one", {"violation_id": "v1", "action": "handled", "at": NOW, "by_role": "值班台"})
    ledger = Ledger(None, SETTINGS)
    said = _polled(LakeSource(tmp_path, ledger), ledger)
    assert Feedback("v1", "handled", NOW) in said
    events = {event.subject: event for event in said if isinstance(event, Event)}
    assert set(events) == {"v1", "v2", "v3", "P", "O"}
    plan, outage = events["P"], events["O"]
    assert (plan.caps, plan.customers) == ({STEEL: 300.0, COLD: 50.0}, (STEEL, COLD))
    assert (plan.started_at, plan.ended_at, plan.severity) == (NOW, NOW + hour, "critical")
    assert (outage.feeders, outage.ended_at, outage.state) == (("10kV-01",), None, "raised")
    for event in events.values():
        ledger.remember(Known(event=event, severity=event.severity))
        known = ledger.known(event.subject)
        assert known is not None
        assert replace(known.event, value={}) == replace(event, value={})


def test_a_part_is_read_once_and_one_that_was_not_read_to_its_end_again(tmp_path: Path) -> None:
    first = _part(tmp_path, "violations", "one", *(_violation(f"v{n}") for n in range(5)))
    ledger = Ledger(None, SETTINGS)
    source = LakeSource(tmp_path, ledger)
    for message in source.poll(2, 0):
        ledger.keep_position(message.source, message.part, message.position)
    assert len(_polled(LakeSource(tmp_path, ledger), ledger)) == 5  # the process ended in between
    assert _polled(LakeSource(tmp_path, ledger), ledger) == []
    first.rename(first.with_name("merged.parquet"))
    assert len(_polled(LakeSource(tmp_path, ledger), ledger)) == 5  # known by their revisions
    assert set(ledger.positions("lake")) == {f"violations/{DAY}/merged.parquet"}
