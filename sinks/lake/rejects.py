"""The lake's rejected readings: which of them are still open, and which have been taken since.

Here: looking them up by their place in the source. Not here: reading them again (`metering.readings.decode`), listing
them for people (`orchestration.cli`). A reject that has been replayed stays in `rejects`; its reading stands in
`readings` under the same place.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from itertools import pairwise

import polars as pl

from metering.readings.admission import MENDABLE
from metering.tables.lake import READINGS, REJECTS
from sinks.lake.reader import LakeReader

PLACE = READINGS.key


def mendable(lake: LakeReader) -> pl.DataFrame:
    """How many rejects a mended registry or clock could change: `source`, `source_partition`, `date`, `count`.

    Sorted; those that have been taken since are counted too.
    """
    place = ("source", "source_partition", "date")
    with lake.held():
        rows = lake.scan("rejects").filter(pl.col("reason").is_in(MENDABLE))
        return rows.group_by(place).agg(pl.len().alias("count")).sort(place).collect()


def by_reason(lake: LakeReader) -> pl.DataFrame:
    """`reason`, `count` of all rejects, and how many of them have been `replayed`; sorted by reason."""
    with lake.held():
        counts = [_counted(lake, day) for day in lake.dates("rejects")]
    empty = pl.DataFrame(schema={"reason": pl.String, "count": pl.Int64, "replayed": pl.Int64})
    return pl.concat([empty, *counts]).group_by("reason").agg(pl.col("count", "replayed").sum()).sort("reason")


def _counted(lake: LakeReader, day: date) -> pl.DataFrame:
    rejects = lake.scan("rejects", [day])
    every = rejects.group_by("reason").agg(pl.len().cast(pl.Int64).alias("count"))
    taken = taken_places(lake, rejects.filter(pl.col("reason").is_in(MENDABLE)).select("reason", *PLACE).collect(), day)
    replayed = taken.group_by("reason").agg(pl.len().cast(pl.Int64).alias("replayed"))
    return every.collect().join(replayed, on="reason", how="left").with_columns(pl.col("replayed").fill_null(0))


def taken_places(lake: LakeReader, rows: pl.DataFrame, day: date) -> pl.DataFrame:
    """Of `rows` (PLACE and whatever else), all of one local date, those whose place stands in `readings`."""
    if rows.is_empty():
        return rows
    near = pl.col("source_offset").is_between(rows["source_offset"].min(), rows["source_offset"].max())
    readings = lake.scan("readings", [day]).filter(near).select(PLACE)
    taken = readings.join(rows.lazy().select(PLACE), on=PLACE, how="semi").collect(engine="streaming")
    return rows.join(taken, on=PLACE, how="semi", maintain_order="left")


def newest_open(lake: LakeReader, limit: int, reason: str | None = None, *, replayed_too: bool = False) -> pl.DataFrame:
    """The last `limit` rejects (columns of `rejects`) by date and place; only open ones, or all."""
    found = [REJECTS.empty()]
    for day in reversed(lake.dates("rejects")):
        with lake.held():
            rows = lake.scan("rejects", [day])
            if reason:
                rows = rows.filter(pl.col("reason") == reason)
            if not replayed_too:
                places = rows.select("reason", *PLACE).collect()
                taken = taken_places(lake, places.filter(pl.col("reason").is_in(MENDABLE)), day)
                rows = rows.join(taken.lazy(), on=PLACE, how="anti")
            found.append(rows.sort(PLACE).tail(limit).collect())
        if sum(frame.height for frame in found) >= limit:
            break
    return pl.concat(reversed(found)).tail(limit)


def open_batches(lake: LakeReader, source: str, partition: int, day: date, batch_rows: int) -> Iterator[pl.DataFrame]:
    """The open, mendable rejects of a shard and local date in the order of their source, about `batch_rows` at a time.

    A message is never cut, so a batch may be larger by as many rows as one message has.
    """
    mine = (pl.col("source") == source) & (pl.col("source_partition") == partition)
    wanted = mine & pl.col("reason").is_in(MENDABLE)
    with lake.held():
        places = lake.scan("rejects", [day]).filter(wanted).select(PLACE).collect()
        left = places.join(taken_places(lake, places, day), on=PLACE, how="anti").sort(PLACE)
    offsets = left["source_offset"].gather_every(batch_rows).unique(maintain_order=True).to_list()
    for first, after in pairwise([*offsets, None]):
        here = pl.col("source_offset") >= first
        if after is not None:
            here &= pl.col("source_offset") < after
        with lake.held():
            rejects = lake.scan("rejects", [day]).filter(wanted & here)
            batch = rejects.join(left.lazy(), on=PLACE, how="semi").sort(PLACE).collect()
        yield batch
