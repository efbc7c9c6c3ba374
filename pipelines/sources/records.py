"""Records beside telemetry: NDJSON files of the home, and topics.

Here: the source that hands them out before and between another's readings, and the files. Not here: topics
(`kafka_records`), what a record is (`metering.tables.records`), what becomes of them (`pipelines.flow.records`).

Files are read at each start, to their end. They and what topics hold at the start come before any reading, so that
results hardly depend on which of the logs is quicker. Beside topics, which have no end, files that come later, or grow,
are taken too: once they have stood still from one look to the next, for they may be being written. Each file or
partition has one worker that commits it; records of a kind that is broadcast are read by all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from metering.errors import UserError
from metering.tables.records import KINDS, RecordKind
from pipelines.shard_names import LINE_SUFFIXES, partition_shard
from pipelines.sources.files import HIDDEN, FileLog
from pipelines.sources.poll import Batch, OwnShard, Position, Positions, Reader, Source
from pipelines.sources.redrive import ReplayedReader

if TYPE_CHECKING:
    from pipelines.sources.kafka_records import TopicRecords


LOOK_EVERY_S = 20.0
"""How often files are looked for beside topics: what has come is taken at the second look, so within a minute."""

log = structlog.get_logger(__name__)


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
            files = RecordFiles(self.home, self.batch_rows, worker, positions)
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


class RecordFiles:
    """The files of records of a home that a worker reads: those that are there, to their end; then, by looking again,
    what has come since. Raises UserError when a file is not the one that was read before.
    """

    def __init__(self, home: Path, batch_rows: int, worker: int, positions: Positions) -> None:
        self._home, self._batch_rows, self._worker, self._positions = home, batch_rows, worker, positions
        self._after: dict[str, Position] = {}
        self._taken = self._last = self._stamps()
        self._look_at = time.monotonic() + LOOK_EVERY_S
        found = [(kind, files) for kind in self._kinds() if (files := files_of(home, kind))]
        self.over = not found
        self._batches = chain.from_iterable([self._log(kind, files) for kind, files in found])

    def poll(self) -> Batch | None:
        """What comes next; None where there is no more for now: `over`."""
        batch = next(self._batches, None)
        self.over = batch is None
        for segment in batch.segments if batch is not None else ():
            self._after[segment.shard] = segment.after
        return batch

    def look(self) -> None:
        """Look for files that have come or grown, now and then. One that was changed otherwise is left alone."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_EVERY_S
        now, before = self._stamps(), self._last
        self._last = now
        fresh = {path: stamp for path, stamp in now.items() if before.get(path) == stamp != self._taken.get(path)}
        self._taken = {**self._taken, **fresh}
        if fresh:
            self._batches = chain(self._batches, self._later(fresh))

    def _kinds(self) -> list[RecordKind]:
        return [kind for kind in KINDS.values() if self._worker == 0 or kind.broadcast]

    def _stamps(self) -> dict[Path, tuple[int, int]]:
        """Size and time of change of each file."""
        found = {}
        for path in (path for kind in self._kinds() for path in files_of(self._home, kind).values()):
            with contextlib.suppress(FileNotFoundError):
                found[path] = ((stat := path.stat()).st_size, stat.st_mtime_ns)
        return found

    def _log(self, kind: RecordKind, files: Mapping[str, Path]) -> Iterator[Batch]:
        shard = _shard(kind)
        position = self._after.get(shard) or self._positions(shard) or {}
        return _of_kind(FileLog(shard, files, self._batch_rows, position), kind, own=self._worker == 0)

    def _later(self, fresh: Container[Path]) -> Iterator[Batch]:
        for kind in self._kinds():
            for name, path in files_of(self._home, kind).items():
                if path not in fresh:
                    continue
                try:
                    batches = self._log(kind, {name: path})
                except UserError as error:
                    log.warning("file of records is left alone", problem=str(error))
                    continue
                yield from batches


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

    def __init__(self, inner: Reader, files: RecordFiles, topics: TopicRecords | None) -> None:
        self.inner = inner
        self._files = files
        self._topics = topics

    def poll(self) -> Sequence[Batch]:
        """What files hold, then what topics hold; from then on what comes of either."""
        if not self._files.over:
            batch = self._files.poll()
            return [] if batch is None else [batch]
        if self._topics is None:
            return self.inner.poll()
        if not self._topics.caught_up:
            return self._topics.poll()
        self._files.look()
        late = self._files.poll()  # None in nearly every turn
        return [*([] if late is None else [late]), *self._topics.poll(), *self.inner.poll()]

    @property
    def stale_since(self) -> datetime | None:
        return self.inner.stale_since

    @property
    def finished(self) -> bool:
        return self._files.over and self.inner.finished

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        return self.inner.own_shard(source, partition)

    def close(self) -> None:
        if self._topics is not None:
            self._topics.close()
        self.inner.close()


def unwrapped(reader: Reader | None) -> Reader | None:
    """The reader of telemetry behind a reader."""
    while isinstance(reader, RecordsReader | ReplayedReader):
        reader = reader.inner
    return reader
