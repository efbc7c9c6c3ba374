"""`kilowatch simulate`, as a user calls it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from metering.simulation import LABELS
from orchestration.cli import main
from orchestration.home.registry_files import load, registry_paths
from orchestration.home.settings import load_settings


def kilowatch(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["kilowatch", *map(str, args)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


SMALL = ("simulate", "--customers", "12", "--start", "2026-03-02", "--days", "1", "--interval", "15m", "--seed", "5")


def test_a_fleet_has_a_registry_one_telemetry_file_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kilowatch(monkeypatch, *SMALL, "--home", tmp_path) == 0
    said = capsys.readouterr().out
    assert "fault: over_voltage" in said
    registry = load(tmp_path, load_settings(tmp_path))
    assert registry.customers.height == 12
    assert registry.meters["interval_s"].value_counts(sort=True).rows() == [
        (900, registry.meters.height - 1),
        (3600, 1),
    ]
    assert [path.name for path in (tmp_path / "telemetry").iterdir()] == ["fleet.ndjson"]
    readings = [json.loads(line) for line in (tmp_path / "telemetry" / "fleet.ndjson").read_text().splitlines()]
    assert {reading["meter_id"] for reading in readings} == set(registry.meters["meter_id"])
    assert readings[0]["ts"] == "2026-03-01T16:15:00Z"  # the first quarter-hour of the day in Shanghai
    assert max(reading["ts"] for reading in readings) == "2026-03-02T16:00:00Z"
    labels = pl.read_parquet(tmp_path / "labels.parquet")
    assert labels.schema == LABELS
    missing = labels.filter(pl.col("kind") == "reading_missing")
    absent = int((missing["ended_at"] - missing["started_at"]).dt.total_minutes().sum()) // 15
    assert len(readings) == (registry.meters.height - 1) * 96 + 24 - absent


def test_a_meter_is_exchanged_at_noon_of_a_day_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kilowatch(monkeypatch, *SMALL, "--days", "3", "--home", tmp_path) == 0
    cells = ("meter_id", "valid_from", "valid_to")
    meters = pl.read_csv(tmp_path / "registry" / "meters.csv", infer_schema=False).select(cells)
    assert meters.filter(pl.col("meter_id").is_duplicated()).rows() == [
        ("M100008-1", "2025-01-01", "2026-03-03T12:00:00"),
        ("M100008-1", "2026-03-03T12:00:00", None),
    ]
    assert set(meters.filter(~pl.col("meter_id").is_duplicated()).select(cells[1:]).rows()) == {("2025-01-01", None)}
    registry = load(tmp_path, load_settings(tmp_path))
    noon = datetime(2026, 3, 3, 4, tzinfo=UTC)
    assert registry.meters.filter(meter_id="M100008-1").select("valid_from_at", "valid_to_at").rows() == [
        (datetime(2024, 12, 31, 16, tzinfo=UTC), noon),
        (noon, None),
    ]
    kinds = pl.read_parquet(tmp_path / "labels.parquet")["kind"].value_counts()
    assert kinds.filter(kind="meter_exchange")["count"].to_list() == [1]
    assert kinds.filter(kind="register_decrease")["count"].to_list() == [1]
    assert kinds.filter(kind="runaway")["count"].to_list() == [1]
    assert kinds.filter(kind="correction")["count"].to_list() == [1]


def test_again_is_the_same_and_another_registry_is_kept_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    customers, meters = registry_paths(tmp_path)
    customers.parent.mkdir()
    customers.write_text("mine")
    assert kilowatch(monkeypatch, *SMALL, "--home", tmp_path) == 0
    assert "customers.csv.before-1" in capsys.readouterr().out.replace("\n", "")
    assert customers.with_name("customers.csv.before-1").read_text() == "mine"
    telemetry = tmp_path / "telemetry" / "fleet.ndjson"
    first = telemetry.read_bytes()
    assert kilowatch(monkeypatch, *SMALL, "--home", tmp_path) == 0
    assert telemetry.read_bytes() == first
    assert sorted(path.name for path in customers.parent.iterdir()) == [
        customers.name,
        "customers.csv.before-1",
        meters.name,
    ]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--interval", "7m", "divides a day"),
        ("--interval", "2h", "longer than an hour"),
        ("--customers", "0", "--customers"),
        ("--start", "tomorrow", "--start"),
    ],
)
def test_a_wrong_option_ends_with_one_line(
    option: str,
    value: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert kilowatch(monkeypatch, "simulate", option, value, "--home", tmp_path) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_simulation_of_the_future_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kilowatch(monkeypatch, *SMALL[:3], *SMALL[5:], "--start", "2999-01-01", "--home", tmp_path) == 0
    assert "reaches into the future" in capsys.readouterr().err


def test_an_interrupted_simulation_leaves_no_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestration.home.fleet_files.simulate", interrupted)
    assert kilowatch(monkeypatch, *SMALL, "--home", tmp_path) == 130
    assert list((tmp_path / "telemetry").iterdir()) == []
