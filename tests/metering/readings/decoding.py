"""What tests of decoding share: payloads of every kind, decoded under the registry of these tests."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from metering.readings.decode import Decoded, Lines, Messages, decode
from metering.registry.index import MeterIndex
from pipelines.sources.arrow import columnar

NOW = datetime(2026, 6, 1, tzinfo=UTC)
AT = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
MAY = datetime(2026, 5, 1, tzinfo=UTC)
AT_MS = 1_767_225_660_000
TOLERANCE_S = 300
NUMBER_LIKE = ("42", "007", "1e3", "true", "null", "{x")
GOOD = b'{"meter_id":"M0","ts":"2026-01-01T00:01:00Z","p_kw":1.5}'

Row = dict[str, Any]


def decode_lines(index: MeterIndex, data: bytes, now: datetime = NOW) -> Decoded:
    return decode(Lines(data), index, TOLERANCE_S, now)


def decode_messages(
    index: MeterIndex, values: list[bytes | None], arrow: list[bool] | None = None, logged_ms: int = AT_MS
) -> Decoded:
    keys = [f"key {i}".encode() for i in range(len(values))]
    offsets = list(range(100, 100 + len(values)))
    streams = {i: value or b"" for i, value in enumerate(values) if arrow and arrow[i]}
    content = Messages(values, offsets, [logged_ms] * len(values), keys, columnar(streams) if streams else None)
    return decode(content, index, TOLERANCE_S, NOW)


def line_of(**fields: Any) -> bytes:
    return json.dumps({"meter_id": "M0", "ts": "2026-01-01T00:01:00Z", **fields}).encode()


def table_of(rows: int = 2, **columns: Any) -> pa.Table:
    base = {
        "meter_id": pa.array(["M0"] * rows),
        "ts": pa.array([AT_MS] * rows),
        "p_kw": pa.array([float(i) for i in range(rows)]),
    }
    return pa.table({name: column for name, column in {**base, **columns}.items() if column is not None})


def ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def decode_arrow(index: MeterIndex, *tables: pa.Table | bytes | None) -> Decoded:
    values = [ipc(table) if isinstance(table, pa.Table) else table for table in tables]
    return decode_messages(index, values, [True] * len(values))


def decode_frame(index: MeterIndex, frame: pl.DataFrame) -> Decoded:
    return decode(frame, index, TOLERANCE_S, NOW)
