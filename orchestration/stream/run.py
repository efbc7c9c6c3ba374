"""Running the stream in this process: everything it needs, made from a home's settings, and a clean end.

It may be one process of several that share the shards (`stream_process.Place`): on one machine
(`processes`) or on several.

Not here: the dataflow itself (`pipelines`), the command's options and output (`orchestration.cli.stream`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, replace
from functools import partial
from pathlib import Path
from threading import Event, Thread

import structlog

from metering.errors import ApartError
from metering.tables.records import KINDS
from orchestration.home.registry_watch import RegistryWatch
from orchestration.home.settings import Settings
from orchestration.stream.health_server import served
from orchestration.stream.process import ALONE, Outcome, Place, Progress, stopped_by_signals
from pipelines.flow.dataflow import Run, build, run_flow
from pipelines.flow.outbox import Publisher
from pipelines.flow.settings import ResultTopics, StreamSettings
from pipelines.flow.worker import Sinks
from pipelines.shard.recovery import rebuild, unreadable
from pipelines.shard.store import naming_of
from pipelines.sources.files import FileReader, FileSource
from pipelines.sources.poll import Reader, Source
from pipelines.sources.records import RecordTopics, WithRecords, unwrapped
from pipelines.sources.redrive import AtRest, Replayed
from pipelines.sources.redrive_requests import Requests
from sinks.lake.calendar import keep_timezone
from sinks.lake.commits import CommitLog
from sinks.lake.owner import Owner, join, take
from sinks.lake.reader import LakeReader

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 0.2
_REPORT_EVERY_S = 0.5


def stream_files(
    home: Path, settings: Settings, path: Path, run: Run, place: Place = ALONE, rebuild_states: bool = False
) -> Outcome:
    """Run files to their end into the lake; with `rebuild_states` from states made anew. Raises KilowatchError."""
    source = FileSource(path, settings.stream.batch_rows)
    _ = source.files  # a wrong path is said before anything is started
    with_records = partial(WithRecords, home=home, batch_rows=settings.stream.batch_rows)
    return _stream(home, settings, source, None, run, place, rebuild_states, with_records)


def stream_kafka(
    home: Path,
    settings: Settings,
    run: Run,
    accept_gap: bool = False,
    place: Place = ALONE,
    rebuild_states: bool = False,
) -> Outcome:
    """Run from Kafka into the lake and the result topics until told to stop. Raises KilowatchError.

    With `accept_gap`, offsets that the log no longer holds at the start are left out, and leave a row in lake.gaps;
    with `rebuild_states` it goes on from states made anew.
    """
    from orchestration.kafka import broker  # the Kafka client takes a while, and files need none of it
    from pipelines.sources.kafka import KafkaSource

    config = broker.ensure_topics(home, settings)
    stream = settings.stream
    source = KafkaSource(
        config, settings.topics.readings, stream.batch_rows, stream.poll_ms, stream.linger_ms, accept_gap
    )
    topics = RecordTopics(config, {settings.topics.of_records[name]: kind for name, kind in KINDS.items()})
    with_records = partial(WithRecords, home=home, batch_rows=stream.batch_rows, topics=topics)
    return _stream(home, settings, source, config, run, place, rebuild_states, with_records)


def replay_at_rest(home: Path, settings: Settings, kafka: dict[str, str] | None, run: Run) -> None:
    """Serve the home's request to replay rejects where no stream runs: those of the readings topic, with its client
    configuration in `kafka`, or else those of files. Raises OwnedError when a stream does run, and OperationError.
    """
    quiet = settings.model_copy(update={"stream": replace(settings.stream, metrics_port=-1)})
    _stream(home, quiet, AtRest(settings.topics.readings, files=kafka is None), kafka, run, ALONE)


def stream_records(home: Path, settings: Settings, run: Run) -> None:
    """Take the home's files of records into the lake, without any telemetry. Raises KilowatchError."""
    quiet = settings.model_copy(update={"stream": replace(settings.stream, metrics_port=-1)})
    with_records = partial(WithRecords, home=home, batch_rows=settings.stream.batch_rows)
    source = AtRest(settings.topics.readings, files=True)
    _stream(home, quiet, source, None, run, ALONE, with_records=with_records)


def _stream(
    home: Path,
    settings: Settings,
    source: Source,
    kafka: dict[str, str] | None,
    run: Run,
    place: Place,
    anew: bool = False,
    with_records: Callable[[Source], Source] = lambda source: source,
) -> Outcome:
    registry = RegistryWatch(home, settings)
    with _owned(home, settings, place) as owner:
        keep_timezone(home, settings.timezone)
        results = result_topics(settings)
        sinks = Sinks(
            lake=LakeReader(home),
            commits=CommitLog(home, owner, finish=place.process == 0, salvage=anew),
            topics=results if kafka else None,
            publisher=partial(publisher, kafka, astuple(results), owner) if kafka else None,
        )
        figures = StreamSettings.of(settings.metering, settings.stream)
        if place.process == 0:
            _fence(owner, kafka, place)
            naming = naming_of(registry.index(), settings.metering)
            if anew or unreadable(sinks.commits, naming):
                rebuild(sinks.lake, sinks.commits, naming, settings.metering, figures.windows_kept)
            owner.announce(place.addresses)
        port = settings.stream.metrics_port
        own_port = port + place.process if port > 0 else port
        with (
            stopped_by_signals(run.stop.set),
            served(own_port, run.metrics.registry, run.health),
            _together(owner, run, place),
        ):
            replayed = Replayed(source, sinks.lake, Requests(home), registry.refresh, settings.stream.batch_rows)
            run_flow(build(with_records(replayed), sinks, figures, registry, run), run, place.addresses, place.process)
    return Outcome(run.metrics.readings, run.metrics.rejected_by_reason())


def _fence(owner: Owner, kafka: dict[str, str] | None, place: Place) -> None:
    """Of several processes none may read on while one of the stream before can still publish."""
    processes = max(owner.processes_before, len(place.addresses))
    if kafka and processes > 1:
        from sinks.kafka.transactions import fence

        fence(kafka, owner.identity, processes)


@contextmanager
def _owned(home: Path, settings: Settings, place: Place) -> Iterator[Owner]:
    """The home, owned by process 0; the others join it."""
    if place.process:
        owner = join(home, place.addresses)
    else:
        owner = take(home, max(1, len(place.addresses)), settings.stream.stalled_after_s)
    try:
        yield owner
    finally:
        owner.release()


@contextmanager
def _together(owner: Owner, run: Run, place: Place) -> Iterator[None]:
    """Processes of one stream end together: when one is told to stop or fails, the others commit and end; and so they
    do when who started them is gone."""
    over = Event()
    parent = os.getppid()

    def look() -> None:
        while not over.wait(_LOOK_EVERY_S):
            if os.getppid() != parent:
                run.stop.set()
            if run.stop.is_set() or run.failure is not None:
                owner.end()
            elif owner.ended:
                run.stop.set()

    watching = Thread(target=look, daemon=True)
    if place.addresses:
        watching.start()
    try:
        with _reported(run, place.report):
            yield
    finally:
        over.set()


@contextmanager
def _reported(run: Run, report: Path | None) -> Iterator[None]:
    """Keep `report` up to date, for who started this process."""
    if report is None:
        yield
        return
    last = 0.0

    def update(reader: Reader | None, always: bool = False) -> None:
        nonlocal last
        if not always and time.monotonic() - last < _REPORT_EVERY_S:
            return
        last = time.monotonic()
        files = unwrapped(reader)
        read = files.progress if isinstance(files, FileReader) else (0, 0)
        apart = str(run.failure) if isinstance(run.failure, ApartError) else ""
        progress = Progress(run.metrics.readings, run.metrics.rejected_by_reason(), *read, apart)
        aside = report.with_suffix(".new")
        aside.write_text(json.dumps(asdict(progress)), "utf-8")
        aside.rename(report)

    run.on_poll = update
    try:
        yield
    finally:
        update(None, always=True)


def result_topics(settings: Settings) -> ResultTopics:
    names = settings.topics
    return ResultTopics(names.windows, names.violations, names.compliance, names.load_control, names.rejected)


def publisher(kafka: dict[str, str], topics: Sequence[str], owner: Owner, process: int) -> Publisher:
    """Where results of a process of the home's owner go."""
    from sinks.kafka.transactions import TransactionalSink, transactional_id

    return TransactionalSink(kafka, transactional_id(owner.identity, process), topics, owner.check, _kafka_trouble)


def _kafka_trouble(reason: str) -> None:
    log.debug("kafka", trouble=reason)  # brokers that are away: the run's health says so, once
