"""One run over days, through the command line: warehouse, Dagster's records, and what a failed check leaves behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from metering.errors import OperationError, UserError
from metering.tables import LAKE
from orchestration.cli import cli
from sinks.warehouse import query, warehouse_path

FIRST, LAST = date(2026, 3, 2), date(2026, 3, 4)
RANGE = ["--from", str(FIRST), "--to", str(LAST)]


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, make_batch_home: Callable[[Path, date, int], Path]
) -> Iterator[tuple[Path, str]]:
    """A home of three days, materialised by the command, and what the command printed."""
    home = make_batch_home(tmp_path_factory.mktemp("run") / "home", FIRST, 3)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DAGSTER_HOME", "KILOWATCH_HOME", "DAGSTER_EVENT_BATCH_SIZE"):
            patch.setenv(name, "0")  # the command sets them; they are put back afterwards
        ran = CliRunner().invoke(cli, ["materialize", "--home", str(home), *RANGE], catch_exceptions=False)
        assert ran.exit_code == 0
        yield home, ran.output


def test_the_warehouse_holds_the_days_and_the_command_says_so(home: tuple[Path, str]) -> None:
    folder, output = home
    assert re.search(r"daily_curve\D+576\b", output)
    days = query(folder, "SELECT customer_no, date, count(*) AS n FROM daily_curve GROUP BY ALL")
    assert days["n"].to_list() == [96] * 6
    assert query(folder, "SELECT count(DISTINCT period) FROM kpi").item() == 4  # three days and their month


def test_it_was_one_run_with_its_counts_and_a_picture(home: tuple[Path, str]) -> None:
    with dg.DagsterInstance.from_config(str(home[0] / "dagster")) as instance:
        (run,) = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.SUCCESS
        key = dg.AssetKey("daily_curve")
        assert instance.get_materialized_partitions(key) == {"2026-03-02", "2026-03-03", "2026-03-04"}
        event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert metadata["dagster/row_count"].value == 192
    assert str(metadata["curve"].value).count("data:image/svg+xml;base64,") == 2
    assert metadata["completeness"].value == 1.0
    assert metadata["missing_points"].value == 0
    assert str(metadata["preview"].value).startswith("| customer_no | date | point |")
    made_from = metadata["dagster/column_lineage"].value.deps_by_column["energy_kwh"]
    assert [(dep.asset_key.to_user_string(), dep.column_name) for dep in made_from] == [("meter_curve", "energy_kwh")]


def test_a_stream_that_says_other_than_its_readings_keeps_the_old_warehouse(
    home: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = home
    before = warehouse_path(folder).read_bytes()
    part = folder / "lake" / "windows" / f"date={FIRST}" / "0.parquet"
    right = part.read_bytes()
    pl.read_parquet(part).with_columns(pl.col("energy_kwh") + 1).write_parquet(part)
    for name in ("DAGSTER_HOME", "KILOWATCH_HOME"):
        monkeypatch.setenv(name, "")
    with pytest.raises(
        OperationError, match="reconciliation: 192 of windows on 2026-03-02 differ between the"
    ) as error:
        CliRunner().invoke(cli, ["materialize", "--home", str(folder), *RANGE], catch_exceptions=False)
    assert "\n" not in str(error.value)
    assert warehouse_path(folder).read_bytes() == before
    assert not list((folder / "marts").rglob("*.staged"))
    with dg.DagsterInstance.from_config(str(folder / "dagster")) as instance:
        failed = instance.get_runs(limit=1)[0]
        assert failed.status is dg.DagsterRunStatus.FAILURE
        checks = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey("reconciliation"), "suite"), limit=1
        )
    assert checks[0].status.value == "FAILED"
    assert not _started(folder, failed.run_id, "warehouse")
    part.write_bytes(right)


def test_a_row_that_is_not_as_declared_is_kept_out_and_named_and_the_day_is_published(
    home: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = home
    for name in ("DAGSTER_HOME", "KILOWATCH_HOME"):
        monkeypatch.setenv(name, "")
    bad = _violation(folder, state="nonsense")
    ran = CliRunner().invoke(cli, ["materialize", "--home", str(folder), *RANGE], catch_exceptions=False)
    assert ran.exit_code == 0
    assert query(folder, "SELECT * FROM violations").is_empty()
    (found,) = query(folder, "SELECT * FROM quality_results").to_dicts()
    assert (found["table_name"], found["severity"], found["failing_rows"]) == ("violations", "error", 1)
    assert found["sample"] == "violation_id v1, meter_id M1, state nonsense"
    with dg.DagsterInstance.from_config(str(folder / "dagster")) as instance:
        (check,) = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey("violations"), "rows"), limit=1
        )
    assert check.status.value == "FAILED"

    bad.unlink()
    _violation(folder, state="raised")
    ran = CliRunner().invoke(cli, ["materialize", "--home", str(folder), *RANGE], catch_exceptions=False)
    assert ran.exit_code == 0
    assert query(folder, "SELECT state FROM violations").item() == "raised"
    assert query(folder, "SELECT * FROM quality_results").is_empty()


def test_days_that_the_readings_have_not_reached_are_refused_and_the_day_that_begins_is_not(
    home: tuple[Path, str],
) -> None:
    """Readings end at midnight of 2026-03-04, so 2026-03-05 has begun (it can be forecast), and the 6th has not."""
    folder, _ = home

    def run(day: str) -> str:
        return (
            CliRunner()
            .invoke(cli, ["materialize", "--home", str(folder), "--from", day, "--to", day], catch_exceptions=False)
            .output
        )

    with pytest.raises(
        UserError, match="--to 2026-03-06 is in the future: the readings have come as far as 2026-03-05"
    ):
        run("2026-03-06")
    run("2026-03-05")
    assert query(folder, "SELECT count(*) FROM daily_curve WHERE date = '2026-03-05'").item() == 0
    rates = query(
        folder, "SELECT value, status FROM kpi WHERE kpi_id = 'reading_success_rate' AND period = '2026-03-05'"
    )
    assert set(rates.rows()) == {(None, "no_data")}


def _started(folder: Path, run_id: str, step: str) -> bool:
    with dg.DagsterInstance.from_config(str(folder / "dagster")) as instance:
        logs = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START)
    return step in {event.step_key for event in logs}


def _violation(home: Path, state: str) -> Path:
    at = datetime(2026, 3, 2, 4, tzinfo=UTC)
    texts = {"severity": "warning", "message_zh": "过压", "message_en": "over-voltage", "ruleset": "r", "unit": "V"}
    row = {"violation_id": "v1", "rule": "over_voltage", "phase": "a", "meter_id": "M1", "customer_no": "C1", **texts}
    rows = LAKE["violations"].conform(
        pl.DataFrame([row]), state=state, revision=0, started_at=at, value=270.0, limit_value=264.0, at=at, date=FIRST
    )
    path = home / "lake" / "violations" / f"date={FIRST}" / "0.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.drop("date").write_parquet(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "2026-03-04", "--to", "2026-03-02"], "before --from"),
        (["--from", "1999-12-31", "--to", "2026-03-02"], "first day that can be materialised"),
        (["--from", "2026-03-02", "--to", "2199-01-01"], "in the future"),
    ],
)
def test_days_that_make_no_sense_are_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        CliRunner().invoke(cli, ["materialize", "--home", str(tmp_path), *arguments], catch_exceptions=False)


def test_a_home_without_registry_or_readings_says_what_to_do(
    tmp_path: Path, make_batch_home: Callable[[Path, date, int], Path]
) -> None:
    with pytest.raises(UserError, match="kilowatch init"):
        CliRunner().invoke(cli, ["materialize", "--home", str(tmp_path / "none"), *RANGE], catch_exceptions=False)
    home = make_batch_home(tmp_path / "home", FIRST, 0)
    with pytest.raises(UserError, match="kilowatch stream"):
        CliRunner().invoke(cli, ["materialize", "--home", str(home), *RANGE], catch_exceptions=False)
