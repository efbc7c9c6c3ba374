"""What arrives and what becomes of it, as values: payloads with their positions in, decoded frames out.

Here: types only. Not here: decoding (`decode`), judging (`admission`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from metering.tables.lake import READINGS, REJECTS

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"

_CONSTANT = {"source", "source_partition", "date", "customer_no"}
ACCEPTED_SCHEMA = pl.Schema(
    {n: t for n, t in READINGS.schema.items() if n not in _CONSTANT} | {"meter": pl.UInt32, "fact": pl.UInt32}
)
REJECTED_SCHEMA = pl.Schema({n: t for n, t in REJECTS.schema.items() if n not in _CONSTANT})


@dataclass(frozen=True, slots=True)
class Messages:
    """Kafka messages of one partition, in offset order; all sequences have one entry a message.

    `values` are the payloads (None for a tombstone), `logged_ms` the messages' own timestamps (epoch ms),
    `arrow` tells which payloads are Arrow IPC streams (None: none of them), `keys` the message keys.
    """

    values: Sequence[bytes | None]
    offsets: Sequence[int]
    logged_ms: Sequence[int]
    keys: Sequence[bytes | None]
    arrow: Sequence[bool] | None = None


@dataclass(frozen=True, slots=True)
class Lines:
    """Part of an NDJSON file: whole lines, joined; the first is row `first_row` of the file (from 0)."""

    data: bytes
    first_row: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """`accepted`: the columns of `readings` that vary within a batch, plus `meter` (code) and `fact` (row in the
    registry's facts). `rejects`: those of `rejects`. Both in source order, without source, partition and date.
    """

    accepted: pl.DataFrame
    rejects: pl.DataFrame
