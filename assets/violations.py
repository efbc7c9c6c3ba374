"""Limit violations as the warehouse shows them: the last state of each, from the whole lake; and storms of them.

Those that retention has taken out of the lake stay as they were last published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import polars as pl

from assets.batch import Batch, Part
from metering.calendar import local_date
from metering.events.grouping import storms, with_storms
from metering.tables import LAKE
from sinks.lake.reader import current
from sinks.marts import CURRENT


def violations(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    table, lake = LAKE["violations"], batch.lake
    with lake.held():
        told = current(lake.scan("violations"), table.key).collect()
        gone = pl.lit(False) if lake.taken_until is None else pl.col("date") <= lake.taken_until
    published = batch.marts.scan(table, [CURRENT]).filter(gone).collect()
    now = current(pl.concat([published, told]).lazy(), table.key).collect()
    yield Part(CURRENT, with_storms(now, batch.settings.alarms), days[-1])


def storms_of(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Storms of all violations there are, with the customers as they were on the last of the days."""
    members = batch.marts.scan(LAKE["violations"], [CURRENT]).collect()
    date_of = local_date(pl.col("started_at") + pl.duration(microseconds=1), batch.settings.timezone)
    yield Part(CURRENT, storms(members, batch.registry.customers_on(days[-1]), date_of), days[-1])
