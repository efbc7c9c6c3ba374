"""Decoding: nothing that came in is in neither of accepted and rejects, and no line depends on its neighbours."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.readings.decode import Decoded, Messages, decode
from metering.readings.payloads import ACCEPTED_SCHEMA, JSON, REJECTED_SCHEMA
from metering.registry.index import MeterIndex
from tests.metering.readings.decoding import (
    AT,
    AT_MS,
    GOOD,
    MAY,
    NOW,
    NUMBER_LIKE,
    TOLERANCE_S,
    Row,
    decode_lines,
    decode_messages,
    line_of,
)


def _verdict(index: MeterIndex, line: bytes, now: datetime = NOW) -> Row:
    """The one row that comes of a line, accepted (reason None) or rejected."""
    alone, *among = (
        _row_at(decode_lines(index, b"\n".join([*others, line, *others]), now=now), len(others)) for others in _OTHERS
    )
    for others, row in zip(_OTHERS[1:], among, strict=True):
        assert row == {**alone, "source_offset": len(others), "item": len(others)}, f"among {others[0]!r}"
    return alone


_OTHERS = ([], [GOOD] * 40, [b'{"meter_id":"42","ts":1767225660000,"p_kw":1.5}'] * 40)
"""Beside what a line is read: alone by the book, among others by Polars, whose times are text or numbers."""


def _row_at(decoded: Decoded, row: int) -> Row:
    assert decoded.accepted.schema == ACCEPTED_SCHEMA
    assert decoded.rejects.schema == REJECTED_SCHEMA
    assert decoded.accepted.height + decoded.rejects.height == 2 * row + 1
    accepted, refused = (rows.filter(pl.col("source_offset") == row) for rows in (decoded.accepted, decoded.rejects))
    assert accepted.height + refused.height == 1
    return {"reason": None, **accepted.row(0, named=True)} if accepted.height else refused.row(0, named=True)


# --- one line -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason", "meter_id", "ts"),
    [
        (b"nonsense", "unparsable", None, None),
        (b"null", "unparsable", None, None),
        (b"12", "unparsable", None, None),
        (b"[" + GOOD + b"]", "unparsable", None, None),
        (GOOD[:-1], "unparsable", None, None),
        (GOOD + GOOD, "unparsable", None, None),
        (GOOD + b",", "unparsable", None, None),
        (b"\x00", "unparsable", None, None),
        (b"\x00" * 100 + GOOD, "unparsable", None, None),
        (GOOD.replace(b"M0", b"M\xff"), "unparsable", None, None),
        (b"\xff\xfe" + GOOD, "unparsable", None, None),
        (b"[" * 100_000, "unparsable", None, None),
        (b"\xf0" * 1_000_000, "unparsable", None, None),
        (b"x" * 1_000_000, "unparsable", None, None),
        (b"{}", "missing_meter", None, None),
        (b'{"ts":"2026-01-01T00:01:00Z"}', "missing_meter", None, AT),
        (line_of(meter_id=""), "missing_meter", "", AT),
        (line_of(meter_id=None), "missing_meter", None, AT),
        (line_of(meter_id=42), "wrong_type", None, AT),
        (line_of(meter_id=True), "wrong_type", None, AT),
        (line_of(meter_id=["M0"]), "wrong_type", None, AT),
        (line_of(meter_id={"id": "M0"}), "wrong_type", None, AT),
        (line_of(meter_id="\ud800"), "wrong_type", None, AT),
        (line_of(meter_id="a" * 65), "wrong_type", "a" * 65, AT),
        (line_of(meter_id="a" * 64), "unknown_meter", "a" * 64, AT),
        (line_of(meter_id=" M0"), "unknown_meter", " M0", AT),
        (line_of(meter_id="M0\x00"), "unknown_meter", "M0\x00", AT),
        (line_of(ts=True), "wrong_type", "M0", None),
        (line_of(ts=["2026-01-01T00:01:00Z"]), "wrong_type", "M0", None),
        (line_of(ts=None), "missing_time", "M0", None),
        (line_of(ts=str(AT_MS)), "missing_time", "M0", None),
        (line_of(ts="2026-01-01T00:01:00"), "missing_time", "M0", None),
        (line_of(ts="2026-13-01T00:00:00Z"), "missing_time", "M0", None),
        (line_of(ts=1e300), "implausible_time", "M0", None),
        (line_of(ts="-0001-01-01T00:01:00Z"), "implausible_time", "M0", None),
        (line_of(ts="0000-01-01T00:01:00Z"), "implausible_time", "M0", None),
        (line_of(ts="9999-12-31T23:59:59-12:00"), "implausible_time", "M0", None),
        (line_of(ts="1999-12-31T23:59:59Z"), "implausible_time", "M0", None),
        (line_of(ts=AT_MS // 1000), "implausible_time", "M0", None),
        (line_of(ts=AT_MS * 1000), "implausible_time", "M0", None),
        (line_of(ts=AT_MS * 10**6), "implausible_time", "M0", None),
        (line_of(ts=0), "implausible_time", "M0", None),
        (line_of(ts=-5.5), "implausible_time", "M0", None),
        (line_of(meter_id="none", ts=AT_MS // 1000), "implausible_time", "none", None),
        (line_of(ts=AT_MS // 1000, p_kw="1"), "wrong_type", "M0", None),
        (line_of(meter_id="ended", ts="2026-05-01T00:00:00Z"), "unknown_meter", "ended", MAY),
        (line_of(ts=(NOW + timedelta(seconds=301)).isoformat()), "future_time", "M0", NOW + timedelta(seconds=301)),
        (line_of(p_kw="1"), "wrong_type", "M0", AT),
        (line_of(p_kw=True), "wrong_type", "M0", AT),
        (line_of(p_kw=[1]), "wrong_type", "M0", AT),
        (line_of(p_kw={"kw": 1}), "wrong_type", "M0", AT),
        (line_of(export_kvarh=""), "wrong_type", "M0", AT),
        (line_of(status=5.0), "wrong_type", "M0", AT),
        (line_of(status="5"), "wrong_type", "M0", AT),
        (line_of(status=False), "wrong_type", "M0", AT),
        (line_of(status=2**63), "wrong_type", "M0", AT),
        (GOOD.replace(b"1.5", b"1e999"), "non_finite", "M0", AT),
        (GOOD.replace(b"1.5", b"-1e999"), "non_finite", "M0", AT),
        (GOOD.replace(b"1.5", b"NaN"), "non_finite", "M0", AT),
        (GOOD.replace(b"1.5", b"-Infinity"), "non_finite", "M0", AT),
        (GOOD.replace(b"1.5", b"1" * 5000), "non_finite", "M0", AT),
        (line_of(ts=float("nan")), "non_finite", "M0", None),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes | str) else str(value),
)  # fmt: skip
def test_rejects_name_their_reason_and_keep_the_bytes(
    index: MeterIndex, line: bytes, reason: str, meter_id: str | None, ts: datetime | None
) -> None:
    got = _verdict(index, line)
    assert (got["reason"], got["meter_id"], got["ts"]) == (reason, meter_id, ts)
    assert got["payload"] == line
    assert got["detail"]
    assert got["content_type"] == JSON


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ts": AT_MS}, {"ts": AT}),
        ({"ts": AT_MS + 0.25}, {"ts": AT + timedelta(microseconds=250)}),
        ({"ts": float(AT_MS)}, {"ts": AT}),
        ({"ts": "2026-01-01T08:01:00+08:00"}, {"ts": AT}),
        ({"ts": "2025-12-31T19:01:00-05:00"}, {"ts": AT}),
        ({"ts": "2026-01-01t00:01:00z"}, {"ts": AT}),
        ({"ts": "2026-01-01 00:01:00Z"}, {"ts": AT}),
        ({"ts": "2026-01-01T00:01:00.000001Z"}, {"ts": AT + timedelta(microseconds=1)}),
        ({"ts": NOW.isoformat()}, {"ts": NOW}),
        ({"ts": (NOW + timedelta(seconds=300)).isoformat()}, {"ts": NOW + timedelta(seconds=300)}),
        ({"p_kw": 3}, {"p_kw": 3.0}),
        ({"p_kw": None}, {"p_kw": None}),
        ({"p_kw": 10**300}, {"p_kw": 1e300}),
        ({"p_kw": 5e-324}, {"p_kw": 5e-324}),
        ({"status": -(2**63)}, {"status": -(2**63)}),
        ({"status": None}, {"status": None}),
        ({"meter_id": "电表"}, {"meter_id": "电表"}),
        ({"new_field": {"nested": [1, {"deep": None}]}, "note": "text"}, {"p_kw": None}),
        ({"new_field": "NaN", "p_kw": 2.0}, {"p_kw": 2.0}),
        *(({"meter_id": name}, {"meter_id": name}) for name in NUMBER_LIKE),
    ],
    ids=str,
)
def test_accepted_values(index: MeterIndex, fields: Row, expected: Row) -> None:
    got = _verdict(index, line_of(**fields))
    assert got["reason"] is None
    assert {name: got[name] for name in expected} == expected


@pytest.mark.parametrize("name", NUMBER_LIKE[:5])
def test_an_id_that_looks_like_a_number_must_still_be_a_string(index: MeterIndex, name: str) -> None:
    bare = GOOD.replace(b'"M0"', name.encode())
    expected = {"null": "missing_meter", "007": "unparsable"}.get(name, "wrong_type")
    assert _verdict(index, bare)["reason"] == expected
    assert _verdict(index, GOOD.replace(b"M0", name.encode()))["reason"] is None


def test_of_doubled_keys_the_first_counts_alone_and_beside_a_bad_line(index: MeterIndex) -> None:
    doubled = b'{"meter_id":"M0","ts":"2026-01-01T00:01:00Z","p_kw":1,"p_kw":2}'
    assert _verdict(index, doubled)["p_kw"] == 1.0
    beside = decode_lines(index, b"\n".join([doubled, b"bad"]))
    assert beside.accepted["p_kw"].to_list() == [1.0]


def test_escapes_are_read(index: MeterIndex) -> None:
    line = rb'{"\u006deter_id":"\u004d0","t\u0073":"\u0032026-01-01T00:01:00Z","p_kw":1.5}'
    assert _verdict(index, line)["p_kw"] == 1.5
    assert _verdict(index, rb'{"meter_id":"\u0034\u0032","ts":1767225660000}')["meter_id"] == "42"


@pytest.mark.parametrize("level", [10, 300])
def test_an_unknown_field_may_be_nested(index: MeterIndex, level: int) -> None:
    nested = b'{"a":' * level + b"1" + b"}" * level
    assert _verdict(index, GOOD[:-1] + b',"x":' + nested + b"}")["reason"] is None


def test_files_are_judged_by_the_clock(index: MeterIndex) -> None:
    line = line_of(ts="2026-06-01T00:10:00Z")
    assert _verdict(index, line)["reason"] == "future_time"
    assert _verdict(index, line, now=NOW + timedelta(minutes=5))["reason"] is None


# --- validity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meter_id", "ts", "valid"),
    [
        ("ended", "2024-12-31T23:59:59.999+08:00", False),
        ("ended", "2025-01-01T00:00:00+08:00", False),  # the interval before the first valid day
        ("ended", "2025-01-01T00:00:01+08:00", True),
        ("ended", "2026-02-01T00:00:00+08:00", True),  # ends the last valid day
        ("ended", "2026-02-01T00:01:00+08:00", True),  # a minute late for it
        ("ended", "2026-02-01T00:01:01+08:00", False),
        ("exchanged", "2024-12-31T12:00:00+08:00", False),
    ],
)
def test_a_meter_is_known_while_it_is_valid(index: MeterIndex, meter_id: str, ts: str, valid: bool) -> None:
    got = _verdict(index, line_of(meter_id=meter_id, ts=ts))
    assert got["reason"] == (None if valid else "unknown_meter")
    if not valid:
        assert "not valid" in got["detail"]


def test_each_time_belongs_to_the_version_valid_then(index: MeterIndex) -> None:
    times = [
        "2026-03-02T00:00:00+08:00",
        "2026-03-01T00:00:00+08:00",
        "2025-06-01T00:00:00Z",
        "2026-03-01T00:01:01+08:00",
    ]
    data = b"\n".join(line_of(meter_id="exchanged", ts=ts) for ts in times)
    accepted = decode_lines(index, data).accepted
    assert index.meter_versions["interval_s"].gather(accepted["version"]).to_list() == [60, 900, 900, 60]
    assert accepted["meter"].n_unique() == 1


# --- batches --------------------------------------------------------------------------------------------------------


def test_one_bad_line_rejects_that_line_alone(index: MeterIndex) -> None:
    good = [line_of(p_kw=float(i)) for i in range(500)]
    for at in (0, 250, 499):
        lines = [*good[:at], b'{"meter_id": 1}', *good[at + 1 :]]
        decoded = decode_lines(index, b"\n".join(lines))
        assert decoded.rejects.select("source_offset", "payload").rows() == [(at, lines[at])]
        assert decoded.accepted["p_kw"].to_list() == [float(i) for i in range(500) if i != at]
        assert decoded.accepted["source_offset"].to_list() == [i for i in range(500) if i != at]


@pytest.mark.parametrize(
    "first",
    [
        *(b"\x1f\x8b\x08", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\x28\xb5\x2f\xfd"),
        gzip.compress(GOOD, mtime=0).replace(b"\n", b" "),
        zlib.compress(b"\n".join([GOOD] * 101)),
    ],
)
def test_a_batch_that_begins_like_compressed_data_is_not_unpacked(index: MeterIndex, first: bytes) -> None:
    assert b"\n" not in first
    good = [line_of(p_kw=float(i)) for i in range(100)]
    decoded = decode_messages(index, [first, *good])
    assert decoded.rejects.select("source_offset", "reason", "payload").rows() == [(100, "unparsable", first)]
    assert decoded.accepted["p_kw"].to_list() == [float(i) for i in range(100)]
    assert decode_messages(index, [first]).accepted.is_empty()


def test_blank_lines_and_carriage_returns_are_no_lines(index: MeterIndex) -> None:
    data = b"\n" + GOOD + b"\r\n\r\n  \n\t" + GOOD + b" \r\n\n"
    decoded = decode_lines(index, data)
    assert decoded.rejects.is_empty()
    assert decoded.accepted["source_offset"].to_list() == [1, 4]
    assert decode_lines(index, b"").accepted.is_empty()
    assert decode_lines(index, b"\n\n").rejects.is_empty()


def test_a_blank_line_does_not_hide_two_values_in_one(index: MeterIndex) -> None:
    decoded = decode_lines(index, GOOD + GOOD + b"\n\n" + GOOD)
    assert decoded.accepted["source_offset"].to_list() == [2]
    assert decoded.rejects["source_offset"].to_list() == [0]


def test_reasons_are_told_wherever_the_frame_was_cut(index: MeterIndex) -> None:
    """Lines read apart leave empty chunks behind, over which Polars' own format panics."""
    data = (
        rb'{"meter_id":"M0","ts":null,"me\u0074er":1}' + b"\n" + rb'{"meter_id":"X","ts":"1767225660000","p\u005f":1}'
    )
    assert decode_lines(index, data).rejects["reason"].to_list() == ["missing_time", "missing_time"]


_NUMBERS = st.one_of(
    st.none(), st.integers(-(10**6), 10**6), st.floats(allow_nan=False, width=32), st.sampled_from([10**30, -(10**400)])
)
_ANY = st.one_of(_NUMBERS, st.booleans(), st.text(max_size=4), st.lists(st.integers(), max_size=2), st.just({"a": 1}))
_IDS = st.one_of(st.sampled_from(["M0", "电表", "ended", "exchanged", "none", *NUMBER_LIKE]), _ANY)
_TIMES = st.one_of(
    st.sampled_from([AT_MS, str(AT_MS), "2026-01-01T00:01:00Z", "2026-03-01T00:01:00+08:00", "2030-01-01T00:00:00Z"]),
    _ANY,
)
_OBJECTS = st.fixed_dictionaries(
    {}, optional={"meter_id": _IDS, "ts": _TIMES, "p_kw": _ANY, "ua_v": _NUMBERS, "status": _ANY, "extra": _ANY}
).map(lambda value: json.dumps(value).encode())
_GARBAGE = st.one_of(
    st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")),
    st.sampled_from([b"", b"\r", b"null", b"[]", b"{", GOOD + GOOD, GOOD[:-1], b"\xef\xbb\xbf" + GOOD]),
    st.builds(lambda at: GOOD[:at] + b"\xff" + GOOD[at:], st.integers(0, len(GOOD))),
    st.builds(lambda at: GOOD[:at] + GOOD[at + 1 :], st.integers(0, len(GOOD) - 1)),
)
_LINES = st.one_of(st.just(GOOD), _OBJECTS, _GARBAGE)


def _by_row(decoded: Decoded) -> dict[int, Row]:
    rows = [*decoded.accepted.iter_rows(named=True), *decoded.rejects.iter_rows(named=True)]
    found = {row.pop("source_offset"): row for row in rows}
    assert [row.pop("item") for row in found.values()] == list(found)
    assert len(found) == len(rows)
    return found


@settings(max_examples=40, deadline=None)
@given(lines=st.lists(_LINES, min_size=1, max_size=45), end=st.sampled_from([b"", b"\n"]))
def test_a_line_says_the_same_alone_and_in_any_batch(index: MeterIndex, lines: list[bytes], end: bytes) -> None:
    decoded = decode_lines(index, b"\n".join(lines) + end)
    assert decoded.accepted["source_offset"].is_sorted()
    assert decoded.rejects["source_offset"].is_sorted()
    rows = _by_row(decoded)
    assert sorted(rows) == [i for i, line in enumerate(lines) if line.strip()]
    for number, row in decoded.rejects.select("source_offset", "payload").iter_rows():
        assert row == lines[number]
    for line in set(lines):
        (alone,) = _by_row(decode_lines(index, line)).values() or [None]
        assert all(rows.get(i) == alone for i, other in enumerate(lines) if other == line)


# --- Kafka messages -------------------------------------------------------------------------------------------------


def test_a_message_may_hold_several_readings(index: MeterIndex) -> None:
    first = b"\n".join([line_of(p_kw=1), b"", line_of(p_kw=2), b"bad"]) + b"\n"
    decoded = decode_messages(index, [first, line_of(p_kw=3), b"\n" + line_of(p_kw=4)])
    where = ["source_offset", "source_row", "p_kw"]
    assert decoded.accepted.select(where).rows() == [(100, 0, 1.0), (100, 2, 2.0), (101, 0, 3.0), (102, 1, 4.0)]
    rejected = decoded.rejects.select("source_offset", "source_row", "payload", "message_key").rows()
    assert rejected == [(100, 3, b"bad", b"key 0")]


def test_a_message_without_text_is_rejected_once(index: MeterIndex) -> None:
    decoded = decode_messages(index, [GOOD, None, b"", b" \r\n \n", GOOD])
    assert decoded.accepted["source_offset"].to_list() == [100, 104]
    told = decoded.rejects.select("source_offset", "reason", "detail", "message_key").rows()
    assert told == [(100 + i, "unparsable", "empty message", f"key {i}".encode()) for i in (1, 2, 3)]


def test_messages_are_judged_by_their_own_time(index: MeterIndex) -> None:
    on_time, ahead = line_of(ts=AT_MS + 300_000), line_of(ts=AT_MS + 300_001)
    decoded = decode_messages(index, [on_time, ahead], logged_ms=AT_MS)
    assert decoded.accepted["source_offset"].to_list() == [100]
    assert decoded.rejects["reason"].to_list() == ["future_time"]
    assert decoded.rejects["logged_at"].to_list() == [AT]
    assert decode_messages(index, [ahead], logged_ms=AT_MS + 1).accepted.height == 1


def test_half_a_reading_in_a_message_is_not_mended_by_the_next(index: MeterIndex) -> None:
    decoded = decode_messages(index, [GOOD[:20], GOOD[20:]])
    assert decoded.accepted.is_empty()
    assert decoded.rejects["reason"].to_list() == ["unparsable", "unparsable"]


# --- cost -----------------------------------------------------------------------------------------------------------


def test_a_poll_of_a_few_readings_costs_no_registry(large_registry: pl.DataFrame) -> None:
    """2 ms at most for eight of 300,000 meters, one in ten exchanged; the best of many runs on a busy machine."""
    index = MeterIndex.of(large_registry)
    at_ms = AT_MS + 20 * 3_600_000
    values = [
        json.dumps(
            {"meter_id": name, "ts": at_ms + 1_009 * i, "p_kw": 1800.25, "ua_v": 231.5, "import_kwh": 1e5}
        ).encode()
        for i, name in enumerate(index.names.gather_every(31_337)[:8])
    ]
    messages = Messages(values, range(8), [at_ms + 10_000] * 8, [None] * 8)

    def seconds() -> float:
        start = time.perf_counter()
        assert decode(messages, index, TOLERANCE_S, NOW).accepted.height == 8
        return time.perf_counter() - start

    assert min(seconds() for _ in range(50)) <= 0.002
