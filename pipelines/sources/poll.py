"""What a source hands to the dataflow: one poll of one shard, bytes still joined, positions attached.

Here: the values that travel and the shape of a source. Not here: any particular source, any decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

import polars as pl

from metering.readings.decode import Lines, Messages, Refused

Position = Mapping[str, int]
"""Where to go on in a shard: {"offset": n} for Kafka, {"row": n, "byte": m} for files. Opaque to all but its source."""


def shard_name(topic: str, partition: int) -> str:
    """The shard that a topic's partition is."""
    return f"{topic}-{partition}"


def partition_of(source: str, shard: str) -> int | None:
    """Which partition of the source the shard is; None for those of others, and for files, which have none."""
    topic, _, partition = shard.rpartition("-")
    return int(partition) if topic == source and partition.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Poll:
    """One poll's content of one shard (a Kafka partition or a file), in offset order, never reordered.

    `content` is `Messages` (Kafka), `Lines` (NDJSON file), a frame of readings (Parquet file; its rows are numbered
    from `position`'s row), or `Refused`: rejects read again, which leave the shard where it is. `after` is where the
    shard goes on once this content is committed. `end` marks the last poll of a shard that is over (a file read to its
    end); its content may be empty. `newest_offset` is the last offset known to exist in the log, for lag; None where
    there is no such thing. `gap` are the first and last offset that the log no longer held before this content, and
    that are knowingly left out. `committed` is called once this poll is, which then waits for nothing else.
    `until` gives where the shard goes on after the row at an offset (`source_offset`), or None where it cannot stop.
    `on_new_meters` is called when there are meters in it that the shard does not know, and raises ApartError where they
    may have come from another process.
    """

    shard: str
    source: str
    partition: int
    content: Messages | Lines | Refused | pl.DataFrame
    first_row: int
    after: Position
    end: bool = False
    newest_offset: int | None = None
    gap: tuple[int, int] | None = None
    committed: Callable[[], None] | None = None
    on_new_meters: Callable[[], None] | None = None
    until: Callable[[int], Position | None] | None = None


class OwnShard(NamedTuple):
    """Where readings of a source and partition belong: their shard, and whether that has been read to its end."""

    shard: str
    over: bool


class Reader(Protocol):
    """Reads the shards of one worker."""

    def poll(self) -> list[Poll]:
        """What has come since the last call, at most one Poll a shard; waits at most `poll_ms` for a first one."""

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
    """A place telemetry comes from. Workers share its shards: shard i is read by worker i mod `workers`."""

    def open(self, worker: int, workers: int, positions: Positions) -> Reader: ...
