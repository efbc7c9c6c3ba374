"""Readings later than the state reaches: everything ends as if the state reached back for ever."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metering.load.windows import latest, windows
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.lake import COMPLIANCE, LAKE, VIOLATIONS, WINDOWS
from pipelines.shard.store import LakePast, naming_of
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
    assert {"cleared", "withdrawn"} < set(ends[0]["violations"]["state"])  # and some that are open
    assert ends[0]["violations"]["occurrences"].max() > 1
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
    over_voltage = whole["violations"].filter(pl.col("rule") == "over_voltage")
    assert set(over_voltage["meter_id"]) == {"M1", "M2"}  # of minute 600; M0's hour has none


def test_windows_are_those_of_all_readings_at_once(tmp_path: Path, index: MeterIndex, stream_log: StreamLog) -> None:
    log = late_log(3)
    streamed = stream_log(tmp_path, index, log, list(range(100, len(log), 100)), 1, 250)["windows"]
    readings = LakeReader(tmp_path).scan("readings").collect()
    readings = readings.with_columns(index.code(readings["meter_id"]))
    readings = readings.with_columns(index.version(readings["meter"], readings["ts"]))
    columns = [name for name in WINDOWS.names if name not in ("revision", "date")]
    at_once = windows(latest(readings), index.meter_versions, "Asia/Shanghai").select(columns)
    at_once = at_once.sort("meter_id", "window_end")
    assert streamed.select(columns).sort("meter_id", "window_end").equals(at_once)


# --- the past itself -------------------------------------------------------------------------------------------------


@pytest.fixture
def past(
    tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> Callable[..., LakePast]:
    """A lake with 16 hours of readings; past(*pending) reads it."""
    stream_log(tmp_path, index, late_log(4), [], 1000, 1)
    naming = naming_of(index, metering_settings)
    nothing = {name: table.empty() for name, table in LAKE.items()}

    def make(*pending: dict[str, pl.DataFrame]) -> LakePast:
        return LakePast(LakeReader(tmp_path), naming, metering_settings, [{**nothing, **each} for each in pending])

    return make


def _wanted(*windows_wanted: tuple[int, int]) -> pl.DataFrame:
    """Of (meter code, minutes after LATE_START)."""
    ends = [LATE_START + timedelta(minutes=minutes) for _, minutes in windows_wanted]
    wanted = pl.DataFrame(
        {"meter": [meter for meter, _ in windows_wanted], "window_end": ends},
        schema={"meter": pl.UInt32, "window_end": pl.Datetime("us", "UTC")},
    )
    return wanted.with_columns(end_us=pl.col("window_end").to_physical())


def _codes(*meters: int) -> pl.Series:
    return pl.Series("meter", meters, dtype=pl.UInt32)


def _minutes(rows: pl.DataFrame) -> set[int]:
    return set((rows["ts"] - LATE_START).dt.total_minutes())


def test_readings_of_a_window_and_its_start_edge(past: Callable[..., LakePast]) -> None:
    rows = past().readings(_wanted((1, 360)))  # ends at local midnight; its start edge lies in the window before
    assert set(rows["meter"]) == {1}
    assert {345, 350, 355, 360} <= _minutes(rows) <= {335, 340, 345, 350, 355, 360}
    assert {360, 365} <= _minutes(past().readings(_wanted((1, 375))))  # over midnight


def test_a_meters_past_is_one_whatever_source_it_came_from(past: Callable[..., LakePast]) -> None:
    first, *_ = past().readings_since(_codes(1), LATE_START + timedelta(minutes=950)).iter_rows(named=True)
    other = {"meter_id": "M1", "ts": first["ts"], "p_kw": 5.0, "source": "other", "source_partition": 3}
    coming = pl.DataFrame([other]).with_columns(date=pl.lit(date(2026, 1, 31)))
    rows = past({"readings": LAKE["readings"].conform(coming)}).readings(_wanted((1, 960)))
    assert {(0, first["p_kw"]), (3, 5.0)} <= set(rows["source_partition", "p_kw"].iter_rows())


def test_readings_after_a_time(past: Callable[..., LakePast]) -> None:
    rows = past().readings_since(_codes(0, 2), LATE_START + timedelta(minutes=900))
    assert set(rows["meter"]) == {0, 2}
    assert min(_minutes(rows)) > 900
    assert past().readings_since(_codes(0), LATE_START + timedelta(days=3)).is_empty()


def test_what_is_on_its_way_counts_too(past: Callable[..., LakePast]) -> None:
    (kept,) = past().windows(_wanted((2, 360))).iter_rows(named=True)
    newer = past().windows(_wanted((2, 360))).with_columns(revision=pl.lit(kept["revision"] + 1, pl.Int32), n=pl.lit(9))
    (found,) = past({"windows": WINDOWS.conform(newer)}).windows(_wanted((2, 360))).iter_rows(named=True)
    assert (found["revision"], found["n"]) == (kept["revision"] + 1, 9)
    assert (found["meter"], found["version"]) == (2, 2)


def test_what_came_earlier_in_the_same_turn_counts_too(past: Callable[..., LakePast]) -> None:
    before = past()
    rows = before.readings(_wanted((1, 360))).with_columns(p_kw=pl.lit(-7.0)).drop("slot_us", "end_us")
    window = before.windows(_wanted((1, 360))).with_columns(revision=pl.lit(99, pl.Int32))
    results = {"windows": WINDOWS.conform(window), "violations": VIOLATIONS.empty(), "compliance": COMPLIANCE.empty()}
    after = before.and_then(rows, results)
    found = after.readings(_wanted((1, 360)))
    assert found.height == 2 * rows.height
    assert_frame_equal(found.filter(pl.col("p_kw") == -7.0).drop("slot_us", "end_us"), rows, check_row_order=False)
    assert after.windows(_wanted((1, 360)))["revision"].to_list() == [99]
    assert before.windows(_wanted((1, 360)))["revision"].to_list() != [99]


def test_the_newest_change_of_each_violation(past: Callable[..., LakePast], tmp_path: Path) -> None:
    rows = LakeReader(tmp_path).scan("violations").collect()
    newest = rows.sort("revision").unique("violation_id", keep="last")
    found = past().events(None, LATE_START - timedelta(days=1))
    assert found.height == newest.height > 20
    assert sorted(found["revision"]) == sorted(newest["revision"])
    assert set(past().events(_codes(1), LATE_START - timedelta(days=1))["meter"]) == {1}
    assert past().events(None, LATE_START + timedelta(days=2)).is_empty()


def test_days_of_a_month(past: Callable[..., LakePast]) -> None:
    wanted = pl.DataFrame({"meter": _codes(0, 0), "month": [date(2026, 1, 1), date(2026, 3, 1)]})
    found = past().days(wanted)
    assert found["date"].to_list() == [date(2026, 1, 30), date(2026, 1, 31)]
    assert set(found["meter"]) == {0}


def test_where_readings_came_from(past: Callable[..., LakePast]) -> None:
    assert past().sources() == {("log", 0): LATE_START + timedelta(minutes=955)}
    after = LATE_START + timedelta(minutes=900)
    assert set(past().all_since(after, [("log", 0)])["meter"]) == {0, 1, 2}
    assert past().all_since(after, [("log", 1), ("other", 0)]).is_empty()


def test_what_never_was_is_not_there(past: Callable[..., LakePast]) -> None:
    assert past().windows(_wanted((0, 60 * 24 * 400))).is_empty()
    assert past().readings(_wanted((0, 60 * 24 * 400))).is_empty()


def test_meters_that_the_registry_does_not_know_have_no_past(
    past: Callable[..., LakePast], make_index: Callable[..., MeterIndex], metering_settings: MeteringSettings,
    tmp_path: Path,
) -> None:  # fmt: skip
    past()
    naming = naming_of(make_index("M1"), metering_settings)
    fewer = LakePast(LakeReader(tmp_path), naming, metering_settings)
    assert set(fewer.all_since(LATE_START, [("log", 0)])["meter"]) == {0}  # M1, by its code there
    assert set(fewer.events(None, LATE_START)["meter"]) == {0}
