"""What came of one turn, as values: readings and rejects in their places, rows for the lake by table.

Here: placing decoded rows in the logs of their shards, and the tables of a turn. Not here: making results and
committing them (`worker`), publishing them (`outbox`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate

import polars as pl

from metering.calendar import local_date
from metering.control.alarms import CAPACITY, DEMAND, WARNING
from metering.events.clock import RULE as DRIFT
from metering.events.silence import RULE as SILENCE
from metering.readings.decode import Refused
from metering.readings.payloads import Decoded
from metering.registry.index import MeterIndex
from metering.tables import LAKE
from metering.tables.lake import GAPS, READINGS, REJECTS
from pipelines.shard.advance import Results
from pipelines.shard.clock import STAMPS_SCHEMA
from pipelines.shard.store import dates_of
from pipelines.sources.poll import Batch, Segment


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """A batch, and what its content turned out to be under which registry."""

    batch: Batch
    decoded: Decoded
    index: MeterIndex


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a turn did: rows for the lake by table. With `urgent` it is committed without waiting for more; `committed`
    are called once it is.
    """

    tables: Mapping[str, pl.DataFrame]
    rows: int
    urgent: bool = False
    committed: tuple[Callable[[], None], ...] = ()


LIVE = "load_control_live"
"""Rows of `load_control` of running windows: they go to the topic, not to the lake."""


FROM_LOOKING = (SILENCE, DRIFT, WARNING, DEMAND, CAPACITY)
"""Rules whose violations depend on when it was looked at (of drifting clocks: when a file was read; of what a customer
is heading for: how far each of the partitions was read that its meters are in), and not on the log alone.
"""


def from_looking() -> pl.Expr:
    """Whether a violation may not come again where its turn is done again: it is published once it has been committed,
    for nothing would take it back from its topic.
    """
    return pl.col("rule").is_in(FROM_LOOKING)


def nothing() -> dict[str, pl.DataFrame]:
    """The tables of a turn that has no rows."""
    return {name: table.empty() for name, table in LAKE.items()} | {LIVE: LAKE["load_control"].empty()}


def placed(rows: pl.DataFrame, batch: Batch, numbers: Mapping[str, int]) -> pl.DataFrame:
    """Accepted or rejected rows with `shard` (its number), `source`, `source_partition`, `source_offset` and
    `log_offset`, by the segments that their items stand in.
    """
    segments = batch.segments
    if isinstance(batch.content, Refused):
        offset = pl.coalesce(batch.content.rows["log_offset"], batch.content.rows["source_offset"])
        offsets = batch.content.rows.select(offset.alias("log_offset"))["log_offset"]
        return _marked(rows, segments[0], numbers).with_columns(offsets.gather(rows["item"]))
    if len(segments) == 1:
        marked = _marked(rows, segments[0], numbers)
        return marked if batch.numbered else _renumbered(marked, segments[0].first_row, segments[0].log_base)
    starts = [0, *accumulate(segment.items for segment in segments)]
    of_row = pl.Series(starts[1:-1], dtype=pl.UInt32).search_sorted(rows["item"], side="right")
    shard = pl.Series("shard", [numbers[segment.shard] for segment in segments], dtype=pl.UInt16)[of_row]
    partition = pl.Series("source_partition", [s.partition for s in segments], dtype=pl.Int32)[of_row]
    sources = [segment.source for segment in segments]
    source = pl.lit(sources[0]).alias("source") if len(set(sources)) == 1 else pl.Series("source", sources)[of_row]
    marked = rows.with_columns(shard, partition, source, log_offset="source_offset")
    if batch.numbered:
        return marked
    firsts = [segment.first_row - start for segment, start in zip(segments, starts, strict=False)]
    bases = [segment.log_base for segment in segments]
    return _renumbered(marked, pl.Series(firsts, dtype=pl.Int64)[of_row], pl.Series(bases, dtype=pl.Int64)[of_row])


def _marked(rows: pl.DataFrame, segment: Segment, numbers: Mapping[str, int]) -> pl.DataFrame:
    return rows.with_columns(
        pl.lit(numbers[segment.shard], pl.UInt16).alias("shard"),
        pl.lit(segment.source).alias("source"),
        pl.lit(segment.partition, pl.Int32).alias("source_partition"),
        pl.col("source_offset").alias("log_offset"),
    )


def _renumbered(rows: pl.DataFrame, first: int | pl.Series, base: int | pl.Series) -> pl.DataFrame:
    """Rows numbered within the content get their numbers within the file, and within the log."""
    offset = rows["source_offset"] + first
    return rows.with_columns(offset.alias("source_offset"), (offset + base).alias("log_offset"))


def stamps_of(
    accepted: Sequence[pl.DataFrame], rejects: Sequence[pl.DataFrame], index: MeterIndex, always: bool
) -> pl.DataFrame | None:
    """STAMPS_SCHEMA of readings, and of rejects whose time had not come, in their places; None where there are no such
    rejects, unless `always`.
    """
    early = [rows for frame in rejects if (rows := frame.filter(pl.col("reason") == "future_time")).height]
    if not early and not always:
        return None
    coded = [rows.with_columns(index.code(rows["meter_id"])).drop_nulls("meter") for rows in early]
    stamps = [rows.select(STAMPS_SCHEMA.names()).cast(STAMPS_SCHEMA) for rows in (*accepted, *coded)]
    return pl.concat([pl.DataFrame(schema=STAMPS_SCHEMA), *stamps])


def tables_of(
    accepted: pl.DataFrame, rejects: pl.DataFrame, results: Results, gaps: Sequence[Segment], index: MeterIndex, tz: str
) -> dict[str, pl.DataFrame]:
    """Rows of every lake table, with the local `date` that they belong to."""
    readings = READINGS.empty()
    if accepted.height:
        customers = index.meter_versions["customer_no"].gather(accepted["version"])
        date = dates_of(accepted, index.meter_versions, tz)
        readings = READINGS.conform(accepted.with_columns(customers, date))
    return {
        "readings": readings,
        "rejects": _rejects(rejects, tz),
        "windows": results.windows,
        "violations": results.violations,
        "compliance": results.compliance,
        "load_control": results.load_control,
        LIVE: results.load_control_live,
        "gaps": pl.concat([GAPS.empty(), *(_gap(segment, tz) for segment in gaps)]),
    }


def _rejects(rejects: pl.DataFrame, tz: str) -> pl.DataFrame:
    if rejects.is_empty():
        return REJECTS.empty()
    known = pl.coalesce("ts", "logged_at", pl.lit(datetime.now(UTC)))
    return REJECTS.conform(rejects.with_columns(date=local_date(known, tz)))


def _gap(segment: Segment, tz: str) -> pl.DataFrame:
    assert segment.gap is not None
    first, last = segment.gap
    row = pl.DataFrame({"missing_from": [first], "missing_to": [last], "accepted_at": [datetime.now(UTC)]})
    dated = row.with_columns(date=pl.col("accepted_at").dt.convert_time_zone(tz).dt.date())
    return GAPS.conform(dated, source=segment.source, source_partition=segment.partition)
