"""Replaying rejects after a fix: asking the stream that owns the home, or doing it here where none runs.

Here: the request, who serves it, and what came of it. Not here: reading rejects again (`pipelines.sources.redrive`),
the command's options and output (`orchestration.cli.rejects`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from metering.errors import OperationError, OwnedError
from orchestration.home.registry_files import load
from orchestration.home.settings import Settings
from orchestration.kafka import broker
from orchestration.stream.run import replay_at_rest
from pipelines.flow.dataflow import Run
from pipelines.sources.redrive_requests import Requests
from sinks.lake.reader import LakeReader
from sinks.lake.rejects import by_reason, mendable

_LOOK_EVERY_S = 0.2
_TRY_EVERY_S = 5.0

Told = Callable[[int, int], None]
"""Is told how many rejects have been looked at, and of how many."""


def replay_rejects(home: Path, settings: Settings, tell: Told) -> pl.DataFrame:
    """Read the home's open rejects again; what is accepted now becomes a reading that came late.

    Returns `reason`, `replayed` (by this), `open` (still). Raises UserError when the registry is not valid,
    OperationError when brokers do not answer or it is stopped; the next stream, or this command repeated, goes on.
    """
    load(home, settings)  # a registry that the stream would refuse is said here, with line and column
    lake = LakeReader(home)
    before = by_reason(lake)
    sources = set(mendable(lake)["source"])
    here = not (sources - {settings.topics.readings}) or _replayed_here(home, settings, None, tell)
    if here and settings.topics.readings in sources:
        _replayed_here(home, settings, broker.ensure_topics(home, settings), tell)
    gained = by_reason(lake).join(before.select("reason", was="replayed"), on="reason", how="left")
    return gained.select(
        "reason", replayed=pl.col("replayed") - pl.col("was").fill_null(0), open=pl.col("count") - pl.col("replayed")
    )


def _replayed_here(home: Path, settings: Settings, kafka: dict[str, str] | None, tell: Told) -> bool:
    """Have rejects of the topic (`kafka`), or of files, replayed. Whether that was done here: a stream that runs
    replays all that it reads.
    """
    requests = Requests(home)
    asked = requests.ask()
    try_at = 0.0
    while not requests.answered(asked):
        if time.monotonic() >= try_at:
            try:
                _replay(home, settings, kafka, requests, asked, tell)
            except OwnedError:
                try_at = time.monotonic() + _TRY_EVERY_S
            else:
                requests.take_back()
                return True
        _tell(requests, asked, tell)
        time.sleep(_LOOK_EVERY_S)
    requests.take_back()
    return False


def _replay(
    home: Path, settings: Settings, kafka: dict[str, str] | None, requests: Requests, asked: str, tell: Told
) -> None:
    run = Run(on_poll=lambda _: _tell(requests, asked, tell))
    replay_at_rest(home, settings, kafka, run)
    if run.stop.is_set():
        raise OperationError("stopped before all rejects were read again: repeat the command, or start the stream")


def _tell(requests: Requests, asked: str, tell: Told) -> None:
    answers = requests.answers(asked)
    tell(sum(answer.looked_at for answer in answers), sum(answer.total for answer in answers))
