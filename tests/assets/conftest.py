"""A batch over a small home, and its assets materialised without Dagster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path

import pytest

from assets.batch import Batch, gated
from assets.catalogue import RESULTS
from metering.tables.batch import BATCH
from orchestration.home.registry_files import load
from orchestration.home.settings import load_settings

FIRST = date(2026, 3, 2)  # a Monday


@pytest.fixture(scope="session")
def batch_of() -> Callable[[Path], Batch]:
    """The batch of a home."""

    def batch(home: Path) -> Batch:
        settings = load_settings(home)
        return Batch(home, settings.metering, lambda: load(home, settings))

    return batch


@pytest.fixture(scope="session")
def materialise() -> Callable[[Batch, Sequence[date], Sequence[str]], None]:
    """Computes, gates and publishes tables for days, in the catalogue's order."""

    def run(batch: Batch, days: Sequence[date], tables: Sequence[str]) -> None:
        for result in RESULTS:
            if result.table in tables:
                table = batch.tables.get(result.table) or BATCH[result.table]
                outcome = gated(batch, table, days, result.compute(batch, days))
                assert outcome.verdict.success, outcome.verdict.failures
                outcome.stage.publish()

    return run


@pytest.fixture(scope="session")
def days() -> list[date]:
    """Twenty-four days: three weeks of history and half a week that is forecast by a trained model."""
    return [FIRST + timedelta(days=n) for n in range(24)]


@pytest.fixture(scope="session")
def batch(
    tmp_path_factory: pytest.TempPathFactory,
    make_batch_home: Callable[[Path, date, int], Path],
    batch_of: Callable[[Path], Batch],
    materialise: Callable[[Batch, Sequence[date], Sequence[str]], None],
    days: list[date],
) -> Batch:
    """Everything materialised once, for tests that only read."""
    home = make_batch_home(tmp_path_factory.mktemp("batch") / "home", FIRST, len(days))
    batch = batch_of(home)
    materialise(batch, days, [result.table for result in RESULTS])
    return batch
