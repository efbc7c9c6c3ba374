"""Text is cut into records whose line numbers hold, whatever the quoting."""

from __future__ import annotations

import csv
import io

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.tabular.delimited import RECORDS, cut

CELL = st.text(alphabet="ab,;\"'\n 1é", max_size=6)  # csv.writer leaves a bare carriage return unquoted


@given(rows=st.lists(st.lists(CELL, min_size=2, max_size=4), min_size=1, max_size=8), quoting=st.booleans())
def test_what_a_csv_writer_writes_is_cut_back(rows: list[list[str]], quoting: bool) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL if quoting else csv.QUOTE_MINIMAL, lineterminator="\n")
    starts, line = [], 1
    for row in rows:
        before = buffer.tell()
        writer.writerow(row)
        written = buffer.getvalue()[before:]
        starts.append((line, row, written))
        line += written.replace("\r\n", "\n").replace("\r", "\n").count("\n")
    parsed = cut(buffer.getvalue())
    records = [(n, row) for n, row, written in starts if written.strip()]
    assert parsed.header == tuple(cell.strip() for cell in records[0][1])
    assert parsed.header_line == records[0][0]
    assert list(zip(parsed.records["line"].to_list(), parsed.records["cells"].to_list(), strict=True)) == records[1:]
    assert parsed.records["problem"].null_count() == parsed.records.height


@given(text=st.text(alphabet='a,"\n\r', max_size=40))
def test_no_text_raises_and_no_line_is_lost(text: str) -> None:
    parsed = cut(text)
    assert parsed.records.schema == RECORDS
    kept = "".join(parsed.records["text"]).count("a") + "".join(parsed.header).count("a")
    assert kept == text.count("a")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_all_line_ends(newline: str, quote: str) -> None:
    parsed = cut(newline.join(["a,b", "", f"{quote}1{quote},2", "3,4"]))
    assert parsed.records["line"].to_list() == [3, 4]
    assert parsed.records["cells"].to_list() == [["1", "2"], ["3", "4"]]


def test_a_stray_quote_costs_its_own_line_only() -> None:
    parsed = cut('a,b\n1,"2\n3,4\n5,6\n')
    assert parsed.records["line"].to_list() == [2, 3, 4]
    assert parsed.records["problem"].is_null().to_list() == [False, True, True]
    assert parsed.records["text"][0] == '1,"2'


def test_text_without_records() -> None:
    for text in ("", "\n\n", " "):
        parsed = cut(text)
        assert (parsed.header, parsed.header_line) == ((), 0)
        assert isinstance(parsed.records, pl.DataFrame)
