"""Arrow IPC messages and frames of Parquet files: types, row by row, JSON beside them; rejects read again."""

from __future__ import annotations

import json
from datetime import timedelta

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.readings.decode import Messages, Refused, decode
from metering.readings.payloads import ACCEPTED_SCHEMA, ARROW, JSON, REJECTED_SCHEMA
from metering.registry.index import MeterIndex
from pipelines.sources.arrow import columnar
from tests.metering.readings.decoding import (
    AT,
    AT_MS,
    GOOD,
    NOW,
    TOLERANCE_S,
    decode_arrow,
    decode_frame,
    decode_lines,
    decode_messages,
    ipc,
    line_of,
    table_of,
)

# --- Arrow IPC ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "columns",
    [
        {"ts": pa.array([AT] * 2, pa.timestamp(unit, zone))}
        for unit in ("s", "ms", "us", "ns")
        for zone in ("UTC", "Asia/Shanghai", "+08:00")
    ]
    + [
        {"ts": pa.array(["2026-01-01T08:01:00+08:00"] * 2)},
        {"ts": pa.array(["2026-01-01T00:01:00Z"] * 2).dictionary_encode()},
        {"ts": pa.array([float(AT_MS)] * 2)},
        {"meter_id": pa.array(["M0"] * 2).dictionary_encode()},
        {"meter_id": pa.array(["M0"] * 2, pa.large_string())},
        {"meter_id": pa.array(["M0"] * 2, pa.string_view())},
        {"p_kw": pa.array([0.0, 1.0]).dictionary_encode()},
        {"p_kw": pa.array([0, 1], pa.int8())},
        {"p_kw": pa.array([0, 1], pa.uint64())},
        {"p_kw": pa.array([0, 1], pa.float32())},
        {"p_kw": pa.array([0, 1]).cast(pa.decimal128(25, 2))},
        {"status": pa.array([1, None], pa.uint8()), "unknown": pa.array([{"a": [1]}, None]), "q_kvar": pa.nulls(2)},
    ],
    ids=lambda columns: ",".join(f"{name} {column.type}" for name, column in columns.items()),
)
def test_arrow_columns_of_many_types(index: MeterIndex, columns: dict[str, pa.Array]) -> None:
    decoded = decode_arrow(index, table_of(**columns))
    assert decoded.rejects.is_empty()
    assert decoded.accepted.select("meter_id", "ts", "p_kw").rows() == [("M0", AT, 0.0), ("M0", AT, 1.0)]
    assert decoded.accepted.schema == ACCEPTED_SCHEMA


@pytest.mark.parametrize(
    "columns",
    [
        {"ts": pa.array([AT.replace(tzinfo=None)] * 2, pa.timestamp("us"))},
        {"ts": pa.array([AT.date()] * 2)},
        {"ts": pa.array([True, False])},
        {"meter_id": pa.array([1, 2])},
        {"meter_id": pa.array([b"M0", b"M0"])},
        {"p_kw": pa.array(["1", "2"])},
        {"p_kw": pa.array([True, False])},
        {"status": pa.array([1.0, 2.0])},
        {"import_kwh": pa.array([[1.0], [2.0]])},
    ],
    ids=lambda columns: ",".join(f"{name} {column.type}" for name, column in columns.items()),
)
def test_a_wrong_column_type_rejects_that_message_alone(index: MeterIndex, columns: dict[str, pa.Array]) -> None:
    wrong = ipc(table_of(**columns))
    decoded = decode_arrow(index, table_of(), wrong, table_of())
    assert decoded.accepted["source_offset"].to_list() == [100, 100, 102, 102]
    told = decoded.rejects.select("source_offset", "reason", "payload", "content_type", "message_key").rows()
    assert told == [(101, "wrong_type", wrong, ARROW, b"key 1")]
    assert next(iter(columns)) in decoded.rejects["detail"][0]


def test_arrow_rows_are_rejected_one_by_one(index: MeterIndex) -> None:
    table = table_of(
        6,
        meter_id=pa.array(["M0", "none", None, "M0", "M0", "M0"]),
        ts=pa.array([AT_MS, AT_MS, AT_MS, None, AT_MS + 10**7, AT_MS]),
        p_kw=pa.array([1.0, 1.0, 1.0, 1.0, 1.0, float("nan")]),
    )
    decoded = decode_arrow(index, table)
    assert decoded.accepted["source_row"].to_list() == [0]
    reasons = ["unknown_meter", "missing_meter", "missing_time", "future_time", "non_finite"]
    assert decoded.rejects.select("source_row", "reason").rows() == list(enumerate(reasons, 1))
    assert decoded.rejects["message_key"].to_list() == [b"key 0"] * 5


def test_a_rejected_arrow_row_can_be_read_again(index: MeterIndex) -> None:
    stamps = pa.array([AT, AT + timedelta(microseconds=1)], pa.timestamp("us", "UTC"))
    for ts in (stamps, pa.array([AT_MS, AT_MS]), pa.array(["2026-01-01T08:01:00+08:00"] * 2)):
        rejects = decode_arrow(index, table_of(meter_id=pa.array(["new", "new"]), ts=ts)).rejects
        again = decode_lines(index, b"\n".join(rejects["payload"]).replace(b'"new"', b'"M0"')).accepted
        assert again["ts"].to_list() == rejects["ts"].to_list()
        assert again["p_kw"].to_list() == [0.0, 1.0]


@pytest.mark.parametrize(("name", "value"), [("inf", float("inf")), ("-inf", float("-inf")), ("nan", float("nan"))])
def test_arrow_numbers_must_be_finite(index: MeterIndex, name: str, value: float) -> None:
    assert decode_arrow(index, table_of(1, ua_v=pa.array([value]))).rejects["reason"].to_list() == ["non_finite"]
    assert decode_arrow(index, table_of(1, ts=pa.array([value]))).rejects["reason"].to_list() == ["non_finite"]


def test_an_arrow_status_beyond_64_bits_is_a_wrong_type(index: MeterIndex) -> None:
    decoded = decode_arrow(index, table_of(status=pa.array([2**63, 2**63 - 1], pa.uint64())))
    assert decoded.rejects.select("source_row", "reason").rows() == [(0, "wrong_type")]
    assert decoded.accepted["status"].to_list() == [2**63 - 1]


def test_arrow_times_that_no_calendar_has_are_rejects(index: MeterIndex) -> None:
    table = table_of(ts=pa.array([2**62, -(2**62)], pa.timestamp("us", "UTC")))
    assert decode_arrow(index, table).rejects["reason"].to_list() == ["implausible_time"] * 2


def test_missing_arrow_columns_are_missing_values(index: MeterIndex) -> None:
    assert decode_arrow(index, table_of(p_kw=None)).accepted["p_kw"].to_list() == [None, None]
    assert decode_arrow(index, table_of(ts=None)).rejects["reason"].to_list() == ["missing_time"] * 2
    assert decode_arrow(index, table_of(meter_id=None)).rejects["reason"].to_list() == ["missing_meter"] * 2
    unknown_only = decode_arrow(index, pa.table({"other": [1, 2, 3]}))
    assert unknown_only.rejects["source_row"].to_list() == [0, 1, 2]


def test_broken_arrow_streams_are_rejected_whole(index: MeterIndex) -> None:
    whole = ipc(table_of(50))
    broken = [b"", None, b"garbage", whole[: len(whole) // 2], whole[: len(whole) - 20], b"\xff" * 64 + whole]
    decoded = decode_arrow(index, table_of(1), *broken, table_of(1))
    assert decoded.accepted["source_offset"].to_list() == [100, 101 + len(broken)]
    assert decoded.rejects["reason"].to_list() == ["unparsable"] * len(broken)
    assert decoded.rejects["payload"].to_list() == [value or b"" for value in broken]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_to_an_arrow_stream_escapes(index: MeterIndex, data: st.DataObject) -> None:
    whole = bytearray(ipc(table_of(3)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    decoded = decode_arrow(index, bytes(whole), table_of(1))
    assert decoded.accepted.filter(pl.col("source_offset") == 101).height == 1


def test_arrow_messages_with_times_of_several_kinds_in_one_poll(index: MeterIndex) -> None:
    kinds = [
        pa.array([AT_MS]),
        pa.array([AT], pa.timestamp("ns", "UTC")),
        pa.array(["2026-01-01T00:01:00Z"]),
        pa.nulls(1),
    ]
    decoded = decode_arrow(index, *(table_of(1, ts=ts) for ts in kinds))
    assert decoded.accepted["ts"].to_list() == [AT] * 3
    assert decoded.rejects["source_offset"].to_list() == [103]


def test_json_and_arrow_in_one_poll_stay_in_source_order(index: MeterIndex) -> None:
    values = [ipc(table_of()), GOOD, b"bad", GOOD + b"\n" + GOOD, b"bad", ipc(table_of(1, meter_id=pa.array(["none"])))]
    decoded = decode_messages(index, values, [True, False, False, False, True, True])
    where = [(100, 0), (100, 1), (101, 0), (103, 0), (103, 1)]
    assert decoded.accepted.select("source_offset", "source_row").rows() == where
    assert decoded.rejects["source_offset"].to_list() == [102, 104, 105]
    assert decoded.rejects["content_type"].to_list() == [JSON, ARROW, JSON]
    assert decoded.rejects["message_key"].to_list() == [b"key 2", b"key 4", b"key 5"]


# --- frames of a Parquet file ---------------------------------------------------------------------------------------


def test_frames_are_numbered_by_row(index: MeterIndex) -> None:
    frame = pl.DataFrame({"meter_id": ["M0", "none", "M0"], "ts": [AT] * 3, "ua_v": [1, 2, 3]})
    decoded = decode_frame(index, frame)
    assert decoded.accepted.select("source_offset", "source_row", "ua_v").rows() == [(0, 0, 1.0), (2, 0, 3.0)]
    assert decoded.rejects.select("source_offset", "reason").rows() == [(1, "unknown_meter")]
    assert decoded.accepted["logged_at"].null_count() == 2


def test_a_frame_of_a_wrong_type_is_rejected_row_by_row(index: MeterIndex) -> None:
    frame = pl.DataFrame({"meter_id": ["M0", "M0"], "ts": [AT.replace(tzinfo=None)] * 2, "blob": [b"\xff", None]})
    decoded = decode_frame(index, frame)
    assert decoded.accepted.is_empty()
    assert decoded.rejects.select("source_offset", "reason").rows() == [(0, "wrong_type"), (1, "wrong_type")]
    assert json.loads(decoded.rejects["payload"][0])["ts"] == "2026-01-01 00:01:00"


def test_a_frame_of_a_wrong_type_with_times_beyond_the_calendar_is_still_told(index: MeterIndex) -> None:
    frame = pl.DataFrame({"meter_id": ["M0"], "ts": pl.Series([2**62]).cast(pl.Datetime("us"))})
    assert json.loads(decode_frame(index, frame).rejects["payload"][0]) == {"meter_id": "M0", "ts": 2**62}


def test_an_ended_file_says_nothing(index: MeterIndex) -> None:
    decoded = decode_frame(index, pl.DataFrame())
    assert decoded.accepted.schema == ACCEPTED_SCHEMA
    assert decoded.accepted.is_empty()
    assert decoded.rejects.is_empty()


def test_all_sources_give_the_same_columns(index: MeterIndex) -> None:
    frame = pl.DataFrame({"meter_id": ["M0"], "ts": [AT], "p_kw": [1.5]})
    results = [
        decode_lines(index, GOOD),
        decode_messages(index, [GOOD]),
        decode_arrow(index, table_of(1)),
        decode_frame(index, frame),
    ]
    assert {result.accepted.schema == ACCEPTED_SCHEMA for result in results} == {True}
    assert {result.rejects.schema == REJECTED_SCHEMA for result in results} == {True}


# --- again -----------------------------------------------------------------------------------------------------------


def test_rejects_read_again_are_what_they_would_have_been_at_first(index: MeterIndex) -> None:
    """Under the old registry rejects of every kind of payload, under the new one readings in their old places."""
    old = MeterIndex.of(index.meter_versions.filter(pl.col("meter_id") == "42"))
    late, unknown = line_of(ts=(AT + timedelta(days=1)).isoformat()), line_of(meter_id="X")
    frame = pl.DataFrame({"meter_id": ["M0", "42"], "ts": [AT, AT], "p_kw": [0.1 + 0.2, 1.0], "status": [2**63 - 1, 1]})
    values: list[bytes | None] = [GOOD, GOOD + b"\n" + unknown + b"\nx\n" + GOOD, late, b"", None]
    logged = [AT_MS + i for i in range(len(values) + 1)]
    stream = ipc(frame.to_arrow())
    content = Messages([*values, stream], range(100, 106), logged, [b"key"] * 6, columnar({len(values): stream}))
    first = decode(content, old, TOLERANCE_S, NOW)
    wanted = decode(content, index, TOLERANCE_S, NOW)
    again = decode(Refused(first.rejects), index, TOLERANCE_S, NOW)
    assert pl.concat([first.accepted, again.accepted]).height == wanted.accepted.height == 5
    places = ["source_offset", "source_row"]
    same = [name for name in ACCEPTED_SCHEMA if name not in ("meter", "version", "item")]
    taken = pl.concat([first.accepted, again.accepted]).sort(places).select(same)
    assert taken.equals(wanted.accepted.sort(places).select(same))
    assert again.rejects.select(*places, "reason", "payload", "logged_at").equals(
        wanted.rejects.select(*places, "reason", "payload", "logged_at")
    )


def test_rejects_of_files_are_held_against_the_clock_of_the_replay(index: MeterIndex) -> None:
    early = AT - timedelta(days=1)
    rejects = decode_lines(index, GOOD + b"\n" + GOOD, now=early).rejects.with_columns(pl.col("source_offset") + 7)
    assert rejects["reason"].to_list() == ["future_time"] * 2
    assert decode(Refused(rejects), index, TOLERANCE_S, early).rejects.equals(rejects)
    accepted = decode(Refused(rejects), index, TOLERANCE_S, AT).accepted
    assert accepted["source_offset"].to_list() == [7, 8]
    assert decode(Refused(rejects.clear()), index, TOLERANCE_S, AT).accepted.is_empty()
