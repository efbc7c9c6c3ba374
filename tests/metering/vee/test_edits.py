"""Correction files: signed, whole or refused, and the last layer of a meter's curve."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import UserError
from metering.tables.batch import METER_CURVE
from metering.vee.edits import EDITS, applied, beyond_rating, in_force, parse, signed

HEADER = "meter_id,window_end,energy_kwh,by,at,why"
LINE = '371502048813,2026-03-02T10:15:00+08:00,50,metering office,2026-03-05T09:00:00+08:00,"fuse blown, read on site"'
END = datetime(2026, 3, 2, 2, 15, tzinfo=UTC)


def file_of(*lines: str, header: str = HEADER) -> bytes:
    return signed("\n".join([header, *lines, ""]).encode())


def test_a_signed_file_is_read() -> None:
    edits = parse(file_of(LINE), "c.csv", number=7)
    assert edits.schema == EDITS.schema
    (row,) = edits.to_dicts()
    assert (row["meter_id"], row["window_end"], row["energy_kwh"]) == ("371502048813", END, 50.0)
    assert (row["by"], row["at"]) == ("metering office", datetime(2026, 3, 5, 1, tzinfo=UTC))
    assert (row["why"], row["line"], row["number"], row["export_kwh"]) == ("fuse blown, read on site", 2, 7, None)


def test_signing_again_changes_nothing_and_what_is_not_signed_or_changed_since_is_refused() -> None:
    content = file_of(LINE)
    assert signed(content) == content
    assert signed(content.rstrip(b"\n")) == content
    with pytest.raises(UserError, match=r"not signed.*kilowatch edit c\.csv --sign"):
        parse(b"\n".join([HEADER.encode(), LINE.encode()]), "c.csv")
    with pytest.raises(UserError, match="changed since it was signed"):
        parse(content.replace(b",50,", b",51,"), "c.csv")


@given(at=st.integers(0, 150), byte=st.integers(0, 255))
def test_no_byte_can_be_changed_unseen(at: int, byte: int) -> None:
    content = bytearray(file_of(LINE))
    if at < len(content) - 80 and content[at] != byte:
        content[at] = byte
        with pytest.raises(UserError):
            parse(bytes(content), "c.csv")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (LINE.replace(",50,", ",,"), "line 2, column energy_kwh: it must not be empty"),
        (LINE.replace(",50,", ",-1,"), "line 2, column energy_kwh: '-1' is not a number from 0"),
        (LINE.replace(",50,", ",nan,"), "line 2, column energy_kwh: 'nan' is not a number from 0"),
        (LINE.replace(",50,", ",1e999,"), "line 2, column energy_kwh: '1e999' is not a number from 0"),
        (LINE.replace("T10:15:00+08:00", "T10:15:00"), "line 2, column window_end: .* is not a time with offset"),
        (LINE.replace("T10:15", "T10:16"), "line 2, column window_end: .* is not the end of a quarter-hour"),
        (LINE.replace("metering office", " "), "line 2, column by: it must not be empty"),
        (LINE.rpartition(",\"")[0] + ",", "line 2, column why: it must not be empty"),
        (LINE + ",more", "line 2: it has 7 cells, the header 6"),
    ],
)  # fmt: skip
def test_a_file_with_an_error_in_a_line_is_refused_whole(line: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(file_of(line), "c.csv")


def test_a_header_without_a_column_an_empty_file_and_a_value_twice_are_refused() -> None:
    with pytest.raises(UserError, match="line 1, column why: it must stand once in the header"):
        parse(file_of(LINE, header=HEADER.replace(",why", ",reason")), "c.csv")
    with pytest.raises(UserError, match="nothing to edit"):
        parse(file_of(), "c.csv")
    with pytest.raises(UserError, match="line 3: meter 371502048813 at 2026-03-02T02:15Z stands in the file twice"):
        parse(file_of(LINE, LINE.replace(",50,", ",60,")), "c.csv")
    with pytest.raises(UserError, match="not UTF-8"):
        parse(signed(file_of(LINE).replace(b"fuse", b"\xff\xfe")), "c.csv")


def test_the_last_edit_is_the_last_layer_and_says_who_when_and_why() -> None:
    first = parse(file_of(LINE), "a.csv")
    header = f"{HEADER},export_kwh,import_kvarh,export_kvarh"
    second = parse(file_of(LINE.replace(",50,", ",60,") + ",4,20,0", header=header), "b.csv", number=1)
    frame = pl.DataFrame({"point": [41, 42], "window_end": [END, END + timedelta(minutes=15)]})
    curve = METER_CURVE.conform(
        frame, meter_id="371502048813", customer_no="A", date=END.date(), p_kw=400.0, q_kvar=8.0, energy_kwh=100.0,
        export_kwh=0.0, import_kvarh=2.0, export_kvarh=0.0, status="estimated", rule="linear",
        reason="no power for 15 min",
    )  # fmt: skip
    assert in_force(pl.concat([second, first]))["energy_kwh"].to_list() == [60.0]
    plain = applied(curve, first).row(0, named=True)
    assert (plain["p_kw"], plain["energy_kwh"], plain["q_kvar"], plain["import_kvarh"]) == (200.0, 50.0, 8.0, 2.0)
    edited, other = applied(curve, pl.concat([first, second])).to_dicts()
    assert (edited["energy_kwh"], edited["export_kwh"], edited["p_kw"], edited["q_kvar"]) == (60.0, 4.0, 224.0, 80.0)
    assert (edited["status"], edited["rule"]) == ("edited", "edited")
    said = "by metering office on 2026-03-05T01:00Z: fuse blown, read on site (was estimated)"
    assert edited["reason"] == said
    assert other == curve.row(1, named=True)


def test_more_than_the_meter_can_have_made_needs_to_be_said_and_is_in_the_reason() -> None:
    header = f"{HEADER},export_kwh,import_kvarh,beyond_rating"
    lines = [
        f"{LINE},250,,", LINE.replace(",50,", ",1e9,").replace("10:15", "10:30") + ",0,,no",
        LINE.replace(",50,", ",1e9,").replace("10:15", "10:45") + ",0,,Yes", LINE.replace("10:15", "11:00") + ",0,251,",
    ]  # fmt: skip
    edits = parse(file_of(*lines, header=header), "c.csv")
    found = dict(beyond_rating(edits, pl.Series([1000.0] * 4)))
    assert [*found] == [3, 5]
    assert found[3].startswith("column energy_kwh: 1,000,000,000 kWh is more than meter 371502048813 can have made")
    assert "column import_kvarh: 251 kvarh" in found[5]
    assert "beyond_rating" in found[5]
    assert [row.endswith("(beyond the meter's rating, knowingly)") for row in edits["why"]] == [
        False,
        False,
        True,
        False,
    ]
    with pytest.raises(UserError, match="line 2, column beyond_rating: 'perhaps' is neither yes nor no"):
        parse(file_of(f"{LINE},0,,perhaps", header=header), "c.csv")
