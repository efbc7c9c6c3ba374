"""What one poll did, as a value: rows for the lake by table, and where its shard stands after it.

Here: steps, and the tables of one. Not here: making steps and committing them (`worker`), publishing them (`outbox`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from metering.calendar import local_date, local_dates
from metering.readings.payloads import Decoded
from metering.registry.index import MeterIndex
from metering.tables import LAKE
from metering.tables.lake import GAPS, READINGS, REJECTS
from pipelines.shard.advance import Results
from pipelines.shard.state import ShardState
from pipelines.sources.poll import Poll, Position


@dataclass(frozen=True, slots=True)
class Decided:
    """A poll and what its bytes turned out to be, under which registry."""

    poll: Poll
    decoded: Decoded
    index: MeterIndex


@dataclass(frozen=True, slots=True)
class Step:
    """What a poll did: rows for the lake by table, and where the shard stands after it. With `urgent` it is committed
    without waiting for more; `committed` is called once it is.

    `others`: steps of shards that let meters go to this one, just before it.
    """

    shard: str
    tables: Mapping[str, pl.DataFrame]
    after: Position
    state: ShardState
    index: MeterIndex
    urgent: bool = False
    rows: int = 0
    others: tuple[Step, ...] = ()
    committed: Callable[[], None] | None = None


def nothing() -> dict[str, pl.DataFrame]:
    """The tables of a step that has no rows."""
    return {name: table.empty() for name, table in LAKE.items()}


def tables_of(decided: Decided, results: Results, timezone: str) -> dict[str, pl.DataFrame]:
    """Rows of every lake table, with the local `date` that they belong to."""
    source = {"source": decided.poll.source, "source_partition": decided.poll.partition}
    accepted = decided.decoded.accepted
    readings = accepted.with_columns(
        decided.index.meter_versions["customer_no"].gather(accepted["version"]), local_dates(accepted["ts"], timezone)
    )
    return {
        "readings": READINGS.conform(readings, **source),
        "rejects": _rejects(decided.decoded.rejects, source, timezone),
        "windows": results.windows,
        "violations": results.violations,
        "compliance": results.compliance,
        "gaps": _gap(decided.poll, timezone),
    }


def _rejects(rejects: pl.DataFrame, source: Mapping[str, str | int], timezone: str) -> pl.DataFrame:
    if rejects.is_empty():
        return REJECTS.empty()
    known = pl.coalesce("ts", "logged_at", pl.lit(datetime.now(UTC)))
    return REJECTS.conform(rejects.with_columns(date=local_date(known, timezone)), **source)


def _gap(poll: Poll, timezone: str) -> pl.DataFrame:
    if poll.gap is None:
        return GAPS.empty()
    first, last = poll.gap
    row = pl.DataFrame({"missing_from": [first], "missing_to": [last], "accepted_at": [datetime.now(UTC)]})
    dated = row.with_columns(date=pl.col("accepted_at").dt.convert_time_zone(timezone).dt.date())
    return GAPS.conform(dated, source=poll.source, source_partition=poll.partition)
