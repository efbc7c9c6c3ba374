"""A poll with very many late readings is worked off in slices: same results, commits and a stop in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from pipelines.flow.steps import Step
from polars.testing import assert_frame_equal

from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.lake import LAKE
from pipelines.flow.dataflow import Run, build, run_flow
from pipelines.flow.settings import StreamSettings
from pipelines.flow.worker import Sinks, Worker
from pipelines.shard import slices
from pipelines.sources.files import FileSource
from sinks.lake.commits import CommitLog
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader, current

START = datetime(2026, 1, 1, 10, tzinfo=UTC)
TABLES = ("readings", "windows", "violations", "compliance")


class _Fixed:
    def __init__(self, index: MeterIndex) -> None:
        self._index = index

    def index(self) -> MeterIndex:
        return self._index


@pytest.fixture
def log() -> list[dict[str, object]]:
    """Two hours of a meter with over-voltage now and then; the first of them comes last."""
    rows = [
        {
            "meter_id": "M1",
            "ts": (START + timedelta(minutes=minute)).isoformat(),
            "p_kw": 100.0 + minute,
            "ua_v": 75.0 if minute % 17 in (3, 4) else 57.7,
            "import_kwh": 2.0 * minute,
        }
        for minute in range(1, 121)
    ]
    return [*rows[60:], *rows[:60]]


@pytest.fixture(params=["ndjson", "parquet"])
def source(request: pytest.FixtureRequest, tmp_path: Path, log: list[dict[str, object]]) -> Path:
    path = tmp_path / f"log.{request.param}"
    if request.param == "ndjson":
        path.write_text("\n".join(map(json.dumps, log)), "utf-8")
    else:
        pq.write_table(pl.DataFrame(log).to_arrow(), path)
    return path


Stream = Callable[[Path, Path], Run]


@pytest.fixture
def stream(make_index: Callable[..., MeterIndex], metering_settings: MeteringSettings) -> Stream:
    def go(home: Path, source: Path) -> Run:
        run, owner = Run(), take(home)
        try:
            settings = StreamSettings(metering_settings, windows_kept=2, commit_interval_s=1e9, commit_rows=1)
            sinks = Sinks(LakeReader(home), CommitLog(home, owner))
            flow = build(FileSource(source, 80), sinks, settings, _Fixed(make_index("M1")), run)
            run_flow(flow, run)
        finally:
            owner.release()
        return run

    return go


def lake(home: Path) -> dict[str, pl.DataFrame]:
    scan = LakeReader(home).scan
    return {
        name: (scan(name) if name == "readings" else current(scan(name), LAKE[name].key)).collect().sort(LAKE[name].key)
        for name in TABLES
    }


def parts(home: Path) -> int:
    return len(list(home.glob("lake/readings/*/*.parquet")))


def test_slices_give_what_the_whole_gives(
    tmp_path: Path, source: Path, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "MOST_LATE", 10**9)
    stream(tmp_path / "whole", source)
    monkeypatch.setattr(slices, "MOST_LATE", 7)
    stream(tmp_path / "sliced", source)
    wanted, found = lake(tmp_path / "whole"), lake(tmp_path / "sliced")
    assert wanted["violations"].height > 5
    for name in TABLES:
        assert_frame_equal(found[name], wanted[name], check_exact=True)
    assert parts(tmp_path / "sliced") >= parts(tmp_path / "whole") + 3


def test_a_stop_is_heeded_between_slices_and_nothing_is_lost_or_read_twice(
    tmp_path: Path, source: Path, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream(tmp_path / "whole", source)
    monkeypatch.setattr(slices, "MOST_LATE", 7)
    home, delivered = tmp_path / "home", 0
    deliver = Worker.deliver

    def counted(worker: Worker, *steps: Step) -> None:
        nonlocal delivered
        deliver(worker, *steps)
        delivered += 1
        if delivered % 2 == 0:
            stops.append(True)

    stops: list[bool] = []
    monkeypatch.setattr(Worker, "deliver", counted)
    monkeypatch.setattr(Run, "__post_init__", _stopping(Run.__post_init__, stops))
    runs = 0
    while not (home / "lake/readings").exists() or lake(home)["readings"].height < 120:
        stops.clear()
        stream(home, source)
        runs += 1
        assert runs < 20
    assert runs > 3
    for name, wanted in lake(tmp_path / "whole").items():
        assert_frame_equal(lake(home)[name], wanted, check_exact=True)


def _stopping(made: Callable[[Run], None], stops: list[bool]) -> Callable[[Run], None]:
    """A run that is told to stop once `stops` holds something."""

    def post_init(run: Run) -> None:
        made(run)
        run.stop = _Told(stops)  # type: ignore[assignment]

    return post_init


class _Told:
    def __init__(self, stops: list[bool]) -> None:
        self._stops = stops

    def is_set(self) -> bool:
        return bool(self._stops)

    def wait(self, _: float) -> bool:
        return self.is_set()
