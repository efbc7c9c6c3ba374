"""The lake's upkeep as an operator meets it: setting, schedule, asset, command; and what sensors make of it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from assets.maintenance import UPKEEP
from metering.errors import SettingsError
from metering.tables import LAKE
from orchestration.cli import cli
from orchestration.definitions import build_definitions
from orchestration.home.settings import load_settings
from orchestration.home.settings_parts import LEAST_LAKE_DAYS
from sinks.lake.reader import LakeReader
from sinks.marts import Marts

DAY, NEXT = date(2026, 3, 2), date(2026, 3, 3)


@pytest.fixture
def home(tmp_path: Path, make_batch_home: Callable[[Path, date, int], Path]) -> Path:
    """Two days of readings, the first of them in ten parts."""
    home = make_batch_home(tmp_path / "home", DAY, 2)
    whole = LakeReader(home).scan("readings", [DAY]).drop("date").collect()
    for part in LakeReader(home).parts("readings", DAY):
        part.unlink()
    for number in range(10):
        whole[number::10].write_parquet(home / "lake" / "readings" / f"date={DAY}" / f"{number}.parquet")
    return home


def expire(home: Path, day: date) -> None:
    """As a round of upkeep with a retention, a long time later."""
    reader = LakeReader(home)
    reader.mark.write_text(day.isoformat(), "ascii")
    for part in reader.parts("readings", day):
        part.unlink()


def run_asset(home: Path) -> dict[str, object]:
    definitions = build_definitions(home)
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("upkeep").execute_in_process(instance=instance)
    (event,) = result.asset_materializations_for_node(UPKEEP)
    return {name: value.value for name, value in event.metadata.items()}


def test_the_asset_merges_and_says_what_it_did(home: Path) -> None:
    before = LakeReader(home).scan("readings").collect()
    told = run_asset(home)
    assert (told["rows"], told["parts_before"], told["parts_after"]) == (96 + 1440, 10, 1)
    assert (told["days_compacted"], told["days_taken_out"]) == (1, 0)
    assert told["bytes_before"] > told["bytes_after"] > 0  # type: ignore[operator]
    assert f"| readings | {DAY} | 1536 | 10 | 1 |" in str(told["compacted"])
    assert LakeReader(home).scan("readings").collect().sort(pl.all()).equals(before.sort(pl.all()))
    assert run_asset(home)["days_compacted"] == 0


def test_it_runs_every_hour_by_itself_and_not_with_the_days(home: Path) -> None:
    definitions = build_definitions(home)
    schedule = definitions.resolve_schedule_def("hourly_upkeep")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert schedule.job_name == "upkeep"
    assert schedule.cron_schedule == "10 * * * *"
    assert UPKEEP not in {node.name for node in definitions.resolve_job_def("daily").nodes}


def test_the_command_merges_and_says_what_it_did(home: Path) -> None:
    ran = CliRunner().invoke(cli, ["compact", "--home", str(home)], catch_exceptions=False)
    assert ran.exit_code == 0
    (line,) = [line for line in ran.output.splitlines() if "readings" in line]
    assert [cell for cell in line.replace("│", " ").split() if cell][:5] == ["readings", "1", "1,536", "10", "1"]
    again = CliRunner().invoke(cli, ["compact", "--home", str(home)], catch_exceptions=False)
    assert "No day has enough small parts" in again.output


def test_the_command_takes_out_days_past_keeping(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = home / "lake" / "readings" / "date=2025-01-01" / "0.parquet"
    old.parent.mkdir()
    LAKE["readings"].empty().drop("date").write_parquet(old)
    os.utime(old, (time.time() - 200 * 86_400,) * 2)
    monkeypatch.setenv("KILOWATCH_RETENTION__LAKE_DAYS", "100")
    ran = CliRunner().invoke(cli, ["compact", "--home", str(home)], catch_exceptions=False)
    assert "Taken out: 1 days, 2025-01-01 to 2025-01-01." in ran.output
    assert LakeReader(home).dates("readings") == [DAY, NEXT]


def test_a_home_without_a_lake_says_what_to_do(tmp_path: Path) -> None:
    ran = CliRunner().invoke(cli, ["compact", "--home", str(tmp_path)])
    assert "run `kilowatch stream` first" in str(ran.exception)


@pytest.mark.parametrize(
    ("days", "fine"), [(0, True), (1, False), (LEAST_LAKE_DAYS - 1, False), (LEAST_LAKE_DAYS, True)]
)
def test_retention_leaves_late_readings_their_past(tmp_path: Path, days: int, fine: bool) -> None:
    (tmp_path / "kilowatch.toml").write_text(f"[retention]\nlake_days = {days}\n")
    if fine:
        assert load_settings(tmp_path).retention.lake_days == days
    else:
        with pytest.raises(SettingsError, match=r"retention\.lake_days: .*30 days late.*at least 95"):
            load_settings(tmp_path)


def notice(home: Path, cursor: str | None) -> tuple[list[str | None], str | None]:
    """Partitions that the sensor reports, and its cursor."""
    sensor = build_definitions(home).resolve_sensor_def("lake_parts")
    with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance, cursor=cursor) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return [event.partition for event in result.asset_events], result.cursor


def test_merged_parts_are_no_news_and_what_comes_with_them_is(home: Path) -> None:
    for table in ("windows", "compliance"):
        shutil.rmtree(home / "lake" / table)
    reported, cursor = notice(home, None)
    assert reported == [str(DAY), str(NEXT)]
    run_asset(home)
    reported, cursor = notice(home, cursor)
    assert reported == []
    part = LakeReader(home).parts("readings", DAY)[0]
    pl.read_parquet(part).head(3).write_parquet(part.with_name("11.parquet"))
    assert notice(home, cursor)[0] == [str(DAY)]


def test_late_rows_of_a_day_that_was_taken_out_are_no_news(home: Path) -> None:
    _, cursor = notice(home, None)
    late = pl.read_parquet(LakeReader(home).parts("readings", DAY)[0]).head(3)
    expire(home, DAY)
    late.write_parquet(home / "lake" / "readings" / f"date={DAY}" / "late.parquet")
    assert notice(home, cursor)[0] == []


@pytest.mark.parametrize("day", [DAY, NEXT])
def test_results_of_a_day_that_was_taken_out_stay(home: Path, day: date) -> None:
    """And those of the day after it, which lacks the registers at its first edge."""
    windows = Marts(home).path("windows", f"date={day}")
    windows.parent.mkdir(parents=True)
    windows.write_bytes(b"as it was")
    expire(home, DAY)
    definitions = build_definitions(home)
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("daily").execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("batch_windows")],
            partition_key=str(day),
            raise_on_error=False,
        )
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert f"no longer holds all of {day}" in str(failure.user_failure_data.description)
    assert windows.read_bytes() == b"as it was"
