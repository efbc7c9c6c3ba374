"""One worker's shards: bytes to readings, readings to results, results to topics, and all of it committed.

Here: the three stages that the dataflow strings together, and what they hold between batches. Not here: Bytewax
(`dataflow`), what a step computes (`advance`) or leaves (`steps`), publishing (`outbox`), how a commit is made durable
(`sinks.lake.commits`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import structlog

from metering.errors import OperationError
from metering.readings.decode import Refused, decode
from metering.readings.payloads import Decoded
from metering.registry.index import MeterIndex
from metering.tables.lake import LAKE
from pipelines.flow.health import Progress, ShardHealth
from pipelines.flow.memory import Trimmer
from pipelines.flow.metrics import Metrics
from pipelines.flow.neighbours import Neighbours
from pipelines.flow.outbox import Outbox, Publisher
from pipelines.flow.settings import Registry, ResultTopics, StreamSettings
from pipelines.flow.steps import Decided, Step, nothing, tables_of
from pipelines.shard import handover
from pipelines.shard.advance import Results
from pipelines.shard.environment import Environment
from pipelines.shard.history import LakeHistory
from pipelines.shard.slices import slice_of
from pipelines.shard.state import ShardState, dump, load, rebased
from pipelines.sources.poll import Poll, Position, partition_of
from sinks.lake.commits import Commit, CommitLog
from sinks.lake.parts import parts
from sinks.lake.reader import LakeReader

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sinks:
    """Where results go: always the lake, and the topics if there is a broker."""

    lake: LakeReader
    commits: CommitLog
    topics: ResultTopics | None = None
    publisher: Callable[[int], Publisher] | None = None


@dataclass(slots=True)
class Shard:
    """A shard between batches. `pending`: steps not committed yet, the first of them for `pending_since`; the results
    of the first `delivered` of them are on the brokers.
    """

    state: ShardState
    index: MeterIndex
    pending: list[Step] = field(default_factory=list)
    delivered: int = 0
    pending_since: float = 0.0
    told_at: datetime | None = None
    committed_at: float = field(default_factory=time.monotonic)
    commit_took: float = 0.0

    def taken(self, step: Step) -> None:
        """A step has been made."""
        self.state = step.state
        if not self.pending:
            self.pending_since = time.monotonic()
        self.pending.append(step)


class Worker:
    """The shards of one worker. Its stages are called one after the other, in one thread."""

    def __init__(
        self,
        sinks: Sinks,
        settings: StreamSettings,
        registry: Registry,
        metrics: Metrics,
        number: int = 0,
        workers: int = 1,
    ) -> None:
        self._sinks = sinks
        self._settings = settings
        self._registry = registry
        self._metrics = metrics
        self._shards: dict[str, Shard] = {}
        publisher = sinks.publisher(number) if sinks.publisher else None
        self._outbox = Outbox(publisher, sinks.topics, settings.retry_s, metrics)
        self._neighbours = Neighbours(sinks.commits, number, workers)
        self._trimmer = Trimmer()
        self._waiting: list[Decided] = []

    def position(self, shard: str) -> Position | None:
        """Where a shard goes on, by its last commit."""
        record = self._sinks.commits.last(shard)
        return record.position if record else None

    def decode(self, poll: Poll) -> Decided:
        index = self._registry.index()
        tolerance_s = self._settings.metering.future_tolerance_s
        with self._metrics.stage("decode"):
            decoded = decode(poll.content, poll.first_row, index, tolerance_s, datetime.now(UTC))
        return Decided(poll, decoded, index)

    def waiting(self) -> list[Decided]:
        """What is left of polls that have been begun, to be worked off before more is read."""
        waiting, self._waiting = self._waiting, []
        return waiting

    @property
    def begun(self) -> bool:
        """Whether there is any such."""
        return bool(self._waiting)

    def advance(self, decided: Decided) -> Step | None:
        """Work a poll off, or as much of it as does not take long; None where something of its shard comes first."""
        if any(decided.poll.shard == rest.poll.shard for rest in self._waiting):
            self._waiting.append(decided)
            return None
        if not isinstance(decided.poll.content, Refused):
            decided, rest = slice_of(decided, self._shard(decided.poll.shard, decided.index).state)
            self._waiting += [rest] if rest else []
        return self._advance(decided)

    def _advance(self, decided: Decided) -> Step:
        poll, decoded, index = decided.poll, decided.decoded, decided.index
        shard = self._shard(poll.shard, index)
        history = self._history(poll, index)
        again = isinstance(poll.content, Refused)
        if again:
            decoded = Decoded(history.not_taken(decoded.accepted, poll.partition), decoded.rejects.clear())
            decided = replace(decided, decoded=decoded)
        others = self._claim(decided, shard)
        env = self._environment(poll, index, self._history(poll, index), again)
        with self._metrics.stage("advance"):
            state, results = handover.step(shard.state, decoded.accepted, env, poll.end)
        rows = decoded.accepted.height + decoded.rejects.height
        urgent = poll.end or poll.committed is not None
        tables = tables_of(decided, results, self._settings.metering.timezone)
        step = Step(poll.shard, tables, poll.after, state, index, urgent, rows, others, poll.committed)
        shard.taken(step)
        self._measure(poll, decoded, results, [*others, step])
        return step

    def deliver(self, *steps: Step) -> None:
        """Publish the results of steps together, and commit what is due."""
        for step in steps:
            self._outbox.add(step)
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
        for name, shard in self._shards.items():
            if shard.state.max_us is not None:
                delay_s = time.time() - shard.state.max_us / 1e6 + lateness_s
                self._metrics.watermark_delay.labels(name).set(delay_s)

    def finish(self) -> None:
        """Commit everything. Raises OperationError when the brokers do not take all of it in time."""
        self._outbox.retry_at = 0.0
        self._publish(self._settings.last_flush_s)
        self._commit()
        left = sum(step.rows for shard in self._shards.values() for step in shard.pending)
        if self.held:
            raise OperationError(
                f"stopped while the brokers do not answer: {left} readings since the last commit do not count, and "
                "are read again at the next start"
            )

    def close(self) -> None:
        """Let go of what was not delivered."""
        self._outbox.close()

    def progress(self) -> Progress:
        """How the shards stand."""
        now = time.monotonic()
        shards = {name: self._health(shard, now) for name, shard in self._shards.items()}
        return Progress(shards, self._outbox.blocked_s(now))

    def _health(self, shard: Shard, now: float) -> ShardHealth:
        pending_s = now - shard.pending_since if shard.pending else 0.0
        return ShardHealth(shard.told_at, pending_s, max(0.0, pending_s - self._interval(shard)))

    def _publish(self, timeout_s: float) -> None:
        for step in self._outbox.publish(timeout_s):
            for done in (*step.others, step):
                self._shards[done.shard].delivered += 1

    def _commit_due(self) -> None:
        """Once a shard is due, or all hold enough, commit what is delivered of all: one part of each table for all."""
        delivered = [shard for shard in self._shards.values() if shard.delivered]
        rows = sum(step.rows for shard in delivered for step in shard.pending[: shard.delivered])
        if rows >= self._settings.commit_rows or any(map(self._due, delivered)):
            self._commit()

    def _due(self, shard: Shard) -> bool:
        urgent = any(step.urgent for step in shard.pending[: shard.delivered])
        return urgent or time.monotonic() - shard.committed_at >= self._interval(shard)

    def _interval(self, shard: Shard) -> float:
        # Committing takes at most a tenth of the time, however large the state is.
        return max(self._settings.commit_interval_s, 10 * shard.commit_took)

    def _shard(self, name: str, index: MeterIndex) -> Shard:
        shard = self._shards.get(name)
        if shard is None:
            record = self._sinks.commits.last(name)
            state = load(record.state, index) if record else ShardState()
            shard = self._shards[name] = Shard(state, index)
            # Counted when it is asked for, in the asking thread: a state is never changed.
            self._metrics.windows_open.labels(name).set_function(partial(_windows_open, shard))
        elif shard.index is not index:
            shard.state, shard.index = rebased(shard.state, shard.index, index), index
        return shard

    def _claim(self, decided: Decided, shard: Shard) -> tuple[Step, ...]:
        """Meters that the shard hears for the first time come with what another shard of its source knows of them."""
        meters = decided.decoded.accepted["meter"].unique()
        strangers = meters.filter(~handover.heard(shard.state, meters))
        self._neighbours.refuse_apart(decided.poll, strangers, decided.index)
        steps = []
        for name in self._neighbours.within(decided.poll, self._shards) if len(strangers) else ():
            other = self._shard(name, decided.index)
            theirs = strangers.filter(handover.heard(other.state, strangers))
            rest, pieces = handover.take(other.state, theirs)
            shard.state = handover.give(shard.state, pieces, other.state.left_us)
            if pieces:
                steps.append(Step(name, nothing(), self._reached(name), rest, decided.index))
                other.taken(steps[-1])
                log.info("meters moved", source=name, target=decided.poll.shard, meters=len(theirs))
        return tuple(steps)

    def _reached(self, name: str) -> Position:
        """Where a shard goes on that has been heard of."""
        pending = self._shards[name].pending
        position = pending[-1].after if pending else self.position(name)
        assert position is not None, "a shard that holds meters has read them"
        return position

    def _history(self, poll: Poll, index: MeterIndex) -> LakeHistory:
        names = [n for n in sorted(self._shards) if n == poll.shard or partition_of(poll.source, n) is not None]
        pending = [step.tables for name in names for step in self._shards[name].pending]
        return LakeHistory(self._sinks.lake, poll.source, index, self._settings.metering, pending)

    def _environment(self, poll: Poll, index: MeterIndex, history: LakeHistory, again: bool) -> Environment:
        figures = self._settings
        return Environment(
            index, figures.metering, figures.windows_kept, history, figures.silent_s, poll.partition, at_once=again
        )

    def _commit(self) -> None:
        """Commit what is delivered of every shard, all of it or none: meters may have moved between them."""
        start = time.monotonic()
        delivered = {name: shard.pending[: shard.delivered] for name, shard in self._shards.items() if shard.delivered}
        if not delivered:
            return
        with self._metrics.stage("lake"):
            steps = [step for of_shard in delivered.values() for step in of_shard]
            frames = parts({table: [step.tables[table] for step in steps] for table in LAKE})
        with self._metrics.stage("snapshot"):
            commits = {name: _commit_of(of_shard[-1]) for name, of_shard in delivered.items()}
        first = min(commits)
        commits[first] = replace(commits[first], frames=frames)
        with self._metrics.stage("lake"):
            self._sinks.commits.commit_together(commits)
        for name, of_shard in delivered.items():
            self._committed(self._shards[name], of_shard, time.monotonic() - start)

    def _committed(self, shard: Shard, steps: Sequence[Step], took_s: float) -> None:
        shard.pending, shard.delivered = shard.pending[len(steps) :], 0
        shard.committed_at = shard.pending_since = time.monotonic()
        shard.told_at = datetime.now(UTC)
        shard.commit_took = took_s
        self._metrics.commit_seconds.observe(took_s)
        self._metrics.committed(steps[-1].shard)
        log.debug(
            "committed",
            shard=steps[-1].shard,
            rows=sum(step.rows for step in steps),
            seconds=round(took_s, 3),
            position=dict(steps[-1].after),
        )
        for committed in (step.committed for step in steps if step.committed):
            committed()

    def _measure(self, poll: Poll, decoded: Decoded, results: Results, steps: Sequence[Step]) -> None:
        metrics = self._metrics
        if isinstance(poll.content, Refused):
            metrics.replayed.inc(decoded.accepted.height)
        else:
            self._count(decoded)
        for table in ("windows", "violations", "compliance"):
            metrics.results.labels(table).inc(getattr(results, table).height)
        if poll.newest_offset is not None:
            metrics.lag.labels(poll.shard).set(max(0, poll.newest_offset + 1 - poll.after.get("offset", 0)))
        for step in steps:
            metrics.readings_open.labels(step.shard).set(step.state.readings_open)
            metrics.meters_held.labels(step.shard).set(step.state.meters_held)

    def _count(self, decoded: Decoded) -> None:
        metrics = self._metrics
        metrics.readings += decoded.accepted.height
        metrics.rejects += decoded.rejects.height
        metrics.received.inc(decoded.accepted.height + decoded.rejects.height)
        metrics.accepted.inc(decoded.accepted.height)
        for reason, count in decoded.rejects["reason"].value_counts().iter_rows():
            metrics.rejected.labels(reason).inc(count)


def _commit_of(last: Step) -> Commit:
    return Commit(last.after, dump(last.state, last.index), {})


def _windows_open(shard: Shard) -> int:
    return shard.state.windows_open
