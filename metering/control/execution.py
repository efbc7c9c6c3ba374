"""What came of a target: cap, reduction, verdict and headroom of each quarter-hour, and a customer's day.

Here: the formulae (domain handbook, sections 10 and 13). Not here: which target holds (`plans`), baselines
(`baseline`), when a quarter-hour is judged (`pipelines.shard.control`, `assets.control`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import polars as pl

from metering.calendar import local_date
from metering.control.baseline import DECIMALS, meters_due
from metering.control.plans import TARGETS
from metering.settings import MeteringSettings
from metering.tables.control import LOAD_CONTROL, LOAD_CONTROL_DAILY, LOAD_CONTROL_SETTLEMENT
from metering.tables.lake import WINDOW_S
from metering.tables.schema import no_rows

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


def with_settled(rows: pl.DataFrame, places: Mapping[str, int]) -> pl.DataFrame:
    """Rows of LOAD_CONTROL with `counted_kw`, at most what was asked for, and `settled_kw`: the part of it that counts
    for no plan before this one. `places`: `plans.precedence`; a plan that is not there comes last.

    A reduction goes to the first plan up to what that asks for, the rest to the next one: it is settled once.
    """
    asked = pl.col("instructed_kw").fill_null(0.0)
    ordered = rows.with_columns(
        pl.min_horizontal("achieved_kw", "instructed_kw").alias("counted_kw"),
        pl.col("plan_id").replace_strict(dict(places), default=len(places), return_dtype=pl.Int64).alias("place"),
    ).sort("customer_no", "window_end", "place", "plan_id")
    before = (asked.cum_sum() - asked).over("customer_no", "window_end")
    left = (pl.col("achieved_kw") - before).clip(lower_bound=0)
    known = pl.col("achieved_kw").is_not_null() & pl.col("instructed_kw").is_not_null()
    counted = pl.when(known).then("counted_kw").alias("counted_kw")
    settled = pl.when(known).then(pl.min_horizontal(left, "instructed_kw")).alias("settled_kw")
    return ordered.with_columns(counted, settled).drop("place")


def with_offered(rows: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """Rows of LOAD_CONTROL with `offered_kw`, the reduction that the customer has taken on: what its plan asks for,
    before protected load is left out (`found`: TARGETS); of a cap what it comes to.
    """
    asked = found.select("plan_id", "customer_no", "first_us", "last_us", "reduction_kw")
    at = pl.col("window_end").to_physical()
    mine = rows.select(LOAD_CONTROL.key).join(asked, on=["plan_id", "customer_no"])
    mine = mine.filter(at >= pl.col("first_us"), at <= pl.col("last_us")).unique(LOAD_CONTROL.key, keep="any")
    joined = rows.join(mine.select(*LOAD_CONTROL.key, "reduction_kw"), on=LOAD_CONTROL.key, how="left")
    return joined.with_columns(pl.coalesce("reduction_kw", "instructed_kw").alias("offered_kw")).drop("reduction_kw")


def control_daily(
    rows: pl.DataFrame,
    answers: pl.DataFrame,
    until: datetime | None = None,
    found: pl.DataFrame | None = None,
    places: Mapping[str, int] | None = None,
) -> pl.DataFrame:
    """LOAD_CONTROL_DAILY of LOAD_CONTROL rows, those that are withdrawn left out, and not those after `until`. `found`
    (TARGETS) says what was asked for, `places` (`plans.precedence`) which plan a reduction counts for first.

    Execution rate = sum min(achieved, instructed) / sum instructed, over windows with both; compliance = windows at or
    under the cap / windows with a verdict; availability = windows in which the load that could be cut was at least what
    the customer has taken on / windows with a baseline. What is not known is neither kept nor given.
    """
    rows = rows.filter(pl.col("state") == "final")
    if until is not None:
        rows = rows.filter(pl.col("window_end") <= until)
    rows = with_offered(with_settled(rows, places or {}), no_rows(TARGETS) if found is None else found)
    both = pl.col("achieved_kw").is_not_null() & pl.col("instructed_kw").is_not_null()
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
            energy(pl.col("counted_kw"), both).alias("counted_kwh"),
            energy(pl.col("settled_kw"), both).alias("settled_kwh"),
            energy(pl.col("offered_kw"), pl.col("offered_kw").is_not_null()).alias("offered_kwh"),
            available.mean().round(DECIMALS).alias("available_kw"),
            available.count().cast(pl.Int32).alias("based_windows"),
            (available >= pl.col("offered_kw")).sum().cast(pl.Int32).alias("available_windows"),
            pl.col("baseline_days").min(),
        )
        .with_columns(
            compliance_rate=_percent("compliant_windows", "known_windows"),
            execution_rate=_percent("counted_kwh", "instructed_kwh"),
            availability_rate=_percent("available_windows", "based_windows"),
        )
    )
    last = answers.sort("at").group_by("plan_id", "customer_no").agg(pl.col("answer", "at").last())
    told = daily.join(last, on=["plan_id", "customer_no"], how="left").rename({"at": "answered_at"})
    return LOAD_CONTROL_DAILY.conform(told).sort(LOAD_CONTROL_DAILY.key)


def settlement(days: pl.DataFrame) -> pl.DataFrame:
    """LOAD_CONTROL_SETTLEMENT of all rows of LOAD_CONTROL_DAILY: each customer's plan as a whole."""
    windows = ("windows", "known_windows", "compliant_windows", "based_windows", "available_windows")
    energies = ("offered_kwh", "instructed_kwh", "achieved_kwh", "counted_kwh", "settled_kwh")
    whole = (
        days.sort("plan_id", "customer_no", "date")
        .group_by("plan_id", "customer_no", maintain_order=True)
        .agg(
            pl.col("kind", "level", "baseline_method", "answer", "answered_at").last(),
            pl.col("date").min().alias("first_date"),
            pl.col("date").max().alias("date"),
            pl.len().cast(pl.Int32).alias("days"),
            pl.col(windows).sum(),
            *(pl.when(pl.col(n).count() > 0).then(pl.col(n).sum()).round(DECIMALS).alias(n) for n in energies),
            pl.col("baseline_days").min(),
        )
        .with_columns(
            compliance_rate=_percent("compliant_windows", "known_windows"),
            execution_rate=_percent("counted_kwh", "instructed_kwh"),
            availability_rate=_percent("available_windows", "based_windows"),
            data_rate=_percent("known_windows", "windows"),
        )
    )
    return LOAD_CONTROL_SETTLEMENT.conform(whole).sort(LOAD_CONTROL_SETTLEMENT.key)


def _percent(numerator: str, denominator: str) -> pl.Expr:
    return pl.when(pl.col(denominator) > 0).then(pl.col(numerator) / pl.col(denominator) * 100).clip(0, 100)
