"""Rejects that are read again, handed out between the batches of another source.

Here: looking for a request, and turning open rejects into batches of the shards they belong to. Not here: what becomes
of them: to the flow they are readings that come late (`worker`, `advance`), from where they stood in their source.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple

import polars as pl
import structlog

from metering.readings.decode import Refused
from metering.tables.lake import REJECTS
from pipelines.shard_names import is_telemetry, shard_of
from pipelines.sources.poll import Batch, OwnShard, Position, Positions, Reader, Segment, Source
from pipelines.sources.redrive_requests import Answer, Requests
from sinks.lake.reader import LakeReader
from sinks.lake.rejects import mendable, open_batches

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Replayed:
    """`inner`, and besides it the home's open rejects of those shards that `inner` reads, whenever that is requested.

    `refresh` has the newest registry taken up; it is called before rejects are read again. A poll holds about
    `batch_rows` rejects. It is looked for a request every `look_every_s`.
    """

    inner: Source
    lake: LakeReader
    requests: Requests
    refresh: Callable[[], None]
    batch_rows: int
    look_every_s: float = 1.0

    def worker_of(self, shard: str, workers: int) -> int | None:
        return self.inner.worker_of(shard, workers)

    def open(self, worker: int, workers: int, positions: Positions) -> ReplayedReader:
        return ReplayedReader(self, self.inner.open(worker, workers, positions), worker, workers, positions)


@dataclass(slots=True)
class _Request:
    """A request being served. `owed`: shards of which something is handed out that has to be committed, and is not."""

    id: str
    total: int = 0
    looked_at: int = 0
    owed: int = 0
    handed_out: bool = False

    @property
    def done(self) -> bool:
        return self.handed_out and self.owed == 0


class _Shard(NamedTuple):
    source: str
    partition: int
    after: Position


class ReplayedReader:
    """Reads `inner`, and rejects again when asked to."""

    def __init__(self, source: Replayed, inner: Reader, worker: int, workers: int, positions: Positions) -> None:
        self.inner = inner
        self._source, self._worker, self._workers, self._positions = source, worker, workers, positions
        self._read: dict[str, _Shard] = {}
        self._request: _Request | None = None
        self._batches: Iterator[Batch | None] = iter(())
        self._look_at = 0.0

    def poll(self) -> Sequence[Batch]:
        """What `inner` has, and at most one batch of rejects."""
        batches = self.inner.poll()
        for segment in (segment for batch in batches for segment in batch.segments):
            self._read[segment.shard] = _Shard(segment.source, segment.partition, segment.after)
        self._look()
        rejects = next(self._batches, None)
        return batches if rejects is None else [*batches, rejects]

    @property
    def stale_since(self) -> datetime | None:
        return self.inner.stale_since

    @property
    def finished(self) -> bool:
        """Once `inner` has ended and there is no request left whose rejects are to be handed out."""
        if self.inner.finished:
            self._look()
        return self.inner.finished and (self._request is None or self._request.handed_out)

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        return self.inner.own_shard(source, partition)

    def close(self) -> None:
        self.inner.close()

    def _look(self) -> None:
        """Begin to serve a request that is new to this worker."""
        if self._request is not None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + self._source.look_every_s
        asked = self._source.requests.asked()
        if asked is not None and not self._done_with(asked):
            self._source.refresh()
            self._request = _Request(asked)
            self._batches = self._served(self._request)

    def _done_with(self, asked: str) -> bool:
        me = self._worker, self._workers
        return any(said.done and (said.worker, said.workers) == me for said in self._source.requests.answers(asked))

    def _served(self, request: _Request) -> Iterator[Batch | None]:
        """What to hand out; None while there is nothing yet."""
        # What was rejected a moment ago has to be in the lake before it is read. A list: shards may be heard meanwhile.
        for shard in list(self._read.values()):
            yield self._last(request, shard.source, shard.partition, over=False)
        while request.owed:
            yield None
        for (source, partition), days in self._shards(request):
            for day, count in days.select("date", "count").iter_rows():
                for rows in open_batches(self._source.lake, source, partition, day, self._source.batch_rows):
                    yield self._batch(source, partition, rows)
                request.looked_at += count
                self._answer(request)
            yield self._last(request, source, partition)
        request.handed_out = True
        self._answer(request)

    def _shards(self, request: _Request) -> Iterable[tuple[tuple[str, int], pl.DataFrame]]:
        """How many rejects there are to look at, by day, for each source and partition that `inner` reads."""
        counts = mendable(self._source.lake)
        mine = [self._reads(*where) for where in counts.select("source", "source_partition").iter_rows()]
        counts = counts.filter(pl.Series(mine, dtype=pl.Boolean))
        request.total = int(counts["count"].sum())
        log.info("replaying rejects", rejects=request.total)
        shards = counts.select("source", "source_partition").unique(maintain_order=True).iter_rows()
        return [((s, p), counts.filter(source=s, source_partition=p)) for s, p in shards]

    def _reads(self, source: str, partition: int) -> bool:
        own = self.inner.own_shard(source, partition)
        return own is not None and self._position(own.shard) is not None

    def _position(self, shard: str) -> Position | None:
        return self._read[shard].after if shard in self._read else self._positions(shard)

    def _last(self, request: _Request, source: str, partition: int, over: bool = True) -> Batch:
        """A batch without rows, after which everything is committed."""
        request.owed += 1
        return self._batch(source, partition, REJECTS.empty(), partial(self._committed, request), over)

    def _batch(
        self,
        source: str,
        partition: int,
        rows: pl.DataFrame,
        committed: Callable[[], None] | None = None,
        over: bool = False,
    ) -> Batch:
        own = self.inner.own_shard(source, partition)
        assert own is not None
        after = self._position(own.shard)
        assert after is not None
        segment = Segment(own.shard, source, partition, rows.height, after, end=over and own.over)
        return Batch(Refused(rows), (segment,), committed=committed)

    def _committed(self, request: _Request) -> None:
        request.owed -= 1
        if request.handed_out:
            self._answer(request)

    def _answer(self, request: _Request) -> None:
        """Tell how far this worker is, and once all is committed that it is done."""
        done = request.done
        said = Answer(request.id, self._worker, self._workers, request.looked_at, request.total, done)
        self._source.requests.answer(said)
        if done:
            self._request = None
            log.info("replayed rejects", rejects=request.looked_at)


@dataclass(frozen=True, slots=True)
class AtRest:
    """A source and reader without telemetry, for homes on which no stream runs: it stands for the shards that streams
    have read before, those of `topic` or, with `files`, all others.
    """

    topic: str
    files: bool

    def worker_of(self, shard: str, workers: int) -> int | None:  # noqa: ARG002 - a source's signature
        return 0

    def open(self, worker: int, workers: int, positions: Positions) -> AtRest:  # noqa: ARG002 - a source's signature
        return self

    def poll(self) -> list[Batch]:
        return []

    @property
    def stale_since(self) -> datetime | None:
        return None

    @property
    def finished(self) -> bool:
        return True

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        if is_telemetry(source) != self.files or (not self.files and source != self.topic):
            return None
        return OwnShard(shard_of(source, partition), over=self.files)

    def close(self) -> None: ...
