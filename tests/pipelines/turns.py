"""Logs of several shards run through a state, turn by turn, without a source, a broker or a commit.

What has been read is on its way into a lake that is empty: so looks at the past are those of the stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl

from metering.readings.decode import Lines, Messages, decode
from metering.records.current import broadcast
from metering.records.decode import decode_records
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.control import LOAD_CONTROL
from metering.tables.lake import COMPLIANCE, REJECTS, VIOLATIONS, WINDOWS
from metering.tables.records import KINDS
from pipelines.flow.batch_result import placed, tables_of
from pipelines.shard.advance import FRAMES, Results, advance
from pipelines.shard.state import Naming, State, dump, load, of_shards, rebased, united
from pipelines.shard.store import Context, LakePast, Records, naming_of
from pipelines.shard_names import partition_shard
from pipelines.sources.poll import Batch, Segment
from sinks.lake.reader import LakeReader, current

Row = dict[str, Any]
Sent = tuple[int, Row]
"""The partition of a topic that a reading came in, and the reading."""
TOPIC = "meter.readings.v1"


def standing(violations: pl.DataFrame) -> pl.DataFrame:
    """Violations that are not withdrawn, without messages, and without the worst value of those that are open: up to a
    step of 1 % of the limit, what is told of it depends on what came first.
    """
    ended = pl.when(pl.col("ended_at").is_not_null())
    stands = violations.filter(pl.col("state") != "withdrawn").drop("message_zh", "message_en")
    return stands.with_columns(ended.then(name).alias(name) for name in ("value", "percent", "duration_s"))


@dataclass(frozen=True)
class FixedRegistry:
    """A registry that never changes."""

    fixed: MeterIndex

    def index(self) -> MeterIndex:
        return self.fixed


@dataclass
class Turns:
    """A state that `turn` moves on by what came of each partition, in order of arrival."""

    index: MeterIndex
    figures: MeteringSettings
    lake: Path
    kept: int = 8
    silent_s: float = 1e9
    state: State = field(default_factory=State)
    tables: list[dict[str, pl.DataFrame]] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)
    records: dict[str, Records] = field(default_factory=dict)
    alone: bool = True

    @property
    def naming(self) -> Naming:
        return naming_of(self.index, self.figures)

    @property
    def context(self) -> Context:
        naming = self.naming
        past = LakePast(LakeReader(self.lake), naming, self.figures, self.tables)
        return Context(naming, self.figures, self.kept, past, self.silent_s, dict(self.records), self.alone)

    def hear(self, name: str, rows: Sequence[Row]) -> None:
        """Records of a kind arrive with the next turn."""
        kind = KINDS[name]
        accepted = decode_records(kind, Lines(b"\n".join(json.dumps(row).encode() for row in rows))).accepted
        before = self.records[name].current if name in self.records else kind.table.empty()
        dated = accepted.with_columns(date=pl.col(kind.time).dt.date(), log_offset=pl.col("item") + before.height)
        arrived = kind.table.conform(dated, source=name, source_partition=0)
        self.records[name] = Records(arrived, broadcast(pl.concat([before, arrived]), kind))

    def turn(
        self, sent: Sequence[Sent], ended: Collection[int] = (), caught_up: Mapping[int, int] = MappingProxyType({})
    ) -> Results:
        """Read these; all windows of partitions in `ended` close, those `caught_up` (by the clock) are looked at."""
        segments, values, offsets, logged = [], [], [], []
        for partition in sorted({partition for partition, _ in sent} | set(ended) | set(caught_up)):
            rows = [row for other, row in sent if other == partition]
            first = self.offsets.get(partition, 0)
            self.offsets[partition] = first + len(rows)
            values += [json.dumps({k: v for k, v in row.items() if k != "logged_ms"}).encode() for row in rows]
            offsets += range(first, first + len(rows))
            logged += [row.get("logged_ms", 1_800_000_000_000) for row in rows]
            end = partition in ended
            segments.append(Segment(partition_shard(TOPIC, partition), TOPIC, partition, len(rows), {}, end=end))
        content = Messages(values, offsets, logged, [None] * len(values))
        decoded = decode(content, self.index, 300, datetime(2027, 1, 1, tzinfo=UTC))
        assert decoded.rejects.is_empty(), decoded.rejects["reason", "detail"]
        shards = self.state.shards.with_names(segment.shard for segment in segments)
        numbers = {name: number for number, name in enumerate(shards.names)}
        rows = placed(decoded.accepted, Batch(content, tuple(segments)), numbers)
        context = self.context
        taken = rows.select(*context.arriving_columns, "shard")
        over = {numbers[segment.shard] for segment in segments if segment.end}
        looked_at = {numbers[partition_shard(TOPIC, number)]: clock for number, clock in caught_up.items()}
        self.state, results = advance(replace(self.state, shards=shards), taken, context, over, looked_at)
        tables = tables_of(rows, REJECTS.empty(), results, (), self.index, self.figures.timezone)
        self.tables.append(tables)
        self.records = {name: replace(known, arrived=known.arrived.clear()) for name, known in self.records.items()}
        return results

    def under(self, index: MeterIndex) -> None:
        """Go on under another registry."""
        new = naming_of(index, self.figures)
        self.state = rebased(self.state, FRAMES, self.naming, new)
        self.index = index

    def restart(self, worker_of: Callable[[str], int] = lambda _: 0) -> None:
        """As after a commit, and shared out anew: each worker's shards cut from the state, and all of it joined."""
        written = dump(self.state, FRAMES, self.naming)
        states = []
        for worker in sorted({worker_of(shard) for shard in self.state.shards.names[1:]}):
            whole = load(written, FRAMES, self.naming)
            own = of_shards(whole, FRAMES, lambda shard, worker=worker: worker_of(shard) == worker, self.naming)
            states.append(load(dump(own, FRAMES, self.naming), FRAMES, self.naming))
        self.state = united(states, FRAMES, self.naming)

    def final(self) -> dict[str, pl.DataFrame]:
        """Windows, violations, compliance and load control that count in the end."""
        found = {}
        for table in (WINDOWS, VIOLATIONS, COMPLIANCE, LOAD_CONTROL):
            rows = pl.concat([tables[table.name] for tables in self.tables])
            assert rows.select(*table.key, "revision").is_unique().all(), table.name
            found[table.name] = current(rows.lazy(), table.key).collect()
        return found
