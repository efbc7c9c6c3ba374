"""Cutting a home's results anew after its registry, or settings, were changed for a time that is past.

Here: owning the home meanwhile, publishing and committing what differs, day after day. Not here: what differs
(`pipelines.recut`), the command's output (`orchestration.cli.recut`).

It can be broken off at any moment and done again: what has been put right by then does not differ any more. The state
goes with the first commit, and is made anew from the lake at the end, or by the next stream.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import astuple
from datetime import date
from pathlib import Path

import polars as pl

from metering.errors import OperationError, UserError
from metering.registry.index import MeterIndex
from orchestration.home.registry_files import load
from orchestration.home.settings import Settings
from orchestration.stream.run import publisher, result_topics
from pipelines.flow.batch_result import BatchResult, nothing
from pipelines.flow.metrics import Metrics
from pipelines.flow.outbox import Outbox
from pipelines.flow.records import RecordBook
from pipelines.flow.settings import StreamSettings
from pipelines.recut import Recut
from pipelines.shard.recovery import rebuild
from pipelines.shard.store import Context, LakePast, naming_of
from pipelines.shard_names import partition_shard
from sinks.lake.calendar import check_timezone
from sinks.lake.commits import CommitLog
from sinks.lake.owner import Owner, take
from sinks.lake.parts import parts
from sinks.lake.reader import LakeReader

FOLDER = "recut"
_SETTLED_S = 60.0
_UNREADABLE = b""
"""No state: what is in the lake is not what any was made for."""

Told = Callable[[str, int, int], None]
"""Is told what is being done, and how many days of how many are."""


def recut(home: Path, settings: Settings, with_kafka: bool, tell: Told) -> dict[date, dict[str, int]]:
    """Put right what the lake, and with Kafka the result topics, say of the home's readings; rows by day and table.

    Raises UserError where the topics would be left behind or the calendar is another, OwnedError while a stream runs,
    OperationError when brokers do not answer.
    """
    check_timezone(home, settings.timezone)
    index = MeterIndex.of(load(home, settings).meter_versions)
    owner = take(home, 1, settings.stream.stalled_after_s)
    aside = home / FOLDER
    try:
        commits, lake = CommitLog(home, owner), LakeReader(home)
        if not commits.shards or not lake.dates("readings"):
            raise UserError(f"no readings in {home / 'lake'} yet: there is nothing to cut anew")
        of_topic = {partition_shard(settings.topics.readings, n) for n in range(10_000)} & commits.shards
        if of_topic and not with_kafka:
            raise UserError("results of this home are on topics too: `kilowatch recut --kafka` puts both right")
        shutil.rmtree(aside, ignore_errors=True)
        naming = naming_of(index, settings.metering)
        kept, silent_s = settings.stream.windows_kept, settings.stream.silent_s
        known = RecordBook(lake, settings.timezone).known
        context = Context(naming, settings.metering, kept, LakePast(lake, naming, settings.metering), silent_s, known)
        cut = Recut(lake, LakeReader(aside), context)
        dates = len(lake.dates("readings"))
        for done in cut.replay():
            tell("cutting", done, dates)
        changed: dict[date, dict[str, int]] = {}
        outbox, days = _outbox(home, settings, owner, with_kafka), cut.days()
        try:
            for number, day in enumerate(days, 1):
                _put(cut.of_day(day), commits, outbox, changed)
                tell("putting right", number, len(days))
            _put({"violations": cut.violations()}, commits, outbox, changed)
        finally:
            outbox.close()
        if changed:
            rebuild(lake, commits, naming, settings.metering, kept)
        return dict(sorted(changed.items()))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        owner.release()


def _outbox(home: Path, settings: Settings, owner: Owner, with_kafka: bool) -> Outbox:
    retry_s = StreamSettings.of(settings.metering, settings.stream).retry_s
    if not with_kafka:
        return Outbox(None, None, retry_s, Metrics())
    from orchestration.kafka import broker

    topics = result_topics(settings)
    config = broker.ensure_topics(home, settings)
    return Outbox(publisher(config, astuple(topics), owner, 0), topics, retry_s, Metrics())


def _put(
    tables: Mapping[str, pl.DataFrame], commits: CommitLog, outbox: Outbox, changed: dict[date, dict[str, int]]
) -> None:
    """Publish and commit rows, and count them by day and table."""
    tables = {name: rows for name, rows in tables.items() if rows.height}
    if not tables:
        return
    outbox.add(BatchResult({**nothing(), **tables}, 0))
    outbox.publish(_SETTLED_S)
    if outbox.held:
        raise OperationError("the brokers do not answer: repeat `kilowatch recut --kafka`, which goes on from here")
    positions = {shard: commits.position(shard) or {} for shard in sorted(commits.shards)}
    commits.commit(0, positions, _UNREADABLE, parts({name: [rows] for name, rows in tables.items()}))
    for name, rows in tables.items():
        for day, count in rows.group_by("date").len().iter_rows():
            changed.setdefault(day, {})[name] = count
