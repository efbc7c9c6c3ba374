"""Day-ahead forecasts and their accuracy, day after day: a day is forecast from the curves before it.

Here: which history each day's forecast gets, and when a learner is trained anew: for each week of target days (from
Monday), on the history before the first of its days that has enough. So what is forecast does not depend on which days
a run covers. Not here: the forecasting (`metering.forecast`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial

import polars as pl

from assets.batch import Batch, Part
from assets.learner import Boosted
from metering.forecast import Model, accuracy, fit, predict
from sinks.marts import day_partition


def forecasts(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    history = _History(batch, days)
    week = _Week(batch, history)
    for day in days:
        yield Part(day_partition(day), week.forecast(day), day)


def accuracies(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    history = _History(batch, days)
    for day in days:
        forecast = batch.marts.read(batch.tables["forecast"], [day])
        naive = history.of([day - timedelta(days=7)])
        rows = accuracy(forecast, history.of([day]), naive, batch.registry.customers_on(day), day, batch.settings)
        yield Part(day_partition(day), rows, day)


@dataclass(slots=True)
class _History:
    """Curves by day, each read at most once and dropped when no later day needs it."""

    batch: Batch
    days: Sequence[date]
    _held: dict[date, pl.DataFrame] = field(default_factory=dict)

    def before(self, day: date) -> pl.DataFrame:
        return self.of([day - timedelta(days=n) for n in range(self.batch.settings.forecast.history_days, 0, -1)])

    def of(self, days: Sequence[date]) -> pl.DataFrame:
        table = self.batch.tables["daily_curve"]
        for day in days:
            if day not in self._held:
                self._held[day] = self.batch.marts.read(table, [day])
        oldest = min(days) - timedelta(days=7)
        self._held = {day: curve for day, curve in self._held.items() if day >= oldest}
        return pl.concat([self._held[day] for day in days])


@dataclass(slots=True)
class _Week:
    """The model of the current week of target days."""

    batch: Batch
    history: _History
    _start: date | None = None
    _model: Model | None = None

    def forecast(self, day: date) -> pl.DataFrame:
        monday = day - timedelta(days=day.weekday())
        if monday != self._start:
            self._start, self._model = monday, self._trained(monday, day)
        elif self._model is None:
            self._model = self._fit(day)
        curves, customers = self.history.before(day), self.batch.registry.customers_on(day)
        return predict(self._model, curves, customers, day, self.batch.settings)

    def _trained(self, monday: date, day: date) -> Model | None:
        days = (monday + timedelta(days=n) for n in range((day - monday).days + 1))
        return next((model for model in map(self._fit, days) if model), None)

    def _fit(self, day: date) -> Model | None:
        curves, customers, settings = (
            self.history.before(day),
            self.batch.registry.customers_on(day),
            self.batch.settings,
        )
        return fit(curves, customers, day, partial(Boosted, settings.forecast), settings)
