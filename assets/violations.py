"""Limit violations as the warehouse shows them: the last state of each, from the whole lake, and what people said of
them; and how alarms were handled.

Those that retention has taken out of the lake stay as they were last published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import polars as pl

from assets.batch import Batch, Part
from metering.events.feedback import SAID, doubts, with_feedback
from metering.kpi.alarms import alarm_handling
from metering.tables import LAKE
from metering.tables.alarms import ALARMS
from sinks.lake.reader import current
from sinks.marts import CURRENT


def violations(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    table, lake = LAKE["violations"], batch.lake
    with lake.held():
        told = lake.scan("violations").collect()
        feedback = lake.scan("feedback").collect()
        gone = pl.lit(False) if lake.taken_until is None else pl.col("date") <= lake.taken_until
    raised = told.filter(state="raised").group_by("violation_id").agg(raised_at=pl.col("at").min())
    now = current(told.lazy(), table.key).collect().join(raised, on=table.key, how="left", maintain_order="left")
    published = batch.marts.scan(ALARMS, [CURRENT]).collect()
    rows = pl.concat([published.filter(gone).select(now.columns), now])
    last = current(rows.lazy(), table.key).collect()
    said = with_feedback(last, feedback)
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


def alarm_handlings(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Of all alarms, since a word on one may come long after it."""
    alarms = batch.marts.scan(ALARMS, [CURRENT]).collect()
    yield Part(CURRENT, alarm_handling(alarms, batch.registry.customers, batch.settings.timezone), days[-1])
