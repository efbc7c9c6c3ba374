"""What arrives and what becomes of it, as values: payloads with their positions in, decoded frames out.

Here: types only. Not here: decoding (`decode`), judging (`admission`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from metering.tables.lake import MEASURED, READINGS, REJECTS

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"

FIELDS = ("meter_id", "ts", *MEASURED, "status")

_CONSTANT = {"source", "source_partition", "date", "customer_no"}
ACCEPTED_SCHEMA = pl.Schema(
    {n: t for n, t in READINGS.schema.items() if n not in _CONSTANT} | {"meter": pl.UInt32, "version": pl.UInt32}
)
REJECTED_SCHEMA = pl.Schema({n: t for n, t in REJECTS.schema.items() if n not in _CONSTANT})
NO_REJECTS = pl.DataFrame(schema=REJECTED_SCHEMA)


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows that came in columns, of messages whose columns are alike: for each row of `frame` its `message`, by number
    in the batch, and its `row` in that.
    """

    frame: pl.DataFrame
    message: pl.Series
    row: pl.Series


@dataclass(frozen=True, slots=True)
class Columnar:
    """What the Arrow IPC streams among a batch's messages held: rows, and for each stream that could not be read
    reason and detail, by number in the batch.
    """

    columns: Sequence[Columns]
    broken: Mapping[int, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Messages:
    """Kafka messages of one partition, in offset order; all sequences have one entry a message.

    `values` are the payloads (None for a tombstone), `logged_ms` the messages' own timestamps (epoch ms),
    `keys` the message keys, `arrow` what those payloads held that are Arrow IPC streams (None: none of them is one).
    """

    values: Sequence[bytes | None]
    offsets: Sequence[int]
    logged_ms: Sequence[int]
    keys: Sequence[bytes | None]
    arrow: Columnar | None = None


@dataclass(frozen=True, slots=True)
class Lines:
    """Part of an NDJSON file: `count` whole lines, joined; the first is row `first_row` of the file (from 0)."""

    data: bytes
    first_row: int
    count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", line_count(self.data))


def line_count(data: bytes) -> int:
    """How many lines `data` is; a last one without a newline counts. (Once a batch: it reads every byte.)"""
    return data.count(b"\n") + (not data.endswith(b"\n") and bool(data))


@dataclass(frozen=True, slots=True)
class Refused:
    """Rejects of one shard as the lake holds them (columns of `rejects`), to be read again: JSON, a line each."""

    rows: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Decoded:
    """`accepted`: the columns of `readings` that vary within a batch, plus `meter` (code) and `version` (row in the
    registry's meter_versions). `rejects`: those of `rejects`. Both in source order, without source, partition and date.
    """

    accepted: pl.DataFrame
    rejects: pl.DataFrame
