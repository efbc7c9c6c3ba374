"""A folder of files is one log: cut into files anyhow, and whatever comes later, the same stands there in the end."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metering.registry.index import MeterIndex
from metering.tables.lake import LAKE
from pipelines.flow.dataflow import Run
from pipelines.sources.files import partition_of_folder
from sinks.lake.commits import CommitLog
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader, current
from tests.pipelines.flow.flows import Fixed, final_of, lake_of, log_of, same, same_in_the_end

Stream = Callable[..., Run]
MIDNIGHT = datetime(2026, 2, 28, 16, tzinfo=UTC)  # in Shanghai: the month's first day begins
METER = "310105200001"


@pytest.fixture(scope="module")
def registry(make_index: Callable[..., MeterIndex]) -> Fixed:
    """60 meters that report every quarter of an hour."""
    names = [METER, *(f"M{number:03}" for number in range(59))]
    return Fixed(make_index(*names, **{name: {"interval_s": 900} for name in names}))


def _quarters(first: int, last: int, meter: str = METER, seed: int = 1, kw: float = 0.0) -> list[dict[str, Any]]:
    """Readings number `first` to before `last` of a meter; every ninth hour its voltage is over the limit."""
    rows = []
    for number in range(first, last):
        rng = random.Random(f"{meter}/{seed}/{number}")
        rows.append(
            {
                "meter_id": meter, "ts": (MIDNIGHT + timedelta(minutes=15 * (number + 1))).isoformat(),
                "p_kw": kw or round(rng.uniform(100, 300), 3), "q_kvar": round(rng.uniform(10, 60), 3),
                "ua_v": 75.0 if number // 4 % 9 == 4 else 57.7, "ub_v": 57.7, "uc_v": 57.7,
                "import_kwh": round((kw or 200.0) / 4 * (number + 1), 3),
            }
        )  # fmt: skip
    return rows


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows)


def _now(home: Path, table: str) -> pl.DataFrame:
    return current(LakeReader(home).scan(table), LAKE[table].key).collect()


# --- one meter --------------------------------------------------------------------------------------------------------


def test_files_by_the_hour_are_as_one_file(tmp_path: Path, stream: Stream, registry: Fixed) -> None:
    """Two days of one meter, over a midnight: violations are cleared, and the month to date goes on."""
    rows = _quarters(0, 2 * 96)
    _write(tmp_path / "one" / "all.ndjson", rows)
    for hour in range(48):
        stamp = (MIDNIGHT + timedelta(hours=hour)).strftime("%Y-%m-%dT%H")
        _write(tmp_path / "hours" / f"{stamp}.ndjson", rows[4 * hour : 4 * hour + 4])
    stream(tmp_path / "a", tmp_path / "one", registry=registry)
    stream(tmp_path / "b", tmp_path / "hours", registry=registry)
    without = ("source", "source_offset")
    same(lake_of(tmp_path / "b"), lake_of(tmp_path / "a"), without=without)
    violations = lake_of(tmp_path / "b")["violations"].filter(rule="over_voltage")
    assert violations["state"].to_list() == ["cleared"] * violations.height
    assert violations.height > 3
    month = _now(tmp_path / "b", "compliance").sort("date")
    assert month.height == 2
    assert month["month_active_kwh"][1] > month["month_active_kwh"][0] > 0
    assert month["month_active_kwh"][1] == pytest.approx(sum(row["p_kw"] for row in rows) / 4, rel=1e-3)
    compliance = LakeReader(tmp_path / "b").scan("compliance").collect()
    assert compliance.select(*LAKE["compliance"].key, "revision").is_unique().all()


def test_files_that_come_hour_by_hour_end_as_one(tmp_path: Path, stream: Stream, registry: Fixed) -> None:
    """A stream for each, as a timer starts it."""
    rows = _quarters(0, 40)
    _write(tmp_path / "one" / "all.ndjson", rows)
    stream(tmp_path / "a", tmp_path / "one", registry=registry)
    for hour in range(10):
        _write(tmp_path / "hours" / f"{hour:02}.ndjson", rows[4 * hour : 4 * hour + 4])
        run = stream(tmp_path / "b", tmp_path / "hours", registry=registry)
        assert run.metrics.readings == 4
    same_in_the_end(tmp_path / "b", tmp_path / "a")
    assert LakeReader(tmp_path / "b").scan("readings").collect().sort("ts")["log_offset"].to_list() == list(range(40))


@pytest.mark.parametrize("name", ["a-corrected.ndjson", "z-corrected.ndjson"])
@pytest.mark.parametrize("later", [True, False], ids=["later", "at-once"])
def test_a_corrected_file_counts(tmp_path: Path, stream: Stream, registry: Fixed, name: str, later: bool) -> None:
    folder, home = tmp_path / "telemetry", tmp_path / "home"
    _write(folder / "first.ndjson", _quarters(0, 96, kw=400.0))
    if later:
        stream(home, folder, registry=registry)
    _write(folder / name, _quarters(0, 96, kw=420.0))
    stream(home, folder, registry=registry)
    windows = _now(home, "windows")
    assert windows.height == 96
    by_name = not later and name < "first"
    assert windows["p_mean_kw"].unique().to_list() == [400.0 if by_name else 420.0], "what was said last counts"
    if later:
        assert (windows["revision"] > 0).all()
        first = LakeReader(home).scan("windows").filter(revision=0).collect()
        assert first["p_mean_kw"].to_list() == [400.0] * 96
    assert _now(home, "compliance")["month_active_kwh"].to_list() == pytest.approx([9_600.0 if by_name else 10_080.0])


def test_a_correction_within_the_file_and_one_in_a_file_that_grew(
    tmp_path: Path, stream: Stream, registry: Fixed
) -> None:
    folder, home = tmp_path / "telemetry", tmp_path / "home"
    rows = _quarters(0, 96, kw=400.0)
    _write(folder / "b.ndjson", [*rows, *_quarters(40, 41, kw=500.0)])
    stream(home, folder, registry=registry)
    _write(folder / "c.ndjson", _quarters(40, 41, kw=600.0))
    stream(home, folder, registry=registry)
    _write(folder / "b.ndjson", _quarters(40, 41, kw=700.0))
    stream(home, folder, registry=registry)
    readings = LakeReader(home).scan("readings").collect().filter(pl.col("p_kw") != 400.0).sort("log_offset")
    assert readings.select("source", "source_offset", "log_offset", "p_kw").rows() == [
        ("b.ndjson", 96, 96, 500.0), ("c.ndjson", 0, 97, 600.0), ("b.ndjson", 97, 98, 700.0)
    ]  # fmt: skip
    windows = _now(home, "windows")
    assert windows["p_mean_kw"].value_counts().sort("count").rows() == [(700.0, 1), (400.0, 95)]
    assert (windows["revision"] >= 2).any()


# --- folders ----------------------------------------------------------------------------------------------------------


def _shards(home: Path) -> dict[str, Any]:
    owner = take(home)
    try:
        log = CommitLog(home, owner)
        return {shard: log.position(shard) for shard in sorted(log.shards)}
    finally:
        owner.release()


def test_sub_folders_are_shards_of_their_own(tmp_path: Path, stream: Stream, registry: Fixed) -> None:
    """A folder whose meters are a day behind is not late: it has a time of its own."""
    folder = tmp_path / "telemetry"
    _write(folder / "east.ndjson", _quarters(96, 192, "M001"))
    _write(folder / "north" / "a.ndjson", _quarters(0, 40, "M002"))
    _write(folder / "north" / "b.ndjson", _quarters(40, 96, "M002"))
    stream(tmp_path / "home", folder, registry=registry)
    assert {shard: position["next"] for shard, position in _shards(tmp_path / "home").items()} == {".": 96, "north": 96}
    tables = lake_of(tmp_path / "home")
    partitions = dict(tables["readings"].select("meter_id", "source_partition").unique().iter_rows())
    assert partitions == {"M001": 0, "M002": partition_of_folder("north")}
    assert tables["windows"]["revision"].unique().to_list() == [0]
    assert tables["windows"].height == 192


def test_a_meter_in_two_sub_folders_is_one_meter(tmp_path: Path, stream: Stream, registry: Fixed) -> None:
    folder, rows = tmp_path / "telemetry", _quarters(0, 96)
    _write(folder / "2026-03-01-am" / "a.ndjson", rows[:50])
    _write(folder / "2026-03-01-pm" / "a.ndjson", [*rows[50:], *_quarters(3, 4, kw=777.0)])
    stream(tmp_path / "home", folder, registry=registry)
    _write(tmp_path / "one" / "all.ndjson", [*rows, *_quarters(3, 4, kw=777.0)])
    stream(tmp_path / "clean", tmp_path / "one", registry=registry)
    same_in_the_end(tmp_path / "home", tmp_path / "clean")
    assert 777.0 in _now(tmp_path / "home", "windows")["p_mean_kw"]


# --- however it is cut ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_same_log_cut_into_files_anyhow(tmp_path: Path, stream: Stream, seed: int) -> None:
    """With late readings, broken lines and bursts, in one go and in several starts."""
    rng, lines = random.Random(seed), log_of(3, 200, seed)
    one = tmp_path / "one"
    one.mkdir()
    (one / "all.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    stream(tmp_path / "clean", one)
    for starts in (1, 4):
        folder, home = tmp_path / f"cut-{starts}", tmp_path / f"home-{starts}"
        folder.mkdir()
        cuts = sorted(rng.sample(range(1, len(lines)), 11))
        for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(lines)], strict=True)):
            (folder / f"{number:02}.ndjson").write_bytes(b"\n".join(lines[begin:end]) + b"\n" * rng.randint(0, 1))
            if number % (12 // starts) == 12 // starts - 1:
                stream(home, folder, batch_rows=rng.choice((7, 100, 10**6)), commit_rows=rng.choice((1, 10**9)))
        same_in_the_end(home, tmp_path / "clean")
        if starts == 1:
            same(lake_of(home), lake_of(tmp_path / "clean"), without=("source", "source_offset", "revision"))


def test_many_files_of_one_meter_each_are_as_one_file(tmp_path: Path, stream: Stream, registry: Fixed) -> None:
    """Once the first has been read, time is at its end: all that the others hold comes late. That costs no more than
    the readings are many.
    """
    meters = [f"M{number:03}" for number in range(50)]
    by_meter = {meter: _quarters(0, 96, meter) for meter in meters}
    took = {}
    for count in (10, 50):
        folder = tmp_path / f"files-{count}"
        for meter in meters[:count]:
            _write(folder / f"{meter}.ndjson", by_meter[meter])
        start = time.perf_counter()
        stream(tmp_path / f"home-{count}", folder, batch_rows=96, registry=registry)  # a batch for each file
        took[count] = time.perf_counter() - start
    merged = sorted((row for meter in meters for row in by_meter[meter]), key=lambda row: (row["ts"], row["meter_id"]))
    _write(tmp_path / "one" / "all.ndjson", merged)
    stream(tmp_path / "clean", tmp_path / "one", registry=registry)
    for name, frame in final_of(tmp_path / "clean").items():
        assert_frame_equal(final_of(tmp_path / "home-50")[name], frame, check_exact=True)
    assert took[50] < 5 * took[10] * 2.5, f"{took}: five times the files, so much more time"
