"""Fixtures that tests of the flow share: a registry of six meters, and a run of the flow in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metering.registry.index import MeterIndex
from metering.registry.meter_versions import meter_versions
from metering.settings import MeteringSettings
from pipelines.flow.dataflow import Run, build, run_flow
from pipelines.flow.settings import Registry, StreamSettings
from pipelines.flow.worker import Sinks
from pipelines.sources.files import FileSource
from pipelines.sources.poll import Source
from sinks.lake.commits import CommitLog
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader
from tests.pipelines.flow.flows import Fixed, customers_of, meters_of


@pytest.fixture(scope="module")
def index(metering_settings: MeteringSettings) -> MeterIndex:
    return MeterIndex.of(meter_versions(customers_of(), meters_of(*(f"M{i}" for i in range(6))), metering_settings))


Stream = Callable[..., Run]


@pytest.fixture
def stream(index: MeterIndex, metering_settings: MeteringSettings) -> Stream:
    """Runs the flow in this process: stream(home, source, registry=..., commit_rows=..., run=...)."""

    def go(
        home: Path, source: Path | Source, batch_rows: int = 10**6, commit_rows: int = 10**9,
        registry: Registry | None = None, run: Run | None = None,
    ) -> Run:  # fmt: skip
        run = run or Run()
        owner = take(home)
        try:
            settings = StreamSettings(metering_settings, windows_kept=8, commit_interval_s=1e9, commit_rows=commit_rows)
            sinks = Sinks(LakeReader(home), CommitLog(home, owner))
            files = FileSource(source, batch_rows) if isinstance(source, Path) else source
            run_flow(build(files, sinks, settings, registry or Fixed(index), run), run)
        finally:
            owner.release()
        return run

    return go
