"""Load control: plans, their execution, customers' days under a plan, and how much of the peak can be controlled.

Here: which windows and plans each calculation gets. Not here: the calculations (`metering.control`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import polars as pl

from assets.batch import Batch, Part
from metering.calendar import quarter_hours
from metering.control.baseline import LOAD_COLUMNS, baselines, customer_load, reference_days
from metering.control.coverage import control_coverage
from metering.control.execution import control_daily, executed, settlement
from metering.control.plans import answers, holding, precedence, targets
from metering.records.current import broadcast
from metering.registry.index import MeterIndex
from metering.tables.batch import BATCH_WINDOWS
from metering.tables.control import LOAD_CONTROL, LOAD_CONTROL_DAILY
from metering.tables.records import PLANS, SERVICE, RecordKind
from metering.vee.expected import due_until
from sinks.lake.reader import newest
from sinks.marts import CURRENT, day_partition

_WINDOW = ("meter_id", "window_end", *LOAD_COLUMNS)


def plans_of(batch: Batch) -> pl.DataFrame:
    return _records(batch, PLANS)


def answers_of(batch: Batch) -> pl.DataFrame:
    """Customers' answers to plans (ANSWERS)."""
    return answers(_records(batch, SERVICE))


def _records(batch: Batch, kind: RecordKind) -> pl.DataFrame:
    with batch.lake.held():
        rows = batch.lake.scan(kind.table.name)
        told = rows.filter(pl.col(kind.variant).is_in(kind.told)) if kind.told else rows
        return broadcast(told.collect(), kind)


def load_control(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Execution of the plans that hold on each day, as far as it has come: from windows computed again of the day, and
    current ones of the days before.
    """
    settings, versions = batch.settings, batch.registry.meter_versions
    found = targets(plans_of(batch), answers_of(batch), versions, settings.control.default_baseline)
    for day in days:
        quarters = quarter_hours(day, settings.timezone).filter(
            pl.col("window_end") <= due_until(day, settings, batch.until)
        )
        customers = found.select("customer_no").unique()
        held = holding(found, customers.join(quarters.select("window_end"), how="cross"))
        rows = LOAD_CONTROL.empty()
        if held.height:
            meters = _meters(versions, held["customer_no"])
            load = _load(batch.marts.read(BATCH_WINDOWS, [day], _WINDOW).filter(meters), versions)
            past = _load(_current(batch, reference_days(day, settings.control.baseline), meters), versions)
            base = baselines(held, past, found, versions, settings)
            rows = executed(held, load, base, versions, settings)
        yield Part(day_partition(day), rows, day)


def _meters(versions: pl.DataFrame, customers: pl.Series) -> pl.Expr:
    theirs = versions.filter(pl.col("customer_no").is_in(customers.unique().implode()))
    return pl.col("meter_id").is_in(theirs["meter_id"].unique().implode())


def _current(batch: Batch, days: Sequence[date], meters: pl.Expr) -> pl.DataFrame:
    with batch.lake.held():
        told = batch.lake.scan("windows", days).filter(meters).select(_WINDOW).collect()
    return newest(told, ("meter_id", "window_end"))


def _load(windows: pl.DataFrame, versions: pl.DataFrame) -> pl.DataFrame:
    index = MeterIndex.of(versions)
    coded = windows.with_columns(index.code(windows["meter_id"])).filter(pl.col("meter").is_not_null())
    of_version = coded.with_columns(index.version_of_window(coded["meter"], coded["window_end"]))
    return customer_load(of_version.filter(pl.col("version").is_not_null()), versions)


def dailies(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    answered, plans, control = answers_of(batch), plans_of(batch), batch.settings.control
    found = targets(plans, answered, batch.registry.meter_versions, control.default_baseline)
    places = precedence(plans, control.settle_first)
    for day in days:
        rows = batch.marts.read(LOAD_CONTROL, [day])
        yield Part(day_partition(day), control_daily(rows, answered, batch.until, found, places), day)


def settlements(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Of all days that there are."""
    yield Part(CURRENT, settlement(batch.marts.scan(LOAD_CONTROL_DAILY).collect()), days[-1])


def coverages(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    for day in days:
        curve = batch.marts.read(batch.tables["daily_curve"], [day])
        yield Part(day_partition(day), control_coverage(curve, batch.registry.customers_on(day), day), day)
