"""The one Bytewax dataflow: poll → decode → advance → deliver.

Here: how the stages are strung together and fed. Not here: what they do (`worker`).

Everything of a shard happens on the worker that reads it, in order, and is handed on by reference: the source hands
shards out by worker, and no stage is keyed (docs/adr/0001-one-commit-record.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from threading import Event
from typing import Literal, TypeVar

import bytewax.operators as op
from bytewax._bytewax import cli_main
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from metering.errors import OperationError
from pipelines.flow.batch_result import BatchResult, DecodedBatch
from pipelines.flow.health import Health
from pipelines.flow.metrics import Metrics
from pipelines.flow.settings import Registry, StreamSettings
from pipelines.flow.worker import Sinks, Worker
from pipelines.sources.poll import Batch, Reader, Source

EPOCH = timedelta(seconds=10)
"""Bytewax's own epochs; nothing hangs on them, for commits are made by the workers."""

_HELD_S = 0.05

Signal = Literal["tick", "look", "finish"]


@dataclass(frozen=True, slots=True)
class Polled:
    """What a worker's reader had: all of one turn."""

    batches: Sequence[Batch]


@dataclass(frozen=True, slots=True)
class Decoded:
    """The same, decoded."""

    batches: Sequence[DecodedBatch]


@dataclass(slots=True)
class Run:
    """A run of the flow in this process: told to `stop`, it commits and ends. `failure` is what ended it, if anything.

    Bytewax makes source and sink of a worker apart from each other; `workers` is where they meet.
    """

    stop: Event = field(default_factory=Event)
    metrics: Metrics = field(default_factory=Metrics)
    health: Health = field(default_factory=Health)
    on_poll: Callable[[Reader], None] = lambda _: None
    failure: BaseException | None = None
    workers: dict[int, Worker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.metrics.stale.set_function(lambda: self.health.stale)

    def failed(self, failure: BaseException) -> None:
        """What ends the run; the first is what counts."""
        if self.failure is None:
            self.failure = failure
            self.health.failed(failure)


def build(source: Source, sinks: Sinks, settings: StreamSettings, registry: Registry, run: Run) -> Dataflow:
    """The dataflow from `source` to `sinks`. Run it with bytewax's `cli_main`, or `run_main` in tests."""

    def worker(number: int, count: int) -> Worker:
        if number not in run.workers:
            run.workers[number] = Worker(sinks, settings, registry, run.metrics, number, count, source.worker_of)
        return run.workers[number]

    flow = Dataflow("kilowatch")
    polled = op.input("poll", flow, _Input(source, settings, run, worker))
    decoded = op.flat_map("decode", polled, _guarded(run, _decode))
    results = op.flat_map("advance", decoded, _guarded(run, _advance))
    op.output("deliver", results, _Output(run))
    return flow


Item = tuple[Worker, Polled | Decoded | BatchResult | Signal]
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def _decode(item: Item) -> Item:
    worker, value = item
    return (worker, Decoded(worker.decode(value.batches))) if isinstance(value, Polled) else item


def _advance(item: Item) -> Item:
    worker, value = item
    if isinstance(value, Decoded):
        return worker, worker.advance(value.batches)
    return (worker, worker.look() or value) if value == "look" else item


def _deliver(items: Sequence[Item]) -> None:
    """What came of one turn, all of it of one worker."""
    worker, _ = items[0]
    if results := [value for _, value in items if isinstance(value, BatchResult)]:
        worker.deliver(results)
    for _, value in items:
        if value == "tick":
            worker.tick()
        elif value == "finish":
            worker.finish()


def _guarded(run: Run, stage: Callable[[_In], _Out]) -> Callable[[_In], list[_Out]]:
    """After a failure nothing more is done, and the flow ends: Bytewax would answer an exception with a panic."""

    def guarded(item: _In) -> list[_Out]:
        if run.failure is None:
            try:
                return [stage(item)]
            except BaseException as error:
                run.failed(error)
        return []

    return guarded


@dataclass(frozen=True)
class _Input(DynamicSource[Item]):
    source: Source
    settings: StreamSettings
    run: Run
    worker: Callable[[int, int], Worker]

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Partition:  # noqa: ARG002 - bytewax's
        return _Partition(partial(self._open, worker_index, worker_count), self.settings, self.run)

    def _open(self, number: int, count: int) -> tuple[Reader, Worker]:
        worker = self.worker(number, count)
        return self.source.open(number, count, worker.position), worker


class _Partition(StatelessSourcePartition[Item]):
    """Feeds one worker: turns, a tick and a look now and then, and at the end one `finish`."""

    def __init__(self, opened: Callable[[], tuple[Reader, Worker]], settings: StreamSettings, run: Run) -> None:
        self._settings, self._run = settings, run
        self._ticked = self._asked = self._steady_since = self._looked = time.monotonic()
        self._finishing = False
        self._ended_by: OperationError | None = None
        self._reader: Reader | None = None
        try:
            self._reader, self._worker = opened()
        except BaseException as error:
            run.failed(error)

    def next_batch(self) -> list[Item]:
        if self._ended_by is not None:
            self._run.failed(self._ended_by)
        if self._reader is None or self._finishing or self._run.failure is not None:
            raise StopIteration
        try:
            return self._batch(self._reader)
        except OperationError as error:  # what was read counts: the log may not hold it any more
            self._finishing, self._ended_by = True, error
            return [(self._worker, "finish")]
        except BaseException as error:
            self._run.failed(error)
            raise StopIteration from error

    def _batch(self, reader: Reader) -> list[Item]:
        if self._run.stop.is_set() or reader.finished:
            self._finishing = True
            return [(self._worker, "finish")]
        items: list[Item] = []
        if self._worker.held:
            self._run.stop.wait(_HELD_S)
        else:
            with self._run.metrics.stage("poll"):
                batches = reader.poll()
            if batches:
                items.append((self._worker, Polled(batches)))
            self._run.on_poll(reader)
        self._run.health.turned(reader.stale_since, self._worker.progress())
        if time.monotonic() - self._ticked >= self._settings.tick_s:
            self._ticked = time.monotonic()
            items.append((self._worker, "tick"))
        if self._time_to_look(reader):
            items.append((self._worker, "look"))
        return items

    def _time_to_look(self, reader: Reader) -> bool:
        """Whether silence would be the meters': the source has been read without a break for a while."""
        now, look_s = time.monotonic(), self._settings.look_s
        if reader.stale_since is not None or self._worker.held or now - self._asked > look_s:
            self._steady_since = now
        self._asked = now
        due = min(now - self._steady_since, now - self._looked) >= look_s
        self._looked = now if due else self._looked
        return due

    def next_awake(self) -> datetime | None:
        return None

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


@dataclass(frozen=True)
class _Output(DynamicSink[Item]):
    run: Run

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Delivery:  # noqa: ARG002 - bytewax's
        return _Delivery(self.run)


class _Delivery(StatelessSinkPartition[Item]):
    def __init__(self, run: Run) -> None:
        self._deliver = _guarded(run, _deliver)

    def write_batch(self, items: list[Item]) -> None:
        self._deliver(items)


def run_flow(flow: Dataflow, run: Run, addresses: Sequence[str] = (), process: int = 0) -> None:
    """Run the flow in this process until its source ends or `run.stop` is set; as number `process` of the processes at
    `addresses`, if there are several. Raises what a stage raised, and OperationError when another process has died.
    """
    together = {"addresses": list(addresses), "process_id": process} if addresses else {}
    try:
        cli_main(flow, epoch_interval=EPOCH, **together)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what Bytewax raises when a connection breaks
            raise
        if run.failure is None:
            raise OperationError("another process of this stream has died: start all of them again") from error
    finally:
        for worker in run.workers.values():
            worker.close()
    if run.failure is not None:
        raise run.failure
