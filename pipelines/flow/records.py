"""Records in the stream: rows for the lake, and what is known of those kinds that every turn may ask for.

Here: taking decoded records in. Not here: reading them (`sources.records`), decoding (`metering.records`), what a
detector makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from metering.calendar import local_date
from metering.records.current import broadcast
from metering.tables.records import KINDS
from pipelines.flow.batch_result import DecodedBatch, placed
from pipelines.shard.store import Records
from sinks.lake.reader import LakeReader


@dataclass(frozen=True, slots=True)
class Taken:
    """A turn's records. `tables`: this worker's rows for the lake, by table; `rejects`: its rejects, in their places;
    `known`: what the turn may know, by table.
    """

    tables: Mapping[str, pl.DataFrame]
    rejects: Sequence[pl.DataFrame]
    known: Mapping[str, Records]


class RecordBook:
    """The broadcast kinds' records as they stand: what the lake holds, and what has come since.

    The lake holds a log's records up to the position that is committed, whichever worker committed it; from there on
    every worker reads the log itself. So a start knows what the stream before knew, once it has read on.
    """

    def __init__(self, lake: LakeReader, timezone: str) -> None:
        self._timezone = timezone
        with lake.held():
            self._current = {
                name: broadcast(lake.scan(name).collect(), kind) for name, kind in KINDS.items() if kind.broadcast
            }

    def take(self, parts: Sequence[DecodedBatch]) -> Taken:
        """Take in the records among a turn's batches, in their order."""
        tables: dict[str, list[pl.DataFrame]] = {}
        arrived: dict[str, list[pl.DataFrame]] = {}
        rejects: list[pl.DataFrame] = []
        for part in parts:
            kind = part.batch.kind
            if kind is None:
                continue
            of_shards = {segment.shard: 0 for segment in part.batch.segments}
            dated = local_date(pl.col(kind.time), self._timezone).alias("date")
            rows = kind.table.conform(placed(part.decoded.accepted, part.batch, of_shards).with_columns(dated))
            if part.batch.own:
                tables.setdefault(kind.table.name, []).append(rows)
                if part.decoded.rejects.height:
                    rejects.append(placed(part.decoded.rejects, part.batch, of_shards))
            if kind.broadcast and rows.height:
                arrived.setdefault(kind.table.name, []).append(rows)
        return Taken({name: pl.concat(rows) for name, rows in tables.items()}, rejects, self._known(arrived))

    @property
    def known(self) -> Mapping[str, Records]:
        """What a turn may know without any records of its own."""
        return self._known({})

    def _known(self, arrived: Mapping[str, Sequence[pl.DataFrame]]) -> Mapping[str, Records]:
        known: dict[str, Records] = {}
        for name, before in self._current.items():
            if name in arrived:
                rows = pl.concat(arrived[name])
                self._current[name] = broadcast(pl.concat([before, rows]), KINDS[name])
            else:
                rows = before.clear()
            known[name] = Records(rows, self._current[name])
        return known
