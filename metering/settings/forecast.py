"""How forecasts are trained and scored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastSettings:
    """`history_days` are looked at, `min_train_days` are needed before a learner is trained at all."""

    history_days: int = 56
    min_train_days: int = 14
    left_out_below: float = 0.01
    seed: int = 1
    max_iter: int = 120
    learning_rate: float = 0.05
    max_leaf_nodes: int = 8
    min_samples_leaf: int = 96
