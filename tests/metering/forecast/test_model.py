"""Day-ahead forecasts: nothing from after midnight, fallback, quantiles, clock changes; a real learner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from metering.forecast import accuracy, day_ahead, fit, predict
from metering.forecast.history import FEATURES, features, history
from metering.forecast.model import LAST_DAY, LAST_WEEK
from metering.settings import MeteringSettings
from metering.tables.warehouse import DAILY_CURVE, FORECAST

Builder = Callable[..., pl.DataFrame]
DAY = date(2026, 7, 1)  # a Wednesday
MIDNIGHT = datetime(2026, 6, 30, 16, tzinfo=UTC)


@dataclass
class Lagging:
    """Says the value of a week ago, moved by the quantile, and keeps what it was trained on."""

    quantile: float | None
    trained: list[pl.DataFrame] = field(default_factory=list)

    def fit(self, x: pl.DataFrame, y: pl.Series) -> Lagging:
        self.trained.append(x.with_columns(y.alias("y")))
        return self

    def predict(self, x: pl.DataFrame) -> list[float]:
        shift = {None: 0.0, 0.1: 0.5, 0.9: -0.5}[self.quantile]  # the wrong way round, on purpose
        return [(value or 0.0) + shift for value in x["lag_7"]]


@pytest.fixture(scope="module")
def customers(make_customers: Builder) -> pl.DataFrame:
    return make_customers({"A": {}, "B": {"contract_capacity_kva": 500.0}})


@pytest.fixture(scope="module")
def curves(make_curve: Builder) -> pl.DataFrame:
    """Two customers over ten weeks: a working-day shape, growing slowly."""

    def p_kw(day: date, scale: float) -> list[float | None]:
        week = (day - date(2026, 4, 1)).days / 70
        level = (1.0 if day.isoweekday() <= 5 else 0.4) * (1 + 0.1 * week)
        return [scale * level * (100 + 60 * (32 <= k < 72) + k % 5) for k in range(96)]

    days = [date(2026, 4, 22) + timedelta(days=n) for n in range(77)]
    return pl.concat(make_curve(c, day, p_kw(day, s)) for day in days for c, s in (("A", 1.0), ("B", 3.0)))


def before(curves: pl.DataFrame, day: date) -> pl.DataFrame:
    return curves.filter(pl.col("date") < day)


def test_every_quarter_hour_for_each_customer_and_the_scope(
    metering_settings: MeteringSettings, curves: pl.DataFrame, customers: pl.DataFrame
) -> None:
    rows = day_ahead(before(curves, DAY), customers, DAY, Lagging, metering_settings, name="lagging")
    assert rows.schema == FORECAST.schema
    assert rows.group_by("customer_no").len().sort("customer_no").rows() == [("*", 96), ("A", 96), ("B", 96)]
    assert rows["issued_at"].unique().to_list() == [MIDNIGHT]
    assert rows["target"].min() == MIDNIGHT + timedelta(minutes=15)
    assert rows["model"].unique().to_list() == ["lagging"]
    week_ago = curves.filter(pl.col("date") == DAY - timedelta(days=7), pl.col("customer_no") == "B")["p_kw"]
    ours = rows.filter(pl.col("customer_no") == "B")["p_kw"]
    assert ours.to_list() == pytest.approx(week_ago.to_list())


def test_quantiles_never_cross_the_forecast(
    metering_settings: MeteringSettings, curves: pl.DataFrame, customers: pl.DataFrame
) -> None:
    rows = day_ahead(before(curves, DAY), customers, DAY, Lagging, metering_settings)
    assert rows.select((pl.col("p10_kw") <= pl.col("p_kw")).all() & (pl.col("p_kw") <= pl.col("p90_kw")).all()).item()


def test_nothing_from_midnight_on_is_known(
    metering_settings: MeteringSettings, curves: pl.DataFrame, customers: pl.DataFrame
) -> None:
    spoilt = curves.with_columns(
        pl.when(pl.col("window_end") > MIDNIGHT).then(1e9).otherwise(pl.col("p_kw")).alias("p_kw")
    )
    learners: list[Lagging] = []

    def factory(quantile: float | None) -> Lagging:
        learners.append(Lagging(quantile))
        return learners[-1]

    honest, leaky = (day_ahead(c, customers, DAY, factory, metering_settings) for c in (before(curves, DAY), spoilt))
    assert honest.equals(leaky)
    assert learners[0].trained[0].equals(learners[3].trained[0])
    assert honest["p_kw"].max() < 1e6


def test_features_of_a_day_do_not_see_the_day(
    metering_settings: MeteringSettings, curves: pl.DataFrame, customers: pl.DataFrame
) -> None:
    past = history(curves, customers, DAY, metering_settings)
    inside = DAY - timedelta(days=20)
    spoilt = curves.with_columns(pl.when(pl.col("date") >= inside).then(-1.0).otherwise(pl.col("p_kw")).alias("p_kw"))
    other = history(spoilt, customers, DAY, metering_settings)
    ours, theirs = (features(h, inside, metering_settings) for h in (past, other))
    assert ours.equals(theirs)
    assert ours.select(FEATURES).schema == pl.Schema(dict.fromkeys(FEATURES, pl.Float64))
    first = ours.filter(pl.col("customer_no") == "A").row(40, named=True)
    scale = first["scale"]
    of_a = curves.filter(pl.col("customer_no") == "A")
    lag_7 = of_a.filter(pl.col("date") == inside - timedelta(days=7))["p_kw"][40]
    evening = of_a.filter(pl.col("date") == inside - timedelta(days=1))["p_kw"].tail(4).mean()
    assert (first["slot"], first["scope"], first["weekday"]) == (40.0, 0.0, float(inside.isoweekday()))
    assert first["lag_7"] == pytest.approx(lag_7 / scale)
    assert first["evening_1"] == pytest.approx(evening / scale)


def test_features_know_days_off_and_weekend_days_that_are_worked(
    metering_settings: MeteringSettings, curves: pl.DataFrame, customers: pl.DataFrame
) -> None:
    """Labour Day 2026: off from 1 to 5 May, made up for on Saturday the 9th."""
    past = history(curves, customers, DAY, metering_settings)
    marks = {}
    for day in (date(2026, 5, 5), date(2026, 5, 9), date(2026, 5, 10), date(2026, 5, 12), date(2026, 5, 16)):
        row = features(past, day, metering_settings).select("weekday", "holiday", "holiday_1", "holiday_7").row(0)
        marks[day.day] = row
    assert marks == {
        5: (2.0, 1.0, 1.0, 0.0),
        9: (6.0, -1.0, 0.0, 1.0),
        10: (7.0, 0.0, -1.0, 1.0),
        12: (2.0, 0.0, 0.0, 1.0),
        16: (6.0, 0.0, 0.0, -1.0),
    }


def test_without_enough_days_last_week_stands_in_and_else_the_last_day(
    metering_settings: MeteringSettings, curves: pl.DataFrame, customers: pl.DataFrame
) -> None:
    short = curves.filter(pl.col("date").is_between(DAY - timedelta(days=9), DAY - timedelta(days=1)))
    assert fit(short, customers, DAY, Lagging, metering_settings) is None
    rows = day_ahead(short, customers, DAY, Lagging, metering_settings)
    assert rows["model"].unique().to_list() == [LAST_WEEK]
    assert rows.select((pl.col("p10_kw") <= pl.col("p_kw")).all() & (pl.col("p_kw") <= pl.col("p90_kw")).all()).item()

    one_day = curves.filter(pl.col("date") == DAY - timedelta(days=3))
    rows = day_ahead(one_day, customers, DAY, Lagging, metering_settings)
    assert rows["model"].unique().to_list() == [LAST_DAY]
    assert rows["p10_kw"].null_count() == rows.height  # one day shows no spread
    ours = rows.filter(pl.col("customer_no") == "A")["p_kw"].to_list()
    assert ours == one_day.filter(pl.col("customer_no") == "A")["p_kw"].round(6).to_list()


def test_without_history_there_are_no_rows(
    metering_settings: MeteringSettings, curves: pl.DataFrame, customers: pl.DataFrame
) -> None:
    for nothing in (DAILY_CURVE.empty(), curves.filter(pl.col("date") >= DAY)):
        rows = day_ahead(nothing, customers, DAY, Lagging, metering_settings)
        assert rows.is_empty()
        assert rows.schema == FORECAST.schema
    assert day_ahead(before(curves, DAY), customers.clear(), DAY, Lagging, metering_settings).is_empty()


def test_a_customer_without_recent_days_falls_back_alone(
    metering_settings: MeteringSettings, curves: pl.DataFrame, customers: pl.DataFrame
) -> None:
    stale = (pl.col("customer_no") == "B") & (pl.col("date") > DAY - timedelta(days=10))
    rows = day_ahead(before(curves, DAY).filter(~stale), customers, DAY, Lagging, metering_settings)
    models = rows.group_by("customer_no").agg(pl.col("model").unique().first()).sort("customer_no").rows()
    assert models == [("*", "gradient-boosting"), ("A", "gradient-boosting"), ("B", LAST_DAY)]


@pytest.mark.parametrize(("day", "points"), [(date(2016, 3, 27), 92), (date(2016, 10, 30), 100)])
def test_days_with_23_and_25_hours(
    metering_settings: MeteringSettings, customers: pl.DataFrame, make_curve: Builder, day: date, points: int
) -> None:
    settings = replace(metering_settings, timezone="Europe/Berlin")
    clock = [float(k) for k in range(96)]
    days = [day - timedelta(days=n) for n in range(1, 20)]
    curves = pl.concat(make_curve("A", d, clock, "Europe/Berlin") for d in days)
    rows = day_ahead(curves, customers, day, Lagging, settings).filter(pl.col("customer_no") == "A")
    hour_3 = {92: [*range(8), *range(12, 96)], 100: [*range(12), *range(8, 96)]}[points]
    assert rows["p_kw"].to_list() == pytest.approx([float(k) for k in hour_3])
    after = make_curve("A", day, [float(k) for k in range(points)], "Europe/Berlin")
    later = day_ahead(pl.concat([curves, after]), customers, day + timedelta(days=7), Lagging, settings)
    assert later.filter(pl.col("customer_no") == "A").height == 96


def test_an_older_model_serves_later_days(
    metering_settings: MeteringSettings, curves: pl.DataFrame, customers: pl.DataFrame
) -> None:
    model = fit(before(curves, DAY), customers, DAY, Lagging, metering_settings)
    later = DAY + timedelta(days=3)
    rows = predict(model, before(curves, later), customers, later, metering_settings)
    assert rows.equals(day_ahead(before(curves, later), customers, later, Lagging, metering_settings))


def test_training_is_bounded_by_a_sample_that_keeps_the_scope(
    metering_settings: MeteringSettings, make_customers: Builder, make_curve: Builder
) -> None:
    names = [f"C{n:02}" for n in range(20)]
    curves = pl.concat(make_curve(c, DAY - timedelta(days=1), [1.0] * 96) for c in names)
    past = history(curves, make_customers({c: {} for c in names}), DAY, metering_settings)
    sample = past.sample(5 * 96 * len(past.days))
    assert sample.level.height == 5
    assert sample.level["customer_no"][0] == "*"
    assert sample.power.height == 5 * 96
    assert past.sample(10**9) is past


@example_settings(max_examples=25)
@given(p_kw=st.lists(st.none() | st.floats(-1e4, 1e4), min_size=96, max_size=96), zero=st.booleans())
def test_any_history_gives_ordered_unique_rows(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    make_curve: Builder,
    p_kw: list[float | None],
    zero: bool,
) -> None:
    values = [0.0] * 96 if zero else p_kw
    curves = pl.concat(make_curve("A", DAY - timedelta(days=n), values) for n in range(1, 16))
    rows = day_ahead(curves, customers, DAY, Lagging, metering_settings)
    assert rows.select(FORECAST.key).is_unique().all()
    known = rows.drop_nulls()
    assert known.select(((pl.col("p10_kw") <= pl.col("p_kw")) & (pl.col("p_kw") <= pl.col("p90_kw"))).all()).item()
    assert rows["p_kw"].null_count() == 0
    assert rows.filter(pl.col("customer_no") == "A").height == sum(v is not None for v in values)


def test_gradient_boosting_beats_last_week_where_the_load_grows(
    metering_settings: MeteringSettings, curves: pl.DataFrame, customers: pl.DataFrame
) -> None:
    def boosted(quantile: float | None) -> HistGradientBoostingRegressor:
        loss = "squared_error" if quantile is None else "quantile"
        return HistGradientBoostingRegressor(
            loss=loss, quantile=quantile, max_iter=60, random_state=1, early_stopping=False
        )

    with threadpool_limits(1, user_api="openmp"):  # sums by several threads differ in their last bit
        first, again = (day_ahead(before(curves, DAY), customers, DAY, boosted, metering_settings) for _ in range(2))
    assert first.equals(again)
    scores = accuracy(first, curves, curves, customers, DAY, metering_settings)
    assert scores["customer_no"].to_list() == ["*", "A", "B"]
    assert scores["grid_accuracy"].min() > 98
    assert scores["skill"].min() > 0


@pytest.mark.parametrize("absurd", [1.7e308, -1.7e308, 1.7e298, 4e9])
def test_one_customers_absurd_days_leave_the_others_a_forecast(
    metering_settings: MeteringSettings, curves: pl.DataFrame, customers: pl.DataFrame, absurd: float
) -> None:
    """A learner that is given an infinity refuses to learn at all."""
    spoilt = (pl.col("customer_no") == "A") & (pl.col("date") == DAY - timedelta(days=3))
    odd = before(curves, DAY).with_columns(p_kw=pl.when(spoilt).then(absurd).otherwise("p_kw"))

    def factory(quantile: float | None) -> HistGradientBoostingRegressor:
        loss = {"loss": "squared_error"} if quantile is None else {"loss": "quantile", "quantile": quantile}
        return HistGradientBoostingRegressor(**loss, max_iter=5, random_state=1)

    with threadpool_limits(limits=1):
        rows = day_ahead(odd, customers, DAY, factory, metering_settings, name="boosting")
    values = rows.select("p_kw", "p10_kw", "p90_kw")
    assert values.select(pl.all().is_finite().all()).row(0) == (True,) * 3
    of_b = rows.filter(pl.col("customer_no") == "B")
    assert of_b["model"].unique().to_list() == ["boosting"]
    assert 100 < of_b["p_kw"].mean() < 1000
    score = accuracy(rows, odd.with_columns(date=pl.lit(DAY)), odd, customers, DAY, metering_settings)
    assert score.select(pl.col(pl.Float64).is_finite().all()).row(0) == (True,) * 5


def test_features_are_of_the_days_they_are_named_after(
    metering_settings: MeteringSettings, make_curve: Builder, make_customers: Builder
) -> None:
    """Every day of the history has its own power, so that each lag can be told from all others: the 28th day too."""
    days = range(1, 61)
    curves = pl.concat(make_curve("A", DAY - timedelta(days=n), [float(2**n % 1009 + n)] * 96) for n in days)
    power = {n: float(2**n % 1009 + n) for n in days}
    rows = features(history(curves, make_customers({"A": {}}), DAY, metering_settings), DAY, metering_settings)
    row = rows.filter(pl.col("customer_no") == "A").row(0, named=True)
    scale = sum(power[n] for n in range(1, 29)) / 28
    expected = {
        "lag_1": power[1], "lag_2": power[2], "lag_7": power[7], "level_1": power[1], "level_7": power[7],
        "evening_1": power[1], "mean_week": sum(power[n] for n in range(1, 8)) / 7,
        "mean_weekday": sum(power[n] for n in (7, 14, 21, 28)) / 4,
    }  # fmt: skip
    assert row["scale"] == pytest.approx(scale)
    assert {name: row[name] * scale for name in expected} == pytest.approx(expected)
