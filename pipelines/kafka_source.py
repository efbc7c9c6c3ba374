"""Telemetry from a Kafka topic, by static assignment and offsets of our own: each partition a shard.

Here: consuming, where to start, and noticing when offsets are gone or brokers are. Not here: what is in the messages
(`metering.decode`), what a commit is (the dataflow's).

Nothing is skipped unsaid: where the log no longer holds the next offset, `GapError`. Brokers that are away are waited
for. Offsets may have holes (transactions, compaction); these are no gaps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from metering.decode import Messages
from metering.errors import GapError, OperationError
from pipelines.arrow import columnar
from pipelines.poll import OwnShard, Poll, Positions, shard_name

ARROW_STREAM = b"application/vnd.apache.arrow.stream"

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
_MOST_MESSAGES = 1_000_000  # that consume() accepts

_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_AWAY = {KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT}
_FORBIDDEN = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}

Headers = list[tuple[str, bytes | None]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KafkaSource:
    """A topic. Positions: {"offset": next offset}; a partition never seen starts at its earliest offset.

    `client_config` is librdkafka configuration. A poll takes at most `batch_rows` messages and, when the log is read
    to its end, waits `poll_ms` for a first one. With `accept_gap` a gap found at the start is left out, and an
    empty Poll carries it; one that opens later is an error all the same.
    """

    client_config: Mapping[str, Any]
    topic: str
    batch_rows: int
    poll_ms: int
    accept_gap: bool = False

    def origin(self, shard: str) -> tuple[str, int] | None:
        """How the readings of a shard are marked: source and partition; None for a shard of something else."""
        number = shard.removeprefix(f"{self.topic}-")
        return (self.topic, int(number)) if number != shard and number.isdecimal() else None

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
        self._batch, self._wait_s = min(source.batch_rows, _MOST_MESSAGES), source.poll_ms / 1000
        self._worker, self._workers, self._positions = worker, workers, positions
        self._next: dict[int, int] = {}
        self._untouched: set[int] = set()  # partitions nothing was ever read from: no offset of theirs can be missed
        self._doubtful: set[int] = set()
        self._accept_gap = source.accept_gap
        self._left_out: list[Poll] = []
        self._forbidden: str | None = None
        self._partitions = 0
        self._behind = True
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        config = {**_PREFERRED, **source.client_config, **_REQUIRED, "error_cb": self._trouble}
        self._consumer = Consumer(config)
        try:
            self._start()
        except BaseException:
            self._consumer.close()
            raise

    def poll(self) -> list[Poll]:
        """What has come, one Poll for each partition that has something. Raises GapError and OperationError."""
        if self._left_out:
            left_out, self._left_out = self._left_out, []
            return left_out
        messages = self._consume()
        if self._forbidden is not None:
            raise OperationError(f"Kafka denies access: {self._forbidden}; check the [kafka] settings")
        if any(map(Message.error, messages)):
            self._judge([message.error() for message in messages], messages)
            messages = [message for message in messages if message.error() is None]
        if messages:
            self._fresh()
        if time.monotonic() >= self._look_at:
            self._look()
        polls = [self._poll_of(partition, own) for partition, own in _by_partition(messages).items()]
        self._behind = self._lag() > self._batch // 4
        return polls

    @property
    def finished(self) -> bool:
        """A topic has no end."""
        return False

    def own_shard(self, source: str, partition: int) -> OwnShard | None:
        mine = source == self.topic and partition in self._next
        return OwnShard(self._shard(partition), over=False) if mine else None

    def close(self) -> None:
        self._consumer.close()

    def _consume(self) -> list[Message]:
        if self._behind:  # worth a wait: the bigger a batch the cheaper
            return self._consumer.consume(self._batch, self._wait_s)
        first: list[Message] = self._consumer.consume(1, self._wait_s)
        return first + self._consumer.consume(self._batch - 1, 0) if first and self._batch > 1 else first

    def _poll_of(self, partition: int, messages: list[Message]) -> Poll:
        offsets = list(map(Message.offset, messages))
        self._next[partition] = offsets[-1] + 1
        self._untouched.discard(partition)
        values = list(map(Message.value, messages))
        streams = {i: values[i] or b"" for i, own in enumerate(_headers(messages)) if own and _is_arrow(own)}
        content = Messages(
            values=values,
            offsets=offsets,
            logged_ms=[milliseconds for _, milliseconds in map(Message.timestamp, messages)],
            keys=list(map(Message.key, messages)),
            arrow=columnar(streams) if streams else None,
        )
        end = self._log_end(partition)
        return Poll(
            shard=self._shard(partition),
            source=self.topic,
            partition=partition,
            content=content,
            first_row=offsets[0],
            after={"offset": offsets[-1] + 1},
            newest_offset=max(end - 1, offsets[-1]),
        )

    def _shard(self, partition: int) -> str:
        return shard_name(self.topic, partition)

    def _log_end(self, partition: int) -> int:
        """End of the partition's log, as last heard; -1 before anything was."""
        known = self._consumer.get_watermark_offsets(TopicPartition(self.topic, partition), cached=True)
        return max(known[1], -1) if known else -1

    def _lag(self) -> int:
        return sum(max(self._log_end(partition) - offset, 0) for partition, offset in self._next.items())

    # --- where to start ---

    def _start(self) -> None:
        try:
            count = self._partition_count(_START_TIMEOUT_S)
            if count is None:
                raise OperationError(f"topic {self.topic} does not exist on the brokers: create it, or check [topics]")
            self._refuse_vanished(count)
            self._partitions = count
            self._consumer.assign(self._assignable(count, _START_TIMEOUT_S))
            self._accept_gap = False
        except KafkaException as error:
            self._consumer.poll(0)  # lets the client say what it knows: _trouble
            reason = self._forbidden or error.args[0].str()
            raise OperationError(f"topic {self.topic}: Kafka does not answer: {reason}; check the brokers") from error

    def _partition_count(self, timeout_s: float) -> int | None:
        """Number of the topic's partitions; None when it does not exist. Raises KafkaException."""
        found = self._consumer.list_topics(self.topic, timeout=timeout_s).topics.get(self.topic)
        if found is None or (found.error is not None and found.error.code() in _GONE):
            return None
        if found.error is not None:
            raise KafkaException(found.error)
        return len(found.partitions)

    def _refuse_vanished(self, count: int) -> None:
        vanished = count
        while (position := self._positions(self._shard(vanished))) is not None:
            if position["offset"] > 0 and vanished % self._workers == self._worker:
                self._gap(vanished, 0, position["offset"] - 1, go_on_at=0)
            vanished += 1

    def _refuse_apart(self, count: int) -> None:
        """Meters that move to a new partition can do so within one process only."""
        if count > self._partitions and self._workers > 1:
            raise OperationError(
                f"topic {self.topic} has {count - self._partitions} new partitions, to which meters move: run "
                "`kilowatch stream --kafka` without --workers until all have moved"
            )

    def _assignable(self, count: int, timeout_s: float) -> list[TopicPartition]:
        """This worker's partitions that are not being read yet, each at the offset to start from."""
        mine = [p for p in range(count) if p % self._workers == self._worker and p not in self._next]
        positions = {p: self._positions(self._shard(p)) for p in mine}
        starts: dict[int, int] = {}
        for partition, position in positions.items():
            low, high = self._held(partition, timeout_s)
            starts[partition] = low if position is None else position["offset"]
            starts[partition] = self._refuse_gap(partition, starts[partition], low, high)
        self._next.update(starts)  # only now that all are known: what is in `_next` gets assigned
        self._untouched.update(p for p, position in positions.items() if position is None)
        return [TopicPartition(self.topic, p, offset) for p, offset in starts.items()]

    def _held(self, partition: int, timeout_s: float) -> tuple[int, int]:
        """Earliest offset that the log holds, and its end. Raises KafkaException when nobody answers in time."""
        deadline = time.monotonic() + timeout_s
        while True:  # a topic just created, or a cluster electing leaders, answers a moment later
            left = max(deadline - time.monotonic(), 0.1)
            try:
                known = self._consumer.get_watermark_offsets(TopicPartition(self.topic, partition), timeout=left)
            except KafkaException:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)
                continue
            if known is None:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            return known

    def _refuse_gap(self, partition: int, offset: int, low: int, high: int) -> int:
        """The offset to go on at. Raises GapError when the log does not hold it, unless that is accepted."""
        if offset < low:
            return self._gap(partition, offset, low - 1, go_on_at=low)
        if offset > high:
            return self._gap(partition, high, offset - 1, go_on_at=high)
        return offset

    def _gap(self, partition: int, missing_from: int, missing_to: int, go_on_at: int) -> int:
        if not self._accept_gap:
            raise GapError(self.topic, partition, missing_from, missing_to)
        log.warning(
            "gap accepted", topic=self.topic, partition=partition, missing_from=missing_from, missing_to=missing_to
        )
        self._left_out.append(
            Poll(
                shard=self._shard(partition),
                source=self.topic,
                partition=partition,
                content=Messages([], [], [], [], None),
                first_row=go_on_at,
                after={"offset": go_on_at},
                gap=(missing_from, missing_to),
            )
        )
        return go_on_at

    # --- when something is wrong ---

    def _judge(self, errors: list[KafkaError | None], messages: list[Message]) -> None:
        for error, message in zip(errors, messages, strict=True):
            if error is None:
                continue
            if error.code() in _OUT_OF_RANGE:
                self._doubtful.add(message.partition())
            elif error.code() in _GONE:
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
                low, high = self._held(partition, _LOOK_TIMEOUT_S)
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
        if error.code() in _FORBIDDEN or error.fatal():
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
            count = self._partition_count(_LOOK_TIMEOUT_S)
            if count is not None:  # absent for a moment, or deleted: reading says which
                self._refuse_apart(count)
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


def _by_partition(messages: list[Message]) -> dict[int, list[Message]]:
    """Messages of each partition, in order of arrival, which within a partition is offset order."""
    if not messages:
        return {}
    partitions = list(map(Message.partition, messages))
    if partitions.count(partitions[0]) == len(partitions):
        return {partitions[0]: messages}
    found: dict[int, list[Message]] = {partition: [] for partition in sorted(set(partitions))}
    for partition, message in zip(partitions, messages, strict=True):
        found[partition].append(message)
    return found


def _headers(messages: list[Message]) -> list[Headers | None]:
    """Each message's headers; None also where one has a name that is not UTF-8, which the client cannot give."""
    found: list[Headers | None] = []
    rest = map(Message.headers, messages)  # `map` sees that the client fails: a specialised call does not, and crashes
    while len(found) < len(messages):
        try:
            found.extend(rest)
        except SystemError:
            found.append(None)
    return found


def _is_arrow(headers: Headers) -> bool:
    """Whether the last content-type header, whatever its case and parameters, names an Arrow IPC stream."""
    kinds = [value for name, value in headers if name.lower() == "content-type"]
    return bool(kinds) and (kinds[-1] or b"").split(b";")[0].strip().lower() == ARROW_STREAM
