"""Limit violations as the warehouse shows them: the last state of each, from the whole lake.

Those that retention has taken out of the lake stay as they were last published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import polars as pl

from assets.batch import Batch, Part
from metering.tables import LAKE
from sinks.lake.reader import current
from sinks.marts import CURRENT


def violations(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    table, lake = LAKE["violations"], batch.lake
    with lake.held():
        told = current(lake.scan("violations"), table.key).collect()
        gone = pl.lit(False) if lake.taken_until is None else pl.col("date") <= lake.taken_until
    published = batch.marts.scan(table, [CURRENT]).filter(gone).collect()
    yield Part(CURRENT, current(pl.concat([published, told]).lazy(), table.key).collect(), days[-1])
