"""Alarms beside their violations: how they were handled, what meters say themselves, what their readings cannot show,
and what metering faults cost.

Here: which rows each of them gets. Not here: the violations (`violations`), the calculations (`metering`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import polars as pl

from assets.batch import Batch, Part
from metering.calendar import day_bounds
from metering.calendar import day_of as local_day
from metering.events.meter_events import doubts, joined
from metering.events.metering_faults import metering_faults
from metering.events.observable import rule_observability
from metering.events.register_short import RULE as SHORT
from metering.events.register_short import WINDOW_COLUMNS, is_short, register_daily, register_shorts
from metering.kpi.alarms import alarm_handling
from metering.tables.alarms import ALARMS, METERING_FAULTS, REGISTER_DAILY
from metering.tables.batch import BATCH_WINDOWS, METER_CURVE
from metering.vee.expected import meters_on
from sinks.marts import CURRENT, day_partition


def alarm_handlings(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Of all alarms, since a word on one may come long after it."""
    alarms = batch.marts.scan(ALARMS, [CURRENT]).collect()
    yield Part(CURRENT, alarm_handling(alarms, batch.registry.customers, batch.settings.timezone), days[-1])


def meter_events(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Of each day, with the days beside it: what is one may lie on both sides of midnight."""
    alarms = batch.marts.scan(ALARMS, [CURRENT]).collect()
    for day in days:
        near = [day + timedelta(days=beside) for beside in (-1, 0, 1)]
        with batch.lake.held():
            events = batch.lake.scan(
                "meter_events", [d for d in batch.lake.dates("meter_events") if d in near]
            ).collect()
        meters = batch.registry.meters.filter(pl.col("valid_from") <= day).sort("meter_id", "valid_from_at")
        last = meters.unique("meter_id", keep="last").select("meter_id", "customer_no", "interval_s")
        rows = joined(events, alarms, last, day, batch.settings)
        yield Part(day_partition(day), rows, day, findings=doubts(rows))


def observabilities(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    meters = meters_on(batch.registry.meter_versions, days[-1], batch.settings)
    yield Part(CURRENT, rule_observability(meters, days[-1], batch.settings), days[-1])


def metering_faulted(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Of faults that lie in the days; others stay as they were published. Days of short registers are counted anew."""
    settings, table = batch.settings, METERING_FAULTS
    alarms = batch.marts.scan(ALARMS, [CURRENT]).collect()
    everything = batch.marts.scan(table, [CURRENT]).collect()
    published = everything.filter(pl.col("rule") != SHORT)
    start, end = day_bounds(days[0], settings.timezone)[0], day_bounds(days[-1], settings.timezone)[1]
    until = min(batch.until or end, end)
    lasting = pl.col("ended_at").is_null() | (pl.col("ended_at") > start)
    here = alarms.filter(pl.col("rule").is_in(settings.metering_faults.rules), pl.col("started_at") < end, lasting)
    known = alarms.filter(pl.col("state") != "withdrawn")
    kept = published.join(here, on=table.key, how="anti").join(known, on=table.key, how="semi")
    rows = [kept]
    if here.height:
        first = local_day(here["started_at"].min(), settings.timezone) or days[0]
        horizon = timedelta(days=settings.vee.reference_horizon_days)
        near = [first - horizon + timedelta(days=n) for n in range((days[-1] - first + horizon).days + 1)]
        curve = batch.marts.scan(METER_CURVE, map(day_partition, near))
        points = curve.select("meter_id", "window_end", "p_kw", "status")
        theirs = points.join(here.lazy().select("meter_id").unique(), on="meter_id", how="semi").collect()
        meters = batch.registry.meters.sort("meter_id", "valid_from_at").unique("meter_id", keep="last")
        rows.append(metering_faults(here, theirs, meters, settings, until))
    rows.append(_short(batch, days, everything.filter(pl.col("rule") == SHORT)))
    yield Part(CURRENT, pl.concat(rows), days[-1])


def _short(batch: Batch, days: Sequence[date], published: pl.DataFrame) -> pl.DataFrame:
    """Registers that are short: meters of which a day is, and those published, by all of their days."""
    daily = batch.marts.scan(REGISTER_DAILY)
    here = batch.marts.scan(REGISTER_DAILY, map(day_partition, days)).filter(is_short(batch.settings))
    meters = pl.concat([published["meter_id"], here.select("meter_id").collect()["meter_id"]]).unique()
    if meters.is_empty():
        return METERING_FAULTS.empty()
    theirs = daily.filter(pl.col("meter_id").is_in(meters.implode())).collect()
    return register_shorts(theirs, batch.settings)


def register_dailies(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    for day in days:
        start, _ = day_bounds(day, batch.settings.timezone)
        near = [day_partition(day - timedelta(days=1)), day_partition(day)]
        columns = (*BATCH_WINDOWS.key, *WINDOW_COLUMNS)
        windows = batch.marts.scan(BATCH_WINDOWS, near).select(columns).filter(pl.col("window_end") >= start).collect()
        rows = register_daily(windows, batch.registry.meter_versions, day, batch.settings)
        yield Part(day_partition(day), rows, day)
