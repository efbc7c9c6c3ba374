"""What a row of the KPI table may name: its source, that source's columns, and the scopes.

Here: the sources, which days or months of them a KPI takes, and refusing a row that cannot be counted. Not here: the
rows (`kpis.toml`), their counts (`count`), their status (`judge`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import polars as pl

from metering.load.curve import SCOPE
from metering.settings.kpis import Kpi
from metering.tables import TIMESTAMP, Column, Table

METER_DAYS = Table(
    "meter_days",
    "Every meter that is valid on a local day, silent ones too; made for KPIs, not a table of the warehouse.",
    ("meter_id", "date"),
    (
        Column("meter_id", pl.String, "Meter", nullable=False),
        Column("customer_no", pl.String, "Customer number", nullable=False),
        Column("date", pl.Date, "Local calendar date", nullable=False),
        Column("expected", pl.Int64, "Readings due by now", nullable=False),
        Column("received", pl.Int64, "Readings received of those due", nullable=False),
        Column("phase_min", pl.Float64, "Minutes of the day so far times the phases that the meter measures", "min"),
        Column("monitored_min", pl.Float64, "Monitored minutes of all phases; null: no voltage came", "min"),
        Column("over_min", pl.Float64, "Minutes above the upper limit, of all phases", "min"),
        Column("under_min", pl.Float64, "Minutes below the lower limit, of all phases", "min"),
        Column("active_kwh", pl.Float64, "Active energy drawn from the grid; null: unknown", "kWh"),
        Column("rules", pl.Int64, "Limit rules that are on for the meter", nullable=False),
        Column("rules_observable", pl.Int64, "Those of them that readings at its interval can show", nullable=False),
        Column("import_kvarh", pl.Float64, "Reactive import (lagging) energy; null: unknown", "kvarh"),
        Column("export_kvarh", pl.Float64, "Reactive export (leading) energy; null: unknown", "kvarh"),
    ),
)
DAY_COLUMN = Column(
    "quarter_hours",
    pl.Int32,
    "The local day's real quarter-hours (92, 96 or 100), of a running day those due",
    nullable=False,
)

_MOST_DECIMALS = 9
WHOLE, CUSTOMER = "whole", "customer"


def sources(tables: Mapping[str, Table]) -> dict[str, Table]:
    """What KPIs may be counted from: meter_days, and the warehouse's tables whose rows are of a customer and a time."""
    dated = {n: t for n, t in tables.items() if "customer_no" in t.names and any(map(_dates, t.columns))}
    return {METER_DAYS.name: METER_DAYS, **dated}


def _dates(column: Column) -> bool:
    return column.dtype in (pl.Date, TIMESTAMP)


def dated_by(kpi: Kpi, source: Table) -> str:
    """The column of a KPI's source that says which day, or month, a row belongs to; "" where there is none."""
    if kpi.dated_by in source.names:
        return kpi.dated_by
    return next((name for name in ("date", "month") if name in source.names), "")


def daily(kpi: Kpi, source: Table) -> bool:
    """Whether the KPI has days; one whose source has a row a month has only months."""
    return dated_by(kpi, source) != "month"


def from_days(kpi: Kpi, source: Table) -> bool:
    """Whether the KPI's months are the sums of its days."""
    return kpi.additive and daily(kpi, source)


def day_needs(kpis: Mapping[str, Kpi], tables: Mapping[str, Table]) -> dict[str, tuple[str, ...]]:
    """Tables that `daily_kpis` takes rows of the day from, and which of their columns."""
    known = sources(tables)
    return _needs((kpi, known[kpi.source]) for kpi in kpis.values() if daily(kpi, known[kpi.source]))


def month_needs(kpis: Mapping[str, Kpi], tables: Mapping[str, Table]) -> dict[str, tuple[str, ...]]:
    """Tables that `monthly_kpis` takes rows of the month from, besides KPI rows of days, and which of their columns."""
    known = sources(tables)
    late = (kpi for kpi in kpis.values() if not from_days(kpi, known[kpi.source]))
    return _needs((kpi, known[kpi.month_source or kpi.source]) for kpi in late)


def _needs(pairs: Iterable[tuple[Kpi, Table]]) -> dict[str, tuple[str, ...]]:
    columns: dict[str, set[str]] = {}
    for kpi, table in pairs:
        roots = {name for text in texts(kpi) for name in pl.sql_expr(text).meta.root_names()}
        columns.setdefault(table.name, {"customer_no"}).update({dated_by(kpi, table)} | (roots & {*table.names}))
    return {name: tuple(sorted(needed)) for name, needed in columns.items()}


def texts(kpi: Kpi) -> tuple[str, str, str]:
    """The KPI's expressions: numerator, denominator, coverage."""
    return kpi.numerator, kpi.denominator, kpi.coverage


def problems(kpis: Mapping[str, Kpi], tables: Mapping[str, Table]) -> Iterator[str]:
    """What is wrong with rows of the KPI table, one line each."""
    known = sources(tables)
    for kpi_id, kpi in kpis.items():
        for role, name in (("source", kpi.source), ("month_source", kpi.month_source or kpi.source)):
            if name not in known:
                yield f"{kpi_id}: there is no {role} '{name}'; there are {', '.join(sorted(known))}"
                break
        else:
            yield from (f"{kpi_id}: {problem}" for problem in _problems(kpi, known))


def _problems(kpi: Kpi, known: Mapping[str, Table]) -> Iterator[str]:
    source, of_month = known[kpi.source], known[kpi.month_source or kpi.source]
    if not (0 <= kpi.weight < math.inf and 0 <= kpi.decimals <= _MOST_DECIMALS):
        yield f"weight must be at least 0, and decimals from 0 to {_MOST_DECIMALS}"
    if not kpi.scopes or len({*kpi.scopes}) < len(kpi.scopes):
        yield "scopes must name at least one kind, and each once"
    if kpi.target is not None and not math.isfinite(kpi.target):
        yield "target is not a finite number"
    if kpi.dated_by and not (kpi.dated_by in source.names and _dates(source.column(kpi.dated_by))):
        yield f"dated_by: '{kpi.dated_by}' is no date or time of {source.name}"
    elif not dated_by(kpi, source):
        times = ", ".join(column.name for column in source.columns if _dates(column))
        yield f"{source.name} has neither date nor month: say by which of {times} its rows are dated (dated_by)"
    if of_month is METER_DAYS and not kpi.additive:
        yield "meter_days are not kept for months: name a month_source, or let it be additive"
    if kpi.month_source and "month" not in of_month.names:
        yield f"month_source: {of_month.name} has no column 'month'"
    for role, text in zip(("numerator", "denominator", "coverage"), texts(kpi), strict=True):
        # coverage of a month is the mean of its days, where it has days
        own = source if role == "coverage" and daily(kpi, source) else of_month
        for table in dict.fromkeys((source, own)):
            if problem := _wrong(text, table):
                yield f"{role}: {problem}"
                break


def _wrong(text: str, table: Table) -> str:
    """Why an expression cannot be used on a table; "" when it can."""
    empty = table.empty().with_columns(pl.lit(None, pl.Int32).alias(DAY_COLUMN.name))
    try:
        kind = empty.group_by(pl.lit(SCOPE).alias("scope")).agg(pl.sql_expr(text).alias("value")).schema["value"]
    except (pl.exceptions.PolarsError, ValueError) as error:
        return f"'{' '.join(text.split())}' cannot be used on {table.name}: {str(error).splitlines()[0]}"
    if not kind.is_numeric():
        return f"'{' '.join(text.split())}' is no number for each scope: use an aggregate such as sum(...)"
    return ""
