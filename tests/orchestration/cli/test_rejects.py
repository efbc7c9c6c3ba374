"""`kilowatch rejects`: what is listed, and a replay after a fix on a home of files on which no stream runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from polars.testing import assert_frame_equal

from metering.errors import KilowatchError, RegistryError, UserError
from metering.tables.lake import LAKE
from orchestration.cli import cli
from pipelines.sources.redrive_requests import Requests
from sinks.lake.reader import LakeReader, current

CUSTOMERS = (
    "customer_no,name,segment,industry,voltage_level_kv,contract_capacity_kva,contract_demand_kw,pf_standard,tariff,"
    "dual_supply,feeder,manager,controllable\nC1,Plant 1,large,machinery,10,630,,0.90,large_industry,false,,,true\n"
)
METERS = (
    "meter_id,customer_no,wiring,nominal_v,pt_ratio,ct_ratio,rated_a,max_a,register_digits,interval_s,source_no,"
    "valid_from,valid_to\n"
)
M0, M1 = (f"M{i},C1,3p4w,57.7,100,20,5,6,8,60,1,2020-01-01,\n" for i in range(2))
START = datetime(2026, 3, 1, tzinfo=UTC)


def _run(home: Path, *arguments: object) -> str:
    result = CliRunner().invoke(cli, [*map(str, arguments), "--home", str(home)], terminal_width=200)
    if result.exception is not None:
        raise result.exception
    return result.output


def _home(home: Path, *meters: str) -> Path:
    (home / "registry").mkdir(parents=True)
    (home / "registry" / "customers.csv").write_text(CUSTOMERS, "utf-8")
    _register(home, *meters)
    lines = [
        {"meter_id": f"M{meter}", "ts": (START + timedelta(minutes=minute)).isoformat(), "ua_v": 75.0 - 10 * meter,
         "p_kw": 300.0, "q_kvar": 60.0, "import_kwh": 5.0 * minute}
        for minute in range(1, 53 + 30) for meter in (0, 1) if meter or minute < 53
    ]  # fmt: skip
    (home / "telemetry").mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines) + "not json\n"
    (home / "telemetry" / "a.ndjson").write_text(text, "utf-8")
    return home


def _register(home: Path, *meters: str) -> None:
    (home / "registry" / "meters.csv").write_text(METERS + "".join(meters), "utf-8")


def _final(home: Path) -> dict[str, pl.DataFrame]:
    lake = LakeReader(home)
    rows = {
        name: current(lake.scan(name), LAKE[name].key).collect() for name in ("windows", "violations", "compliance")
    }
    return {name: frame.drop("revision") for name, frame in rows.items()} | {
        "readings": lake.scan("readings").collect().sort(LAKE["readings"].key)
    }


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILOWATCH_STREAM__METRICS_PORT", "-1")
    monkeypatch.setenv("COLUMNS", "200")


def test_a_meter_added_to_the_registry_is_as_if_it_had_always_been_there(tmp_path: Path) -> None:
    clean, home = _home(tmp_path / "clean", M0, M1), _home(tmp_path / "home", M0)
    for each in (clean, home):
        _run(each, "stream")
    listed = _run(home, "rejects", "list", "--limit", 3)
    assert "unknown_meter" in listed
    assert " 82 " in listed
    assert "meter 'M1' is not in the registry" in listed

    _register(home, M0, M1)
    done = _run(home, "rejects", "replay")
    row = next(line.split() for line in done.splitlines() if "unknown_meter" in line)
    assert [cell for cell in row if cell.isdigit()] == ["82", "0"]
    assert Requests(home).asked() is None
    for name, frame in _final(clean).items():
        assert frame.height > 0
        assert_frame_equal(frame, _final(home)[name], check_exact=True)

    parts = sorted(home.glob("lake/*/*/*.parquet"))
    again = _run(home, "rejects", "replay")
    assert " 82 " not in again
    assert sorted(home.glob("lake/*/*/*.parquet")) == parts
    assert "M1" not in _run(home, "rejects", "list")
    assert "M1" in _run(home, "rejects", "list", "--all", "--reason", "unknown_meter")


def test_without_rejects_there_is_nothing_to_do(tmp_path: Path) -> None:
    home = _home(tmp_path / "home", M0)
    for command in ("list", "replay"):
        assert "No rejected readings" in _run(home, "rejects", command)


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    home = _home(tmp_path / "home", M0)
    with pytest.raises(UserError, match="there is no reason 'bad': name one of unparsable"):
        _run(home, "rejects", "list", "--reason", "bad")
    _register(home, M0, M0)
    with pytest.raises(RegistryError, match=r"meters.csv, line 3"):
        _run(home, "rejects", "replay")


def test_rejects_of_a_topic_need_its_brokers(tmp_path: Path) -> None:
    home = _home(tmp_path / "home", M0)
    _run(home, "stream")
    for part in home.glob("lake/rejects/*/*.parquet"):
        rows = pl.read_parquet(part).with_columns(source=pl.lit("meter.readings.v1"))
        rows.write_parquet(part)
    with pytest.raises(KilowatchError, match="no Kafka to talk to"):
        _run(home, "rejects", "replay")
    assert Requests(home).asked() is None


def test_piped_each_reject_is_one_whole_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    home = _home(tmp_path / "home", M0, M1)
    long = '{"meter_id": "M0", "ts": 1772381700, "note": "' + "x" * 300 + '"}'
    (home / "telemetry" / "b.ndjson").write_text(long + "\nline\twith\x1b[31m tab\n", "utf-8")
    _run(home, "stream")
    listed = [line.split("\t") for line in _run(home, "rejects", "list").splitlines() if "\t" in line]
    of_b = {row[3]: row[4:] for row in listed if row[1:3] == ["b.ndjson", "0"]}
    assert of_b["0"] == ["implausible_time", "ts 1772381700 looks like epoch seconds: send milliseconds", long]
    assert of_b["1"] == ["unparsable", "not JSON: Expecting value: line 1 column 1 (char 0)", r"line\twith\x1b[31m tab"]


def test_on_a_terminal_detail_and_bytes_are_as_wide_as_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    home = _home(tmp_path / "home", M0)
    _run(home, "stream")
    shown = _run(home, "rejects", "list", "--limit", "1", "--reason", "unparsable").splitlines()
    assert "    not JSON: Expecting value: line 1 column 1 (char 0)" in [line.rstrip() for line in shown]
    assert "    not json" in [line.rstrip() for line in shown]
