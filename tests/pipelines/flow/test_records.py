"""Records of files through the real flow: each once, however often it is stopped; and known to every worker."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metering.errors import UserError
from metering.readings.decode import Lines
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.lake import LAKE
from metering.tables.records import KINDS, PLANS
from pipelines.flow.dataflow import Run
from pipelines.flow.metrics import Metrics
from pipelines.flow.records import RecordBook
from pipelines.flow.settings import StreamSettings
from pipelines.flow.worker import Sinks, Worker
from pipelines.shard.store import Context
from pipelines.sources.files import FileSource
from pipelines.sources.poll import Batch, Segment
from pipelines.sources.records import RecordFiles, WithRecords
from sinks.lake.commits import CommitLog
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader
from tests.pipelines.flow.flows import Fixed, lake_of, log_of, same

Stream = Callable[..., Run]
T0 = datetime(2026, 7, 14, 1, tzinfo=UTC)


class KilledError(Exception):
    """The process is gone."""


def plan(number: int, revision: int = 0, state: str = "active", cap_kw: float = 500.0) -> dict[str, Any]:
    return {
        "plan_id": f"P{number}", "revision": revision, "from": T0.isoformat(), "state": state, "cap_kw": cap_kw,
        "to": (T0 + timedelta(hours=3)).isoformat(), "customers": ["C1"], "level": "orange",
        "issued_at": (T0 + timedelta(minutes=revision)).isoformat(),
    }  # fmt: skip


def feedback(number: int, action: str = "confirmed") -> dict[str, Any]:
    at = (T0 + timedelta(minutes=number)).isoformat()
    return {"violation_id": f"{310105200000 + number}-over_voltage-a", "action": action, "at": at, "by": "配网抢修班"}


def write(path: Path, *rows: dict[str, Any] | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Readings, and records of three kinds in several files, some of which are broken."""
    home = tmp_path / "home"
    (home / "telemetry").mkdir(parents=True)
    (home / "telemetry" / "a.ndjson").write_bytes(b"\n".join(log_of(6, 60)))
    for day in range(4):
        write(home / "feedback" / f"{day}.ndjson", *(feedback(100 * day + n) for n in range(40)), "broken", "{}")
    write(home / "control" / "plans.ndjson", plan(1), plan(2), plan(1, 2, cap_kw=300), plan(1, 1), '{"plan_id": 7}')
    write(home / "service" / "e.ndjson", {"event_id": "e", "type": "visit", "at": T0.isoformat(), "customer_no": "C1"})
    return home


def source(home: Path, batch_rows: int = 10**6) -> WithRecords:
    return WithRecords(FileSource(home / "telemetry", batch_rows), home, batch_rows)


def records(home: Path) -> dict[str, pl.DataFrame]:
    lake, found = LakeReader(home), {}
    for name in (*KINDS, "rejects"):
        rows = lake.scan(name).collect()
        assert rows.select(LAKE[name].key).is_unique().all(), f"{name} hold a row twice"
        found[name] = rows.sort(LAKE[name].key)
    return found


def test_each_record_is_in_the_lake_once_whenever_the_process_dies(home: Path, stream: Stream, tmp_path: Path) -> None:
    stream(home, source(home))
    whole = records(home)
    assert {name: rows.height for name, rows in whole.items()} | {"rejects": 0} == {
        "feedback": 160, "load_control_plans": 4, "service_events": 1, "outages": 0, "meter_events": 0,
        "frozen_registers": 0, "rejects": 0,
    }  # fmt: skip
    of_records = whole["rejects"].filter(pl.col("source").str.starts_with("../"))
    assert dict(of_records.group_by("reason").len().iter_rows()) == {
        "unparsable": 4, "missing_field": 4, "wrong_type": 1,
    }  # fmt: skip
    again = tmp_path / "again"
    deaths, rng = 0, random.Random(7)
    for name in ("telemetry", "feedback", "control", "service"):
        (again / name).parent.mkdir(exist_ok=True)
        (again / name).symlink_to(home / name)
    while True:
        polls = iter(range(rng.randint(1, 9)))

        def on_poll(_: object, polls: Any = polls) -> None:
            if next(polls, None) is None:
                raise KilledError

        run = Run(on_poll=on_poll)
        try:
            stream(again, source(again, batch_rows=30), commit_rows=rng.choice((1, 60, 200)), run=run)
            break
        except KilledError:
            deaths += 1
    assert deaths > 3
    for name, rows in records(again).items():
        assert_frame_equal(rows, whole[name])
    same(lake_of(again), lake_of(home))


def test_records_and_readings_do_not_touch_each_other(home: Path, stream: Stream, tmp_path: Path) -> None:
    """Without records the readings end in the same rows."""
    stream(home, source(home))
    stream(tmp_path / "bare", FileSource(home / "telemetry", 10**6))
    with_records, bare = lake_of(home), lake_of(tmp_path / "bare")
    with_records["rejects"] = with_records["rejects"].filter(~pl.col("source").str.starts_with("../"))
    same(with_records, bare)


def test_files_that_grow_and_new_ones_are_read_on_and_a_changed_one_is_refused(home: Path, stream: Stream) -> None:
    stream(home, source(home))
    write(home / "feedback" / "0.ndjson", feedback(900))
    write(home / "feedback" / "00.ndjson", feedback(901))
    write(home / "outages" / "o.ndjson", {"outage_id": "o", "kind": "fault", "from": T0.isoformat(), "feeder": "F1"})
    before = records(home)["feedback"]
    stream(home, source(home))
    after = records(home)
    assert after["outages"].height == 1
    new = after["feedback"].join(before, on=LAKE["feedback"].key, how="anti").sort("log_offset")
    assert new.select("source", "source_offset", "log_offset").rows() == [
        ("../feedback/0.ndjson", 42, 168),
        ("../feedback/00.ndjson", 0, 169),
    ]
    (home / "feedback" / "0.ndjson").write_text("{}\n", "utf-8")
    with pytest.raises(UserError, match="is not the file that was read before"):
        stream(home, source(home))


def test_beside_topics_files_are_taken_that_come_later_once_they_stand_still(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.sources.records.LOOK_EVERY_S", 0.0)
    files = RecordFiles(home, 10**6, 0, lambda _: None)
    taken: list[tuple[str, int]] = []

    def looked() -> list[tuple[str, int]]:
        """Files and their rows, of what is new."""
        files.look()
        while (batch := files.poll()) is not None:
            for segment in batch.segments:
                taken.append((segment.source, segment.items))
                last[segment.shard] = segment.after
        new, taken[:] = [*taken], []
        return new

    last: dict[str, Any] = {}
    assert sum(items for _, items in looked()) == 4 * 42 + 5 + 1
    write(home / "service" / "new.ndjson", {"event_id": "1"})
    write(home / "feedback" / "2.ndjson", feedback(900))
    write(home / "outages" / "first.ndjson", {"outage_id": "o"}, {"outage_id": "p"})
    assert looked() == []
    write(home / "service" / "new.ndjson", {"event_id": "2"})
    (home / "feedback" / "1.ndjson").write_text("{}\n", "utf-8")
    assert sorted(looked()) == [("../feedback/2.ndjson", 1), ("../outages/first.ndjson", 2)]
    assert looked() == [("../service/new.ndjson", 2)], "and not the one that was written anew"
    assert looked() == []
    again = RecordFiles(home, 10**6, 0, {k: v for k, v in last.items() if k != "../feedback"}.get)
    assert (batch := again.poll()) is not None
    assert {segment.shard for segment in batch.segments} == {"../feedback"}, "positions are those of all files"
    assert again.poll() is None


def test_a_folder_of_telemetry_may_be_called_as_one_of_records(home: Path, stream: Stream) -> None:
    (home / "telemetry" / "feedback").mkdir()
    (home / "telemetry" / "feedback" / "0.ndjson").write_bytes(b"\n".join(log_of(2, 30, seed=2)))
    stream(home, source(home))
    stream(home, source(home))
    assert records(home)["feedback"].height == 160
    assert LakeReader(home).scan("readings").filter(pl.col("source") == "feedback/0.ndjson").collect().height > 50


# --- what turns know --------------------------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Context]:
    """The context of every turn."""
    from pipelines.flow import worker

    contexts: list[Context] = []
    inner = worker.advance

    def advance(state: Any, accepted: Any, context: Context, *more: Any, **named: Any) -> Any:
        contexts.append(context)
        return inner(state, accepted, context, *more, **named)

    monkeypatch.setattr(worker, "advance", advance)
    return contexts


def test_turns_know_plans_before_any_reading_and_again_after_a_restart(
    home: Path, stream: Stream, seen: list[Context]
) -> None:
    stream(home, source(home))
    first = next(context for context in seen if context.records["load_control_plans"].arrived.height)
    plans = first.records["load_control_plans"]
    assert plans.arrived.select("plan_id", "revision").rows() == [("P1", 0), ("P2", 0), ("P1", 2), ("P1", 1)]
    assert plans.current.select("plan_id", "revision", "cap_kw").rows() == [
        ("P1", 0, [{"name": "*", "value": 500.0}]),
        ("P1", 1, [{"name": "*", "value": 500.0}]),
        ("P1", 2, [{"name": "*", "value": 300.0}]),
        ("P2", 0, [{"name": "*", "value": 500.0}]),
    ]
    assert seen.index(first) < len(seen) - 1, "a turn with readings comes after it"
    assert seen[-1].records["load_control_plans"].current.equals(plans.current)
    assert set(first.records) == {name for name, kind in KINDS.items() if kind.broadcast}
    seen.clear()
    write(home / "control" / "plans.ndjson", plan(2, 1, "withdrawn"))
    stream(home, source(home))
    arrived = pl.concat(context.records["load_control_plans"].arrived for context in seen)
    assert arrived.select("plan_id", "revision").rows() == [("P2", 1)]
    assert seen[-1].records["load_control_plans"].current.select("plan_id", "state").rows()[-2:] == [
        ("P2", "active"),
        ("P2", "withdrawn"),
    ]


def _batch(kind: str, rows: list[dict[str, Any]], partition: int, own: bool) -> Batch:
    data = b"\n".join(json.dumps(row).encode() for row in rows)
    segment = Segment(f"t-{partition}", "t", partition, len(rows), {"next": len(rows)})
    return Batch(Lines(data), (segment,), kind=KINDS[kind], own=own)


def test_what_another_worker_commits_is_known_and_not_committed_twice(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings
) -> None:
    """Two workers, each with one partition of plans: both know all plans, and the lake has each once."""
    owner = take(tmp_path)
    settings = StreamSettings(metering_settings, commit_interval_s=1e9, commit_rows=10**9)
    workers = [
        Worker(Sinks(LakeReader(tmp_path), CommitLog(tmp_path, owner)), settings, Fixed(index), Metrics(), number, 2)
        for number in range(2)
    ]
    for number, worker in enumerate(workers):
        batches = [_batch("load_control_plans", [plan(p), plan(p, 1)], p, own=p == number) for p in range(2)]
        worker.deliver([worker.advance(worker.decode(batches))])
        worker.finish()
    commits = CommitLog(tmp_path, owner)
    assert {shard: commits.position(shard) for shard in commits.shards} == {"t-0": {"next": 2}, "t-1": {"next": 2}}
    owner.release()
    rows = LakeReader(tmp_path).scan("load_control_plans").collect()
    assert rows.sort("source_partition", "source_offset").select("plan_id", "revision").rows() == [
        ("P0", 0), ("P0", 1), ("P1", 0), ("P1", 1),
    ]  # fmt: skip
    known = RecordBook(LakeReader(tmp_path), "Asia/Shanghai").known["load_control_plans"].current
    assert known.select("plan_id", "revision").rows() == [("P0", 0), ("P0", 1), ("P1", 0), ("P1", 1)]


def test_every_worker_reads_the_files_of_what_is_broadcast(home: Path) -> None:
    write(home / "outages" / "o.ndjson", {"outage_id": "o", "kind": "fault", "from": T0.isoformat()})

    def read(worker: int) -> set[tuple[str, bool]]:
        reader, found = source(home).open(worker, 2, lambda _: None), set()
        for _ in range(20):
            found |= {(batch.kind.table.name, batch.own) for batch in reader.poll() if batch.kind is not None}
        reader.close()
        return found

    assert read(0) == {(name, True) for name in ("feedback", "load_control_plans", "outages", "service_events")}
    assert read(1) == {("load_control_plans", False), ("outages", False), ("service_events", False)}
    assert PLANS.broadcast
