"""The definitions: what loads them, what they depend on, what makes them run by themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from assets.catalogue import RESULTS
from assets.lake import lake_key
from metering.errors import SettingsError
from metering.tables import LAKE, warehouse
from metering.tables.batch import METER_CURVE
from orchestration.batch.sensors import notice, remember
from orchestration.definitions import build_definitions
from sinks.marts import Marts, day_partition

ROOT = Path(__file__).parents[2]
DAY = date(2026, 3, 2)


def test_dg_check_defs_passes(tmp_path: Path) -> None:
    dg_command = Path(sys.executable).with_name("dg")
    env = os.environ | {"KILOWATCH_HOME": str(tmp_path / "absent"), "DAGSTER_HOME": str(tmp_path)}
    ran = subprocess.run([dg_command, "check", "defs"], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "All definitions loaded successfully" in ran.stdout
    assert not (tmp_path / "absent").exists()


def test_loading_imports_nothing_heavy_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from orchestration.definitions import build_definitions\n"
        "build_definitions(Path('home'))\n"
        "print(sorted({'great_expectations', 'sklearn', 'matplotlib', 'bytewax'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []


def test_every_table_of_the_warehouse_has_an_asset_with_a_blocking_check(tmp_path: Path) -> None:
    graph = build_definitions(tmp_path).resolve_asset_graph()
    of_batch = {"windows", "meter_curve"}
    written_beside = {"quality_results", "restatements"}  # by every asset, for its own table
    assert set(warehouse(("flat",))) - written_beside == {result.table for result in RESULTS} - of_batch
    checked = {key.asset_key.to_user_string() for key in graph.asset_check_keys if graph.get(key).blocking}
    assert checked == {result.asset for result in RESULTS}
    assert graph.get(dg.AssetKey("warehouse")).parent_keys == {dg.AssetKey(name) for name in checked}
    assert {key.to_user_string() for key in graph.external_asset_keys} == {f"lake/{name}" for name in LAKE}


def test_settings_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    (tmp_path / "kilowatch.toml").write_text('timezone = "Mars/Olympus"\n')
    with pytest.raises(SettingsError, match="timezone"):
        build_definitions(tmp_path)


class Watch:
    """The sensor and the automation of a home, evaluated in turn as the daemon does."""

    def __init__(self, home: Path) -> None:
        self.definitions = build_definitions(home)
        self.instance = dg.DagsterInstance.ephemeral()
        self.sensor = self.definitions.resolve_sensor_def("lake_parts")
        self.seen: str | None = None
        self.automation: object = None

    def notice(self) -> dict[tuple[str, str], dict[str, object]]:
        with dg.build_sensor_context(instance=self.instance, cursor=self.seen) as context:
            result = self.sensor(context)
        assert isinstance(result, dg.SensorResult)
        self.seen = result.cursor
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        return {
            (event.asset_key.to_user_string(), str(event.partition)): {k: v.value for k, v in event.metadata.items()}
            for event in result.asset_events
        }

    def requested(self) -> dict[str, int]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # Dagster's own
            outcome = dg.evaluate_automation_conditions(
                self.definitions, instance=self.instance, cursor=self.automation
            )
        self.automation = outcome.cursor
        counts = {result.key.to_user_string(): result.true_subset.size for result in outcome.results}
        return {key: count for key, count in counts.items() if count}


@pytest.fixture
def watch(tmp_path: Path, make_batch_home: Callable[[Path, date, int], Path]) -> Watch:
    home = make_batch_home(tmp_path / "home", DAY, 2)
    for table in ("windows", "compliance"):
        shutil.rmtree(home / "lake" / table)
    return Watch(home)


def test_new_parts_are_reported_once_with_rows_newest_time_and_lag(watch: Watch, tmp_path: Path) -> None:
    reported = watch.notice()
    assert set(reported) == {("lake/readings", "2026-03-02"), ("lake/readings", "2026-03-03")}
    first = reported["lake/readings", "2026-03-02"]
    assert (first["dagster/row_count"], first["new_rows"], first["parts"]) == (96 + 1440, 96 + 1440, 2)
    assert first["newest_event_time"] == 1772467200.0  # 2026-03-03 00:00 in Shanghai
    assert isinstance(first["lag_s"], float)
    assert watch.notice() == {}

    folder = tmp_path / "home" / "lake" / "readings" / "date=2026-03-03"
    shutil.copy(folder / "0.parquet", folder / "7.parquet")
    again = watch.notice()
    assert set(again) == {("lake/readings", "2026-03-03")}
    assert again["lake/readings", "2026-03-03"]["new_rows"] == 96
    assert again["lake/readings", "2026-03-03"]["parts"] == 3

    (folder / "7.parquet").unlink()  # as when parts are merged: counted anew
    assert watch.notice()["lake/readings", "2026-03-03"]["dagster/row_count"] == 96 + 1440


def test_a_gap_that_has_ended_asks_for_the_day_that_it_reached_out_of_once(watch: Watch, tmp_path: Path) -> None:
    watch.notice()
    stage = Marts(tmp_path / "home").stage()
    curve = pl.DataFrame({
        "meter_id": ["M1", "M2"], "customer_no": ["C1", "C2"], "point": [96, 96], "status": ["estimated", "validated"],
        "window_end": [datetime(2026, 3, 2, 16, tzinfo=UTC)] * 2, "reason": ["mean of reference days", None],
    })  # fmt: skip
    stage.write(METER_CURVE, day_partition(DAY), METER_CURVE.conform(curve, date=DAY), None)
    stage.publish()
    assert watch.notice() == {}
    folder = tmp_path / "home" / "lake" / "readings" / "date=2026-03-03"
    for name in ("7.parquet", "8.parquet"):  # the second brings no meter whose gap has not been told of
        shutil.copy(folder / "0.parquet", folder / name)
        reported = watch.notice()
        told = reported.pop(("lake/readings", "2026-03-02"), None)
        assert set(reported) == {("lake/readings", "2026-03-03")}
        assert told == ({"gap_ended_on": "2026-03-03", "meters": "M1"} if name == "7.parquet" else None)


def test_what_was_materialised_outside_the_daemon_is_neither_reported_nor_run_again(
    watch: Watch, tmp_path: Path
) -> None:
    home, second = tmp_path / "home", date(2026, 3, 3)
    noticed = notice(watch.instance, home, DAY, DAY)
    assert set(noticed) == {"readings/2026-03-02"}
    assert watch.instance.get_materialized_partitions(lake_key("readings")) == {"2026-03-02"}
    for result in RESULTS:
        watch.instance.report_runless_asset_event(dg.AssetMaterialization(result.asset, partition="2026-03-02"))
    watch.instance.report_runless_asset_event(dg.AssetMaterialization("warehouse", partition="2026-03-02"))
    remember(watch.instance, noticed)
    assert {day for _, day in watch.notice()} == {"2026-03-03"}
    assert set(watch.requested().values()) == {1}
    assert watch.requested() == watch.requested() == {}

    remember(watch.instance, notice(watch.instance, home, second, second))
    folder = home / "lake" / "readings"
    for day in ("2026-03-02", "2026-03-03"):  # what comes after it is news
        shutil.copy(folder / f"date={day}" / "0.parquet", folder / f"date={day}" / "7.parquet")
    assert {day for _, day in watch.notice()} == {"2026-03-02", "2026-03-03"}
    assert watch.requested()["daily_load"] == 2


def test_new_parts_lead_to_the_whole_graph_for_their_days_and_no_others(watch: Watch, tmp_path: Path) -> None:
    assert watch.requested() == {}
    watch.notice()
    everything = {*(result.asset for result in RESULTS), "warehouse"} - {"violations", "notices"}  # the lake holds none
    assert watch.requested() == dict.fromkeys(everything, 2)
    assert watch.requested() == {}

    folder = tmp_path / "home" / "lake" / "readings" / "date=2026-03-03"
    shutil.copy(folder / "0.parquet", folder / "7.parquet")
    watch.notice()
    asked = [watch.requested() for _ in range(4)]
    assert [ask for ask in asked if ask] == [dict.fromkeys(everything, 1)]


def test_parts_that_come_while_their_day_runs_ask_for_another_run(watch: Watch, tmp_path: Path) -> None:
    watch.notice()
    watch.requested()
    folder = tmp_path / "home" / "lake" / "readings" / "date=2026-03-03"
    shutil.copy(folder / "0.parquet", folder / "7.parquet")
    watch.notice()  # between the request and the end of the run that it led to
    for result in RESULTS:
        watch.instance.report_runless_asset_event(dg.AssetMaterialization(result.asset, partition="2026-03-03"))
    asked = [watch.requested() for _ in range(5)]
    assert [ask.get("batch_windows", 0) for ask in asked].count(1) == 1
    assert max(ask.get("batch_windows", 0) for ask in asked) == 1
    assert asked[-2:] == [{}, {}]


def test_parts_reported_before_automation_first_looks_are_not_missed(watch: Watch) -> None:
    watch.notice()
    assert watch.requested()["warehouse"] == 2


def test_a_failed_blocking_check_upstream_holds_back_what_is_not_run_with_it(watch: Watch) -> None:
    watch.notice()
    assert "daily_load" in watch.requested()
    assert watch.requested() == {}
    check = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("daily_curve"), check_name="suite", passed=False, blocking=True
    )
    watch.instance.report_runless_asset_event(check)
    event = dg.AssetMaterialization("daily_curve", partition="2026-03-02")
    watch.instance.report_runless_asset_event(event)
    assert "daily_load" not in watch.requested()
    good = dg.AssetCheckEvaluation(asset_key=dg.AssetKey("daily_curve"), check_name="suite", passed=True, blocking=True)
    watch.instance.report_runless_asset_event(good)
    assert watch.requested()["daily_load"] == 1
