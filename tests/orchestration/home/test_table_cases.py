"""Exports as they have been met in the field: each read right, or refused with a sentence that says what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from metering.errors import MappingError
from metering.tabular.convert import Replayed
from metering.tabular.mapping import parse_mapping
from orchestration.home.table_files import read_readings

pytestmark = pytest.mark.shared_data

POWER = '[[channel]]\nfield = "p_kw"\ncolumns = { kW = 1.0 }\n'


@pytest.fixture
def cases(shared_cases: Path) -> Path:
    return shared_cases


def read(file: Path, mapping: str) -> Replayed:
    done = read_readings(file, parse_mapping(mapping, "Asia/Shanghai"))
    counted = done.readings.height + done.rejects.height + done.left_out + done.joined + done.absent
    assert done.rows == counted
    return done


def text(cases: Path, name: str, *changes: tuple[str, str]) -> str:
    mapping = (cases / name).read_text("utf-8")
    for old, new in changes:
        assert old in mapping
        mapping = mapping.replace(old, new)
    return mapping


def every(minutes: int, first: str, count: int) -> list[datetime]:
    start = datetime.fromisoformat(first).astimezone(UTC)
    return [start + timedelta(minutes=minutes * i) for i in range(count)]


WIDE = """
encoding = "gb18030"
interval = "15m"
meter_id = { column = "电表资产号" }
[wide]
first = "00:15"
last = "24:00"
[timestamp]
column = "数据日期"
[[channel]]
field = "p_kw"
when = { "数据项" = "总有功功率*" }
columns = { value = 1.0 }
[[channel]]
field = "q_kvar"
when = { "数据项" = "*无功*" }
columns = { value = 1.0 }
"""


def test_one_row_a_day_with_a_quantity_in_each_row(cases: Path) -> None:
    done = read(cases / "01-wide96-gbk.csv", WIDE)
    assert done.readings["ts"].to_list() == every(15, "2026-03-01T00:15+08:00", 192)
    cells = [line.split(",") for line in (cases / "01-wide96-gbk.csv").read_text("gb18030").splitlines()[1:]]
    for field, unit in (("p_kw", "(kW)"), ("q_kvar", "(kvar)")):
        rows = [row[4:] for row in cells if unit in row[3]]
        assert done.readings[field].to_list() == [float(cell) for row in rows for cell in row]
    assert (done.rows, done.joined, done.doubled, done.rejects.height) == (384, 192, 0, 0)


def test_a_quantity_of_a_day_in_rows_is_not_taken_for_a_column(cases: Path) -> None:
    with pytest.raises(MappingError, match=r"'00:15' is one of 96 columns named by times of day; .* \[wide\]"):
        read(cases / "01-wide96-gbk.csv", text(cases, "01-wide96.toml"))


@pytest.mark.parametrize("header", ["{ line = 8 }", '{ contains = "Datum" }', '{ contains = ["kWh", "G*"] }'])
def test_lines_before_the_header(cases: Path, header: str) -> None:
    mapping = text(cases, "02-preamble.toml")
    with pytest.raises(MappingError, match=r"'Datum' is not in the file.*header = \{ line = 8 \}"):
        read(cases / "02-preamble-latin1.csv", mapping)
    done = read(cases / "02-preamble-latin1.csv", f"header = {header}\n{mapping}")
    assert done.readings["ts"].to_list() == every(15, "2026-03-01T00:15+01:00", 12)
    assert done.readings["p_kw"].to_list() == [10.0] * 4 + [10.5] * 4 + [11.0] * 4
    assert done.before_header == 5


@pytest.mark.parametrize("delimiter", ['delimiter = ";"', 'delimiter = ","', ""])
def test_a_line_says_the_delimiter(cases: Path, delimiter: str) -> None:
    done = read(cases / "02-sep-line.csv", text(cases, "02-sep-line.toml", ('delimiter = ";"', delimiter)))
    assert done.readings["p_kw"].to_list() == [10.0] * 4 + [10.5] * 4


@pytest.mark.parametrize("mapping", ["03-utf16.toml", "03-forgot-encoding.toml"])
def test_the_byte_order_mark_tells_the_encoding(cases: Path, mapping: str) -> None:
    assert read(cases / "03-utf16-tab.txt", text(cases, mapping)).readings["p_kw"].to_list() == [115.0, 130.0, 145.0]


def test_an_encoding_that_is_guessed_wrong_is_named_without_control_characters(cases: Path, tmp_path: Path) -> None:
    with pytest.raises(MappingError, match='they are there with encoding = "gb18030"') as wide:
        read(cases / "01-wide96-gbk.csv", WIDE.replace("gb18030", "utf-8"))
    unmarked = tmp_path / "x.txt"
    unmarked.write_bytes((cases / "03-utf16-tab.txt").read_bytes()[2:])
    with pytest.raises(MappingError, match='they are there with encoding = "utf-16-le"') as utf16:
        read(unmarked, text(cases, "03-forgot-encoding.toml"))
    for error in (wide, utf16):
        assert str(error.value).isprintable()
        assert "\ufffd" not in str(error.value)


@pytest.mark.parametrize(("file", "rows"), [("05-load.csv.gz", 3), ("05-load.zip", 3), ("05-load.xlsx", 2)])
def test_containers_are_told_by_their_content(cases: Path, tmp_path: Path, file: str, rows: int) -> None:
    renamed = tmp_path / "load.csv"
    renamed.write_bytes((cases / file).read_bytes())
    for path in (cases / file, renamed):
        done = read(path, text(cases, "05.toml"))
        assert done.readings["ts"].to_list() == every(15, "2026-03-01T00:15+01:00", rows)
        assert done.readings["p_kw"].to_list() == [115.0, 130.0, 145.0][:rows]


def test_excel_serials_are_rounded_to_the_second(cases: Path) -> None:
    with pytest.raises(MappingError, match="as a number it fits 'excel'"):
        read(cases / "06-excel-serial.csv", text(cases, "06.toml"))
    done = read(cases / "06-excel-serial.csv", text(cases, "06.toml", ('"stamp"', '"stamp"\nformat = "excel"')))
    assert done.readings["ts"].to_list() == every(15, "2026-03-01T00:15+01:00", 6)


def test_a_year_of_two_digits_is_of_this_century(cases: Path) -> None:
    done = read(cases / "07-two-digit-year.csv", text(cases, "07.toml"))
    assert done.readings["ts"].to_list() == every(15, "2026-03-01T00:15+01:00", 3)


@pytest.mark.parametrize(
    ("format", "lines"), [("epoch_s", [5, 6, 7]), ("epoch_ms", [2, 3, 4]), ("epoch", []), ("epoch_us", None)]
)
def test_epochs_of_another_unit(cases: Path, format: str, lines: list[int] | None) -> None:
    done = read(cases / "08-epoch-mixed.csv", text(cases, "08-seconds.toml", ("epoch_s", format)))
    expected = pl.DataFrame({"line": range(2, 8), "ts": every(15, "2026-03-01T00:15+00:00", 6)})
    rejected = [*range(2, 8)] if lines is None else lines
    assert done.rejects["line"].to_list() == rejected
    assert set(done.rejects["reason"]) <= {"implausible_time"}
    assert done.readings["ts"].to_list() == expected.filter(~pl.col("line").is_in(rejected))["ts"].to_list()


def numbered(cases: Path, name: str, column: str, *more: str) -> str:
    given = text(cases, name).splitlines()
    day, number = column.split()
    stamp = [f'column = "{day}"', f'period = {{ column = "{number}", first = 1 }}', *more]
    kept = [line for line in given if not line.startswith("column = ")]
    kept[kept.index("[timestamp]") + 1 : kept.index("[timestamp]") + 1] = stamp
    return "\n".join(kept).replace(' %H"', '"')


def test_hours_from_1_to_25(cases: Path) -> None:
    with pytest.raises(MappingError, match=r"timestamp\.period = \{ column = \"hora\""):
        read(cases / "09-hour-1-25.csv", text(cases, "09-hour.toml"))
    with pytest.raises(MappingError, match=r"timestamp\.clock: is missing, and 2026-10-25 has 25 hours"):
        read(cases / "09-hour-1-25.csv", numbered(cases, "09-hour.toml", "fecha hora"))
    done = read(cases / "09-hour-1-25.csv", numbered(cases, "09-hour.toml", "fecha hora", 'clock = "elapsed"'))
    assert done.readings["ts"].to_list() == every(60, "2026-10-25T01:00+02:00", 49)
    assert done.readings["p_kw"].to_list() == [31.5 + i for i in range(25)] + [31.5 + i for i in range(24)]


def test_periods_from_1_to_96(cases: Path) -> None:
    done = read(cases / "09-period-1-96.csv", numbered(cases, "09-period.toml", "date period"))
    assert done.readings["ts"].to_list() == every(15, "2026-03-01T00:15+01:00", 96)
    assert done.readings["p_kw"].to_list() == [101.0 + i for i in range(96)]


def test_hourly_rows_after_half_hourly_ones_end_with_their_hour(cases: Path) -> None:
    assert read(cases / "15-mixed-resolution.csv", text(cases, "15-mixed-resolution.toml")).other_step_s == 3600
    mapping = text(cases, "15-mixed-resolution.toml", ('"30m"', '["30m", "1h"]'))
    done = read(cases / "15-mixed-resolution.csv", mapping)
    ends = every(30, "2026-03-01T00:30+01:00", 4) + every(60, "2026-03-01T03:00+01:00", 4)
    assert done.readings["ts"].to_list() == ends
    assert (done.gaps, done.other_step_s) == (0, 0)


@pytest.mark.parametrize(
    ("name", "thousands", "values"),
    [
        ("16-thousands", '","', [1234.5, 987.0, 1002.0]),
        ("16-thousands-eu", '[".", " "]', [1234.5, 987.0, 1002.0, 1234.5]),
    ],
)
def test_thousands_signs_are_read_where_the_mapping_names_them(
    cases: Path, name: str, thousands: str, values: list[float]
) -> None:
    mapping = text(cases, f"{name}.toml")
    assert set(read(cases / f"{name}.csv", mapping).rejects["reason"]) == {"not_a_number"}
    assert read(cases / f"{name}.csv", f"thousands = {thousands}\n{mapping}").readings["p_kw"].to_list() == values


def test_words_for_nothing_and_unquoted_decimal_commas_are_not_guessed(cases: Path) -> None:
    words = read(cases / "16-null-words.csv", text(cases, "16-null-words.toml"))
    assert words.readings["p_kw"].to_list() == [150.0, 12.0, 0.0, 9999999.0]
    assert words.rejects["line"].to_list() == [2, 3, 4, 5, 10]
    commas = read(cases / "16-comma-comma.csv", text(cases, "16-comma-comma.toml"))
    assert commas.readings.select("p_kw", "q_kvar").rows() == [(12.75, 3.25), (13.0, 3.0)]
    assert commas.rejects["reason"].to_list() == ["too_many_cells"]


def test_a_net_column_goes_to_both_registers_as_the_reject_says(cases: Path) -> None:
    mapping = text(cases, "17-import-only.toml")
    rejected = read(cases / "17-net-energy.csv", mapping).rejects
    assert rejected["reason"].to_list() == ["negative_energy"] * 3
    energy = 'kind = "interval_energy"\n'
    export = f'[[channel]]\nfield = "export_kwh"\ncolumns = {{ net_kWh = 1.0 }}\npart = "negative"\n{energy}'
    both = mapping.replace(energy, f'{energy}part = "positive"\n') + export
    done = read(cases / "17-net-energy.csv", both)
    assert done.rejects.height == 0
    assert done.readings["import_kwh"].to_list() == [12.5, 15.5, 15.5, 15.5, 15.5, 21.5]
    assert done.readings["export_kwh"].to_list() == [0.0, 0.0, 4.0, 13.5, 14.5, 14.5]
    assert done.readings["p_kw"].to_list() == [50.0, 12.0, -16.0, -38.0, -4.0, 24.0]


@pytest.mark.parametrize(
    ("file", "mapping", "first", "values"),
    [
        ("19-decimal-ns", "19-decimal-ns.toml", "2026-03-01T00:15+01:00", [101.25, 102.5, 104.0]),
        ("19-int-seconds", "19-int-seconds.toml", "2026-03-01T00:15+00:00", [101.25, 102.5, 103.0, 104.0]),
        ("19-fixed-offset", "19-plain.toml", "2026-03-01T00:15+01:00", [101.25, 102.5, 104.0]),
        ("19-int96", "19-plain.toml", "2026-03-01T00:15+01:00", [101.25, 102.5, 103.0, 104.0]),
    ],
)
def test_parquet_of_any_kind_of_time_and_number(
    cases: Path, file: str, mapping: str, first: str, values: list[float]
) -> None:
    done = read(cases / f"{file}.parquet", text(cases, mapping))
    assert done.readings["p_kw"].to_list() == values
    assert done.readings["ts"].to_list()[:2] == every(15, first, 2)
    assert done.rows == 4


def test_doubled_hours_by_order_and_by_a_marker_where_the_order_is_lost(cases: Path, tmp_path: Path) -> None:
    mapping = text(cases, "20.toml")
    done = read(cases / "20-two-meters-autumn.csv", mapping)
    assert (done.doubled, done.unsure, done.gaps) == (0, 0, 0)
    lost = cases / "20-shuffled-autumn.csv"
    assert read(lost, mapping).unsure == 8
    header, *rows = lost.read_text().splitlines()
    second = {f"{meter}{number:02}" for meter in "12" for number in range(6, 10)}
    marked = tmp_path / "marked.csv"
    lines = [f"{row},{'B' if row.rpartition(',')[2] in second else ''}" for row in rows]
    marked.write_text("\n".join([f"{header},Zeitumstellung", *lines]))
    marker = 'second_pass = { column = "Zeitumstellung", values = ["B"] }\n[[channel]]'
    mended = read(marked, mapping.replace("[[channel]]", marker))
    assert mended.unsure == 0
    assert mended.readings.sort("meter_id", "ts").equals(done.readings.sort("meter_id", "ts"))


def test_a_sum_in_the_header_and_a_row_of_sums(cases: Path) -> None:
    mapping = text(
        cases,
        "21-sum-in-header.toml",
        ("Lastgang (812,250 kWh)", "Lastgang (*"),
        ("[timestamp]", '[[rows]]\ncolumn = "Datum*"\ndrop = ["Summe"]\n[timestamp]'),
    )
    done = read(cases / "21-sum-in-header.csv", mapping)
    same = read(cases / "21-sum-in-header.csv", text(cases, "21-sum-in-header.toml"))
    assert done.readings.equals(same.readings)
    assert (done.left_out, done.rejects["reason"].to_list()) == (1, ["too_few_cells"])


def test_hours_before_and_after_noon(cases: Path) -> None:
    done = read(cases / "22-am-pm.csv", text(cases, "22-am-pm.toml"))
    local = done.readings["ts"].dt.convert_time_zone("America/New_York").dt.to_string("%H:%M").to_list()
    assert local == ["00:15", "00:30", "01:15", "12:00", "12:15", "12:30", "13:15", "00:00"]
