"""Readings as batch work takes them: one for each meter and time, with the facts that they are judged by.

Here: reading days of the lake in lots of bounded size. Not here: anything computed from readings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import polars as pl

from assets.batch import Batch
from metering.calendar import day_bounds
from metering.lookup import MeterIndex
from metering.tables.lake import WINDOW_S
from metering.windows import latest

LOT_ROWS = 3_000_000


def lots(batch: Batch, days: Sequence[date]) -> Iterator[list[date]]:
    """`days` in order, cut so that a lot's readings fit in memory; a lot has at least one day."""
    lot: list[date] = []
    rows = 0
    for day in days:
        with batch.lake.held():
            of_day = batch.lake.scan("readings", [day]).select(pl.len()).collect().item()
        if lot and rows + of_day > LOT_ROWS:
            yield lot
            lot, rows = [], 0
        lot.append(day)
        rows += of_day
    if lot:
        yield lot


def readings(batch: Batch, days: Sequence[date]) -> pl.DataFrame:
    """Readings of consecutive local `days` and of the 15 minutes before them, which hold the registers at the edge.

    One row for each (meter_id, ts): the one that counts, with the columns of the registry's facts joined.
    """
    start, _ = day_bounds(days[0], batch.settings.timezone)
    since = pl.col("ts") > start - timedelta(seconds=WINDOW_S + 1)
    with batch.lake.held():
        rows = batch.lake.scan("readings", [days[0] - timedelta(days=1), *days]).filter(since).collect()
    return with_facts(rows, batch.registry.facts)


def with_facts(rows: pl.DataFrame, facts: pl.DataFrame) -> pl.DataFrame:
    """The reading that counts for each meter and time, with `meter` (code), `fact` (row in `facts`) and its facts.

    Readings of meters that the registry does not know, or not at that time, are left out.
    """
    index = MeterIndex.of(facts)
    coded = rows.with_columns(meter=index.code(rows["meter_id"])).filter(pl.col("meter").is_not_null())
    placed = coded.with_columns(fact=index.version(coded["meter"], coded["ts"])).filter(pl.col("fact").is_not_null())
    counted = latest(placed)
    judged = [facts[name].gather(counted["fact"]) for name in facts.columns if name != "meter_id"]
    return counted.with_columns(judged)
