"""Rejects that are read again, handed out between the polls of another source.

Here: looking for a request, and turning open rejects into polls of the shards they belong to. Not here: what becomes of
them: to the flow they are readings that come late (`worker`, `advance`), from where they stood in their source.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple

import polars as pl
import structlog

from metering.readings.decode import Refused
from metering.tables.lake import REJECTS
from pipelines.sources.poll import OwnShard, Poll, Position, Positions, Reader, Source, shard_name
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
        self._polls: Iterator[Poll | None] = iter(())
        self._look_at = 0.0

    def poll(self) -> list[Poll]:
        """The polls of `inner`, and at most one of rejects."""
        polls = self.inner.poll()
        self._read.update((poll.shard, _Shard(poll.source, poll.partition, poll.after)) for poll in polls)
        self._look()
        rejects = next(self._polls, None)
        return polls if rejects is None else [*polls, rejects]

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
            self._polls = self._served(self._request)

    def _done_with(self, asked: str) -> bool:
        me = self._worker, self._workers
        return any(said.done and (said.worker, said.workers) == me for said in self._source.requests.answers(asked))

    def _served(self, request: _Request) -> Iterator[Poll | None]:
        """What to hand out; None while there is nothing yet."""
        for shard in self._read.values():  # what was rejected a moment ago has to be in the lake before it is read
            yield self._last_poll(request, shard.source, shard.partition, over=False)
        while request.owed:
            yield None
        for (source, partition), days in self._shards(request):
            for day, count in days.select("date", "count").iter_rows():
                for rows in open_batches(self._source.lake, source, partition, day, self._source.batch_rows):
                    yield self._poll(source, partition, rows)
                request.looked_at += count
                self._answer(request)
            yield self._last_poll(request, source, partition)
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

    def _last_poll(self, request: _Request, source: str, partition: int, over: bool = True) -> Poll:
        """A poll without rows, after which the shard is committed."""
        request.owed += 1
        return self._poll(source, partition, REJECTS.empty(), partial(self._committed, request), over)

    def _poll(
        self,
        source: str,
        partition: int,
        rows: pl.DataFrame,
        committed: Callable[[], None] | None = None,
        over: bool = False,
    ) -> Poll:
        own = self.inner.own_shard(source, partition)
        assert own is not None
        after = self._position(own.shard)
        assert after is not None
        return Poll(own.shard, source, partition, Refused(rows), 0, after, over and own.over, committed=committed)

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


def unwrapped(reader: Reader | None) -> Reader | None:
    """The reader of telemetry behind a reader."""
    return reader.inner if isinstance(reader, ReplayedReader) else reader


@dataclass(frozen=True, slots=True)
class AtRest:
    """A source and reader without telemetry, for homes on which no stream runs: it stands for the shards that streams
    have read before, those of `topic` or, with `files`, all others.
    """

    topic: str
    files: bool

    def open(self, worker: int, workers: int, positions: Positions) -> AtRest:  # noqa: ARG002 - a source's signature
        return self

    def poll(self) -> list[Poll]:
        return []

    @property
    def stale_since(self) -> datetime | None:
        return None

    @property
    def finished(self) -> bool:
        return True

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        if (source != self.topic) != self.files:
            return None
        return OwnShard(source, over=True) if self.files else OwnShard(shard_name(source, partition), over=False)

    def close(self) -> None: ...
