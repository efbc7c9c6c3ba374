"""The other shards of a topic: those that meters may come from, and those out of reach, in other processes.

Here: which they are, and refusing meters that would have to come from out of reach. Not here: the move (`handover`),
the shards of this process (`worker`).
"""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from metering.errors import ApartError
from metering.registry.index import MeterIndex
from pipelines.shard.handover import heard
from pipelines.shard.state import load
from pipelines.sources.poll import Poll, partition_of
from sinks.lake.commits import CommitLog


class Neighbours:
    """The shards beside those of one of several workers, by what has been committed of them."""

    def __init__(self, commits: CommitLog, worker: int, workers: int) -> None:
        self._commits = commits
        self._worker, self._workers = worker, workers
        self._elsewhere: pl.Series | None = None

    def within(self, poll: Poll, loaded: Collection[str]) -> list[str]:
        """Other shards of the poll's source that this worker has loaded, or has a commit of."""
        names = {*loaded, *self._commits.shards} - {poll.shard}
        return sorted(name for name in names if self._is_mine(poll, name))

    def refuse_apart(self, poll: Poll, meters: pl.Series, index: MeterIndex) -> None:
        """Raises ApartError for meters (codes) that another worker's shard knew at the start, and where other meters
        may have moved since then."""
        if self._workers == 1 or meters.is_empty():
            return
        if poll.on_new_meters is not None:
            poll.on_new_meters()
        if self._elsewhere is None:
            self._elsewhere = self._heard_elsewhere(poll, index)
        names = pl.Series(index.ids.categories).gather(meters)
        moved = names.filter(names.is_in(self._elsewhere.implode()))
        if len(moved):
            raise ApartError(
                f"meters such as {moved[0]} have moved to {poll.shard} from a partition that another process reads"
            )

    def _heard_elsewhere(self, poll: Poll, index: MeterIndex) -> pl.Series:
        codes = pl.int_range(len(index.first), dtype=pl.UInt32, eager=True)
        found = codes.clear()
        for name in self._commits.shards:
            record = self._commits.last(name)
            if record is not None and self._is_mine(poll, name) is False:
                found = found.append(codes.filter(heard(load(record.state, index), codes)))
        return pl.Series(index.ids.categories).gather(found)

    def _is_mine(self, poll: Poll, name: str) -> bool | None:
        """Whether this worker reads the shard; None where it is none of the poll's source."""
        partition = partition_of(poll.source, name)
        return None if partition is None else partition % self._workers == self._worker
