"""The shards of the other processes of a stream: meters that would have to come from there are out of reach.

Here: which meters those are, and refusing them. Not here: meters that move within a process (`shard.meters`).
"""

from __future__ import annotations

import polars as pl

from metering.errors import ApartError
from pipelines.shard.advance import FRAMES
from pipelines.shard.state import METERS, Naming, load, of_shards
from pipelines.sources.poll import Batch
from sinks.lake.commits import CommitLog


class Neighbours:
    """The meters of other workers, by what had been committed at the start."""

    def __init__(self, commits: CommitLog, mine: frozenset[str], workers: int) -> None:
        self._commits, self._mine, self._workers = commits, mine, workers
        self._elsewhere: pl.Series | None = None

    @property
    def none(self) -> bool:
        """Whether there are no other processes."""
        return self._workers == 1

    def refuse_apart(self, batch: Batch, meters: pl.Series, naming: Naming) -> None:
        """Raises ApartError for meters (codes), new to this worker, that another worker's shard knew at the start, and
        where meters may have moved since then.
        """
        if self._workers == 1 or meters.is_empty():
            return
        if batch.on_new_meters is not None:
            batch.on_new_meters()
        if self._elsewhere is None:
            self._elsewhere = self._heard_elsewhere(naming)
        names = naming.index.names.gather(meters)
        moved = names.filter(names.is_in(self._elsewhere.implode()))
        if len(moved):
            shards = ", ".join(segment.shard for segment in batch.segments)
            raise ApartError(f"meters such as {moved[0]} have moved to {shards} from one that another process reads")

    def _heard_elsewhere(self, naming: Naming) -> pl.Series:
        found = [pl.Series(dtype=pl.String)]
        for record, shards in self._commits.counting():
            others = shards - self._mine
            if others:
                state = of_shards(load(record.state, FRAMES, naming), FRAMES, others.__contains__, naming)
                heard = state.meters(naming.index).filter(pl.col("shard") != 0)["meter"]
                found.append(naming.index.names.gather(heard))
                if (unknown := state.unknown.get(METERS.name)) is not None:
                    found.append(unknown["meter_id"])
        return pl.concat(found)
