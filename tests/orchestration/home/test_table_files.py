"""What a file is is seen from its content: containers, workbooks, encodings."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from xml.sax.saxutils import escape

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from metering.errors import UserError
from metering.tabular.convert import Replayed
from metering.tabular.mapping import parse_mapping
from orchestration.home.table_files import read_readings

MAPPING = """
interval = "15m"
timezone = "UTC"
meter_id = { column = "m" }
[timestamp]
column = "t"
[[channel]]
field = "p_kw"
columns = { p = 1 }
"""
TABLE = "t,m,p\n2026-03-01 00:15,202601010001,1.5\n2026-03-01 00:30,202601010001,2.5\n"


def read(folder: Path, content: bytes, more: str = "", mapping: str = MAPPING) -> Replayed:
    path = folder / "table"
    path.write_bytes(content)
    return read_readings(path, parse_mapping(more + mapping, "UTC"))


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def workbook(rows: list[list[object]], sheets: tuple[str, ...] = ("load",)) -> bytes:
    """A small .xlsx; a tuple (number, style) is a number shown by a style."""

    def cell(value: object) -> str:
        if isinstance(value, tuple):
            return f'<c s="{value[1]}"><v>{value[0]}</v></c>'
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>'
        return "<c/>" if value is None else f"<c><v>{value}</v></c>"

    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    rel = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    body = "".join(f'<row r="{i}">{"".join(map(cell, row))}</row>' for i, row in enumerate(rows, 1))
    listed = "".join(f'<sheet name="{name}" sheetId="{i}" r:id="r{i}"/>' for i, name in enumerate(sheets, 1))
    targets = {f"r{i}": ("worksheet", f"worksheets/sheet{i}.xml") for i in range(1, len(sheets) + 1)}
    formats = "".join(f'<xf numFmtId="{number}"/>' for number in (0, 22, 14, 20))

    def related(to: dict[str, tuple[str, str]]) -> str:
        each = (f'<Relationship Id="{key}" Type="{rel}/{kind}" Target="{path}"/>' for key, (kind, path) in to.items())
        return f'<Relationships xmlns="{package}/relationships">{"".join(each)}</Relationships>'

    files = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"/>',
        "_rels/.rels": related({"b": ("officeDocument", "xl/workbook.xml")}),
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{rel}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": related(targets | {"s": ("styles", "styles.xml")}),
        "xl/styles.xml": f'<styleSheet xmlns="{main}"><cellXfs>{formats}</cellXfs></styleSheet>',
    }
    sheet = f'<worksheet xmlns="{main}"><sheetData>{body}</sheetData></worksheet>'
    files |= {f"xl/{path}": sheet for _, path in targets.values()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


PACKERS: list[Callable[[bytes], bytes]] = [
    gzip.compress,
    bz2.compress,
    lzma.compress,
    lambda content: zipped({"load.csv": content}),
    lambda content: gzip.compress(content[:30]) + gzip.compress(content[30:]),
    lambda content: zipped({"load.csv.gz": gzip.compress(content)}),
    lambda content: gzip.compress(zipped({"load.csv": content, "__MACOSX/load.csv": b"x"})),
]


@pytest.mark.parametrize("pack", PACKERS)
def test_containers_and_containers_in_them(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    plain = read(tmp_path, TABLE.encode())
    assert plain.readings["p_kw"].to_list() == [1.5, 2.5]
    assert read(tmp_path, pack(TABLE.encode())).readings.equals(plain.readings)


@pytest.mark.parametrize("pack", PACKERS)
def test_a_container_that_was_cut_off_is_told(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    whole = pack(TABLE.encode() * 50)
    with pytest.raises(UserError, match=r"cannot be unpacked, for it is damaged or cut off"):
        read(tmp_path, whole[: len(whole) - 30])


def test_of_an_archive_of_several_files_one_is_named(tmp_path: Path) -> None:
    content = zipped({"march.csv": TABLE.encode(), "readme.txt": b"hello"})
    with pytest.raises(UserError, match=r"member: .* holds 2 files; name one: march\.csv, readme\.txt"):
        read(tmp_path, content)
    assert read(tmp_path, content, 'member = "*.csv"\n').readings.height == 2
    with pytest.raises(UserError, match="of which 0 are 'x'"):
        read(tmp_path, content, 'member = "x"\n')
    with pytest.raises(UserError, match="holds no file"):
        read(tmp_path, zipped({}))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"\x28\xb5\x2f\xfdabc", "zstd archive"),
        (b"7z\xbc\xaf\x27\x1c...", "7z archive"),
        (b"%PDF-1.7\n", "PDF document"),
        (b"\n <!DOCTYPE html><html>", "page of HTML"),
        (b"x" * 257 + b"ustar\x00", "tar archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 100, "workbook that cannot be read"),
        (b"PAR1junk", "not a Parquet file that can be read"),
        (b"PK\x03\x04junk", "damaged or cut off"),
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n \r\n", "is empty"),
        (b"MZ\x90\x00\x03\x00\x00\x00", "a program for Windows"),
        (b"\x7fELF\x02\x01", "a program"),
        (b"\x89PNG\r\n\x1a\n", r"a picture \(PNG\)"),
        (bytes(range(1, 256)) * 9, "binary data"),
        (zipped({"[Content_Types].xml": b"<x/>", "word/document.xml": b"<w/>"}), "a Word document"),
        (b"\xd0\xcf\x11\xe0" + b"x" * 600 + "WordDocument".encode("utf-16-le"), "an old Word document"),
    ],
)
def test_what_is_not_read_is_told_as_what_it_is(tmp_path: Path, head: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        read(tmp_path, head)
    assert str(told.value).isprintable()


def test_a_workbook_with_dates_times_serials_and_long_numbers(tmp_path: Path) -> None:
    """Its cells have types: 46082.01041666 shown as a date, a date and a time apart, meters as numbers."""
    rows: list[list[object]] = [
        ["Lastgang"],
        [],
        ["t", "m", "p"],
        [(46082.0104166666, 1), 202601010001, 1.25],
        [46082.0208333333, 202601010001, "1,5"],
        ["2026-03-01 00:45", 202601010001, 1e-3],
        [(46082.041666666664, 1), 202601010001, None],
    ]
    done = read(tmp_path, workbook(rows), 'decimal = ","\nheader = { contains = "t" }\n')
    assert done.readings["meter_id"].unique().to_list() == ["202601010001"]
    assert done.readings["ts"].dt.to_string("%H:%M:%S").to_list() == ["00:15:00", "00:30:00", "00:45:00"]
    assert done.readings["p_kw"].to_list() == [1.25, 1.5, 0.001]
    assert done.rejects.select("line", "reason").rows() == [(7, "no_value")]
    apart = [["d", "c", "m", "p"], [(46082, 2), (0.25, 3), 7, 1], [(46082, 2), (0.5, 3), 7, 2]]
    mapping = MAPPING.replace('"t"', '["d", "c"]').replace("[[channel]]", 'format = "%d.%m.%Y %H:%M"\n[[channel]]')
    assert read(tmp_path, workbook(apart), mapping=mapping).readings["ts"].dt.hour().to_list() == [6, 12]


def test_a_sheet_is_named_where_there_are_several(tmp_path: Path) -> None:
    content = workbook([["t", "m", "p"], ["2026-03-01 00:15", "M", 1]], ("März", "April"))
    with pytest.raises(UserError, match="workbook of 2 sheets; name one: März, April"):
        read(tmp_path, content)
    assert read(tmp_path, content, 'sheet = "April"\n').readings.height == 1
    with pytest.raises(UserError, match="'Mai' is not in"):
        read(tmp_path, content, 'sheet = "Mai"\n')


@given(
    encoding=st.sampled_from(["utf-8-sig", "utf-16", "utf-32", "gb18030"]),
    told=st.sampled_from(["utf-8-sig", "gb18030", "utf-16", "latin-1"]),
    name=st.text(st.characters(codec="gb18030", categories=["L"]), min_size=1, max_size=8),
)
def test_a_byte_order_mark_is_believed(
    tmp_path_factory: pytest.TempPathFactory, encoding: str, told: str, name: str
) -> None:
    table = TABLE.replace("t,m,p", f"t,m,{name}p")
    marked = ("\ufeff" + table if encoding == "gb18030" else table).encode(encoding)
    mapping = MAPPING.replace("{ p = 1 }", f'{{ "{name}p" = 1 }}')
    done = read(tmp_path_factory.mktemp("bom"), marked, f'encoding = "{told}"\n', mapping)
    assert done.readings["p_kw"].to_list() == [1.5, 2.5]


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16-le", "utf-16-be", "cp1252"])
def test_an_encoding_guessed_wrong_is_named(tmp_path: Path, encoding: str) -> None:
    name = "Zähler" if encoding == "cp1252" else "电表"
    table = TABLE.replace("t,m", f"t,{name}").encode(encoding)
    mapping = MAPPING.replace('"m"', f'"{name}"')
    with pytest.raises(UserError, match=f'they are there with encoding = "{encoding}"') as told:
        read(tmp_path, table, mapping=mapping)
    assert str(told.value).isprintable()
    assert read(tmp_path, table, f'encoding = "{encoding}"\n', mapping).readings.height == 2


def test_a_parquet_file_is_told_without_a_word_in_the_mapping(tmp_path: Path) -> None:
    frame = pl.DataFrame({"t": ["2026-03-01 00:15"], "m": [202601010001.0], "p": [1]})
    out = io.BytesIO()
    frame.write_parquet(out)
    done = read(tmp_path, gzip.compress(out.getvalue()))
    assert done.readings.select("meter_id", "p_kw").rows() == [("202601010001", 1.0)]


def test_decimals_of_more_figures_than_polars_takes(tmp_path: Path) -> None:
    table = pa.table(
        {
            "t": pa.array([b"2026-03-01 00:15"]),  # texts that are not marked as such
            "m": ["202601010001"],
            "p": pa.array([Decimal("1234567890123.25")], pa.decimal256(60, 5)),
        }
    )
    out = io.BytesIO()
    parquet.write_table(table, out)
    assert read(tmp_path, out.getvalue()).readings["p_kw"].to_list() == [1234567890123.25]


@pytest.mark.parametrize("unit", [pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")])
def test_a_date_and_a_time_in_columns_of_their_own(tmp_path: Path, unit: pa.DataType) -> None:
    times = pa.array([time(0, 15), time(23, 45)], unit)
    out = io.BytesIO()
    parquet.write_table(pa.table({"d": [date(2026, 3, 1)] * 2, "c": times, "m": [7, 7], "p": [1, 2]}), out)
    done = read(tmp_path, out.getvalue(), mapping=MAPPING.replace('"t"', '["d", "c"]'))
    assert done.readings["ts"].dt.to_string("%H:%M").to_list() == ["00:15", "23:45"]
