"""Arrow IPC streams from hell, and what the sound ones hold by pyarrow alone."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from decimal import Decimal
from functools import cache
from typing import Any

import pyarrow as pa

from tests.metering.readings import malformed_lines, referee

_FAR = (-1, 0, 1, 2**30, 2**31 - 1, -(2**31), 2**33, 2**40, 2**62)
_MOST_ROWS, _MOST_BYTES = 250_000, 64 * 1024 * 1024
_LONGEST_TEXT = 65_536
_FIELDS = ("meter_id", "ts", *referee.MEASURED, "status")


def stream(rng: random.Random) -> bytes:
    """A stream: one in five as it was written, the others damaged."""
    sound = rng.choice(_streams())
    return sound if rng.random() < 0.2 else _damaged(rng, sound)


def is_sound(value: bytes) -> bool:
    return value in _streams()


def _damaged(rng: random.Random, data: bytes) -> bytes:
    value, how = bytearray(data), rng.random()
    if how < 0.5:
        for _ in range(rng.randint(1, 4)):
            value[rng.randrange(len(value))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    elif how < 0.8:  # a length, an offset, a count
        at, width = rng.randrange(0, len(value) - 8) & ~3, rng.choice((4, 8))
        value[at : at + width] = (rng.choice(_FAR) % (1 << 8 * width)).to_bytes(width, "little")
    elif how < 0.9:
        del value[rng.randrange(len(value)) :]
    else:
        at = rng.randrange(len(value))
        value[at:at] = rng.randbytes(rng.randint(1, 9))
    return bytes(value)


@cache
def _streams() -> tuple[bytes, ...]:
    at = pa.array([malformed_lines.NOW_MS - 60_000 * i for i in range(4)])
    names = pa.array(["M0", "M1", "none", "电表"])
    power = pa.array([1.5, None, -3.25, 0.0])
    base = {"meter_id": names, "ts": at, "p_kw": power}
    changed: list[dict[str, pa.Array]] = [
        {},
        {"ts": at.cast(pa.timestamp("ms", "UTC"))},
        {"ts": at.cast(pa.timestamp("ms", "Asia/Shanghai")).cast(pa.timestamp("ns", "Asia/Shanghai"))},
        {"ts": pa.array([1_767_225_600, 2**61, -(2**61), 18_446_744_073_709_551], pa.timestamp("s", "UTC"))},
        {"ts": at.cast(pa.timestamp("ms", "Mars/Olympus"))},
        {"ts": pa.array(["2026-01-01T00:01:00Z", "2026-01-01T08:01:00+08:00", "yesterday", None])},
        {"meter_id": names.dictionary_encode(), "ts": at.cast(pa.float64())},
        {"meter_id": names.cast(pa.large_string()), "status": pa.array([1, None, 255, 0], pa.uint8())},
        {"meter_id": names.cast(pa.string_view())},
        {"p_kw": pa.array([1, None, -3, 0], pa.int16()), "q_kvar": pa.array([1, 2**64 - 1, None, 0], pa.uint64())},
        {"p_kw": pa.array([Decimal("1.50"), None, Decimal("-9.99"), Decimal(0)], pa.decimal128(20, 2))},
        {"p_kw": pa.array([Decimal("1.50"), None, Decimal("-9.99"), Decimal(0)], pa.decimal256(50, 2))},
        {"p_kw": power.cast(pa.float32()), "ua_v": pa.array([1.5, None, 0.0, 2.0], pa.float16())},
        {"p_kw": pa.array([float("nan"), float("inf"), 1.0, None])},
        {"p_kw": power.dictionary_encode(), "status": pa.array([2**63, 2**63 - 1, 0, None], pa.uint64())},
        {"note": pa.array([{"a": [1, 2]}, None, {"a": []}, {"a": None}]), "p_kw": pa.nulls(4)},
        {"note": pa.UnionArray.from_sparse(pa.array([0, 1, 0, 1], pa.int8()), [at, names])},
        {"p_kw": pa.array([True, False, None, True])},
        {"p_kw": pa.array(["1", "2", "3", "4"])},
        {"p_kw": pa.array([[1.0], [], None, [2.0]])},
        {"ts": at.cast(pa.timestamp("ms"))},
        {"meter_id": at},
        {"meter_id": pa.array([b"M0"] * 4)},
        {"status": power},
    ]
    tables = [pa.table({**base, **columns}) for columns in changed]
    streams = [_written(table) for table in tables]
    long = pa.table(
        {"meter_id": ["M0"] * 500, "ts": [malformed_lines.NOW_MS] * 500, "p_kw": [float(i) for i in range(500)]}
    )
    streams += [_written(long, compression=name) for name in ("zstd", "lz4")]
    streams += [_written(tables[0].select(names)) for names in (["p_kw"], ["ts", "meter_id"], [])]
    streams += [_written(tables[0].slice(0, 0)), _written(pa.concat_tables([tables[0]] * 3))]
    streams += [_written(pa.table([names, at, at, power], ["meter_id", "ts", "ts", "p_kw"]))]
    return tuple(streams + bombs())


def bombs() -> list[bytes]:
    """Small messages that would unpack to very much."""
    zeros = pa.table({"meter_id": pa.array([""] * 10), "ts": pa.nulls(10)})
    views = pa.table({"meter_id": pa.array(["x" * 10_000] * 9_000).dictionary_encode(), "ts": pa.nulls(9_000)})
    many = _written(pa.table({"meter_id": pa.nulls(54_321)})).replace(_int64(54_321), _int64(2**40))
    text = pa.table({"meter_id": pa.array(["\0" * (2**26 + 1)])})
    return [_written(zeros), _written(views), many, _written(text, compression="zstd")]


def _int64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _written(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def readings(value: bytes, meters: Collection[str], logged_ms: int) -> list[referee.Row | None]:
    """By row the reading that it is, or None for a reject; [None] for a stream that is rejected whole."""
    try:
        schema = pa.ipc.open_stream(value).schema
        fields = {name: schema.names.index(name) for name in _FIELDS if name in schema.names}
        if not schema.names or not all(_fits(name, schema.field(i).type) for name, i in fields.items()):
            return [None]
        places = sorted(fields.values())
        batches = list(pa.ipc.open_stream(value, options=pa.ipc.IpcReadOptions(included_fields=places)))
        for batch in batches:
            if places:
                batch.validate(full=True)
            if batch.num_rows > _MOST_ROWS or _held(batch) > _MOST_BYTES:
                return [None]
        fields = {name: places.index(i) for name, i in fields.items()}
        rows = [row for batch in batches for row in _rows(batch, fields)]
        texts = (value for row in rows for value in row.values() if isinstance(value, str))
        if any(len(text.encode()) > _LONGEST_TEXT for text in texts):
            return [None]
    except (pa.ArrowException, OSError, ValueError, MemoryError):
        return [None]
    return [referee.columnar(row, meters, logged_ms) for row in rows] or [None]


def _fits(name: str, dtype: pa.DataType) -> bool:
    types = pa.types
    dtype = dtype.value_type if types.is_dictionary(dtype) else dtype
    text = types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype)
    number = types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype)
    instant = types.is_timestamp(dtype) and bool(dtype.tz)
    fits = {"meter_id": text, "ts": text or number or instant, "status": types.is_integer(dtype)}
    return types.is_null(dtype) or fits.get(name, number)


def _held(batch: pa.RecordBatch) -> int:
    """Bytes of the values, every text counted wherever it stands."""
    texts = 0
    for column in batch.columns:
        values = column.dictionary if pa.types.is_dictionary(column.type) else column
        if column is not values or pa.types.is_string_view(values.type):
            longest = max((len(text.encode()) for text in values.to_pylist() if isinstance(text, str)), default=0)
            texts = max(texts, longest * len(column))
    return max(texts, sum(part.size for column in batch.columns for part in column.buffers() if part))


def _rows(batch: pa.RecordBatch, fields: dict[str, int]) -> Iterator[referee.Row]:
    columns = {name: _values(batch.column(i)) for name, i in fields.items()}
    for i in range(batch.num_rows):
        yield {name: column[i] for name, column in columns.items()}


def _values(column: pa.Array) -> list[Any]:
    """Python's values; instants as `referee.Instant`."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not pa.types.is_timestamp(column.type):
        return column.to_pylist()
    times, per = {"s": (1_000_000, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}[column.type.unit]
    return [None if at is None else referee.Instant(at * times // per) for at in column.cast(pa.int64()).to_pylist()]
