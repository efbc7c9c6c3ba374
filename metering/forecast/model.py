"""Day-ahead forecasts: one learner for all series, and last week's day where there is nothing to learn from.

Here: training, forecasting, fallback, quantiles. Learners are handed in; one pooled over all series (each scaled by its
own recent load) costs the same for ten customers as for a hundred thousand. Not here: features (`history`), accuracy
(`score`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol

import polars as pl

from metering.calendar import day_bounds, quarter_hours
from metering.forecast.history import FEATURES, RECENT_DAYS, History, features, history, slot_of
from metering.settings import MeteringSettings
from metering.tables.schema import finite
from metering.tables.warehouse import FORECAST

LAST_WEEK, LAST_DAY = "same-weekday-last-week", "last-day"
"""`model` of rows taken from the same weekday last week, or else from the newest day that has the quarter-hour."""

LOW, HIGH = 0.1, 0.9
MOST_TRAINING_ROWS = 400_000
"""Where training takes a sample of the series: bounds its time and memory."""

_MOST_Y = 1000.0
"""Multiple of a series' recent load beyond which a value is an error: one would outweigh all there is to learn from."""

FEWEST_FOR_QUANTILES = 5
"""Days that a quarter-hour must have been seen on for quantiles to be read off them."""


class Learner(Protocol):
    """Regression as scikit-learn has it, on a frame of FEATURES (Float64, null where unknown)."""

    def fit(self, x: pl.DataFrame, y: pl.Series, /) -> object: ...

    def predict(self, x: pl.DataFrame, /) -> Any: ...


LearnerFactory = Callable[[float | None], Learner]
"""Makes an untrained learner of the central value (None) or of a quantile."""


@dataclass(frozen=True, slots=True)
class Model:
    """Trained learners of the central value and of the LOW and HIGH quantiles; `name` is published with forecasts."""

    name: str
    central: Learner
    low: Learner
    high: Learner


def day_ahead(
    curves: pl.DataFrame,
    customers: pl.DataFrame,
    day: date,
    learner_factory: LearnerFactory,
    settings: MeteringSettings,
    name: str = "gradient-boosting",
) -> pl.DataFrame:
    """FORECAST of every real quarter-hour of the local `day` for each customer and for their sum ('*').

    Issued at the local midnight at which `day` starts; of `curves` (DAILY_CURVE, of many days) only the settings'
    history_days before it are looked at. See `fit` and `predict`, which this puts together.
    """
    return predict(fit(curves, customers, day, learner_factory, settings, name), curves, customers, day, settings)


def fit(
    curves: pl.DataFrame,
    customers: pl.DataFrame,
    day: date,
    learner_factory: LearnerFactory,
    settings: MeteringSettings,
    name: str = "gradient-boosting",
) -> Model | None:
    """Learners trained on the days before `day`; None where there are fewer than the settings' min_train_days."""
    past = history(curves, customers, day, settings)
    if _days_known(past) < settings.forecast.min_train_days:
        return None
    rows = _training(past.sample(MOST_TRAINING_ROWS), settings)
    if rows.is_empty():
        return None
    learners = [learner_factory(quantile) for quantile in (None, LOW, HIGH)]
    for learner in learners:
        learner.fit(rows.select(FEATURES), rows["y"])
    return Model(name, *learners)


def predict(
    model: Model | None, curves: pl.DataFrame, customers: pl.DataFrame, day: date, settings: MeteringSettings
) -> pl.DataFrame:
    """FORECAST of `day` by `model`, which may be some days older.

    A quarter-hour that the model cannot say (no model; nothing known of it a day or a week before) is that of the same
    weekday last week, else of the newest day that has it, else there is no row. Its quantiles are those of recent days,
    null where there are few. Always p10_kw <= p_kw <= p90_kw.
    """
    past = history(curves, customers, day, settings)
    by_slot = _fallback(past, day)
    if model is not None:
        by_slot = by_slot.join(_modelled(model, past, day, settings), on=["customer_no", "slot"], how="left").select(
            "customer_no", "slot", *(pl.coalesce(f"{c}_learnt", c).alias(c) for c in ("p_kw", "model")),
            *(pl.when(pl.col("p_kw_learnt").is_null()).then(c).otherwise(f"{c}_learnt").alias(c) for c in _QUANTILES),
        )  # fmt: skip
    target = quarter_hours(day, settings.timezone).select(
        pl.col("window_end").alias("target"), slot_of(pl.col("window_end"), settings.timezone).alias("slot")
    )
    rows = by_slot.filter(pl.col("p_kw").is_not_null()).join(target, on="slot").with_columns(_ordered())
    rows = rows.with_columns(pl.col("p_kw", *_QUANTILES).round(_DECIMALS))
    return FORECAST.conform(rows, issued_at=day_bounds(day, settings.timezone)[0]).sort(FORECAST.key)


_QUANTILES = ("p10_kw", "p90_kw")
_DECIMALS = 6  # of kW: a forecast says no more, and is the same whatever machine made it


def _ordered() -> list[pl.Expr]:
    """Quantiles moved to the forecast's other side never; null stays null."""
    low, p_kw, high = pl.col("p10_kw"), pl.col("p_kw"), pl.col("p90_kw")
    return [
        pl.when(low.is_not_null()).then(pl.min_horizontal(low, p_kw)).alias("p10_kw"),
        pl.when(high.is_not_null()).then(pl.max_horizontal(high, p_kw)).alias("p90_kw"),
    ]


def _days_known(past: History) -> int:
    known = past.level.select(pl.col(str(day)).is_not_null().any() for day in past.days)
    return sum(known.row(0)) if known.height else 0


def _usable() -> pl.Expr:
    """Rows of features that say enough: the series is known, and the slot of a day or of a week before."""
    return pl.col("scale").is_not_null() & (pl.col("lag_1").is_not_null() | pl.col("lag_7").is_not_null())


def _training(past: History, settings: MeteringSettings) -> pl.DataFrame:
    """FEATURES and y (power in multiples of scale) of every past day."""
    days = (
        pl.concat(
            [features(past, day, settings), past.power.select(pl.col(str(day)).alias("y"))], how="horizontal"
        ).filter(_usable(), pl.col("y").is_not_null())
        for day in past.days
    )
    return pl.concat(days).with_columns(pl.col("y") / pl.col("scale")).filter(pl.col("y").abs() <= _MOST_Y)


def _modelled(model: Model, past: History, day: date, settings: MeteringSettings) -> pl.DataFrame:
    """customer_no, slot, p_kw_learnt, p10_kw_learnt, p90_kw_learnt, model_learnt, where the model can say."""
    rows = features(past, day, settings).filter(_usable())
    x = rows.select(FEATURES)
    learnt = {"p_kw": model.central, "p10_kw": model.low, "p90_kw": model.high}
    if rows.is_empty():
        return pl.DataFrame(
            schema={"customer_no": pl.String, "slot": pl.Int32, "model_learnt": pl.String}
            | {f"{c}_learnt": pl.Float64 for c in learnt}
        )
    said = rows.select(
        "customer_no",
        pl.col("slot").cast(pl.Int32),
        pl.lit(model.name).alias("model_learnt"),
        *(
            (pl.Series(learner.predict(x), dtype=pl.Float64) * rows["scale"]).alias(f"{c}_learnt")
            for c, learner in learnt.items()
        ),
    )
    return finite(said).filter(pl.col("p_kw_learnt").is_not_null())


def _fallback(past: History, day: date) -> pl.DataFrame:
    """customer_no, slot, p_kw, model, p10_kw, p90_kw, from past days alone."""
    week_ago = day - timedelta(days=7)
    last_week = pl.col(str(week_ago)) if week_ago in past.days else pl.lit(None, dtype=pl.Float64)
    newest = pl.coalesce(*(str(d) for d in reversed(past.days)))
    recent = pl.concat_list(str(d) for d in past.days[-RECENT_DAYS:]).list.drop_nulls()
    enough = recent.list.len() >= FEWEST_FOR_QUANTILES

    def quantile(of: float) -> pl.Expr:
        return pl.when(enough).then(recent.list.agg(pl.element().quantile(of, "linear")))

    known = past.power.select(
        "customer_no",
        "slot",
        pl.coalesce(last_week, newest).alias("p_kw"),
        pl.when(last_week.is_not_null()).then(pl.lit(LAST_WEEK)).otherwise(pl.lit(LAST_DAY)).alias("model"),
        quantile(LOW).alias("p10_kw"),
        quantile(HIGH).alias("p90_kw"),
    )
    return finite(known)
