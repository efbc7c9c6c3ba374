"""`kilowatch replay`, as a user calls it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from orchestration.cli import main

MAPPING = """
interval = "15m"
meter_id = "M1"
timezone = "Asia/Shanghai"
[timestamp]
column = "t"
[[channel]]
field = "p_kw"
columns = { p = 1.0 }
"""


def kilowatch(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["kilowatch", *map(str, args)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "load.csv"
    path.write_bytes(b"\xef\xbb\xbft,p\n2026-01-01 00:15,1.5\n2026-01-01 00:30,?\n2026-01-01 00:45,2\n2026-01")
    return path


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "mapping.toml"
    path.write_text(MAPPING)
    return path


def test_readings_and_rejects_are_written_under_the_home(
    tmp_path: Path, table: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert kilowatch(monkeypatch, "replay", table, "--mapping", mapping, "--home", home) == 0
    written = (home / "telemetry" / "load.ndjson").read_text().splitlines()
    assert [json.loads(line) for line in written] == [
        {"meter_id": "M1", "ts": "2025-12-31T16:15:00Z", "p_kw": 1.5},
        {"meter_id": "M1", "ts": "2025-12-31T16:45:00Z", "p_kw": 2.0},
    ]
    rejects = [json.loads(line) for line in (home / "telemetry" / "load.ndjson.rejects").read_text().splitlines()]
    assert [(reject["line"], reject["reason"], reject["text"]) for reject in rejects] == [
        (3, "not_a_number", "2026-01-01 00:30,?"),
        (5, "too_few_cells", "2026-01"),
    ]
    assert sorted(path.name for path in (home / "telemetry").iterdir()) == ["load.ndjson", "load.ndjson.rejects"]
    said = capsys.readouterr()
    assert "readings written" in said.out
    assert "so the stream will reject them: M1" in said.err


def test_out_chooses_the_file(tmp_path: Path, table: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "there" / "x.ndjson"
    assert kilowatch(monkeypatch, "replay", table, "--mapping", mapping, "--out", out, "--home", tmp_path / "home") == 0
    assert out.exists()
    assert out.with_name("x.ndjson.rejects").exists()
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('column = "t"', 'column = "time"'), "mapping.toml: timestamp.column: 'time' is not in the file"),
        (('interval = "15m"', ""), "mapping.toml: interval: is missing"),
    ],
)
def test_a_mapping_that_does_not_fit_ends_with_one_line(
    tmp_path: Path,
    table: Path,
    mapping: Path,
    change: tuple[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mapping.write_text(MAPPING.replace(*change))
    assert kilowatch(monkeypatch, "replay", table, "--mapping", mapping, "--home", tmp_path) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "telemetry").exists()


def test_what_is_no_parquet_file_ends_with_one_line(
    tmp_path: Path, table: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping.write_text('format = "parquet"\n' + MAPPING)
    assert kilowatch(monkeypatch, "replay", table, "--mapping", mapping, "--home", tmp_path) == 2
    assert "is not a Parquet file" in capsys.readouterr().err


def test_kafka_without_a_broker_says_what_to_do(
    tmp_path: Path, table: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KILOWATCH_BOOTSTRAP_SERVERS", raising=False)
    assert kilowatch(monkeypatch, "replay", table, "--mapping", mapping, "--kafka", "--home", tmp_path) == 2
    assert "kilowatch broker start" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["t,p\n", "t,p\nsoon,1\n2026-01-01 00:15,x\n2026-01-01 00:30,\n"])
def test_a_file_that_gives_nothing_ends_with_1_and_writes_no_telemetry(
    tmp_path: Path, mapping: Path, content: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "nothing.csv"
    table.write_text(content)
    assert kilowatch(monkeypatch, "replay", table, "--mapping", mapping, "--home", tmp_path) == 1
    assert "could be used" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "telemetry").iterdir()] == ["nothing.ndjson.rejects"]


def test_telemetry_that_is_there_is_not_replaced_unasked(
    tmp_path: Path, table: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, out = tmp_path / "home", tmp_path / "home" / "telemetry" / "load.ndjson"
    call = ("replay", table, "--mapping", mapping, "--home", home)
    assert kilowatch(monkeypatch, *call) == 0
    first, rejects = out.read_bytes(), out.with_name("load.ndjson.rejects").read_bytes()
    assert kilowatch(monkeypatch, *call) == 0  # the same bytes again do no harm
    capsys.readouterr()
    table.write_text("t,p\n2026-01-01 00:15,9\n")
    assert kilowatch(monkeypatch, *call) == 2
    said = capsys.readouterr().err
    assert "--overwrite" in said
    assert "--out" in said
    assert (out.read_bytes(), out.with_name("load.ndjson.rejects").read_bytes()) == (first, rejects)
    assert sorted(path.name for path in out.parent.iterdir()) == ["load.ndjson", "load.ndjson.rejects"]
    assert kilowatch(monkeypatch, *call, "--overwrite") == 0
    assert json.loads(out.read_text())["p_kw"] == 9.0


def test_a_packed_file_is_named_after_what_it_holds(
    tmp_path: Path, table: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "march.csv.gz"
    packed.write_bytes(gzip.compress(table.read_bytes()))
    assert kilowatch(monkeypatch, "replay", packed, "--mapping", mapping, "--home", tmp_path) == 0
    assert (tmp_path / "telemetry" / "march.ndjson").exists()


def test_what_is_told_prints_on_any_terminal(
    tmp_path: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "x.csv"
    table.write_bytes(b"m,t,p\n\x1b[31mM\x07,2026-01-01 00:15,1\n")
    mapping.write_text(MAPPING.replace('"M1"', '{ column = "m" }'))
    assert kilowatch(monkeypatch, "replay", table, "--mapping", mapping, "--home", tmp_path) == 0
    table.write_bytes(b"\x1b[2J\x00\x07,\xff\xfe,p\n1,2,3\n")
    assert kilowatch(monkeypatch, "replay", table, "--mapping", mapping, "--home", tmp_path) == 2
    said = capsys.readouterr().err
    assert said.replace("\n", "").isprintable()
