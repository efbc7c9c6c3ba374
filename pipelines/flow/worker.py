"""One worker's shards: bytes to readings, readings to results, results to topics, and all of it committed.

Here: the three stages that the dataflow strings together, and what they hold between turns. Not here: Bytewax
(`dataflow`), what a turn computes (`shard.advance`) or leaves (`batch_result`), publishing (`outbox`), how a commit is
made durable (`sinks.lake.commits`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl
import structlog

from metering.errors import OperationError
from metering.readings.decode import Lines, Messages, Refused, decode
from metering.readings.payloads import ACCEPTED_SCHEMA, Decoded
from metering.records.decode import decode_records
from metering.registry.index import MeterIndex
from metering.tables.lake import LAKE, READINGS, REJECTS
from pipelines.flow.batch_result import BatchResult, DecodedBatch, from_looking, nothing, placed, stamps_of, tables_of
from pipelines.flow.health import Progress, ShardHealth
from pipelines.flow.looks import Looks
from pipelines.flow.memory import Trimmer
from pipelines.flow.metrics import Metrics
from pipelines.flow.neighbours import Neighbours
from pipelines.flow.outbox import Outbox, Publisher
from pipelines.flow.records import RecordBook
from pipelines.flow.settings import Registry, ResultTopics, StreamSettings
from pipelines.shard import clock
from pipelines.shard.advance import FRAMES, TABLES, Results, advance
from pipelines.shard.state import Naming, Shards, State, dump, load, of_shards, rebased, united
from pipelines.shard.store import HELD_SCHEMA, Context, LakePast, Records, naming_of
from pipelines.shard.windows import OPEN
from pipelines.sources.poll import Batch, Position, Segment
from sinks.lake.commits import CommitLog, days_of
from sinks.lake.parts import parts
from sinks.lake.reader import LakeReader, current

WorkerOf = Callable[[str, int], int | None]
"""Which of so many workers a shard belongs to; None where the source does not say."""

_NO_READINGS = pl.DataFrame(schema={**READINGS.schema, **ACCEPTED_SCHEMA, "shard": pl.UInt16})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sinks:
    """Where results go: always the lake, and the topics if there is a broker."""

    lake: LakeReader
    commits: CommitLog
    topics: ResultTopics | None = None
    publisher: Callable[[int], Publisher] | None = None


class Worker:
    """The shards of one worker. Its stages are called one after the other, in one thread.

    Shards that the source does not read, of files while a topic is read for example, are held by the first worker: a
    meter may come from there.
    """

    def __init__(
        self,
        sinks: Sinks,
        settings: StreamSettings,
        registry: Registry,
        metrics: Metrics,
        number: int = 0,
        workers: int = 1,
        worker_of: WorkerOf = lambda _, __: None,
    ) -> None:
        self._sinks = sinks
        self._settings = settings
        self._registry = registry
        self._metrics = metrics
        self._number = number
        publisher = sinks.publisher(number) if sinks.publisher else None
        self._outbox = Outbox(publisher, sinks.topics, settings.retry_s, metrics)
        mine = frozenset(s for s in sinks.commits.shards if (worker_of(s, workers) or 0) == number)
        self._neighbours = Neighbours(sinks.commits, mine, workers)
        self._records = RecordBook(sinks.lake, settings.metering.timezone)
        self._trimmer = Trimmer()
        self._naming = naming_of(registry.index(), settings.metering)
        self._state = self._loaded(mine)
        self._again = False  # whether the last commit holds what a start publishes again
        self._publish_again(mine)
        self._positions: dict[str, Position] = {s: sinks.commits.position(s) or {} for s in sorted(mine)}
        self._pending: list[BatchResult] = []
        self._pending_since = 0.0
        self._committed_at = time.monotonic()
        self._commit_took = 0.0
        self._told_at: datetime | None = None
        self._looks = Looks(settings)
        self._counted: tuple[State, dict[str, tuple[int, int, int]]] | None = None

    def _loaded(self, mine: frozenset[str]) -> State:
        states = []
        for record, shards in self._sinks.commits.counting():
            if shards & mine:
                state = load(record.state, FRAMES, self._naming)
                own = shards & mine
                whole = own == record.positions.keys()
                states.append(state if whole else of_shards(state, FRAMES, own.__contains__, self._naming))
        return united(states, FRAMES, self._naming)

    def _publish_again(self, mine: frozenset[str]) -> None:
        """What came of looking and was committed last may not have been published: it is once more, as it stands now.

        A commit is made once all before it has been published; so no earlier one is asked.
        """
        for record, shards in self._sinks.commits.counting() if self._sinks.publisher else ():
            days = days_of("violations", record.parts)
            if not (own := shards & mine) or not days:
                continue
            lake = self._sinks.lake
            with lake.held():
                told = lake.scan("violations", days).filter(from_looking()).select("violation_id").collect()
                if told.is_empty():
                    continue
                every = lake.scan("violations").filter(pl.col("violation_id").is_in(told.to_series().implode()))
                rows = current(every, LAKE["violations"].key).collect()
            if own != record.positions.keys():  # the others are another worker's
                theirs = self._naming.index.code(rows["meter_id"])
                at = self._state.meters(self._naming.index)["shard"].gather(theirs)
                rows = rows.filter((at != 0).fill_null(False))
            self._again |= self._outbox.add_committed(rows)

    def position(self, shard: str) -> Position | None:
        """Where a shard goes on, by its last commit."""
        return self._sinks.commits.position(shard)

    # --- the stages ---

    def decode(self, batches: Sequence[Batch]) -> list[DecodedBatch]:
        index = self._registry.index()
        with self._metrics.stage("decode"):
            return [DecodedBatch(batch, self._decoded(batch, index), index) for batch in batches]

    def _decoded(self, batch: Batch, index: MeterIndex) -> Decoded:
        if batch.kind is None:
            return decode(batch.content, index, self._settings.metering.future_tolerance_s, datetime.now(UTC))
        assert isinstance(batch.content, Lines | Messages)
        return decode_records(batch.kind, batch.content)

    def advance(self, turn: Sequence[DecodedBatch]) -> BatchResult:
        """Take what has been decoded into the state."""
        with self._metrics.stage("advance"):
            return self._advance(turn)

    def look(self) -> BatchResult | None:
        """What is due by the clock although nothing comes; None where there is nothing to tell."""
        looked_at = self._looks.due(self._state.shards)
        if not looked_at:
            return None
        with self._metrics.stage("advance"):
            context = self._context([], self._records.known)
            nothing_came = pl.DataFrame(schema={**HELD_SCHEMA, "shard": pl.UInt16}).select(
                *context.arriving_columns, "shard"
            )
            state, results = advance(self._state, nothing_came, context, caught_up=looked_at)
        if results.violations.is_empty():
            return None
        self._state = state
        result = BatchResult({**nothing(), "violations": results.violations}, 0)
        self._taken(result, (), results)
        return result

    def deliver(self, results: Sequence[BatchResult]) -> None:
        """Publish results together, and commit what is due."""
        for result in results:
            self._outbox.add(result)
        self._publish(self._settings.flush_s)
        self._commit_due()

    @property
    def held(self) -> bool:
        """Whether nothing more should be read for now: the brokers owe answers."""
        return self._outbox.held

    def tick(self) -> None:
        """Publish and commit what is due although nothing came. Raises OperationError once another stream is owner."""
        self._sinks.commits.check()
        self._outbox.poll()
        self._publish(self._settings.flush_s)
        self._commit_due()
        self._trimmer.now_and_then()
        lateness_s = self._settings.metering.lateness_s
        shards = self._state.shards
        for name, max_us in zip(shards.names[1:], shards.max_us[1:], strict=True):
            if max_us > 0:
                self._metrics.watermark_delay.labels(name).set(time.time() - max_us / 1e6 + lateness_s)

    def finish(self) -> None:
        """Commit everything. Raises OperationError when the brokers do not take all of it in time."""
        self._outbox.retry_at = 0.0
        self._publish(self._settings.last_flush_s)
        if self.held:
            left = sum(result.rows for result in self._pending)
            raise OperationError(
                f"stopped while the brokers do not answer: {left} readings since the last commit do not count, and "
                "are read again at the next start"
            )
        self._commit()
        self._publish(self._settings.last_flush_s)
        if self._again and not self.held:
            self._commit(always=True)  # else the next start would publish it once more

    def close(self) -> None:
        """Let go of what was not delivered."""
        self._outbox.close()

    def progress(self) -> Progress:
        """How the shards stand."""
        now = time.monotonic()
        pending_s = now - self._pending_since if self._pending else 0.0
        health = ShardHealth(self._told_at, pending_s, max(0.0, pending_s - self._interval()))
        return Progress(dict.fromkeys(self._positions, health), self._outbox.blocked_s(now))

    # --- a turn ---

    def _advance(self, turn: Sequence[DecodedBatch]) -> BatchResult:
        self._take_up(turn[-1])
        records = self._records.take(turn)
        read = [segment for part in turn if part.batch.own for segment in part.batch.segments]
        readings = [part for part in turn if part.batch.kind is None]
        segments = [segment for part in readings for segment in part.batch.segments]
        shards = self._state.shards.with_names(segment.shard for segment in segments)
        state = replace(self._state, shards=shards)
        numbers = {name: number for number, name in enumerate(shards.names)}
        context = self._context([result.tables for result in self._pending], records.known)
        watched = clock.concerned(state, context)
        past = context.past
        assert isinstance(past, LakePast)
        accepted, rejects = [], [*records.rejects]
        timely: list[pl.DataFrame] = []
        for part in readings:
            own = self._accepted(part, numbers, past)
            if not self._neighbours.none:
                self._neighbours.refuse_apart(part.batch, self._new(own), self._naming)
            accepted.append(own)
            if not isinstance(part.batch.content, Refused):
                timely.append(own)
                if part.decoded.rejects.height:
                    rejects.append(placed(part.decoded.rejects, part.batch, numbers))
            self._count(part, own.height)
        rows = accepted[0] if len(accepted) == 1 else pl.concat(accepted or [_NO_READINGS], how="diagonal")
        ended = {numbers[segment.shard] for segment in segments if segment.end}
        taken = rows.select(*context.arriving_columns, "shard")
        whole = self._looks.after(segments, shards)
        stamps = stamps_of(timely, rejects, self._naming.index, watched)
        self._state, results = advance(state, taken, context, ended, whole, stamps)
        refused = pl.concat(rejects) if rejects else REJECTS.empty()
        gaps = [segment for segment in segments if segment.gap is not None]
        tables = tables_of(rows, refused, results, gaps, self._naming.index, self._settings.metering.timezone)
        tables |= records.tables
        self._metrics.taken_records(records.tables, records.rejects)
        committed = tuple(part.batch.committed for part in turn if part.batch.committed is not None)
        urgent = bool(committed) or any(segment.end for segment in segments)
        count = rows.height + refused.height + sum(table.height for table in records.tables.values())
        result = BatchResult(tables, count, urgent, committed)
        self._taken(result, read, results)
        return result

    def _context(self, pending: Sequence[Mapping[str, pl.DataFrame]], known: Mapping[str, Records]) -> Context:
        settings = self._settings
        past = LakePast(self._sinks.lake, self._naming, settings.metering, pending)
        alone = self._neighbours.none
        figures = (settings.metering, settings.windows_kept, past, settings.silent_s)
        return Context(self._naming, *figures, known, alone, datetime.now(UTC))

    def _accepted(self, part: DecodedBatch, numbers: dict[str, int], past: LakePast) -> pl.DataFrame:
        """Accepted readings in their places. Of rejects that are read again those that have not been taken yet, in the
        shards that their meters are in.
        """
        accepted = part.decoded.accepted
        again = isinstance(part.batch.content, Refused)
        if again:
            first = part.batch.segments[0]
            accepted = past.not_taken(accepted, first.source, first.partition)
        rows = placed(accepted, part.batch, numbers)
        if not again or rows.is_empty():
            return rows
        now = self._state.meters(self._naming.index)["shard"].gather(rows["meter"])
        known = pl.select(pl.when(now != 0).then(now).otherwise(rows["shard"]).alias("shard")).to_series()
        return rows.with_columns(known).sort("shard", maintain_order=True)

    def _new(self, rows: pl.DataFrame) -> pl.Series:
        """Meters that this worker has never heard."""
        heard = self._state.meters(self._naming.index)["shard"].gather(rows["meter"])
        return rows["meter"].filter(heard == 0).unique()

    def _take_up(self, part: DecodedBatch) -> None:
        """Bring the state under a registry that has changed."""
        if part.index is not self._naming.index:
            naming = naming_of(part.index, self._settings.metering)
            self._state = rebased(self._state, FRAMES, self._naming, naming)
            self._naming = naming

    def _taken(self, result: BatchResult, segments: Sequence[Segment], results: Results) -> None:
        if not self._pending:
            self._pending_since = time.monotonic()
        self._pending.append(result)
        for segment in segments:
            self._positions[segment.shard] = segment.after
            if segment.newest_offset is not None:
                lag = max(0, segment.newest_offset + 1 - segment.after.get("offset", 0))
                self._metrics.lag.labels(segment.shard).set(lag)
        for table in TABLES:
            if height := getattr(results, table).height:
                self._metrics.results.labels(table).inc(height)
        self._metrics.hold(self._state.shards.names[1:], self._held)

    def _held(self, shard: str) -> tuple[int, int, int]:
        """Readings and windows that are open and meters held, of a shard: counted when it is asked for, in the asking
        thread, for a state is never changed.
        """
        state = self._state
        if self._counted is None or self._counted[0] is not state:
            self._counted = (state, _counts(state, self._naming))
        return self._counted[1].get(shard, (0, 0, 0))

    def _count(self, part: DecodedBatch, accepted: int) -> None:
        metrics = self._metrics
        if isinstance(part.batch.content, Refused):
            metrics.replayed.inc(accepted)
            return
        rejects = part.decoded.rejects
        metrics.readings += accepted
        metrics.rejects += rejects.height
        metrics.received.inc(accepted + rejects.height)
        metrics.accepted.inc(accepted)
        if rejects.height:
            for reason, count in rejects["reason"].value_counts().iter_rows():
                metrics.rejected.labels(reason).inc(count)

    # --- publishing and committing ---

    def _publish(self, timeout_s: float) -> None:
        self._outbox.publish(timeout_s)

    def _commit_due(self) -> None:
        """Commit once everything is settled that has been read, and it is time."""
        if not self._pending or self.held:
            return
        rows = sum(result.rows for result in self._pending)
        urgent = any(result.urgent for result in self._pending)
        due = time.monotonic() - self._committed_at >= self._interval()
        if urgent or due or rows >= self._settings.commit_rows:
            self._commit()
            self._publish(self._settings.flush_s)

    def _interval(self) -> float:
        # Committing takes at most a tenth of the time, however large the state is.
        return max(self._settings.commit_interval_s, 10 * self._commit_took)

    def _commit(self, always: bool = False) -> None:
        if not self._pending and not always:
            return
        start = time.monotonic()
        with self._metrics.stage("lake"):
            frames = parts({table: [r.tables[table] for r in self._pending if table in r.tables] for table in LAKE})
        with self._metrics.stage("snapshot"):
            state = dump(self._state, FRAMES, self._naming)
        with self._metrics.stage("lake"):
            self._sinks.commits.commit(self._number, self._positions, state, frames)
        done, self._pending = self._pending, []
        self._committed_at = time.monotonic()
        self._told_at = datetime.now(UTC)
        self._commit_took = self._committed_at - start
        self._metrics.commit_seconds.observe(self._commit_took)
        self._metrics.committed(self._positions)
        rows = sum(result.rows for result in done)
        log.debug("committed", rows=rows, seconds=round(self._commit_took, 3), shards=len(self._positions))
        self._again = False
        for result in done:
            self._again |= self._outbox.add_committed(result.tables["violations"])
            for committed in result.committed:
                committed()


def _counts(state: State, naming: Naming) -> dict[str, tuple[int, int, int]]:
    shards: Shards = state.shards
    meters = state.meters(naming.index)
    held = dict(meters.filter(pl.col("seen_us") != 0).group_by("shard").agg(pl.len()).iter_rows())
    rows = [frame.select("meter", "end_us") for frame in state.chunks(OPEN).frames()]
    empty = pl.DataFrame(schema={"meter": pl.UInt32, "end_us": pl.Int64})
    opened = pl.concat([empty, *rows])
    opened = opened.with_columns(meters["shard"].gather(opened["meter"]))
    readings = dict(opened.group_by("shard").agg(pl.len()).iter_rows())
    windows = dict(opened.unique().group_by("shard").agg(pl.len()).iter_rows())
    return {
        name: (readings.get(number, 0), windows.get(number, 0), held.get(number, 0))
        for number, name in enumerate(shards.names)
    }
