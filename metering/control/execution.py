"""What came of a target: cap, reduction, verdict and headroom of each quarter-hour, and a customer's day.

Here: the formulae (domain handbook, sections 10 and 13). Not here: which target holds (`plans`), baselines
(`baseline`), when a quarter-hour is judged (`pipelines.shard.control`, `assets.control`).
"""

from __future__ import annotations

from datetime import datetime

import polars as pl

from metering.calendar import local_date
from metering.control.baseline import DECIMALS, meters_due
from metering.settings import MeteringSettings
from metering.tables.control import LOAD_CONTROL, LOAD_CONTROL_DAILY
from metering.tables.lake import WINDOW_S

_HOURS = WINDOW_S / 3600


def projected(mean_kw: pl.Expr, elapsed_s: pl.Expr, last_kw: pl.Expr) -> pl.Expr:
    """Mean power of a quarter-hour [kW] if it goes on at `last_kw`, after `elapsed_s` seconds with `mean_kw` so far.

    >>> pl.select(projected(pl.lit(800.0), pl.lit(300), pl.lit(1100.0))).item()
    1000.0
    """
    return (mean_kw * elapsed_s + last_kw * (WINDOW_S - elapsed_s)) / WINDOW_S


def instructed(rows: pl.DataFrame) -> pl.DataFrame:
    """Targets (cap_kw or reduction_kw, protected_kw, baseline_kw) with `cap_kw` and `instructed_kw`, whichever the plan
    gave. What is protected is never cut: no cap is below it, and no reduction reaches into it.
    """
    base, protected = pl.col("baseline_kw"), pl.col("protected_kw").fill_null(0.0)
    by_cap = pl.col("cap_kw").is_not_null()
    cap = pl.max_horizontal("cap_kw", protected)
    can = (base - protected).clip(lower_bound=0)
    asked = pl.when(by_cap).then((base - cap).clip(lower_bound=0)).otherwise(pl.min_horizontal("reduction_kw", can))
    asked = pl.when(base.is_not_null()).then(asked).round(DECIMALS)
    left = pl.max_horizontal(base - asked, 0.0)
    return rows.with_columns(
        asked.alias("instructed_kw"),
        pl.when(by_cap).then(cap).when(base.is_not_null()).then(left).round(DECIMALS).alias("cap_kw"),
    )


def judged(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of `instructed` with actual_kw, projected_kw, meters and meters_due, and `achieved_kw`, `compliant` and
    `headroom_kw`. There is no verdict while a main meter is not known, or no cap is.
    """
    base, actual, cap = pl.col("baseline_kw"), pl.col("actual_kw"), pl.col("cap_kw")
    known = pl.col("meters") >= pl.col("meters_due")
    return rows.with_columns(
        pl.when(known).then((base - actual).clip(lower_bound=0)).round(DECIMALS).alias("achieved_kw"),
        pl.when(known).then(pl.col("projected_kw") <= cap).alias("compliant"),
        (cap - pl.col("projected_kw")).round(DECIMALS).alias("headroom_kw"),
    )


def executed(
    held: pl.DataFrame, load: pl.DataFrame, base: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings
) -> pl.DataFrame:
    """LOAD_CONTROL, final, of `held` (`plans.holding` of windows).

    `load`: LOAD_SCHEMA of these windows; `base`: BASELINE_SCHEMA of them. Of a window that no meter has power of
    actual_kw is null. `revision`: late readings in the window and in the days looked at for its baseline, and revisions
    of the plan superseded.
    """
    known = (
        with_baseline(held, base)
        .join(load, on=["customer_no", "window_end"], how="left")
        .with_columns(pl.col("meters", "late").fill_null(0), actual_kw=pl.col("p_kw"), projected_kw=pl.col("p_kw"))
    )
    named = judged(meters_due(known, meter_versions)).with_columns(
        revision=pl.col("late") + pl.col("baseline_late") + pl.col("superseded"), as_of=pl.col("window_end")
    )
    return finished(named, "final", settings)


def with_baseline(held: pl.DataFrame, base: pl.DataFrame) -> pl.DataFrame:
    """`plans.holding` of windows with baseline, cap and reduction."""
    joined = held.join(base, on=["customer_no", "window_end", "baseline"], how="left", maintain_order="left")
    return instructed(joined.with_columns(pl.col("baseline_days", "baseline_late").fill_null(0)))


def finished(rows: pl.DataFrame, state: str, settings: MeteringSettings) -> pl.DataFrame:
    """LOAD_CONTROL of judged rows with revision and as_of, sorted by key."""
    date = local_date(pl.col("window_end"), settings.timezone).alias("date")
    named = rows.with_columns(date, pl.lit(state).alias("state"), pl.col("baseline").alias("baseline_method"))
    return LOAD_CONTROL.conform(named).sort(LOAD_CONTROL.key)


def control_daily(rows: pl.DataFrame, answers: pl.DataFrame, until: datetime | None = None) -> pl.DataFrame:
    """LOAD_CONTROL_DAILY of LOAD_CONTROL rows, those that are withdrawn left out, and not those after `until`.

    Execution rate = sum min(achieved, instructed) / sum instructed, over windows with both; compliance = windows at or
    under the cap / windows with a verdict. What is not known is neither kept nor given.
    """
    rows = rows.filter(pl.col("state") == "final")
    if until is not None:
        rows = rows.filter(pl.col("window_end") <= until)
    both = pl.col("achieved_kw").is_not_null() & pl.col("instructed_kw").is_not_null()
    counted = pl.min_horizontal("achieved_kw", "instructed_kw")
    based = both & pl.col("baseline_kw").is_not_null()
    available = (pl.col("baseline_kw") - pl.col("protected_kw").fill_null(0.0)).clip(lower_bound=0)

    def energy(power: pl.Expr, known: pl.Expr) -> pl.Expr:
        kept = power.filter(known)
        return pl.when(kept.len() > 0).then(kept.sum() * _HOURS).round(DECIMALS)

    daily = (
        rows.sort("plan_id", "customer_no", "window_end")
        .group_by("plan_id", "customer_no", "date", maintain_order=True)
        .agg(
            pl.col("kind", "level", "baseline_method").last(),
            pl.len().cast(pl.Int32).alias("windows"),
            pl.col("compliant").count().cast(pl.Int32).alias("known_windows"),
            pl.col("compliant").sum().cast(pl.Int32).alias("compliant_windows"),
            energy(pl.col("baseline_kw"), based).alias("baseline_kwh"),
            energy(pl.col("actual_kw"), based).alias("actual_kwh"),
            energy(pl.col("instructed_kw"), both).alias("instructed_kwh"),
            energy(pl.col("achieved_kw"), both).alias("achieved_kwh"),
            energy(counted, both).alias("counted_kwh"),
            available.mean().round(DECIMALS).alias("available_kw"),
            pl.col("baseline_days").min(),
        )
        .with_columns(
            compliance_rate=_percent("compliant_windows", "known_windows"),
            execution_rate=_percent("counted_kwh", "instructed_kwh"),
        )
    )
    last = answers.sort("at").group_by("plan_id", "customer_no").agg(pl.col("answer", "at").last())
    told = daily.join(last, on=["plan_id", "customer_no"], how="left").rename({"at": "answered_at"})
    return LOAD_CONTROL_DAILY.conform(told).sort(LOAD_CONTROL_DAILY.key)


def _percent(numerator: str, denominator: str) -> pl.Expr:
    return pl.when(pl.col(denominator) > 0).then(pl.col(numerator) / pl.col(denominator) * 100).clip(0, 100)
