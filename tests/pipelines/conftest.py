"""What these tests share: a small registry, and a worker that runs a log into a lake."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metering.readings.decode import Lines, Messages
from metering.registry.index import MeterIndex
from metering.registry.meter_versions import meter_versions
from metering.settings import MeteringSettings
from metering.tables.lake import COMPLIANCE, VIOLATIONS, WINDOWS
from metering.tables.warehouse import METERS
from pipelines.flow.metrics import Metrics
from pipelines.flow.settings import StreamSettings
from pipelines.flow.worker import Sinks, Worker
from pipelines.sources.poll import Batch, Segment
from sinks.lake.commits import CommitLog
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader, current
from tests.pipelines.flow.flows import METER, customers_of
from tests.pipelines.turns import FixedRegistry

MakeIndex = Callable[..., MeterIndex]
SHARD = "log-0"


@pytest.fixture(scope="session")
def make_index(metering_settings: MeteringSettings) -> MakeIndex:
    """Index of a registry of the meters named, and of {meter: {column: value}}."""

    def make(*names: str, **changed: dict[str, Any]) -> MeterIndex:
        meters = [{**METER, "meter_id": name, **changed.get(name, {})} for name in names]
        rows = METERS.conform(pl.DataFrame(meters))
        return MeterIndex.of(meter_versions(customers_of(), rows, metering_settings))

    return make


@pytest.fixture(scope="session")
def stream_log(metering_settings: MeteringSettings) -> Callable[..., dict[str, pl.DataFrame]]:
    """Runs a log (readings in order of arrival) through a worker; final windows, violations and compliance of the lake.

    stream_log(home, index, log, cuts=(), kept=8, commit_rows=10**9, silent_s=..., stop=None, logged_ms=None): in
    batches that end at `cuts`; from where the last run on that home got to `stop` (None: to the log's end, which closes
    every window). With `logged_ms`, when each was logged, the readings are messages, else lines of a file.
    """

    def run(
        home: Path, index: MeterIndex, log: list[dict[str, Any]], cuts: Sequence[int] = (), kept: int = 8,
        commit_rows: int = 10**9, silent_s: float = 1e9, stop: int | None = None,
        logged_ms: Sequence[int] | None = None,
    ) -> dict[str, pl.DataFrame]:  # fmt: skip
        owner = take(home)
        try:
            lake = LakeReader(home)
            settings = StreamSettings(
                metering_settings,
                windows_kept=kept,
                commit_interval_s=1e9,
                commit_rows=commit_rows,
                silent_days=silent_s / 86_400,
            )
            worker = Worker(Sinks(lake, CommitLog(home, owner)), settings, FixedRegistry(index), Metrics())
            begin, last = (worker.position(SHARD) or {"offset": 0})["offset"], len(log) if stop is None else stop
            for start, end in pairwise([begin, *(cut for cut in cuts if begin < cut < last), last]):
                lines = [json.dumps(row).encode() for row in log[start:end]]
                content = (
                    Lines(b"\n".join(lines))
                    if logged_ms is None
                    else Messages(lines, list(range(start, end)), list(logged_ms[start:end]), [None] * len(lines))
                )
                after = {"offset": end}
                segment = Segment(SHARD, "log", 0, len(lines), after, first_row=start, end=end == len(log))
                worker.deliver([worker.advance(worker.decode([Batch(content, (segment,))]))])
            worker.finish()
        finally:
            owner.release()
        rows = {table: lake.scan(table.name).collect() for table in (WINDOWS, VIOLATIONS, COMPLIANCE)}
        for table, frame in rows.items():
            assert frame.select(*table.key, "revision").is_unique().all()
        return {table.name: current(frame.lazy(), table.key).collect() for table, frame in rows.items()}

    return run
