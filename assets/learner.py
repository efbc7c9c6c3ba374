"""The learner that forecasts are made with: gradient boosting of scikit-learn.

Here: its configuration. Not here: features, fallbacks, accuracy (`metering.forecast`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from metering.settings import ForecastSettings


@dataclass(slots=True)
class Boosted:
    """Histogram gradient boosting for the median (`quantile` None) or a quantile; seeded, without early stopping.

    The central value is the median: industrial load jumps between levels, and a mean would lie between them.
    """

    settings: ForecastSettings
    quantile: float | None
    _model: Any = None

    def fit(self, x: pl.DataFrame, y: pl.Series) -> Boosted:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        loss = "absolute_error" if self.quantile is None else "quantile"
        model = HistGradientBoostingRegressor(
            loss=loss,
            quantile=self.quantile,
            max_iter=self.settings.max_iter,
            learning_rate=self.settings.learning_rate,
            max_leaf_nodes=self.settings.max_leaf_nodes,
            min_samples_leaf=self.settings.min_samples_leaf,
            random_state=self.settings.seed,
            early_stopping=False,
        )
        # One thread: a few thousand rows gain nothing from more, and on a busy machine more wait for each other
        with threadpool_limits(1, user_api="openmp"):
            self._model = model.fit(x.to_numpy(), y.to_numpy())
        return self

    def predict(self, x: pl.DataFrame) -> pl.Series:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, user_api="openmp"):
            return pl.Series(self._model.predict(x.to_numpy()))
