"""Times that no meter can mean are rejects that say what they look like, from whatever they came in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.registry.index import MeterIndex
from tests.metering.readings.decoding import AT, AT_MS, Row, decode_lines, decode_messages, ipc, line_of, table_of

CASES = Path(__file__).parents[4] / "shared" / "cases"
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)


def reject_of(index: MeterIndex, line: bytes) -> Row:
    decoded = decode_lines(index, line)
    assert decoded.accepted.is_empty()
    return decoded.rejects.row(0, named=True)


@pytest.mark.parametrize(
    ("ts", "detail"),
    [
        (AT_MS // 1000, "ts 1767225660 looks like epoch seconds: send milliseconds"),
        (AT_MS / 1000 + 0.5, "ts 1767225660 looks like epoch seconds: send milliseconds"),
        (AT_MS * 1000, "ts 1767225660000000 looks like epoch microseconds: send milliseconds"),
        (AT_MS * 10**6, "ts 1767225660000000000 looks like epoch nanoseconds: send milliseconds"),
        (0, "ts 0 is no time in the years 2000 to 2100, in epoch milliseconds"),
        (46082, "ts 46082 is no time in the years 2000 to 2100, in epoch milliseconds"),
        (-1, "ts -1 is no time in the years 2000 to 2100, in epoch milliseconds"),
        (1e300, "ts 1e+300 is no time in the years 2000 to 2100, in epoch milliseconds"),
        ("1970-01-21T12:33:45Z", "ts '1970-01-21T12:33:45Z' is not in the years 2000 to 2100"),
        ("0026-03-01T00:15:00+08:00", "ts '0026-03-01T00:15:00+08:00' is not in the years 2000 to 2100"),
        ("2101-01-01T00:00:00Z", "ts '2101-01-01T00:00:00Z' is not in the years 2000 to 2100"),
    ],
)
def test_the_detail_says_what_a_time_looks_like(index: MeterIndex, ts: object, detail: str) -> None:
    told = reject_of(index, line_of(ts=ts))
    assert (told["reason"], told["detail"], told["ts"]) == ("implausible_time", detail, None)


@pytest.mark.shared_data
def test_case_31(index: MeterIndex) -> None:
    data = (CASES / "31-json-oddities.ndjson").read_bytes().replace(b'"T-1"', b'"M0"').rstrip(b"\n")
    rejects = decode_lines(index, data).rejects.select("source_offset", "reason", "detail").rows()
    assert [row[:2] for row in rejects[:2]] == [(0, "implausible_time"), (1, "implausible_time")]
    assert rejects[0][2] == "ts 1772381700 looks like epoch seconds: send milliseconds"


@given(
    ms=st.one_of(
        st.integers(-(2**62), 2**62), st.integers(946_684_700_000, 946_684_900_000), st.integers(0, 2 * 10**12)
    ),
    as_text=st.booleans(),
)
def test_only_times_from_2000_on_are_readings(index: MeterIndex, ms: int, as_text: bool) -> None:
    try:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    except OverflowError:
        at = None
    if as_text and at is None:
        return
    ts = at.isoformat() if as_text and at is not None else ms
    decoded = decode_lines(index, line_of(ts=ts))
    in_range = at is not None and EARLIEST <= at < datetime(2101, 1, 1, tzinfo=UTC)
    reason = decoded.rejects["reason"].to_list()
    assert (reason == ["implausible_time"]) == (not in_range)
    if not in_range:
        assert decoded.rejects["ts"].to_list() == [None]


def test_arrow_and_messages_tell_the_same(index: MeterIndex) -> None:
    seconds = [AT_MS // 1000] * 2
    columns = {
        "numbers": pa.array(seconds),
        "instants": pa.array([AT.replace(year=1970)] * 2, pa.timestamp("ms", "UTC")),
        "texts": pa.array([AT.replace(year=1970).isoformat()] * 2),
    }
    for name, column in columns.items():
        told = decode_messages(index, [ipc(table_of(ts=column))], arrow=[True]).rejects
        assert told["reason"].to_list() == ["implausible_time"] * 2, name
        assert told["ts"].to_list() == [None] * 2
    assert (
        "epoch seconds"
        in decode_messages(index, [ipc(table_of(ts=columns["numbers"]))], arrow=[True]).rejects["detail"][0]
    )
    assert (
        b"1970-01-01T00:01:00"
        in decode_messages(index, [ipc(table_of(ts=columns["instants"]))], arrow=[True]).rejects["payload"][0]
    )
    kafka = decode_messages(index, [line_of(ts=AT_MS // 1000), line_of()])
    assert kafka.rejects.select("source_offset", "reason").rows() == [(100, "implausible_time")]
    assert kafka.accepted.height == 1
