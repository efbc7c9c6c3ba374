"""Readings later than the state reaches: everything ends as if the state reached back for ever."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pipelines.shard.history import LakeHistory

from metering.load.windows import latest, windows
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.lake import COMPLIANCE, VIOLATIONS, WINDOWS
from sinks.lake.reader import LakeReader
from tests.pipelines.logs import LATE_METERS, LATE_START, LATE_STEPS, Rows, late_log

StreamLog = Callable[..., dict[str, pl.DataFrame]]


@pytest.fixture(scope="module")
def index(make_index: Callable[..., MeterIndex]) -> MeterIndex:
    return make_index(*LATE_METERS, **LATE_METERS)


@pytest.mark.parametrize(("seed", "commit_rows"), [(1, 1), (2, 150), (3, 10**9)], ids=["always", "sometimes", "never"])
def test_however_little_is_kept_everything_ends_the_same(
    tmp_path: Path, seed: int, commit_rows: int, index: MeterIndex, stream_log: StreamLog
) -> None:
    log = late_log(seed)
    cuts = sorted(random.Random(seed).sample(range(1, len(log)), 15))
    all_kept = stream_log(tmp_path / "all", index, log, [], 1000, 10**9)
    assert all_kept["windows"]["revision"].max() > 1
    little = stream_log(tmp_path / "little", index, log, cuts, 1, commit_rows)
    for table in (WINDOWS, COMPLIANCE, VIOLATIONS):
        differing = little[table.name].join(all_kept[table.name], on=table.names, how="anti", nulls_equal=True)
        assert differing.is_empty(), table.name
        assert little[table.name].height == all_kept[table.name].height


def test_however_the_log_is_cut_violations_end_the_same(
    tmp_path: Path, index: MeterIndex, stream_log: StreamLog
) -> None:
    log = late_log(5)
    cuts = [sorted(random.Random(seed).sample(range(1, len(log)), 12)) for seed in range(2)]
    ends = [stream_log(tmp_path / f"{i}", index, log, cut, 1, 100) for i, cut in enumerate(([], *cuts))]
    assert {"raised", "cleared", "withdrawn"} <= set(ends[0]["violations"]["state"])
    for end in ends[1:]:
        for name, frame in end.items():
            assert frame.equals(ends[0][name]), name


def _steady(meter: int, start: datetime, hours: int) -> Rows:
    step = LATE_STEPS[meter]
    return [
        {
            "meter_id": f"M{meter}", "ts": (start + timedelta(minutes=minute)).isoformat(), "p_kw": 100.0,
            "q_kvar": 10.0, "ua_v": 75.0 if minute == 600 else 57.7, "ub_v": 57.7, "uc_v": 57.7,
        }
        for minute in range(step, hours * 60 + 1, step)
    ]  # fmt: skip


def test_a_meter_months_behind_the_others_ends_the_same_in_any_cut(
    tmp_path: Path, index: MeterIndex, stream_log: StreamLog
) -> None:
    """As in a file sorted by meter, and as with a clock that is wrong."""
    june, august = datetime(2026, 6, 10, tzinfo=UTC), datetime(2026, 8, 10, tzinfo=UTC)
    log = [*_steady(0, august, 1), *_steady(1, june, 36), *_steady(2, june, 30)]
    log += [*_steady(1, august, 2), {**_steady(1, june, 1)[3], "p_kw": 500.0}]
    whole = stream_log(tmp_path / "whole", index, log, [], 8, 10**9)
    cut = stream_log(tmp_path / "cut", index, log, list(range(50, len(log), 50)), 8, 100)
    for name, frame in whole.items():
        assert frame.equals(cut[name]), name
    day = whole["compliance"].filter((pl.col("meter_id") == "M2") & (pl.col("date") == date(2026, 6, 11)))
    assert day["day_active_kwh"].item() > 1300
    assert set(whole["violations"]["meter_id"]) == {"M1", "M2"}  # over-voltage of minute 600; M0's hour has none


def test_windows_are_those_of_all_readings_at_once(tmp_path: Path, index: MeterIndex, stream_log: StreamLog) -> None:
    log = late_log(3)
    streamed = stream_log(tmp_path, index, log, list(range(100, len(log), 100)), 1, 250)["windows"]
    readings = LakeReader(tmp_path).scan("readings").collect()
    readings = readings.with_columns(index.code(readings["meter_id"]))
    readings = readings.with_columns(index.version(readings["meter"], readings["ts"]))
    columns = [name for name in WINDOWS.names if name not in ("revision", "date")]
    at_once = windows(latest(readings), index.meter_versions).select(columns).sort("meter_id", "window_end")
    assert streamed.select(columns).sort("meter_id", "window_end").equals(at_once)


# --- the history itself ---------------------------------------------------------------------------------------------


@pytest.fixture
def history(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> Callable[..., LakeHistory]:
    """A lake with 16 hours of readings; history(source, pending) reads it."""
    stream_log(tmp_path, index, late_log(4), [], 1000, 1)

    def make(source: str = "log", pending: tuple[Any, ...] = ()) -> LakeHistory:
        return LakeHistory(LakeReader(tmp_path), source, index, metering_settings, pending)

    return make


def _wanted(*windows_wanted: tuple[int, int]) -> pl.DataFrame:
    """Of (meter code, minutes after LATE_START)."""
    ends = [LATE_START + timedelta(minutes=minutes) for _, minutes in windows_wanted]
    return pl.DataFrame(
        {"meter": [meter for meter, _ in windows_wanted], "window_end": ends},
        schema={"meter": pl.UInt32, "window_end": pl.Datetime("us", "UTC")},
    )


def test_readings_of_a_window_and_its_start_edge(history: Callable[..., LakeHistory]) -> None:
    rows = history().readings(_wanted((1, 360)))  # ends at local midnight; its start edge lies in the window before
    minutes = sorted(set((rows["ts"] - LATE_START).dt.total_minutes()))
    assert set(rows["meter"]) == {1}
    assert {345, 350, 355, 360} <= set(minutes)
    assert set(minutes) <= {335, 340, 345, 350, 355, 360}
    over_midnight = history().readings(_wanted((1, 375)))
    assert {360, 365} <= set((over_midnight["ts"] - LATE_START).dt.total_minutes())


def test_only_what_came_from_the_same_source(history: Callable[..., LakeHistory]) -> None:
    assert history(source="other").readings(_wanted((1, 360))).is_empty()


def test_the_current_windows_count_those_on_their_way(history: Callable[..., LakeHistory]) -> None:
    (kept,) = history().windows(_wanted((2, 360))).iter_rows(named=True)
    newer = (
        history().windows(_wanted((2, 360))).with_columns(revision=pl.lit(kept["revision"] + 1, pl.Int32), n=pl.lit(9))
    )
    pending = ({"windows": WINDOWS.conform(newer), "readings": pl.DataFrame()},)
    (found,) = history(pending=pending).windows(_wanted((2, 360))).iter_rows(named=True)
    assert (found["revision"], found["n"]) == (kept["revision"] + 1, 9)
    assert (found["meter"], found["version"]) == (2, 2)


def test_what_never_was_is_not_there(history: Callable[..., LakeHistory]) -> None:
    assert history().windows(_wanted((0, 60 * 24 * 400))).is_empty()
    assert history().readings(_wanted((0, 60 * 24 * 400))).is_empty()
