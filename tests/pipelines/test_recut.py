"""Results cut anew from the lake: as if the registry of today had been in force from the start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metering.load.windows import withdrawn
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.lake import COMPLIANCE, VIOLATIONS, WINDOWS
from pipelines.recut import Recut
from pipelines.shard.store import Context, LakePast, naming_of
from sinks.lake.parts import parts, write_part
from sinks.lake.reader import LakeReader, current
from tests.pipelines.logs import LATE_METERS, SILENT_METERS, late_log, silent_log

StreamLog = Callable[..., dict[str, pl.DataFrame]]
MakeIndex = Callable[..., MeterIndex]
LOGS = {"late": (late_log, LATE_METERS), "silent": (silent_log, SILENT_METERS)}


def recut(home: Path, index: MeterIndex, settings: MeteringSettings) -> dict[str, pl.DataFrame]:
    """What a recut emits."""
    naming, lake = naming_of(index, settings), LakeReader(home)
    context = Context(naming, settings, 8, LakePast(lake, naming, settings), 1e9)
    cut = Recut(lake, LakeReader(home / "aside"), context)
    assert [*cut.replay()][-1] == len(lake.dates("readings"))
    rows = [cut.of_day(day) for day in cut.days()]
    return {
        "windows": pl.concat([WINDOWS.empty(), *(each["windows"] for each in rows)]),
        "compliance": pl.concat([COMPLIANCE.empty(), *(each["compliance"] for each in rows)]),
        "violations": cut.violations(),
    }


def written(home: Path, rows: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The lake's current state with these rows in it; no revision of a key stands twice."""
    for folder, frame in parts({name: [frame] for name, frame in rows.items() if frame.height}).items():
        (home / folder).mkdir(parents=True, exist_ok=True)
        write_part(home / folder / "recut.parquet", frame)
    found = {}
    for table in (WINDOWS, VIOLATIONS, COMPLIANCE):
        every = LakeReader(home).scan(table.name).collect()
        assert every.select(*table.key, "revision").is_unique().all()
        found[table.name] = current(every.lazy(), table.key).collect()
    found["windows"] = found["windows"].filter(~withdrawn())
    return found


def told(rows: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """What was emitted, as far as it does not depend on the order of the log."""
    violations = rows["violations"].filter(pl.col("state") != "withdrawn", pl.col("rule") != "reading_missing")
    violations = violations.with_columns(pl.col("state").replace("raised", "updated"))
    names = ("violation_id", "state", "started_at", "ended_at", "value", "limit_value", "severity", "customer_no")
    return {
        "windows": rows["windows"].drop("revision").sort(WINDOWS.key),
        "compliance": rows["compliance"].drop("revision").sort(COMPLIANCE.key),
        "violations": violations.select(names).sort("violation_id"),
    }


@pytest.mark.parametrize(("log", "seed"), [("late", 1), ("silent", 4)])
def test_where_nothing_has_changed_nothing_differs(
    tmp_path: Path, log: str, seed: int, make_index: MakeIndex, metering_settings: MeteringSettings,
    stream_log: StreamLog,
) -> None:  # fmt: skip
    make_log, meters = LOGS[log]
    index = make_index(*meters, **meters)
    readings = make_log(seed)
    stream_log(tmp_path, index, readings, cuts=(100, 300))
    found = recut(tmp_path, index, metering_settings)
    assert found["windows"].is_empty()
    assert found["compliance"].is_empty()
    # of violations only that of an open one a late reading counts where it reaches another step
    assert found["violations"].filter(pl.col("state") != "updated").is_empty()


@pytest.mark.parametrize("stop", [None, 300], ids=["to the end", "with open windows"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"M0": {"interval_s": 900}, "M1": {"ct_ratio": 1.0, "nominal_v": 100.0}},
        {"M0": {"max_a": 0.1, "sampling": "snapshot"}, "M2": {"register_digits": 4, "interval_s": 300}},
    ],
    ids=["interval and ratio", "digits and rating"],
)
def test_a_registry_put_right_gives_what_it_would_have_given_from_the_start(
    tmp_path: Path, wrong: dict[str, dict[str, Any]], stop: int | None, make_index: MakeIndex,
    metering_settings: MeteringSettings, stream_log: StreamLog,
) -> None:  # fmt: skip
    log = late_log(3)
    right = make_index(*LATE_METERS, **LATE_METERS)
    meters = {name: {**figures, **wrong.get(name, {})} for name, figures in LATE_METERS.items()}
    stream_log(tmp_path / "wrong", make_index(*meters, **meters), log, cuts=(150,), stop=stop)
    expected = told(stream_log(tmp_path / "right", right, log, cuts=(150,), stop=stop))
    found = told(written(tmp_path / "wrong", recut(tmp_path / "wrong", right, metering_settings)))
    for name, rows in expected.items():
        assert rows.height, name
        assert_frame_equal(found[name], rows)
    again = recut(tmp_path / "wrong", right, metering_settings)
    assert all(rows.is_empty() for rows in again.values())


def test_what_a_meter_of_no_registry_said_is_taken_back(
    tmp_path: Path, make_index: MakeIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    before = stream_log(tmp_path, make_index(*LATE_METERS, **LATE_METERS), late_log(2))
    left = {name: figures for name, figures in LATE_METERS.items() if name != "M1"}
    after = written(tmp_path, recut(tmp_path, make_index(*left, **left), metering_settings))
    assert "M1" in before["windows"]["meter_id"].to_list()
    assert "M1" not in after["windows"]["meter_id"].to_list()
    theirs = after["violations"].filter(pl.col("meter_id") == "M1", pl.col("rule") != "reading_missing")
    assert theirs.height
    assert set(theirs["state"]) == {"withdrawn"}
    assert after["compliance"].filter(pl.col("meter_id") == "M1")["day_active_kwh"].to_list() == [0.0, 0.0]
    others = pl.col("meter_id") != "M1"
    assert_frame_equal(after["windows"].filter(others), before["windows"].filter(others), check_row_order=False)
