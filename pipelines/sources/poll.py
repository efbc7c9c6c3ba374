"""What a source hands to the dataflow: what has come of all its shards, still joined, and how far that brings each.

Here: the values that travel and the shape of a source. Not here: any particular source, any decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import polars as pl

from metering.readings.decode import Lines, Messages, Refused
from metering.tables.records import RecordKind

Position = Mapping[str, Any]
"""Where to go on in a shard: {"offset": n} for Kafka, {"next": n, "files": {...}} for files. Opaque to all but its
source."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of a batch's content that one shard gave: `items` of its messages, lines or rows, in log order.

    `source` and `partition` mark its readings. `first_row` is the number of its first line or row within the file, and
    `log_base` what has to be added to such a number for its place in the shard's log. `after` is where the shard goes
    on once this is committed. `end`: the shard is over, for now (files read to their end). `newest_offset` is the last
    offset known to exist in the log, for lag; None where there is no such thing. `gap` are the first and last offset
    that the log no longer held before this content, and that are knowingly left out.
    """

    shard: str
    source: str
    partition: int
    items: int
    after: Position
    first_row: int = 0
    log_base: int = 0
    end: bool = False
    newest_offset: int | None = None
    gap: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What has been polled: `content` of one or several shards, whose segments follow each other in it.

    `content` is `Messages` (Kafka), `Lines` (NDJSON files), a frame of readings (Parquet), or `Refused`: rejects read
    again, which leave their shards where they are. `committed` is called once this is, which then waits for nothing
    else. `on_new_meters` is called when there are meters in it that the process does not know, and raises ApartError
    where they may have come from another one. Of a `kind`, the content (lines, or messages) are records and not
    readings; where they are not this worker's `own`, another one commits them, and here they are only known.
    """

    content: Messages | Lines | Refused | pl.DataFrame
    segments: tuple[Segment, ...]
    committed: Callable[[], None] | None = None
    on_new_meters: Callable[[], None] | None = None
    kind: RecordKind | None = None
    own: bool = True

    @property
    def numbered(self) -> bool:
        """Whether the content's items have offsets of their own, as messages have."""
        return isinstance(self.content, Messages)


class OwnShard(NamedTuple):
    """Where readings of a source and partition belong: their shard, and whether that has been read to its end."""

    shard: str
    over: bool


class Reader(Protocol):
    """Reads the shards of one worker."""

    def poll(self) -> Sequence[Batch]:
        """What has come since the last call, of each shard in the order of its log; waits a moment for a first one."""

    @property
    def stale_since(self) -> datetime | None:
        """Since when the source cannot be read; None while it can."""

    @property
    def finished(self) -> bool:
        """True once every shard has ended and been handed out."""

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        """Where readings of that source and partition belong; None where this reader does not read them."""

    def close(self) -> None: ...


class Positions(Protocol):
    """Where each shard stands, by its last commit; None for a shard never seen."""

    def __call__(self, shard: str) -> Position | None: ...


class Source(Protocol):
    """A place telemetry comes from. Workers share its shards."""

    def worker_of(self, shard: str, workers: int) -> int | None:
        """Which of so many workers reads the shard; None where it is none of this source's."""

    def open(self, worker: int, workers: int, positions: Positions) -> Reader: ...
