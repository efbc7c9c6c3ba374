"""What a forecaster may know: past quarter-hours of each series, laid out by local clock, and features made of them.

Here: the layout (a row for each series and quarter-hour of the clock, a column for each day), features of a day, which
take only columns of days before it. Not here: learning and forecasting (`model`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from metering.calendar import QUARTER_HOUR
from metering.load.curve import SCOPE, scope_curve
from metering.settings import MeteringSettings
from metering.tables.lake import MOST_KW
from metering.tables.schema import finite

SLOTS = 96
"""Quarter-hours of the local clock; one that a day has twice holds the mean, one that it lacks is null."""

RECENT_DAYS = 28
_WEEK = 7
_EVENING_SLOTS = 4
_DECIMALS = 9
"""Features are rounded: the last bit of a mean depends on how threads shared the work, and trees split on less."""

FEATURES = (
    "slot",
    "weekday",
    "holiday",
    "holiday_1",
    "holiday_7",
    "scope",
    "lag_1",
    "lag_2",
    "lag_7",
    "mean_week",
    "mean_weekday",
    "level_1",
    "level_7",
    "evening_1",
)
"""Features, all Float64, null where unknown; those in kW are in multiples of the series' recent mean |power|.

`holiday` is 1 on a day off by decree, -1 on a weekend day that is worked instead, else 0; `holiday_1` and `holiday_7`
are those of the day and of the week before.
"""


@dataclass(frozen=True, slots=True)
class History:
    """Power of the series on past days.

    `power`: customer_no, slot (Int32, from 0), and p_kw of each day in a column named by it (ISO); SLOTS rows for each
    series, sorted. `level`, `size`, `evening`: customer_no and, in columns likewise, the day's mean power, mean
    absolute power and mean power of its last hour [kW]; a row for each series. `days`: ascending, without a hole.
    """

    power: pl.DataFrame
    level: pl.DataFrame
    size: pl.DataFrame
    evening: pl.DataFrame
    days: tuple[date, ...]

    def sample(self, most_rows: int) -> History:
        """The same of evenly spaced series, always with the first (the scope), so that `most_rows` day slots remain."""
        series = max(1, most_rows // (SLOTS * max(1, len(self.days))))
        step = -(-self.level.height // series)
        if step <= 1:
            return self
        kept = self.level.select("customer_no").gather_every(step)
        parts = (self.power, self.level, self.size, self.evening)
        power, level, size, evening = (p.join(kept, on="customer_no", how="semi", maintain_order="left") for p in parts)
        return History(power, level, size, evening, self.days)


def slot_of(window_end: pl.Expr, tz: str) -> pl.Expr:
    """Quarter-hour of the local clock (Int32, 0 to 95) that the quarter-hour ending at `window_end` starts at."""
    start = window_end.dt.offset_by(f"-{QUARTER_HOUR}").dt.convert_time_zone(tz)
    return start.dt.hour().cast(pl.Int32) * 4 + start.dt.minute().cast(pl.Int32) // 15


def history(curves: pl.DataFrame, customers: pl.DataFrame, day: date, settings: MeteringSettings) -> History:
    """What is known of each customer, and of their sum ('*'), at local midnight at which `day` starts.

    `curves` has the columns of DAILY_CURVE; only dates in the settings' history_days before `day` are looked at.
    """
    days = tuple(day - timedelta(days=n) for n in range(settings.forecast.history_days, 0, -1))
    believed = pl.col("p_kw").abs() <= MOST_KW
    past = curves.filter(pl.col("date").is_between(days[0], days[-1]), believed).join(
        customers, on="customer_no", how="semi"
    )
    columns = ("customer_no", "date", "window_end", "p_kw")
    known = pl.concat([past.select(columns), scope_curve(past).select(columns)])
    slot = slot_of(pl.col("window_end"), settings.timezone).alias("slot")
    spread = known.select("customer_no", slot, "date", "p_kw").pivot(
        on="date", on_columns=days, index=["customer_no", "slot"], values="p_kw", aggregate_function="mean"
    )
    grid = (
        known.select("customer_no")
        .unique()
        .join(pl.select(pl.int_range(SLOTS, dtype=pl.Int32).alias("slot")), how="cross")
    )
    power = finite(grid.join(spread, on=["customer_no", "slot"], how="left").sort("customer_no", "slot"))
    p_kw = pl.col(list(map(str, days)))
    by_series = power.group_by("customer_no", maintain_order=True)
    return History(
        power,
        finite(by_series.agg(p_kw.mean())),
        finite(by_series.agg(p_kw.abs().mean())),
        finite(by_series.agg(p_kw.tail(_EVENING_SLOTS).mean())),
        days,
    )


def features(past: History, day: date, settings: MeteringSettings) -> pl.DataFrame:
    """FEATURES of every series and slot of `day`, made of days before it; with customer_no and `scale` [kW].

    `scale` is the series' mean |power| over the last RECENT_DAYS; null where there is none, or where it is 0. Rows are
    those of `past.power`.
    """
    size = _mean(past, day, range(1, RECENT_DAYS + 1))
    of_series = pl.concat(
        [
            past.size.with_columns(pl.when(size > 0).then(size.round(_DECIMALS)).alias("scale")).select("scale"),
            past.level.with_columns(level_1=_lag(past, day, 1)).select("level_1"),
            past.level.with_columns(level_7=_lag(past, day, _WEEK)).select("level_7"),
            past.evening.with_columns(evening_1=_lag(past, day, 1)).select("evening_1"),
        ],
        how="horizontal",
    ).select(pl.all().repeat_by(SLOTS).explode(empty_as_null=False, keep_nulls=True))
    of_slot = past.power.select(
        "customer_no",
        pl.col("slot").cast(pl.Float64),
        (pl.col("customer_no") == SCOPE).cast(pl.Float64).alias("scope"),
        *_calendar(day, settings),
        *(_lag(past, day, n).alias(f"lag_{n}") for n in (1, 2, _WEEK)),
        _mean(past, day, range(1, _WEEK + 1)).alias("mean_week"),
        _mean(past, day, range(_WEEK, RECENT_DAYS + 1, _WEEK)).alias("mean_weekday"),
    )
    in_kw = pl.col("lag_1", "lag_2", "lag_7", "mean_week", "mean_weekday", "level_1", "level_7", "evening_1")
    scaled = (in_kw / pl.col("scale")).round(_DECIMALS)
    return finite(finite(pl.concat([of_slot, of_series], how="horizontal")).with_columns(scaled))


def _lag(past: History, day: date, days: int) -> pl.Expr:
    """The column of the day so many days before `day`; null where the history does not reach."""
    then = day - timedelta(days=days)
    return pl.col(str(then)) if then in past.days else pl.lit(None, dtype=pl.Float64)


def _mean(past: History, day: date, lags: Iterable[int]) -> pl.Expr:
    return pl.mean_horizontal(*(_lag(past, day, n) for n in lags))


def _calendar(day: date, settings: MeteringSettings) -> list[pl.Expr]:
    def holiday(lag: int) -> pl.Expr:
        then = day - timedelta(days=lag)
        return pl.lit(float(then in settings.holidays) - float(then in settings.workdays))

    return [
        pl.lit(float(day.isoweekday())).alias("weekday"),
        holiday(0).alias("holiday"),
        holiday(1).alias("holiday_1"),
        holiday(_WEEK).alias("holiday_7"),
    ]
