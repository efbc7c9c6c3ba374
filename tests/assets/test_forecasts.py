"""Forecasts of days: the same whichever days a run covers, from the past alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from assets.batch import Batch
from assets.forecasts import forecasts
from assets.learner import Boosted
from metering.settings import ForecastSettings
from sinks.marts import day_partition


def test_a_day_alone_is_forecast_as_in_a_range(batch: Batch, days: list[date]) -> None:
    thursday = days[-1 - (days[-1].weekday() - 3) % 7]
    (alone,) = forecasts(batch, [thursday])
    published = batch.marts.read(batch.tables["forecast"], [thursday])
    assert set(published["model"]) == {"gradient-boosting"}
    assert_frame_equal(alone.rows.sort(batch.tables["forecast"].key), published)


def test_there_is_a_forecast_for_each_customer_and_the_scope_with_ordered_quantiles(
    batch: Batch, days: list[date]
) -> None:
    rows = batch.marts.read(batch.tables["forecast"], days[-3:])
    assert rows.group_by("customer_no", "issued_at").len()["len"].to_list() == [96] * 9
    assert set(rows["customer_no"]) == {"*", "C1", "C2"}
    assert rows.select((pl.col("p10_kw") <= pl.col("p_kw")) & (pl.col("p_kw") <= pl.col("p90_kw"))).to_series().all()


def test_accuracy_is_scored_against_the_curve_and_last_week(batch: Batch, days: list[date]) -> None:
    rows = batch.marts.read(batch.tables["forecast_accuracy"], days[-3:])
    assert rows.height == 9
    assert set(rows["points"]) == {96}
    assert rows["grid_accuracy"].min() > 80  # the made-up load follows hour and day
    assert rows["skill"].null_count() == 0


def test_the_target_day_and_later_ones_are_not_looked_at(
    batch: Batch, days: list[date], tmp_path: Path, batch_of: Callable[[Path], Batch]
) -> None:
    home = shutil.copytree(batch.home, tmp_path / "home")
    target = days[-2]
    for day in days[-2:]:
        shutil.rmtree(home / "marts" / "daily_curve" / day_partition(day))
    (blind,) = forecasts(batch_of(home), [target])
    assert_frame_equal(
        blind.rows.sort(batch.tables["forecast"].key), batch.marts.read(batch.tables["forecast"], [target])
    )


@pytest.mark.parametrize("quantile", [None, 0.1, 0.9])
def test_the_learner_is_deterministic_and_knows_its_quantile(quantile: float | None) -> None:
    random = np.random.default_rng(1)
    x = pl.DataFrame({"a": random.normal(size=2000), "b": random.normal(size=2000)})
    y = x["a"] * 2 + pl.Series(random.normal(size=2000))
    settings = ForecastSettings(max_iter=30)
    first, second = (Boosted(settings, quantile).fit(x, y).predict(x) for _ in range(2))
    assert first.to_list() == second.to_list()
    share = (y < first).mean()
    assert share == pytest.approx(0.5 if quantile is None else quantile, abs=0.06)
