"""How alarms were handled: counts, rates and times by rule and scope, for days and months.

Here: ALARM_HANDLING. Not here: what people said of each alarm (`metering.events.feedback`), the KPIs (`kpis.toml`).
"""

from __future__ import annotations

import polars as pl

from metering.load.curve import SCOPE
from metering.registry.scopes import label
from metering.settings.kpis import GROUPS
from metering.tables.alarms import ALARM_HANDLING

_GIVEN = (
    "customer_no",
    "rule",
    "state",
    "started_at",
    "raised_at",
    "confirmed",
    "acknowledged_at",
    "handled_at",
    "closed_at",
)


def alarm_handling(alarms: pl.DataFrame, customers: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """ALARM_HANDLING of `alarms` (ALARMS, a row for each), each in the local day and month that it began in.

    `customers`: rows of the registry, of all periods; an alarm counts for the groups that its customer was in when it
    began. Times count from the raising, else from the start; those that lie before it are no times.
    """
    counted = alarms.select(_GIVEN).filter((pl.col("state") != "withdrawn") | pl.col("confirmed").is_not_null())
    began = pl.col("started_at").dt.convert_time_zone(timezone).dt.date()
    rows = counted.with_columns(day=began, yes=pl.col("confirmed").fill_null(False)).with_row_index("alarm")
    of_periods = pl.concat(
        [rows.with_columns(period=pl.col("day").dt.strftime(form)) for form in ("%Y-%m-%d", "%Y-%m")]
    )
    of_rules = pl.concat([of_periods, of_periods.with_columns(rule=pl.lit("*"))])
    every = of_rules.join(_scopes(rows, customers), on="alarm")
    confirmed, refuted = pl.col("confirmed").sum(), pl.col("confirmed").not_().sum()
    closed = (pl.col("yes") & pl.col("closed_at").is_not_null()).sum()
    figures = every.group_by(ALARM_HANDLING.key).agg(
        raised=pl.len(),
        confirmed=confirmed,
        false_alarms=refuted,
        handled=(pl.col("yes") & pl.col("handled_at").is_not_null()).sum(),
        closed=closed,
        accuracy=_percent(confirmed, confirmed + refuted),
        handling_rate=_percent(closed, confirmed),
        ack_minutes_p50=_median_min("acknowledged_at"),
        repair_minutes_p50=_median_min("handled_at"),
    )
    return ALARM_HANDLING.conform(figures).sort(ALARM_HANDLING.key)


def _scopes(rows: pl.DataFrame, customers: pl.DataFrame) -> pl.DataFrame:
    """The scopes (`alarm`, `scope`) that alarms count for: all, their customer, the groups it was in on their day."""
    of_day = rows.select("alarm", "customer_no", "day").join(customers, on="customer_no")
    valid = (pl.col("valid_from").is_null() | (pl.col("valid_from") <= pl.col("day"))) & (
        pl.col("valid_to").is_null() | (pl.col("valid_to") >= pl.col("day"))
    )
    grouped = of_day.filter(valid)
    named = [grouped.select("alarm", label(group, customers).alias("scope")) for group in GROUPS]
    own = rows.select("alarm", pl.col("customer_no").alias("scope"))
    return pl.concat([rows.select("alarm", pl.lit(SCOPE).alias("scope")), own, *named]).drop_nulls().unique()


def _percent(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    return pl.when(whole > 0).then(100.0 * part / whole)


def _median_min(until: str) -> pl.Expr:
    minutes = (pl.col(until) - pl.coalesce("raised_at", "started_at")).dt.total_microseconds() / 60e6
    return minutes.filter(minutes >= 0).median()
