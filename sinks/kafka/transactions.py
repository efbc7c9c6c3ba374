"""Publishing of which only one process can be the author: Kafka transactions under an id that belongs to the home.

Here: results in transactions, fencing of an earlier owner, and starting over after brokers were away. Not here: how
messages are produced (`topics`), who owns a home (`owner`).

Opening an id takes it from whoever had it: what that one has under way is aborted, and it can publish no more. So what
a stalled stream still holds when it wakes up never comes after what its successor has published.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

import structlog
from confluent_kafka import KafkaError, KafkaException

from metering.errors import OperationError
from sinks.kafka.limits import Key
from sinks.kafka.topics import LASTING, ClientConfig, TopicSink

_OPEN_TIMEOUT_S = 15.0
_REOPEN_TIMEOUT_S = 2.0
_TRANSACTION_TIMEOUT_MS = 60_000
"""After so long brokers abort a transaction that nobody ends, and readers of committed results go on."""
_ROOM: ClientConfig = {  # there is always room: who publishes waits for `settled` before the next batch
    "queue.buffering.max.messages": 0,
    "queue.buffering.max.kbytes": 2_147_483_647,
    "reconnect.backoff.max.ms": 1000,
}
_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}
_REFUSED = {KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}

log = structlog.get_logger(__name__)

Batch = tuple[str, Sequence[Key | None], Sequence[bytes], Sequence[Key | None] | None]


class TransactionalSink:
    """Publishes messages in transactions of `transactional_id`; nothing counts before `settled` says so.

    `check` raises where another stream has become the owner. While brokers are away everything is kept, and what a
    broken transaction held is published again in the next. Made and used in one thread of one process.
    Raises OperationError when no broker answers, access is denied or a topic is absent.
    """

    def __init__(
        self,
        client_config: ClientConfig,
        transactional_id: str,
        topics: Sequence[str],
        check: Callable[[], None],
        on_error: Callable[[str], None] | None = None,
    ) -> None:
        self._id, self._topics, self._check, self._on_error = transactional_id, topics, check, on_error
        self._config = {
            **client_config,
            **_ROOM,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": _TRANSACTION_TIMEOUT_MS,
        }
        self._timeout_s = _TRANSACTION_TIMEOUT_MS / 1000
        self._under_way: list[Batch] = []
        self._begun = 0.0
        self._sink: TopicSink | None = self._opened(_OPEN_TIMEOUT_S)

    def publish(
        self,
        topic: str,
        keys: Sequence[Key | None],
        values: Sequence[bytes],
        partition_keys: Sequence[Key | None] | None = None,
    ) -> None:
        """Add one message for each value to the transaction under way. Raises as `TopicSink.publish` does."""
        batch = (topic, keys, values, partition_keys)
        self._under_way.append(batch)
        if self._sink is not None:
            self._produce(self._sink, [batch], first=len(self._under_way) == 1)

    def settled(self, timeout_s: float) -> bool:
        """End the transaction under way; False when brokers do not answer in time, and it is to be tried again.

        Raises OperationError when a message is refused, or when this process is not the owner any more.
        """
        if not self._under_way:
            return True
        deadline = time.monotonic() + timeout_s
        if self._sink is None:
            self._reopened()
        if self._sink is None:
            return False
        try:
            self._sink.end(max(deadline - time.monotonic(), 0.1))
        except KafkaException as error:
            self._judge(error.args[0])
            return False
        self._under_way.clear()
        return True

    def poll(self) -> None:
        """Let the client report what it has; call now and then when nothing is published."""
        if self._sink is not None:
            self._sink.poll()

    def close(self) -> None:
        """Let go of what was not settled."""
        if self._sink is not None:
            self._sink.close()

    def _opened(self, timeout_s: float) -> TopicSink:
        sink = TopicSink(self._config, self._on_error)
        try:
            sink.open(timeout_s)
            sink.look_up(self._topics)
        except KafkaException as error:
            sink.close()
            reason = error.args[0].str()
            if error.args[0].code() in _REFUSED:
                raise OperationError(f"Kafka denies transactional id {self._id}: {reason}; allow it") from error
            raise OperationError(f"no Kafka broker answers: {reason}; check bootstrap_servers") from error
        return sink

    def _reopened(self) -> None:
        """Start over, if brokers answer: the same id, and all that is under way once more."""
        self._check()
        with contextlib.suppress(OperationError):
            self._sink = self._opened(_REOPEN_TIMEOUT_S)
        if self._sink is not None:
            self._produce(self._sink, self._under_way, first=True)

    def _produce(self, sink: TopicSink, batches: Sequence[Batch], first: bool) -> None:
        try:
            if first:
                self._begun = time.monotonic()
                sink.begin()
            for batch in batches:
                sink.publish(*batch)
        except KafkaException as error:
            self._judge(error.args[0])
        except OperationError as error:
            cause = error.__cause__
            if not isinstance(cause, KafkaException) or cause.args[0].code() in LASTING:
                raise
            self._judge(cause.args[0])

    def _judge(self, error: KafkaError) -> None:
        """Why a transaction did not get on: fenced, not in time, or broken, which takes a new start."""
        if error.code() in _FENCED:
            self._check()
        if error.code() in _FENCED and not self._given_up:
            raise OperationError(
                f"another producer has taken transactional id {self._id}: if this home is a copy of another, remove "
                "its stream/id"
            )
        if error.code() in _REFUSED:
            raise OperationError(f"Kafka denies transactional id {self._id}: {error.str()}; allow it")
        if error.retriable() and not error.txn_requires_abort():
            return
        assert self._sink is not None
        lasting, broken, self._sink = self._sink.lasting, self._sink, None
        broken.close()
        if lasting is not None:
            raise OperationError(f"Kafka did not take a message: {lasting}")
        log.debug("transaction broken, and begun anew", reason=error.str())

    @property
    def _given_up(self) -> bool:
        """Whether the transaction has been open for so long that brokers abort it, which fences its producer too."""
        return time.monotonic() - self._begun > self._timeout_s


def transactional_id(identity: str, process: int) -> str:
    """The id under which a process of a home's stream publishes; processes are numbered from 0."""
    return f"kilowatch-{identity}-{process}"


def fence(client_config: ClientConfig, identity: str, processes: int) -> None:
    """Take the ids of a home's stream from whoever has them. Raises OperationError when no broker answers."""
    for process in range(processes):
        TransactionalSink(client_config, transactional_id(identity, process), (), lambda: None).close()
