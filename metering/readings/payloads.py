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

_OF_THE_LOG = {"source", "source_partition", "log_offset", "date", "customer_no"}
ACCEPTED_SCHEMA = pl.Schema(
    {n: t for n, t in READINGS.schema.items() if n not in _OF_THE_LOG}
    | {"meter": pl.UInt32, "version": pl.UInt32, "item": pl.UInt32}
)
REJECTED_SCHEMA = pl.Schema({n: t for n, t in REJECTS.schema.items() if n not in _OF_THE_LOG} | {"item": pl.UInt32})
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
    """Kafka messages, those of a partition one after the other in offset order; all sequences have one entry a message.

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
    """`count` whole lines of one NDJSON file or of several, joined."""

    data: bytes
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
    registry's meter_versions) and `item`, the line, message or row of the content that each came from. `rejects`: those
    of `rejects`, and `item`. Both in order of their items, without source, partition and date; of lines and frames
    `source_offset` is the item's number.
    """

    accepted: pl.DataFrame
    rejects: pl.DataFrame
