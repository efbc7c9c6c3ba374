"""Limit violations as the warehouse shows them: the last state of each, from the whole lake, and what people said of
them; storms of them; and what became of messages to people.

Those that retention has taken out of the lake stay as they were last published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import polars as pl

from assets.batch import Batch, Part
from metering.calendar import local_date
from metering.events.feedback import SAID, doubts, with_feedback, with_raising
from metering.events.grouping import storms, with_storms
from metering.tables import LAKE
from metering.tables.alarms import ALARMS
from sinks.lake.reader import current
from sinks.marts import CURRENT, day_partition


def violations(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    table, lake = LAKE["violations"], batch.lake
    with lake.held():
        told = lake.scan("violations").collect()
        feedback = lake.scan("feedback").collect()
        gone = pl.lit(False) if lake.taken_until is None else pl.col("date") <= lake.taken_until
    now = with_raising(current(told.lazy(), table.key).collect(), told)
    published = batch.marts.scan(ALARMS, [CURRENT]).collect()
    rows = pl.concat([published.filter(gone).select(now.columns), now])
    last = current(rows.lazy(), table.key).collect()
    said = with_feedback(with_storms(last, batch.settings.alarms), feedback)
    if lake.taken_until is not None:
        said = _as_published(said, published, feedback)
    new = feedback.join(feedback.filter(pl.col("date").is_in(list(days))), on="violation_id", how="semi")
    yield Part(CURRENT, ALARMS.conform(said), days[-1], findings=doubts(new, last))


def _as_published(rows: pl.DataFrame, published: pl.DataFrame, feedback: pl.DataFrame) -> pl.DataFrame:
    """Where the lake has no word on a violation any more, what was published of it."""
    before = published.select("violation_id", *(pl.col(name).alias(f"{name}_before") for name in SAID))
    silent = pl.col("violation_id").is_in(feedback["violation_id"].unique().implode()).not_()
    joined = rows.join(before, on="violation_id", how="left", maintain_order="left")
    return joined.with_columns(
        pl.when(silent).then(pl.col(f"{name}_before")).otherwise(pl.col(name)).alias(name) for name in SAID
    )


def storms_of(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Storms of all violations there are, with the customers as they were on the last of the days."""
    members = batch.marts.scan(LAKE["violations"], [CURRENT]).collect()
    date_of = local_date(pl.col("started_at") + pl.duration(microseconds=1), batch.settings.timezone)
    yield Part(CURRENT, storms(members, batch.registry.customers_on(days[-1]), date_of), days[-1])


def notices_of(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Outcomes of messages to people, by the local day that each was there."""
    table, lake = LAKE["notices"], batch.lake
    for day in days:
        with lake.held():
            taken = lake.taken_until is not None and day <= lake.taken_until
            rows = batch.marts.read(table, [day]) if taken else lake.scan("notices", [day]).collect()
        yield Part(day_partition(day), table.conform(rows.unique(table.key, keep="last", maintain_order=True)), day)
