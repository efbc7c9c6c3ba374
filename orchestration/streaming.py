"""Running the stream in this process: everything it needs, made from a home's settings, and a clean end.

Not here: the dataflow itself (`pipelines`), the command's options and output (`orchestration.cli.stream`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from orchestration import broker
from orchestration.health_server import served
from orchestration.registry_watch import RegistryWatch
from orchestration.settings import Settings
from pipelines.dataflow import Run, build, run_flow
from pipelines.file_source import FileSource
from pipelines.kafka_source import KafkaSource
from pipelines.poll import Source
from pipelines.settings import ResultTopics, StreamSettings
from pipelines.worker import Sinks
from sinks.commits import CommitLog
from sinks.lake_reader import LakeReader
from sinks.owner import Owner, take
from sinks.transactions import TransactionalSink, fence, transactional_id

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has done."""

    accepted: int
    rejected: dict[str, int]


def stream_files(home: Path, settings: Settings, path: Path, run: Run) -> Outcome:
    """Run files to their end into the lake. Raises KilowatchError."""
    source = FileSource(path, settings.stream.batch_rows)
    _ = source.files  # a wrong path is said before anything is started
    return _stream(home, settings, source, None, run)


def stream_kafka(home: Path, settings: Settings, run: Run, accept_gap: bool = False) -> Outcome:
    """Run from Kafka into the lake and the result topics until told to stop. Raises KilowatchError.

    With `accept_gap`, offsets that the log no longer holds at the start are left out, and leave a row in lake.gaps.
    """
    config = broker.ensure_topics(home, settings)
    stream = settings.stream
    source = KafkaSource(config, settings.topics.readings, stream.batch_rows, stream.poll_ms, accept_gap)
    return _stream(home, settings, source, config, run)


def _stream(home: Path, settings: Settings, source: Source, kafka: dict[str, str] | None, run: Run) -> Outcome:
    registry = RegistryWatch(home, settings)
    owner = take(home, stalled_after_s=settings.stream.stalled_after_s)
    try:
        if kafka and owner.processes_before > 1:
            fence(kafka, owner.identity, owner.processes_before)
        names = settings.topics
        results = (names.windows, names.violations, names.compliance, names.rejected)
        sinks = Sinks(
            lake=LakeReader(home),
            commits=CommitLog(home, owner),
            topics=ResultTopics(*results) if kafka else None,
            publisher=partial(_publisher, kafka, results, owner) if kafka else None,
        )
        figures = StreamSettings(
            metering=settings.metering,
            windows_kept=settings.stream.windows_kept,
            silent_s=settings.stream.silent_days * 86_400,
            commit_interval_s=settings.stream.commit_interval_s,
            commit_rows=settings.stream.commit_rows,
        )
        with _stopped_by_signals(run), served(settings.stream.metrics_port, run.metrics.registry, run.health):
            run_flow(build(source, sinks, figures, registry, run), run)
    finally:
        owner.release()
    return Outcome(run.metrics.readings, run.metrics.rejected_by_reason())


def _publisher(kafka: dict[str, str], topics: Sequence[str], owner: Owner, process: int) -> TransactionalSink:
    return TransactionalSink(kafka, transactional_id(owner.identity, process), topics, owner.check, _kafka_trouble)


def _kafka_trouble(reason: str) -> None:
    log.debug("kafka", trouble=reason)  # brokers that are away: the run's health says so, once


@contextmanager
def _stopped_by_signals(run: Run) -> Iterator[None]:
    """SIGTERM and SIGINT let the flow commit and end."""

    def stop(number: int, _: FrameType | None) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        run.stop.set()

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
