"""Arrow IPC streams and Parquet batches: what is read, what is refused, and that no stream ends the process."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metering.readings.decode import Decoded, Messages, decode
from metering.registry.index import MeterIndex
from metering.tables.lake import MEASURED
from pipelines.sources.arrow import MOST_BYTES, MOST_ROWS, columnar, frame_of
from pipelines.sources.files import FileSource

AT = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
AT_MS = 1_767_225_660_000


@pytest.fixture(scope="module")
def index() -> MeterIndex:
    meter_versions = {"meter_id": ["M0"], "valid_from": [datetime(2000, 1, 1, tzinfo=UTC)]}
    versions = pl.DataFrame(meter_versions).with_columns(valid_to=pl.lit(None, pl.Datetime("us", "UTC")))
    return MeterIndex.of(versions.with_columns(stamps_from="valid_from", stamps_to="valid_to"))


def table(rows: int = 2, **columns: Any) -> pa.Table:
    base = {"meter_id": pa.array(["M0"] * rows), "ts": pa.array([AT_MS] * rows), "p_kw": pa.array([1.5] * rows)}
    return pa.table({name: column for name, column in {**base, **columns}.items() if column is not None})


def stream(content: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, content.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(content)
    return sink.getvalue().to_pybytes()


def decoded(index: MeterIndex, *values: bytes) -> Decoded:
    count = len(values)
    content = Messages(values, range(count), [AT_MS] * count, [b"key"] * count, columnar(dict(enumerate(values))))
    return decode(content, index, 300, AT)


def refusal(value: bytes) -> tuple[str, str]:
    answer = columnar({7: value})
    assert not answer.columns
    return answer.broken[7]


# --- streams that lie -------------------------------------------------------------------------------------------------


def test_a_stream_whose_buffers_are_missing_is_refused(index: MeterIndex) -> None:
    """Polars' own reader ends the process over some of these."""
    whole = stream(table())
    lying = [
        whole[:at] + lie.to_bytes(4, "little", signed=True) + whole[at + 4 :]
        for at in range(0, len(whole) - 4, 4)
        for lie in (0, -1, 2**31 - 1)
    ]
    told = decoded(index, *lying, whole)
    assert told.accepted.filter(pl.col("source_offset") == len(lying)).height == 2
    assert {*told.accepted["source_offset"], *told.rejects["source_offset"]} == set(range(len(lying) + 1))


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_what_would_unpack_to_very_much_is_refused_unread(codec: str) -> None:
    bomb = stream(pa.table({"meter_id": pa.array(["\0" * (2**26 + 1)])}), compression=codec)
    assert len(bomb) < 1_000_000
    assert "unpacks to more than" in refusal(bomb)[1]


def test_a_length_below_zero_makes_no_room_for_others() -> None:
    bomb = stream(pa.table({"meter_id": ["x" * (MOST_BYTES + 1)]}), compression="zstd")
    less = (-(2**31)).to_bytes(8, "little", signed=True)
    damaged = [bomb[:at] + less + bomb[at + 8 :] for at in range(0, 600, 8) if bomb[at : at + 8] == bytes(8)]
    refused = columnar(dict(enumerate(damaged)))
    assert len(refused.broken) == len(damaged) > 2
    assert not refused.columns


def test_a_compressed_buffer_beyond_the_stream_is_refused() -> None:
    whole = stream(table(500), compression="zstd")
    for at in range(0, len(whole) - 8, 8):
        answer = columnar({0: whole[:at] + (2**43).to_bytes(8, "little") + whole[at + 8 :]})
        assert bool(answer.columns) != bool(answer.broken)


@pytest.mark.parametrize("field", ["meter_id", "ts"])
def test_a_text_that_no_reject_could_tell_is_refused_with_its_message(index: MeterIndex, field: str) -> None:
    longest = stream(pa.table({"meter_id": ["M0"], "ts": ["2026"], field: ["x" * 65_536]}))
    assert decoded(index, longest).rejects["reason"].to_list() in (["wrong_type"], ["missing_time"])
    assert "holds a text of 65537 bytes" in refusal(stream(pa.table({field: ["x" * 65_537]}), compression="zstd"))[1]


def test_a_few_long_texts_in_very_many_rows_are_refused() -> None:
    for meter_id in (dictionary(10_000, 9000), views(10_000, 9000)):
        assert "may hold more than" in refusal(stream(table(9000, meter_id=meter_id)))[1]


def dictionary(length: int, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), pa.array(["x" * length]))


def views(length: int, rows: int) -> pa.Array:
    one = pa.array(["x" * length], pa.string_view())
    view, data = one.buffers()[1:]
    return pa.Array.from_buffers(pa.string_view(), rows, [None, pa.py_buffer(view.to_pybytes()[:16] * rows), data])


def test_rows_that_take_no_bytes_are_counted_before_they_are_made() -> None:
    told, lied = (number.to_bytes(8, "little") for number in (54_321, 2**40))
    many = stream(pa.table({"meter_id": pa.nulls(54_321)})).replace(told, lied)
    assert refusal(many) == ("unparsable", f"the Arrow IPC stream has more than {MOST_ROWS} rows")


def test_a_zone_that_is_no_text_spoils_no_other_message(index: MeterIndex) -> None:
    sound = stream(table(ts=pa.array([AT] * 2, pa.timestamp("us", "Asia/Shanghai"))))
    told = decoded(index, sound, sound.replace(b"Asia/Shanghai", b"Asia\x80Shanghai"), sound)
    assert told.accepted["source_offset"].to_list() == [0, 0, 2, 2]
    assert told.rejects.select("source_offset", "reason").rows() == [(1, "unparsable")]


def test_a_stream_without_rows_is_a_reject(index: MeterIndex) -> None:
    told = decoded(index, stream(table(0)), stream(table(2).select([]))).rejects
    assert told.select("source_offset", "reason", "detail").rows() == [
        (0, "unparsable", "the Arrow IPC stream has no rows"),
        (1, "unparsable", "the Arrow IPC stream has no columns"),
    ]


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unknown",
    [
        pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
        pa.RunEndEncodedArray.from_arrays([1, 2], [1.0, 2.0]),
        pa.array([pa.MonthDayNano([1, 2, 3])] * 2),
        pa.array([[1], []], pa.list_view(pa.int64())),
        pa.array([{"a": [1]}, None]),
    ],
    ids=lambda column: str(column.type)[:20],
)
def test_unknown_columns_are_left_aside_whatever_their_type(index: MeterIndex, unknown: pa.Array) -> None:
    assert decoded(index, stream(table(zone=unknown))).accepted["p_kw"].to_list() == [1.5, 1.5]
    wrong = decoded(index, stream(table(p_kw=unknown))).rejects
    assert wrong["reason"].to_list() == ["wrong_type"]
    assert str(unknown.type) in wrong["detail"][0]


def test_of_doubled_columns_the_first_counts(index: MeterIndex) -> None:
    doubled = pa.table([["M0"], [AT_MS], [1.0], [2.0]], ["meter_id", "ts", "p_kw", "p_kw"])
    assert decoded(index, stream(doubled)).accepted["p_kw"].to_list() == [1.0]


def test_an_instant_needs_no_known_zone(index: MeterIndex) -> None:
    assert decoded(index, stream(table(ts=pa.array([AT] * 2, pa.timestamp("us", "Mars/X"))))).accepted["ts"][0] == AT


def test_seconds_past_the_end_of_an_integer_are_no_other_time(index: MeterIndex) -> None:
    wrapping = (2**64 + AT_MS) // 1000  # times 1000 it is AT again, in 64 bits
    told = decoded(index, stream(table(ts=pa.array([wrapping, AT_MS // 1000], pa.timestamp("s", "UTC")))))
    assert told.accepted["ts"].to_list() == [AT]
    assert told.rejects["reason"].to_list() == ["missing_time"]


def test_a_rejected_status_is_told_as_it_came(index: MeterIndex) -> None:
    rejects = decoded(index, stream(table(status=pa.array([2**63, 5], pa.uint64())))).rejects
    assert [json.loads(payload)["status"] for payload in rejects["payload"]] == [2**63]


def test_rows_of_several_batches_and_kinds_of_columns_keep_their_places(index: MeterIndex) -> None:
    parts = pa.concat_tables([table(2), table(3, p_kw=pa.array([3.0] * 3))])
    told = decoded(index, stream(parts), stream(table(1, p_kw=pa.array([7], pa.int8()))), stream(table(1)))
    places = [(0, 0, 1.5), (0, 1, 1.5), (0, 2, 3.0), (0, 3, 3.0), (0, 4, 3.0), (1, 0, 7.0), (2, 0, 1.5)]
    assert told.accepted.select("source_offset", "source_row", "p_kw").rows() == places


# --- readings that grow: JSON, Arrow and Parquet alike ----------------------------------------------------------------

_NEXT_YEARS: dict[str, Callable[[], pa.Table]] = {
    "added fields": lambda: table(firmware=pa.array(["1.2"] * 2), phases=pa.array([[1, 2], []])),
    "reordered": lambda: table().select(["p_kw", "ts", "meter_id"]),
    "other integer widths": lambda: table(p_kw=pa.array([1, 1], pa.int16()), status=pa.array([1, 2], pa.uint8())),
    "single precision": lambda: table(p_kw=pa.array([1.5] * 2, pa.float32())),
    "decimals": lambda: table(p_kw=pa.array([Decimal("1.50")] * 2)),
    "long text": lambda: table(meter_id=pa.array(["M0"] * 2, pa.large_string())),
    "dictionary": lambda: table(meter_id=pa.array(["M0"] * 2).dictionary_encode()),
    "time as text": lambda: table(ts=pa.array([AT.isoformat()] * 2)),
    "no measurement": lambda: table(p_kw=None),
    "null column": lambda: table(p_kw=pa.nulls(2), q_kvar=pa.nulls(2)),
}
_INCOMPATIBLE: dict[str, tuple[Callable[[], pa.Table], str]] = {
    "text for a number": (lambda: table(p_kw=pa.array(["1.5"] * 2)), "wrong_type"),
    "number for an id": (lambda: table(meter_id=pa.array([1, 2])), "wrong_type"),
    "broken status": (lambda: table(status=pa.array([1.5, 2.5])), "wrong_type"),
    "nested number": (lambda: table(p_kw=pa.array([[1.5], [1.5]])), "wrong_type"),
    "no time": (lambda: table(ts=None), "missing_time"),
    "no meter": (lambda: table(meter_id=None), "missing_meter"),
    "renamed meter": (lambda: table(meter_id=None, meter=pa.array(["M0"] * 2)), "missing_meter"),
}


def _as_json(content: pa.Table, index: MeterIndex, _: Any) -> Decoded:
    values = [json.dumps(row, default=float).encode() for row in content.to_pylist()]
    return decode(Messages(values, [0, 1], [AT_MS] * 2, [None] * 2), index, 300, AT)


def _as_arrow(content: pa.Table, index: MeterIndex, _: Any) -> Decoded:
    return decoded(index, stream(content))


def _as_parquet(content: pa.Table, index: MeterIndex, path: Any) -> Decoded:
    pq.write_table(content, path / "telemetry.parquet")
    (batch,) = FileSource(path, 100).open(0, 1, lambda _: None).poll()
    return decode(batch.content, index, 300, AT)


_FORMS = pytest.mark.parametrize("form", [_as_json, _as_arrow, _as_parquet], ids=["json", "arrow", "parquet"])


@_FORMS
@pytest.mark.parametrize("change", _NEXT_YEARS)
def test_readings_of_a_later_producer_are_read(form: Any, change: str, index: MeterIndex, tmp_path: Any) -> None:
    content = _NEXT_YEARS[change]()
    told = form(content, index, tmp_path)
    assert told.rejects.is_empty()
    assert told.accepted.select("meter_id", "ts").rows() == [("M0", AT)] * 2
    given = content["p_kw"].to_pylist() if "p_kw" in content.column_names else [None] * 2
    assert told.accepted["p_kw"].to_list() == [None if value is None else float(value) for value in given]
    assert told.accepted.select(set(MEASURED) - {"p_kw"}).null_count().sum_horizontal().item() == 2 * len(MEASURED) - 2


@_FORMS
@pytest.mark.parametrize("change", _INCOMPATIBLE)
def test_what_no_longer_fits_is_rejected_by_reason(form: Any, change: str, index: MeterIndex, tmp_path: Any) -> None:
    content, reason = _INCOMPATIBLE[change]
    told = form(content(), index, tmp_path)
    assert told.accepted.is_empty()
    assert set(told.rejects["reason"]) == {reason}


def test_text_in_parquet_that_is_not_utf8_is_a_wrong_type(index: MeterIndex) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")]
    )
    frame = frame_of(pa.record_batch({"meter_id": bad, "ts": pa.array([AT_MS])}))
    assert decode(frame, index, 300, AT).rejects["reason"].to_list() == ["wrong_type"]
