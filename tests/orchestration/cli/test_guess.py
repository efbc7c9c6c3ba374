"""`kilowatch replay --guess`, as a user calls it, and formats of the field by the command line."""

from __future__ import annotations

import gzip
import io
import json
import tomllib
import zipfile
from datetime import datetime
from pathlib import Path

import click
import polars as pl
import pytest

from orchestration.cli import main
from tests.metering.tabular.feeds import Point, Series, entries_of, feed_of, run_of

CASES = Path(__file__).parents[4] / "shared" / "cases"
TABLE = "Zeit;kWh\n" + "".join(f"{day:02}.03.2026 {h:02}:00;{h},5\n" for day in range(20, 23) for h in range(24))
DAY = f"300,20260301,{','.join(['1.5'] * 48)},A,,,20260302010101,"
NEM12 = "\n".join(["100,NEM12,202603020101,A,B", "200,NEM1201001,E1,1,E1,N1,M1,kWh,30,", DAY, "900", ""])
FEED = feed_of(entries_of([Point("01", [Series([run_of(["1000", "2000"])])])]))
MSCONS = "UNA:+.? 'UNB+UNOC:3+9900:500+9901:500+260301:1200+1'UNH+1+MSCONS:D:04B:UN:2.4c'"


def kilowatch(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["kilowatch", *map(str, args)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())


def test_questions_are_listed_and_the_mapping_works_once_they_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, home = tmp_path / "load.csv", tmp_path / "home"
    file.write_text(TABLE)
    assert kilowatch(monkeypatch, "replay", file, "--guess", "--home", home) == 3
    said = capsys.readouterr().out
    assert max(map(len, said.split("The first readings")[1].split("readings,")[0].splitlines())) <= 80
    assert "2026-03-20 01:00:00" in said
    assert "? meter_id: no column names the meter: whose readings are these?" in said
    assert not home.exists()
    mapping = tmp_path / "load.csv.toml"
    assert kilowatch(monkeypatch, "replay", file, "--mapping", mapping, "--home", home) == 2
    assert "meter_id: is missing" in capsys.readouterr().err
    mapping.write_text(mapping.read_text().replace("# ? ", "").replace("METER-1", "310105200001"))
    assert kilowatch(monkeypatch, "replay", file, "--mapping", mapping, "--home", home) == 0
    written = [json.loads(line) for line in (home / "telemetry" / "load.ndjson").read_text().splitlines()]
    assert len(written) == 72
    assert len({reading.pop("register_chain") for reading in written}) == 1
    assert written[1] == {"meter_id": "310105200001", "ts": "2026-03-19T18:00:00Z", "p_kw": 1.5, "import_kwh": 2.0}


def test_nothing_is_written_over_a_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "load.csv"
    file.write_text(TABLE)
    (tmp_path / "load.csv.toml").write_text("mine")
    assert kilowatch(monkeypatch, "replay", file, "--guess", "--home", tmp_path) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "load.csv.toml").read_text() == "mine"
    assert kilowatch(monkeypatch, "replay", file, "--guess", "--mapping", tmp_path / "m.toml", "--home", tmp_path) == 3
    assert tomllib.loads((tmp_path / "m.toml").read_text())["delimiter"] == ";"


def test_on_a_terminal_the_questions_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "load.csv"
    file.write_text(TABLE.replace("kWh", "Wert"))
    answers = {"meter_id": "310105200001", "timezone": "Europe/Vienna", "label": "start", "unit:Wert": "kWh"}
    asked: list[str] = []

    def prompt(text: str, **_: object) -> str:
        key = text.partition(": ")[0]
        asked.append(key)
        return answers[key]

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(click, "prompt", prompt)
    assert kilowatch(monkeypatch, "replay", file, "--guess", "--home", tmp_path) == 0
    assert sorted(asked) == sorted(set(asked))
    assert set(asked) >= {"meter_id", "timezone", "unit:Wert"}
    assert "72 readings, 0 rejects" in capsys.readouterr().out
    mapping = tomllib.loads((tmp_path / "load.csv.toml").read_text())
    assert (mapping["meter_id"], mapping["timezone"]) == ("310105200001", "Europe/Vienna")
    assert [channel["field"] for channel in mapping["channel"]] == ["p_kw", "import_kwh"]


@pytest.mark.parametrize("packed", ["gz", "zip", "parquet"])
def test_containers_are_told_by_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], packed: str
) -> None:
    file = tmp_path / "load.bin"
    if packed == "gz":
        file.write_bytes(gzip.compress(TABLE.encode()))
    elif packed == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("load.csv", TABLE)
    else:
        frame = pl.DataFrame({"time": [datetime(2026, 3, 1, hour) for hour in range(24)], "kW": [1.5] * 24})
        frame.write_parquet(file)
    assert kilowatch(monkeypatch, "replay", file, "--guess", "--home", tmp_path) == 3
    assert ("24 readings" if packed == "parquet" else "72 readings") in capsys.readouterr().out


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["05-load.xlsx", "05-load.csv.gz", "05-load.zip", "19-decimal-ns.parquet"])
def test_cases_in_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    mapping = tmp_path / "m.toml"
    command = ("replay", CASES / name, "--mapping", mapping, "--home", tmp_path)
    assert kilowatch(monkeypatch, *command, "--guess") == 3
    assert " 0 readings" not in capsys.readouterr().out
    mapping.write_text(mapping.read_text().replace("# ? ", ""))
    assert kilowatch(monkeypatch, *command, "--out", tmp_path / "o.ndjson") == 0
    assert (tmp_path / "o.ndjson").read_text().count("\n") >= 2


@pytest.mark.parametrize(("text", "format"), [(NEM12, "nem12"), (FEED, "espi")])
def test_formats_of_the_field_are_guessed_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, format: str
) -> None:
    file, mapping = tmp_path / "export.dat", tmp_path / "export.dat.toml"
    file.write_text(text)
    assert kilowatch(monkeypatch, "replay", file, "--guess", "--home", tmp_path) == 0
    assert kilowatch(monkeypatch, "replay", file, "--mapping", mapping, "--home", tmp_path) == 0
    assert (tmp_path / "telemetry" / "export.ndjson").read_text().count("\n") == (48 if format == "nem12" else 2)
    csv = tmp_path / "csv.toml"
    channel = '[[channel]]\nfield = "p_kw"\ncolumns = { p = 1 }\n'
    csv.write_text(f'meter_id = "M"\ninterval = "30m"\n[timestamp]\ncolumn = "t"\n{channel}')
    capsys.readouterr()
    assert kilowatch(monkeypatch, "replay", file, "--mapping", csv, "--home", tmp_path) == 2
    assert f'format = "{format}" reads it' in capsys.readouterr().err


@pytest.mark.parametrize(("text", "said"), [(MSCONS, "MSCONS"), ("<html>sign in</html>", "web page"), ("", "empty")])
def test_what_no_mapping_reads_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    file = tmp_path / "x.csv"
    file.write_text(text)
    assert kilowatch(monkeypatch, "replay", file, "--guess", "--home", tmp_path) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.csv.toml").exists()


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ('format = "mscons"', "'mscons' (EDIFACT) is not read"),
        ('format = "xlsx"', "a workbook is told by its content"),
        ('format = "nem12"\ninterval = "30m"', "interval: means nothing to format 'nem12'"),
        ('format = "nem12"\n[suffixes]\nE1 = "p_kw"', "suffixes.E1: 'p_kw' is not one of"),
        ('format = "espi"\n[meters]\n"01" = 5', "meters: is not a table of texts"),
        ('format = "espi"\ntimezone = "Mars"', "timezone: 'Mars' is not a time zone"),
        (None, "say what the columns mean with --mapping"),
    ],
)
def test_mappings_that_cannot_be_used_end_with_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mapping: str | None,
    said: str,
) -> None:
    file, path = tmp_path / "x.csv", tmp_path / "m.toml"
    file.write_text(MSCONS)
    if mapping is not None:
        path.write_text(mapping)
    given = () if mapping is None else ("--mapping", path)
    assert kilowatch(monkeypatch, "replay", file, *given, "--home", tmp_path) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
