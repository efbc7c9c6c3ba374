"""Records beside telemetry: NDJSON files of the home, and topics.

Here: the source that hands them out before and between another's readings, and the files. Not here: topics
(`kafka_records`), what a record is (`metering.tables.records`), what becomes of them (`pipelines.flow.records`).

Files are read at each start, to their end. They and what topics hold at the start come before any reading, so that
results hardly depend on which of the logs is quicker. Each file or partition has one worker that commits it; records of
a kind that is broadcast are read by all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metering.tables.records import KINDS, RecordKind
from pipelines.shard_names import LINE_SUFFIXES, partition_shard
from pipelines.sources.files import HIDDEN, FileLog
from pipelines.sources.poll import Batch, OwnShard, Positions, Reader, Source
from pipelines.sources.redrive import ReplayedReader

if TYPE_CHECKING:
    from pipelines.sources.kafka_records import TopicRecords


@dataclass(frozen=True, slots=True)
class RecordTopics:
    """Where records come from on Kafka: client configuration, and each topic's kind."""

    client_config: Mapping[str, Any]
    kinds: Mapping[str, RecordKind]


@dataclass(frozen=True, slots=True)
class WithRecords:
    """`inner`, and the records of `home`: those of its folders and, where there are `topics`, of these."""

    inner: Source
    home: Path
    batch_rows: int
    topics: RecordTopics | None = None

    def worker_of(self, shard: str, workers: int) -> int | None:
        """Files are the first worker's; partition p of a topic is that of worker p mod `workers`."""
        if any(shard == _shard(kind) for kind in KINDS.values()):
            return 0
        for topic in self.topics.kinds if self.topics else ():
            number = shard.removeprefix(partition_shard(topic, 0)[:-1])
            if number != shard and number.isdecimal():
                return int(number) % workers
        return self.inner.worker_of(shard, workers)

    def open(self, worker: int, workers: int, positions: Positions) -> RecordsReader:
        """Raises what `inner` does; UserError when a file is not the one that was read before; OperationError when no
        broker answers or access is denied.
        """
        inner = self.inner.open(worker, workers, positions)
        try:
            files = _files(self.home, self.batch_rows, worker, positions)
            topics = _opened(self.topics, self.batch_rows, worker, workers, positions) if self.topics else None
        except BaseException:
            inner.close()
            raise
        return RecordsReader(inner, files, topics)


def files_of(home: Path, kind: RecordKind) -> dict[str, Path]:
    """The kind's NDJSON files in `home`, in the order they are read. Their names are told as seen from the telemetry,
    so that no folder of telemetry can be called so.
    """
    found = (home / kind.folder).glob("*")
    lines = (path for path in found if path.suffix.lower() in LINE_SUFFIXES and path.is_file())
    return {f"{_shard(kind)}/{path.name}": path for path in sorted(lines) if not HIDDEN.search(path.name)}


def _shard(kind: RecordKind) -> str:
    return f"../{kind.folder}"


def _files(home: Path, batch_rows: int, worker: int, positions: Positions) -> list[Iterator[Batch]]:
    found: list[Iterator[Batch]] = []
    for kind in KINDS.values():
        files = files_of(home, kind)
        if files and (worker == 0 or kind.broadcast):
            log = FileLog(_shard(kind), files, batch_rows, positions(_shard(kind)) or {})
            found.append(_of_kind(log, kind, own=worker == 0))
    return found


def _of_kind(log: FileLog, kind: RecordKind, own: bool) -> Iterator[Batch]:
    for batch in log.batches():
        if any(segment.items for segment in batch.segments):
            segments = tuple(replace(segment, end=False) for segment in batch.segments)
            yield replace(batch, segments=segments, kind=kind, own=own)


def _opened(topics: RecordTopics, batch_rows: int, worker: int, workers: int, positions: Positions) -> TopicRecords:
    from pipelines.sources.kafka_records import (
        TopicRecords,
    )  # the Kafka client takes a while, and files need none of it

    return TopicRecords(topics.client_config, topics.kinds, batch_rows, worker, workers, positions)


class RecordsReader:
    """Reads records and `inner`."""

    def __init__(self, inner: Reader, files: Sequence[Iterator[Batch]], topics: TopicRecords | None) -> None:
        self.inner = inner
        self._files = (batch for of_kind in files for batch in of_kind)
        self._files_over = not files
        self._topics = topics

    def poll(self) -> Sequence[Batch]:
        """What files hold, then what topics hold; from then on what comes of either."""
        if not self._files_over:
            batch = next(self._files, None)
            self._files_over = batch is None
            return [] if batch is None else [batch]
        if self._topics is None:
            return self.inner.poll()
        if not self._topics.caught_up:
            return self._topics.poll()
        return [*self._topics.poll(), *self.inner.poll()]

    @property
    def stale_since(self) -> datetime | None:
        return self.inner.stale_since

    @property
    def finished(self) -> bool:
        return self._files_over and self.inner.finished

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        return self.inner.own_shard(source, partition)

    def close(self) -> None:
        self._files.close()
        if self._topics is not None:
            self._topics.close()
        self.inner.close()


def unwrapped(reader: Reader | None) -> Reader | None:
    """The reader of telemetry behind a reader."""
    while isinstance(reader, RecordsReader | ReplayedReader):
        reader = reader.inner
    return reader
