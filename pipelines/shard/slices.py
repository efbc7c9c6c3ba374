"""Polls that would take long are worked off in slices, between which the stream commits, and heeds a stop.

Here: where to cut, and cutting. Not here: what takes long (`judging`: every late reading of a meter with violations is
judged by itself), when slices are worked off (`dataflow`). Results do not depend on how the log is cut.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from metering.readings.payloads import Decoded
from pipelines.flow.steps import Decided
from pipelines.shard.judging import out_of_order
from pipelines.shard.state import ShardState, never_heard

MOST_LATE = 40
"""Late readings of one meter that are judged in one go: about half a second's work."""


def slice_of(decided: Decided, state: ShardState) -> tuple[Decided, Decided | None]:
    """The part of a poll to work off now, and the rest, if any."""
    seen = state.seen_us if len(state.seen_us) else never_heard(decided.index)
    last = _last_offset(decided.decoded.accepted, state.max_us, seen)
    after = None if last is None or decided.poll.until is None else decided.poll.until(last)
    if last is None or after is None:
        return decided, None
    now, rest = (
        replace(decided, decoded=Decoded(*(rows.filter(part) for rows in _frames(decided.decoded))))
        for part in (pl.col("source_offset") <= last, pl.col("source_offset") > last)
    )
    now = replace(now, poll=replace(decided.poll, after=after, end=False, committed=None))
    return now, replace(rest, poll=replace(decided.poll, gap=None))


def _frames(decoded: Decoded) -> tuple[pl.DataFrame, pl.DataFrame]:
    return decoded.accepted, decoded.rejects


def _last_offset(accepted: pl.DataFrame, max_us: int | None, seen: pl.Series) -> int | None:
    """Where a meter has its so-manieth late reading, unless that is the poll's end."""
    if accepted.is_empty() or _plainly_newer(accepted["ts"], max_us):
        return None
    rows = accepted.select("meter", "ts", "source_offset").with_row_index("position")
    late = rows.with_columns(out_of_order(rows, seen)).filter("out_of_order")
    if late.height < MOST_LATE:
        return None
    full = late.filter(pl.int_range(pl.len()).over("meter") == MOST_LATE - 1)
    last = full["source_offset"].min()
    return last if isinstance(last, int) and last < accepted["source_offset"][-1] else None


def _plainly_newer(ts: pl.Series, max_us: int | None) -> bool:
    return ts.is_sorted() and (max_us is None or ts.to_physical()[0] > max_us)
