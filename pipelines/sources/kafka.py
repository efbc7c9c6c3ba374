"""Telemetry from a Kafka topic, by static assignment and offsets of our own: each partition a shard.

Here: consuming, where to start, and noticing when offsets are gone or brokers are. Not here: what brokers say of a
topic (`kafka_topic`), messages in columns (`kafka_messages`), what is in them (`metering.readings.decode`), what a
commit is (the dataflow's).

Nothing is skipped unsaid: where the log no longer holds the next offset, or the topic is not the one that was read any
more, `GapError`. Brokers that are away are waited for. Offsets may have holes (transactions, compaction); these are no
gaps.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from metering.errors import ApartError, GapError, OperationError
from pipelines.shard_names import partition_shard
from pipelines.sources.kafka_messages import Run, by_partition, joined
from pipelines.sources.kafka_topic import FORBIDDEN, GONE, held, log_end, partition_count
from pipelines.sources.poll import Batch, OwnShard, Position, Positions, Segment
from sinks.kafka.topics import admin_client, topic_id

_PREFERRED = {
    "group.id": "kilowatch",  # the client asks for one; no group is joined
    "log_level": 2,  # what matters of librdkafka's log reaches us as errors
    "queued.min.messages": 200_000,
    "queued.max.messages.kbytes": 131_072,
    "max.partition.fetch.bytes": 8_388_608,
    "reconnect.backoff.max.ms": 1000,  # the default, 10 s, is long to notice that brokers are back
    "fetch.queue.backoff.ms": 10,  # the default, 1 s, starves a consumer that drains its queue
}
_REQUIRED = {"enable.auto.commit": False, "enable.auto.offset.store": False, "auto.offset.reset": "error"}
_START_TIMEOUT_S = 15.0
_LOOK_TIMEOUT_S = 1.0
_LOOK_EVERY_S = 10.0
_LOOK_EVERY_WHEN_STALE_S = 2.0
_AT_ONCE = 2_500
"""Messages asked for at a time. What is let go of while the processor still has it at hand costs half of what it costs
in lists of a whole batch."""
_LARGEST_POLL_BYTES = 33_554_432
"""A message may hold a thousand readings: a batch is measured in bytes too."""
_FIRST_MESSAGE_BYTES = 100_000
"""How large messages are taken to be before there was one."""

_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
_AWAY = {KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KafkaSource:
    """A topic. Positions: {"offset": next offset, "topic": id of the topic, where brokers tell}; a partition never seen
    starts at its earliest offset, and so does one whose topic was made anew.

    `client_config` is librdkafka configuration. A poll takes at most `batch_rows` messages and, when the log is read
    to its end, waits `poll_ms` for a first one and then `linger_ms` for more of all partitions: what is done for a poll
    costs much the same for one message as for a thousand. With `accept_gap` a gap found at the start is left out, and
    an empty segment carries it; one that opens later is an error all the same.
    """

    client_config: Mapping[str, Any]
    topic: str
    batch_rows: int
    poll_ms: int
    linger_ms: int = 0
    accept_gap: bool = False

    def worker_of(self, shard: str, workers: int) -> int | None:
        """Partition p is read by worker p mod `workers`."""
        number = shard.removeprefix(f"{self.topic}-")
        return int(number) % workers if number != shard and number.isdecimal() else None

    def open(self, worker: int, workers: int, positions: Positions) -> KafkaReader:
        """Reader of every `workers`-th partition.

        Raises OperationError when no broker answers, the topic is absent or access is denied; GapError when the log
        no longer holds, or does not yet hold, a partition's next offset.
        """
        return KafkaReader(self, worker, workers, positions)


class KafkaReader:
    """Reads the partitions of one worker. `stale_since` is set while the brokers do not answer."""

    def __init__(self, source: KafkaSource, worker: int, workers: int, positions: Positions) -> None:
        self.topic = source.topic
        self.stale_since: datetime | None = None
        self._batch, self._wait_s, self._linger_s = source.batch_rows, source.poll_ms / 1000, source.linger_ms / 1000
        self._worker, self._workers, self._positions = worker, workers, positions
        self._next: dict[int, int] = {}
        self._untouched: set[int] = set()  # partitions nothing was ever read from: no offset of theirs can be missed
        self._doubtful: set[int] = set()
        self._accept_gap = source.accept_gap
        self._first: list[Segment] = []  # what is handed out before any message
        self._forbidden: str | None = None
        self._partitions = 0
        self._behind = True
        self._message_bytes = _FIRST_MESSAGE_BYTES  # of those that came last, on the average
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        config = {**_PREFERRED, **source.client_config, **_REQUIRED, "error_cb": self._trouble}
        self._admin = admin_client(source.client_config)
        self._topic_id: int | None = None
        self._consumer = Consumer(config)
        try:
            self._start()
        except BaseException:
            self._consumer.close()
            raise

    def poll(self) -> list[Batch]:
        """What has come of all partitions, in one batch. Raises GapError and OperationError."""
        if self._first:
            first, self._first = self._first, []
            return [Batch(joined(()), tuple(first))]
        runs: defaultdict[int, Run] = defaultdict(Run)
        for messages in self._consumed():
            for partition, own in by_partition(self._good(messages)).items():
                runs[partition].add(own)
        if self._forbidden is not None:
            raise OperationError(f"Kafka denies access: {self._forbidden}; check the [kafka] settings")
        if time.monotonic() >= self._look_at:
            self._look()
        if not runs:
            return []
        segments = tuple(self._segment(partition, run) for partition, run in sorted(runs.items()))
        self._behind = self._lag() > self._batch // 4
        new_meters = self._look_for_more_partitions if self._workers > 1 else None
        return [Batch(joined([run for _, run in sorted(runs.items())]), segments, on_new_meters=new_meters)]

    @property
    def finished(self) -> bool:
        """A topic has no end."""
        return False

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        mine = source == self.topic and partition in self._next
        return OwnShard(self._shard(partition), over=False) if mine else None

    def close(self) -> None:
        self._consumer.close()

    def _consumed(self) -> Iterator[list[Message]]:
        """What has come, no more than a batch. Waits for a first message, and lingers for more; when behind, waits
        until there are enough of them, for the bigger a batch the cheaper.
        """
        until = time.monotonic() + self._wait_s
        left, left_bytes = self._batch, _LARGEST_POLL_BYTES
        lingers = not self._behind
        wanted = 1 if lingers else max(1, self._at_once(left, left_bytes))
        while wanted:
            messages = self._consumer.consume(wanted, max(until - time.monotonic(), 0.0))
            yield messages
            if len(messages) < wanted:
                return
            size = sum(map(len, messages))
            self._message_bytes = max(1, size // wanted)
            left, left_bytes = left - wanted, left_bytes - size
            wanted = self._at_once(left, left_bytes)
            if lingers:
                until, lingers = time.monotonic() + self._linger_s, False

    def _at_once(self, left: int, left_bytes: int) -> int:
        return max(0, min(left, _AT_ONCE, left_bytes // self._message_bytes))

    def _good(self, messages: list[Message]) -> list[Message]:
        """The messages without errors, which are looked into."""
        if any(map(Message.error, messages)):
            self._judge([message.error() for message in messages], messages)
            messages = [message for message in messages if message.error() is None]
        if messages:
            self._fresh()
        return messages

    def _segment(self, partition: int, run: Run) -> Segment:
        last = run.offsets[-1]
        self._next[partition] = last + 1
        self._untouched.discard(partition)
        end = log_end(self._consumer, self.topic, partition)
        return Segment(
            shard=self._shard(partition),
            source=self.topic,
            partition=partition,
            items=len(run.offsets),
            after=self._position(last + 1),
            newest_offset=max(end - 1, last),
        )

    def _shard(self, partition: int) -> str:
        return partition_shard(self.topic, partition)

    def _position(self, offset: int) -> Position:
        return {"offset": offset} if self._topic_id is None else {"offset": offset, "topic": self._topic_id}

    def _lag(self) -> int:
        return sum(
            max(log_end(self._consumer, self.topic, partition) - offset, 0) for partition, offset in self._next.items()
        )

    # --- where to start ---

    def _start(self) -> None:
        try:
            count = partition_count(self._consumer, self.topic, _START_TIMEOUT_S)
            if count is None:
                raise OperationError(f"topic {self.topic} does not exist on the brokers: create it, or check [topics]")
            self._topic_id = topic_id(self._admin, self.topic, _START_TIMEOUT_S)
            self._refuse_vanished(count)
            self._partitions = count
            self._consumer.assign(self._assignable(count, _START_TIMEOUT_S))
            self._accept_gap = False
        except KafkaException as error:
            self._consumer.poll(0)  # lets the client say what it knows: _trouble
            reason = self._forbidden or error.args[0].str()
            raise OperationError(f"topic {self.topic}: Kafka does not answer: {reason}; check the brokers") from error

    def _refuse_vanished(self, count: int) -> None:
        vanished = count
        while (position := self._positions(self._shard(vanished))) is not None:
            if position["offset"] > 0 and vanished % self._workers == self._worker:
                self._gap(vanished, 0, position["offset"] - 1, go_on_at=0)
            vanished += 1

    def _refuse_apart(self, count: int) -> None:
        """Once there are new partitions meters move, between the old ones too, which one process alone can follow."""
        if count > self._partitions and self._workers > 1:
            raise ApartError(f"topic {self.topic} has {count - self._partitions} new partitions, to which meters move")

    def _look_for_more_partitions(self) -> None:
        """Producers may know of them before this reader does."""
        with contextlib.suppress(KafkaException):  # away: once they are back, they are asked again
            self._refuse_apart(partition_count(self._consumer, self.topic, _LOOK_TIMEOUT_S) or 0)

    def _refuse_anew(self) -> None:
        """A topic made anew has other messages at the offsets that come next."""
        now = topic_id(self._admin, self.topic, _LOOK_TIMEOUT_S)
        if now is None or self._topic_id in (None, now):
            return
        for partition, offset in sorted(self._next.items()):
            if offset > 0:
                raise GapError(self.topic, partition, 0, offset - 1, anew=True)
        self._topic_id = now

    def _assignable(self, count: int, timeout_s: float) -> list[TopicPartition]:
        """This worker's partitions that are not being read yet, each at the offset to start from."""
        mine = [p for p in range(count) if p % self._workers == self._worker and p not in self._next]
        positions = {p: self._positions(self._shard(p)) for p in mine}
        starts: dict[int, int] = {}
        for partition, position in positions.items():
            low, high = held(self._consumer, self.topic, partition, timeout_s)
            starts[partition] = self._start_at(partition, position, low, high)
        self._next.update(starts)  # only now that all are known: what is in `_next` gets assigned
        self._untouched.update(p for p, position in positions.items() if position is None)
        return [TopicPartition(self.topic, p, offset) for p, offset in starts.items()]

    def _start_at(self, partition: int, position: Position | None, low: int, high: int) -> int:
        if position is None:
            return low
        if self._is_anew(position):
            return self._gap(partition, 0, position["offset"] - 1, go_on_at=low, anew=True)
        at = self._refuse_gap(partition, position["offset"], low, high)
        if at == position["offset"] and (at == high or self._position(at) != position):
            # Tells that there is no more for now, and has the topic's id kept from now on.
            self._first.append(self._nothing(partition, at, newest_offset=high - 1 if at == high else None))
        return at

    def _is_anew(self, position: Position) -> bool:
        """Whether something was read at this position of another topic of this name."""
        before = position.get("topic")
        known = before is not None and self._topic_id is not None
        return known and before != self._topic_id and position["offset"] > 0

    def _refuse_gap(self, partition: int, offset: int, low: int, high: int) -> int:
        """The offset to go on at. Raises GapError when the log does not hold it, unless that is accepted."""
        if offset < low:
            return self._gap(partition, offset, low - 1, go_on_at=low)
        if offset > high:
            return self._gap(partition, high, offset - 1, go_on_at=high)
        return offset

    def _gap(self, partition: int, missing_from: int, missing_to: int, go_on_at: int, anew: bool = False) -> int:
        if not self._accept_gap:
            raise GapError(self.topic, partition, missing_from, missing_to, anew)
        log.warning(
            "gap accepted", topic=self.topic, partition=partition, missing_from=missing_from, missing_to=missing_to
        )
        self._first.append(self._nothing(partition, go_on_at, (missing_from, missing_to)))
        return go_on_at

    def _nothing(
        self, partition: int, offset: int, gap: tuple[int, int] | None = None, newest_offset: int | None = None
    ) -> Segment:
        """A segment without messages, for its position."""
        after = self._position(offset)
        return Segment(self._shard(partition), self.topic, partition, 0, after, newest_offset=newest_offset, gap=gap)

    # --- when something is wrong ---

    def _judge(self, errors: list[KafkaError | None], messages: list[Message]) -> None:
        for error, message in zip(errors, messages, strict=True):
            if error is None:
                continue
            if error.code() in _OUT_OF_RANGE:
                self._doubtful.add(cast("int", message.partition()))  # as any message has that was consumed
            elif error.code() in GONE:
                raise OperationError(
                    f"topic {self.topic} partition {message.partition()} is gone from the brokers: {error.str()}"
                )
            else:
                self._trouble(error)
        self._look_into_doubtful()

    def _look_into_doubtful(self) -> None:
        """The log did not have a partition's next offset when asked: gap, or worth another try."""
        for partition in sorted(self._doubtful):
            try:
                low, high = held(self._consumer, self.topic, partition, _LOOK_TIMEOUT_S)
            except KafkaException:
                self._stale()
                continue
            if partition in self._untouched:
                self._next[partition] = low
            self._refuse_gap(partition, self._next[partition], low, high)
            here = TopicPartition(self.topic, partition, self._next[partition])
            self._consumer.incremental_unassign([here])
            self._consumer.incremental_assign([here])
            self._doubtful.discard(partition)

    def _trouble(self, error: KafkaError) -> None:
        if error.code() in FORBIDDEN or error.fatal():
            self._forbidden = error.str()
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._stale()
        elif error.code() in _AWAY:
            log.debug("kafka", topic=self.topic, problem=error.str())
        else:
            log.warning("kafka", topic=self.topic, problem=error.str())

    def _stale(self) -> None:
        if self.stale_since is None:
            self.stale_since = datetime.now(UTC)
            log.debug("brokers do not answer", topic=self.topic)  # the run's health says it aloud
            self._look_at = min(self._look_at, time.monotonic() + _LOOK_EVERY_WHEN_STALE_S)

    def _fresh(self) -> None:
        if self.stale_since is not None:
            log.debug("brokers answer again", topic=self.topic, away_since=self.stale_since.isoformat())
            self.stale_since = None

    def _look(self) -> None:
        """Ask the brokers for partitions that are new, and so whether they answer at all."""
        try:
            count = partition_count(self._consumer, self.topic, _LOOK_TIMEOUT_S)
            if count is not None:  # absent for a moment, or deleted: reading says which
                self._refuse_apart(count)
                self._refuse_anew()
                new = self._assignable(count, _LOOK_TIMEOUT_S)
                if new:
                    self._consumer.incremental_assign(new)
                    log.info("new partitions", topic=self.topic, partitions=[p.partition for p in new])
                self._fresh()
        except KafkaException:
            self._stale()
        self._look_into_doubtful()
        stale = self.stale_since is not None
        self._look_at = time.monotonic() + (_LOOK_EVERY_WHEN_STALE_S if stale else _LOOK_EVERY_S)
