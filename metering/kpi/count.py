"""Counts of the KPI table's rows, for every scope, day by day and month to date.

Here: the source `meter_days`, the scopes, and evaluating the rows' expressions over both. Not here: the rows
(`kpis.toml`), what they may name (`catalogue`), value and status (`judge`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime

import polars as pl
import polars.selectors as cs

from metering.calendar import day_bounds
from metering.events.observable import rules_by_meter
from metering.kpi.catalogue import (
    CUSTOMER,
    DAY_COLUMN,
    METER_DAYS,
    WHOLE,
    daily,
    dated_by,
    from_days,
    sources,
    texts,
)
from metering.kpi.judge import judged
from metering.load.curve import SCOPE
from metering.registry.scopes import label
from metering.settings import MeteringSettings
from metering.settings.kpis import GROUPS, Kpi
from metering.supply.phases import PHASES_OF_WIRING
from metering.supply.power_factor import energies
from metering.tables import Table, warehouse
from metering.vee.expected import QUARTER_HOUR_MIN, due_until, expected_intervals, meters_on

Sources = Mapping[str, pl.DataFrame]
"""Rows by the name of the table that they are of: `customer_no`, and the columns that the KPIs need."""

_VOLTAGE = ("monitored_min", "over_min", "under_min")


def meter_days(
    windows: pl.DataFrame,
    voltage: pl.DataFrame,
    daily: pl.DataFrame,
    meter_versions: pl.DataFrame,
    customers: pl.DataFrame,
    day: date,
    settings: MeteringSettings,
    until: datetime | None = None,
) -> pl.DataFrame:
    """METER_DAYS: every meter of a known customer that is valid on the local `day`, as far as it has come.

    `windows`: current rows of the lake's windows; `voltage`: VOLTAGE_DAILY; `daily`: METER_DAILY; rows of other days
    are left out. `until`: the newest watermark (None: the day is over).
    """
    start, _ = day_bounds(day, settings.timezone)
    end = due_until(day, settings, until)
    known = meter_versions.join(customers, on="customer_no", how="semi")
    of_day = windows.filter(pl.col("window_end") > start, pl.col("window_end") <= end)
    phases = {wiring: len(phases) for wiring, phases in PHASES_OF_WIRING.items()}
    measured = meters_on(known, day, settings).select(
        "meter_id",
        (pl.col("wiring").replace_strict(phases, return_dtype=pl.Float64) * ((end - start).total_seconds() / 60)).alias(
            "phase_min"
        ),
    )
    volts = voltage.filter(pl.col("date") == day).group_by("meter_id").agg(pl.col(_VOLTAGE).sum())
    rows = expected_intervals(of_day, known, day, settings, until).join(measured, on="meter_id", how="left")
    seen = rules_by_meter(meters_on(known, day, settings), day, settings)
    for values in (volts, energies(daily.filter(pl.col("date") == day), by="meter_id"), seen):
        rows = rows.join(values, on="meter_id", how="left")
    return METER_DAYS.conform(rows, date=day).sort(METER_DAYS.key)  # sums of floats depend on the order


def daily_kpis(
    rows: Sources, customers: pl.DataFrame, day: date, settings: MeteringSettings, until: datetime | None = None
) -> pl.DataFrame:
    """KPI rows of the local `day`: every KPI that has days, for each customer with a meter valid that day, for each
    group that such customers are in, and for all ('*').

    `rows`: the day's `meter_days`, and the tables that `catalogue.day_needs` names; rows of other days are left out.
    `until`: the newest watermark (None: the day is over).
    """
    start, _ = day_bounds(day, settings.timezone)
    quarter_hours = int((due_until(day, settings, until) - start).total_seconds()) // (60 * QUARTER_HOUR_MIN)
    known = sources(warehouse(settings.periods))
    kpis = {kpi_id: kpi for kpi_id, kpi in settings.kpi.items() if daily(kpi, known[kpi.source])}
    counts = []
    for (table, at), of_table in _by_table((i, kpi, known[kpi.source]) for i, kpi in kpis.items()).items():
        of_day = rows[table].filter(_local_date(rows[table], at, settings) == day)
        counts.append(_counts(of_table, of_day.with_columns(_day_column(quarter_hours)), customers))
    present = customers.join(rows[METER_DAYS.name], on="customer_no", how="semi")
    return judged(pl.concat([_NONE, *counts]), _scopes(present), kpis, day.isoformat())


def monthly_kpis(
    days: pl.DataFrame, rows: Sources, customers: pl.DataFrame, month: date, settings: MeteringSettings
) -> pl.DataFrame:
    """KPI rows of the local month that the date `month` lies in, in the scopes that `days` has in it.

    `days`: KPI rows of days, others than the month's are left out; `rows`: the tables that `catalogue.month_needs`
    names, likewise. Additive counts are summed over the days that a scope has; others are those of the month's own
    rows. Coverage is the mean of the days', where a KPI has days.
    """
    first = month.replace(day=1)
    period = f"{first:%Y-%m}"
    of_month = days.filter(pl.col("period").str.starts_with(f"{period}-"))
    known = sources(warehouse(settings.periods))
    summed = [kpi_id for kpi_id, kpi in settings.kpi.items() if from_days(kpi, known[kpi.source])]
    sums = of_month.group_by("kpi_id", "scope").agg(
        *(pl.when(pl.col(c).count() > 0).then(pl.col(c).sum()).alias(c) for c in ("numerator", "denominator")),
        pl.col("coverage").mean().alias("coverage"),
    )
    counts = [sums.filter(pl.col("kpi_id").is_in(summed)).select(_NONE.columns)]
    late = ((i, k, known[k.month_source or k.source]) for i, k in settings.kpi.items() if i not in summed)
    for (table, at), of_table in _by_table(late).items():
        in_month = rows[table].filter(_local_date(rows[table], at, settings).dt.month_start() == first)
        of_days = sums.select("kpi_id", "scope", pl.col("coverage").alias("of_days"))
        own = _counts(of_table, in_month, customers).join(of_days, on=["kpi_id", "scope"], how="left")
        counts.append(own.with_columns(pl.coalesce("of_days", "coverage").alias("coverage")).select(_NONE.columns))
    scopes = pl.concat([of_month.select("scope"), pl.DataFrame({"scope": [SCOPE]})]).unique()
    return judged(pl.concat(counts), scopes.with_columns(_kind().alias("kind")), settings.kpi, period)


_NONE = pl.DataFrame(
    schema={"kpi_id": pl.String, "scope": pl.String}
    | dict.fromkeys(("numerator", "denominator", "coverage"), pl.Float64)
)


def _by_table(rows: Iterable[tuple[str, Kpi, Table]]) -> dict[tuple[str, str], dict[str, Kpi]]:
    """KPIs by the table that they are counted from, and the column that dates its rows."""
    grouped: dict[tuple[str, str], dict[str, Kpi]] = {}
    for kpi_id, kpi, table in rows:
        grouped.setdefault((table.name, dated_by(kpi, table)), {})[kpi_id] = kpi
    return grouped


def _day_column(quarter_hours: int) -> pl.Expr:
    return pl.lit(quarter_hours, DAY_COLUMN.dtype).alias(DAY_COLUMN.name)


def _local_date(rows: pl.DataFrame, column: str, settings: MeteringSettings) -> pl.Expr:
    at = pl.col(column)
    return at if rows.schema[column] == pl.Date else at.dt.convert_time_zone(settings.timezone).dt.date()


def _counts(kpis: Mapping[str, Kpi], rows: pl.DataFrame, customers: pl.DataFrame) -> pl.DataFrame:
    """kpi_id, scope, numerator, denominator, coverage, from the rows of one table and period.

    Every kind of scope is one grouping for all KPIs; an expression that several share is evaluated once. Where the
    table has rows of the whole scope itself, those are its; else it is all rows.
    """
    wanted = {text: f"e{n}" for n, text in enumerate(dict.fromkeys(t for kpi in kpis.values() for t in texts(kpi)))}
    present = {*rows.columns}
    values = [
        (pl.sql_expr(text) if present.issuperset(pl.sql_expr(text).meta.root_names()) else pl.lit(None))
        .cast(pl.Float64)
        .alias(name)
        for text, name in wanted.items()
    ]  # a month's rows may lack what coverage is made of, which then is that of the days
    own = rows.filter(pl.col("customer_no") == SCOPE)
    parts = rows.filter(pl.col("customer_no") != SCOPE).with_columns(cs.integer().cast(pl.Int64))
    grouped = parts.join(customers.select("customer_no", *GROUPS), on="customer_no", how="left")
    kinds = {kind for kpi in kpis.values() for kind in kpi.scopes}
    labels = {kind: label(kind, customers) for kind in GROUPS} | {CUSTOMER: pl.col("customer_no")}
    wide = [grouped.group_by(labels[kind].alias("scope")).agg(values) for kind in labels if kind in kinds]
    wide.append((parts if own.is_empty() else own).group_by(pl.lit(SCOPE).alias("scope")).agg(values))
    every = pl.concat(wide).filter(pl.col("scope").is_not_null())
    return pl.concat(every.select(_of(kpi_id, *(pl.col(wanted[t]) for t in texts(k)))) for kpi_id, k in kpis.items())


def _of(kpi_id: str, numerator: pl.Expr, denominator: pl.Expr, coverage: pl.Expr) -> list[pl.Expr]:
    """Numerator and denominator are known together, or not at all."""
    return [
        pl.lit(kpi_id).alias("kpi_id"),
        pl.col("scope"),
        pl.when(denominator.is_not_null()).then(numerator).alias("numerator"),
        pl.when(numerator.is_not_null()).then(denominator).alias("denominator"),
        coverage.alias("coverage"),
    ]


def _scopes(customers: pl.DataFrame) -> pl.DataFrame:
    """scope and kind of everything that `customers` are in."""
    labels = {CUSTOMER: pl.col("customer_no")} | {kind: label(kind, customers) for kind in GROUPS}
    named = [
        customers.select(label.alias("scope"), pl.lit(kind).alias("kind")).drop_nulls().unique()
        for kind, label in labels.items()
    ]
    return pl.concat([pl.DataFrame({"scope": [SCOPE], "kind": [WHOLE]}), *named])


def _kind() -> pl.Expr:
    """The kind of a scope, by its form."""
    scope = pl.col("scope")
    forms = {WHOLE: scope == SCOPE} | {group: scope.str.starts_with(f"{group}:") for group in GROUPS}
    return pl.coalesce(*(pl.when(form).then(pl.lit(kind)) for kind, form in forms.items()), pl.lit(CUSTOMER))
