"""A shard's state made anew from what it has committed: from the lake, which holds all that the state stands for.

Here: for states that cannot be read, where the lake tells each part of one. Not here: when that is done
(`kilowatch stream --rebuild`), how a state moves on (`advance`).

Revisions go on from those that the lake holds, so nothing is told twice. Meters that have not spoken lately count as
having left (`idle_meters`), so that their past is looked at when they speak.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import structlog

from metering.calendar import month_of
from metering.events import judge
from metering.events.lifecycle import CHANGE_SCHEMA, PAIR, STATE_SCHEMA
from metering.registry.index import MeterIndex
from metering.supply import compliance
from metering.tables.schema import TIMESTAMP
from pipelines.flow.settings import StreamSettings
from pipelines.shard.advance import WINDOW_US, day_of
from pipelines.shard.environment import Environment
from pipelines.shard.history import LakeHistory
from pipelines.shard.judging import in_reach
from pipelines.shard.past import RUN_UP, Anew, Past
from pipelines.shard.state import EMITTED_SCHEMA, HELD_SCHEMA, ROW_SCHEMA, Chunk, ShardState, dump, never_heard
from sinks.lake.commits import CommitLog
from sinks.lake.reader import LakeReader

Origin = Callable[[str], tuple[str, int] | None]
"""Source and partition that a shard's readings are marked with; None where it is no shard of the source."""

_FIRST = datetime(1970, 1, 2, tzinfo=UTC)

log = structlog.get_logger(__name__)


def rebuild(lake: LakeReader, commits: CommitLog, origin: Origin, settings: StreamSettings, index: MeterIndex) -> None:
    """Commit a new state for every shard of a source that has one, at the position it has reached."""
    for shard in sorted(commits.shards):
        record, place = commits.last(shard), origin(shard)
        if record is None or place is None:
            continue
        start = time.monotonic()
        source, partition = place
        history = LakeHistory(lake, source, index, settings.metering, ())
        env = Environment(index, settings.metering, settings.windows_kept, history, settings.silent_s, partition)
        state = state_of(history, env)
        commits.commit(shard, record.position, dump(state, index), {})
        log.info("state made anew", shard=shard, meters=state.meters_held, seconds=round(time.monotonic() - start, 1))


def state_of(history: LakeHistory, env: Environment) -> ShardState:
    """The state of the shard whose past `history` tells, to go on after all that the lake holds of it."""
    newest = history.newest(env.partition)
    if newest is None:
        return ShardState()
    max_us = _us(newest)
    passed_us = (max_us - env.settings.lateness_s * 1_000_000) // WINDOW_US * WINDOW_US
    rows = history.all_since(_at(passed_us - env.windows_kept * WINDOW_US) - _reach(env), env.partition)
    rows = rows.with_columns((-(-pl.col("ts").to_physical() // WINDOW_US) * WINDOW_US).alias("end_us"))
    rows = rows.sort("source_offset", "source_row").select(HELD_SCHEMA.names())
    closed_us = _closed(rows, passed_us, history)
    horizon_us = closed_us - env.windows_kept * WINDOW_US
    end = pl.col("end_us")
    closed = rows.filter((end > horizon_us) & (end <= closed_us))
    state = ShardState(
        max_us=max_us,
        closed_us=closed_us,
        left_us=horizon_us,
        open=_chunk(rows.filter(end > closed_us), env),
        closed=_chunk(closed, env),
        seen_us=_seen(rows, env.index),
    )
    return _with_checks(_with_sums(state, closed, horizon_us, history, env), rows, horizon_us, history, env)


def _us(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _at(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def _reach(env: Environment) -> timedelta:
    """The longest that a run can stand still and go on."""
    longest = env.meter_versions["interval_s"].max()
    return timedelta(seconds=env.settings.gap_intervals * longest if isinstance(longest, int) else 0)


def _closed(rows: pl.DataFrame, passed_us: int, history: LakeHistory) -> int:
    """Up to where windows are closed: by the watermark, or, at a file's end, up to the last that is in the lake."""
    later = _windows_of(rows.filter(pl.col("end_us") > passed_us))
    last = history.windows(later)["window_end"].max() if later.height else None
    return max(passed_us, _us(last)) if isinstance(last, datetime) else passed_us


def _windows_of(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("meter", pl.col("end_us").cast(TIMESTAMP).alias("window_end")).unique()


def _chunk(rows: pl.DataFrame, env: Environment) -> tuple[Chunk, ...]:
    return (Chunk.of(rows, judge.starts(rows, env.meter_versions, env.settings)),) if rows.height else ()


def _seen(rows: pl.DataFrame, index: MeterIndex) -> pl.Series:
    newest = rows.group_by("meter").agg(pl.col("ts").to_physical().max().alias("us"))
    return never_heard(index).scatter(newest["meter"], newest["us"])


def _with_sums(
    state: ShardState, closed: pl.DataFrame, horizon_us: int, history: LakeHistory, env: Environment
) -> ShardState:
    if closed.is_empty():
        return state
    told = history.windows(_windows_of(closed))
    added = compliance.contributions(told, env.settings)
    months = added.select("meter", month_of(pl.col("date")).alias("month")).unique()
    return replace(
        state,
        emitted=added.with_columns(told["window_end"], told["revision"]).select(EMITTED_SCHEMA.names()),
        days=compliance.forget(history.days(months), day_of(horizon_us, env)),
    )


def _with_checks(
    state: ShardState, rows: pl.DataFrame, horizon_us: int, history: LakeHistory, env: Environment
) -> ShardState:
    """Judged anew are meters with a violation that is open or recent, and those that may be about to have one."""
    told = history.violations(pl.Series(range(len(env.index.first)), dtype=pl.UInt32), _FIRST)
    lately = _at(horizon_us) - RUN_UP  # what ended before the horizon may have been cleared after it
    told = told.filter(pl.col("ended_at").is_null() | (pl.col("ended_at") > lately))
    suspects = judge.starts(rows, env.meter_versions, env.settings)
    pairs = pl.concat([told.select(PAIR), suspects.select(PAIR)]).unique().sort(PAIR)
    judged = _judged(pairs, told, horizon_us, env)
    reached = in_reach(told, judged.now, judged.base, horizon_us)
    return replace(state, pairs=judged.now.sort(PAIR), base=judged.base.sort(PAIR), told=reached)


def _judged(pairs: pl.DataFrame, told: pl.DataFrame, horizon_us: int, env: Environment) -> Anew:
    from_here = pairs.select("meter", pl.lit(_at(horizon_us), TIMESTAMP).alias("ts"), position=0).unique()
    if from_here.is_empty():
        nothing = pl.DataFrame(schema=STATE_SCHEMA)
        return Anew(nothing, nothing, pl.DataFrame(schema=CHANGE_SCHEMA))
    past = Past.of(from_here, env, told)
    no_batch = pl.DataFrame(schema={**ROW_SCHEMA, "position": pl.Int32()})
    return past.judged_anew(no_batch, from_here, pairs, told.clear(), horizon_us, env)
