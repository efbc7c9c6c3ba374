"""The dataflow from files to the lake in this process: whole, resumed, stopped, and under a registry that changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
from polars.testing import assert_frame_equal

from metering.errors import GapError, UserError
from metering.load.windows import latest, windows
from metering.readings.decode import Lines
from metering.registry.index import MeterIndex
from metering.tables.lake import LAKE
from orchestration.home.registry_files import registry_paths, save
from orchestration.home.registry_watch import RegistryWatch
from orchestration.home.settings import Settings
from pipelines.flow.dataflow import Run
from pipelines.sources.poll import Batch, Positions, Segment
from sinks.lake.reader import LakeReader
from tests.pipelines.flow.flows import customers_of, lake_of, log_of, meters_of, same

Stream = Callable[..., Run]


def test_a_file_becomes_a_lake(tmp_path: Path, stream: Stream, index: MeterIndex) -> None:
    lines = log_of(3, 120)
    file = tmp_path / "day.ndjson"
    file.write_bytes(b"\n".join(lines))
    run = stream(tmp_path / "home", file, batch_rows=50, commit_rows=100)
    tables = lake_of(tmp_path / "home")
    assert tables["readings"].height + tables["rejects"].height == len(lines)
    assert run.metrics.readings == tables["readings"].height
    assert run.metrics.rejected_by_reason() == {"wrong_type": tables["rejects"].height}
    rejected = dict(tables["rejects"].select("source_offset", "payload").iter_rows())
    assert rejected
    assert all(payload == lines[offset] for offset, payload in rejected.items())
    assert set(tables["readings"]["source"]) == {"day.ndjson"}
    assert {"raised", "cleared"} & set(tables["violations"]["state"])
    readings = tables["readings"].with_columns(index.code(tables["readings"]["meter_id"]))
    readings = readings.with_columns(index.version(readings["meter"], readings["ts"]))
    columns = [name for name in LAKE["windows"].names if name not in ("revision", "date")]
    at_once = windows(latest(readings), index.meter_versions, "Asia/Shanghai").select(columns)
    assert_frame_equal(tables["windows"].select(columns), at_once, check_row_order=False, check_exact=True)


def test_neither_batches_nor_commits_change_the_lake(tmp_path: Path, stream: Stream) -> None:
    file = tmp_path / "day.ndjson"
    file.write_bytes(b"\n".join(log_of(2, 100)) + b"\n")
    stream(tmp_path / "whole", file)
    whole = lake_of(tmp_path / "whole")
    for batch_rows, commit_rows in ((10, 1), (37, 90)):
        home = tmp_path / f"{batch_rows}"
        stream(home, file, batch_rows=batch_rows, commit_rows=commit_rows)
        same(lake_of(home), whole)


def test_a_folder_is_as_many_shards_as_files(tmp_path: Path, stream: Stream, index: MeterIndex) -> None:
    folder = tmp_path / "telemetry"
    (folder / "north").mkdir(parents=True)
    by_meter = {f"M{m}": [line for line in log_of(3, 60) if f'"M{m}"'.encode() in line] for m in range(3)}
    (folder / "a.ndjson").write_bytes(b"\n".join(by_meter["M0"]))
    (folder / "north" / "b.jsonl").write_bytes(b"\n".join(by_meter["M1"]))
    rows = [json.loads(line) for line in by_meter["M2"] if b"much" not in line]
    stamps = pa.array([datetime.fromisoformat(row["ts"]) for row in rows], pa.timestamp("ms", "UTC"))
    table = pa.Table.from_pylist(rows).drop(["ts"]).append_column("ts", stamps)
    pq.write_table(table, folder / "c.parquet")
    (folder / "readme.txt").write_text("not telemetry", "utf-8")
    stream(tmp_path / "home", folder)
    tables = lake_of(tmp_path / "home")
    counted = dict(tables["readings"].group_by("source").len().iter_rows())
    expected = {"a.ndjson": "M0", "north/b.jsonl": "M1", "c.parquet": "M2"}
    assert counted == {name: sum(b"much" not in line for line in by_meter[m]) for name, m in expected.items()}
    assert dict(tables["readings"].select("source", "meter_id").unique().iter_rows()) == expected
    again = stream(tmp_path / "home", folder)
    assert again.metrics.readings == 0
    same(lake_of(tmp_path / "home"), tables)


def test_an_appended_file_is_read_on_from_where_it_ended(tmp_path: Path, stream: Stream) -> None:
    lines = log_of(2, 120)
    file = tmp_path / "day.ndjson"
    home = tmp_path / "home"
    file.write_bytes(b"\n".join(lines[:100]) + b"\n")
    assert stream(home, file).metrics.readings <= 100
    assert stream(home, file).metrics.readings == 0
    with file.open("ab") as more:
        more.write(b"\n".join(lines[100:]) + b"\n")
    stream(home, file)
    stream(tmp_path / "whole", file)
    # The first end closed its windows early, so that what followed revised them.
    same(_drop_violations(lake_of(home)), _drop_violations(lake_of(tmp_path / "whole")), without=("revision",))


def _drop_violations(tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    return {**tables, "violations": pl.DataFrame()}


def test_another_file_under_the_same_name_is_refused(tmp_path: Path, stream: Stream) -> None:
    file = tmp_path / "day.ndjson"
    lines = log_of(1, 30)
    file.write_bytes(b"\n".join(lines))
    stream(tmp_path / "home", file)
    file.write_bytes(b"\n".join(reversed(lines)))
    with pytest.raises(UserError, match=r"is not the file that was read before as 'day\.ndjson'"):
        stream(tmp_path / "home", file)


def test_told_to_stop_it_commits_what_it_has(tmp_path: Path, stream: Stream) -> None:
    file = tmp_path / "day.ndjson"
    file.write_bytes(b"\n".join(log_of(2, 120)))
    polls = []

    def stop_soon(_: object) -> None:
        polls.append(1)
        if len(polls) == 3:
            run.stop.set()

    run = Run(on_poll=stop_soon)
    stream(tmp_path / "home", file, batch_rows=20, run=run)
    first = lake_of(tmp_path / "home")
    assert 0 < first["readings"].height < 120
    stream(tmp_path / "home", file)
    stream(tmp_path / "whole", file)
    same(lake_of(tmp_path / "home"), lake_of(tmp_path / "whole"))


class _Scripted:
    """A source of given polls, calling back before each; `boom` is raised in place of a poll."""

    def __init__(self, batches: list[bytes], before: Callable[[int], None] = lambda _: None, boom: int = -1) -> None:
        self._batches, self._before, self._boom = batches, before, boom
        self._at = self._row = 0
        self.stale_since = None
        self.closed = False

    def worker_of(self, shard: str, workers: int) -> int | None:  # noqa: ARG002 - the protocol's
        return 0

    def open(self, worker: int, workers: int, positions: Positions) -> _Scripted:  # noqa: ARG002 - the protocol's
        self._row = (positions("scripted") or {}).get("row", 0)
        return self

    def poll(self) -> list[Batch]:
        self._before(self._at)
        if self._at == self._boom:
            raise ConnectionError("the source broke")
        data = self._batches[self._at]
        first, self._row, self._at = self._row, self._row + data.count(b"\n") + 1, self._at + 1
        after = {"row": self._row}
        segment = Segment("scripted", "scripted", 0, self._row - first, after, first, end=self.finished)
        return [Batch(Lines(data), (segment,))]

    @property
    def finished(self) -> bool:
        return self._at == len(self._batches)

    def close(self) -> None:
        self.closed = True


def test_what_breaks_in_a_stage_is_raised_as_it_was(tmp_path: Path, stream: Stream) -> None:
    lines = log_of(1, 30)
    source = _Scripted([b"\n".join(lines[:10]), b"\n".join(lines[10:])], boom=1)
    run = Run()
    with pytest.raises(ConnectionError, match="the source broke"):
        stream(tmp_path, source, run=run)
    assert isinstance(run.failure, ConnectionError)
    assert lake_of(tmp_path)["readings"].is_empty()  # nothing had been committed
    stream(tmp_path, _Scripted([b"\n".join(lines)]))
    assert lake_of(tmp_path)["readings"].height == sum(b"much" not in line for line in lines)


# --- the registry ---------------------------------------------------------------------------------------------------


def test_what_was_read_counts_when_the_source_can_go_no_further(tmp_path: Path, stream: Stream) -> None:
    lines = log_of(2, 30)

    def break_off(at: int) -> None:
        if at == 1:
            raise GapError("t", 0, 5, 9)

    with pytest.raises(GapError, match="offsets 5 to 9 are gone"):
        stream(tmp_path, _Scripted([b"\n".join(lines), b""], break_off))
    assert LakeReader(tmp_path).scan("readings").select(pl.len()).collect().item() > 50


@pytest.fixture
def watch(tmp_path: Path, default_settings: Settings) -> RegistryWatch:
    """Of a home with meter M0, looked at at every turn."""
    save(tmp_path, customers_of(), meters_of("M0"))
    often = replace(default_settings.stream, registry_check_s=0.0)
    return RegistryWatch(tmp_path, default_settings.model_copy(update={"stream": often}))


def test_a_changed_registry_is_taken_up_while_running(tmp_path: Path, stream: Stream, watch: RegistryWatch) -> None:
    lines = [line for line in log_of(2, 60) if b"much" not in line]
    parts = [b"\n".join(lines[:40]), b"\n".join(lines[40:])]

    def change(at: int) -> None:
        if at == 1:
            save(tmp_path, customers_of(), meters_of("A comes first", "M0", "M1"))

    stream(tmp_path, _Scripted(parts, before=change), registry=watch)
    tables = lake_of(tmp_path)
    known = [line for at, line in enumerate(lines) if b'"M0"' in line or at >= 40]
    assert tables["readings"].height == len(known)
    assert set(tables["rejects"]["reason"]) == {"unknown_meter"}
    assert tables["rejects"]["source_offset"].max() < 40
    with_both = tables["windows"].group_by("meter_id").agg(pl.col("n").sum())
    assert dict(with_both.iter_rows())["M0"] == sum(b'"M0"' in line for line in lines)


def test_a_bad_registry_is_refused_and_told_once_and_the_last_good_one_stays(
    tmp_path: Path, stream: Stream, watch: RegistryWatch
) -> None:
    lines = [line for line in log_of(1, 60) if b"much" not in line]
    parts = [b"\n".join(lines[at : at + 10]) for at in range(0, len(lines), 10)]
    _, path = registry_paths(tmp_path)
    good = path.read_bytes()

    def change(at: int) -> None:
        if at == 1:
            path.write_bytes(good.replace(b"3p4w", b"5p9w"))
        if at == 4:
            path.write_bytes(good + b"\n")

    with structlog.testing.capture_logs() as logs:
        stream(tmp_path, _Scripted(parts, before=change), registry=watch)
    assert lake_of(tmp_path)["readings"].height == len(lines)
    told = [(entry["log_level"], entry["event"]) for entry in logs if "registry" in entry["event"]]
    assert told == [
        ("error", "registry refused, the last good one stays in force"), ("info", "registry taken up")
    ]  # fmt: skip
    (refusal,) = (entry["problem"] for entry in logs if entry["log_level"] == "error")
    assert "meters.csv, line 2, column wiring" in refusal


def test_a_registry_that_is_gone_for_a_moment_stays_in_force(tmp_path: Path, watch: RegistryWatch) -> None:
    before = watch.index()
    _, path = registry_paths(tmp_path)
    path.rename(tmp_path / "elsewhere")
    assert watch.index() is before
    (tmp_path / "elsewhere").rename(path)
    assert watch.index().meter_versions.equals(before.meter_versions)
