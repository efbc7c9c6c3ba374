"""Violations of a batch: readings in order move the checks on, late ones have them judged anew.

Here: which meters need a look at all, and the order in which a meter's readings came. Not here: rules and runs
(`metering`).

Judged row by row, in the order of the log: between two late readings of a meter its other readings are taken in one go,
and each late one is a round of its own. So nothing depends on how the log was cut into batches. Replayed readings
(`Environment.at_once`) have left the log's order, and share rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from metering.events import judge
from metering.events.corrections import NAME, last_told, revise
from metering.events.lifecycle import CHANGE_SCHEMA, PAIR, advance
from metering.events.texts import tell
from metering.tables.lake import VIOLATIONS
from metering.tables.schema import no_rows
from pipelines.shard.environment import Environment
from pipelines.shard.idle_meters import recall
from pipelines.shard.past import Anew, Past, caused_by, said, up_to
from pipelines.shard.state import PAIR_SCHEMA, ROW_SCHEMA, ShardState, never_heard, pairs_of, split


@dataclass(frozen=True, slots=True)
class Judged:
    """Where the checks stand after a batch, and the pairs for which one of its readings spoke for a start."""

    pairs: pl.DataFrame
    base: pl.DataFrame
    told: pl.DataFrame
    seen_us: pl.Series
    suspects: pl.DataFrame


def evict(state: ShardState, horizon_us: int | None, env: Environment) -> ShardState:
    """Take readings of windows up to the horizon out of the state: the base of the checks moves on over them."""
    gone, left = ((), state.closed) if horizon_us is None else split(state.closed, horizon_us)
    if not gone or horizon_us is None:
        return state
    pairs = pl.concat([state.base.select(PAIR), pairs_of(gone)]).unique()
    base = state.base
    if pairs.height:
        meters = pairs["meter"].unique().implode()
        rows = pl.concat([chunk.rows.filter(pl.col("meter").is_in(meters)) for chunk in gone])
        base, _ = advance(said(rows, pairs, env), base, env.meter_versions, env.settings.gap_intervals)
    return replace(state, closed=left, base=base, told=in_reach(state.told, state.pairs, base, horizon_us))


def in_reach(told: pl.DataFrame, now: pl.DataFrame, base: pl.DataFrame, horizon_us: int | None) -> pl.DataFrame:
    """Violations that are open, were open at the base, or began or ended after it: those that the state can judge."""
    if horizon_us is None:
        return told
    open_ones = pl.concat([now, base]).filter("active").select(NAME).unique()
    recent = pl.max_horizontal("started_at", "ended_at").to_physical() > horizon_us
    return pl.concat([told.filter(recent), told.filter(~recent).join(open_ones, on=NAME, how="semi")])


def judge_batch(
    state: ShardState, rows: pl.DataFrame, horizon_us: int | None, env: Environment
) -> tuple[Judged, pl.DataFrame]:
    """Judge a batch (ROW_SCHEMA, `position` and `held`, in source order): where checks stand now, and rows of
    `violations`. The state holds readings after `horizon_us`; what is older comes from the past.
    """
    seen = recall(state.seen_us if len(state.seen_us) else never_heard(env.index), rows, state.left_us, env)
    suspects = judge.starts(rows, env.meter_versions, env.settings) if rows.height else no_rows(PAIR_SCHEMA)
    rows = rows.with_columns(out_of_order(rows, seen))
    as_expected = rows.select((pl.col("held") & ~pl.col("out_of_order")).all()).item()
    if as_expected:
        moved, changes = _judge_in_order(state, rows, suspects, env)
    else:
        moved, changes = _judge_with_late(state, rows, suspects, horizon_us, env)
    violations = tell(changes, env.meter_versions, env.settings) if changes.height else VIOLATIONS.empty()
    return Judged(moved.pairs, moved.base, moved.told, _seen(seen, rows), suspects), violations


def _judge_in_order(
    state: ShardState, rows: pl.DataFrame, suspects: pl.DataFrame, env: Environment
) -> tuple[ShardState, pl.DataFrame]:
    """Readings that all come after those of their meters: only what is going on, or begins, can change."""
    pairs = _met([state.pairs], rows, suspects)
    if pairs.is_empty():
        return state, no_rows(CHANGE_SCHEMA)
    now, changes = _on(rows.filter(pl.col("meter").is_in(pairs["meter"].implode())), pairs, state.pairs, env)
    told = last_told(pl.concat([state.told, changes])) if changes.height else state.told
    return replace(state, pairs=now.sort(PAIR), told=told), changes


def _judge_with_late(
    state: ShardState, rows: pl.DataFrame, suspects: pl.DataFrame, horizon_us: int | None, env: Environment
) -> tuple[ShardState, pl.DataFrame]:
    """Readings of which some are out of order, or older than what the state holds."""
    past = Past.of(rows.filter(pl.col("out_of_order") & ~pl.col("held")), env)
    pairs = _met([state.pairs, state.base, state.told, past.told], rows, suspects)
    if pairs.is_empty():
        return state, no_rows(CHANGE_SCHEMA)
    ordered = _rounds(rows.filter(pl.col("meter").is_in(pairs["meter"].implode())), env)
    now, base, told = state.pairs, state.base, state.told
    changes = [no_rows(CHANGE_SCHEMA)]
    for (_, late), part in ordered.partition_by("round", "out_of_order", as_dict=True, maintain_order=True).items():
        of_part = _of(pairs, part)
        old = part.filter(~pl.col("held"))
        if not late:
            now, fresh = _on(part, of_part, now, env)
            base = _on(old, of_part, base, env)[0] if old.height else base
        else:
            held = part.filter("held")
            reached = in_reach(told, now, base, horizon_us)
            here = _anew(replace(state, base=base), ordered, held, _of(of_part, held), reached, env)
            there = past.judged_anew(ordered, old, _of(of_part, old), told, horizon_us, env)
            now = pl.concat([now.join(of_part, on=PAIR, how="anti"), here.now, there.now])
            base = pl.concat([base.join(_of(of_part, old), on=PAIR, how="anti"), there.base])
            fresh = pl.concat([here.changes, there.changes])
        told = last_told(pl.concat([told, fresh])) if fresh.height else told
        changes.append(fresh)
    return replace(state, pairs=now.sort(PAIR), base=base.sort(PAIR), told=told), pl.concat(changes)


def _on(
    rows: pl.DataFrame, pairs: pl.DataFrame, state: pl.DataFrame, env: Environment
) -> tuple[pl.DataFrame, pl.DataFrame]:
    return advance(said(rows, pairs, env), state, env.meter_versions, env.settings.gap_intervals)


def _of(pairs: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    return pairs.join(rows.select("meter").unique(), on="meter", how="semi")


def _met(known: Sequence[pl.DataFrame], rows: pl.DataFrame, suspects: pl.DataFrame) -> pl.DataFrame:
    """The pairs to judge: suspects, and known ones whose meter has a reading."""
    pairs = pl.concat([no_rows(PAIR_SCHEMA), *(frame.select(PAIR) for frame in known if frame.height)])
    if pairs.height:
        pairs = pairs.filter(pl.col("meter").is_in(rows["meter"].unique().implode()))
    return pl.concat([pairs, suspects]).unique().sort(PAIR) if pairs.height else suspects.sort(PAIR)


def _seen(seen: pl.Series, rows: pl.DataFrame) -> pl.Series:
    if rows.is_empty():
        return seen
    newest = rows.group_by("meter").agg(pl.col("ts").to_physical().max().alias("us"))
    later = pl.max_horizontal("us", pl.Series("old", seen.gather(newest["meter"])))
    return seen.clone().scatter(newest["meter"], newest.select(later).to_series())


def out_of_order(rows: pl.DataFrame, seen: pl.Series) -> pl.Series:
    """For each reading, whether its time is not after all earlier ones of its meter."""
    us = pl.col("us")
    ordered = rows.select("meter", "position", us=pl.col("ts").to_physical()).sort("meter", maintain_order=True)
    first = pl.col("meter").ne_missing(pl.col("meter").shift(1))
    before = pl.when(first).then(pl.Series(seen.gather(ordered["meter"]))).otherwise(us.shift(1))
    if not ordered.select((us <= before).any()).item():
        return pl.repeat(False, rows.height, eager=True).alias("out_of_order")
    highest = us.cum_max().shift(1).over("meter")
    before = pl.max_horizontal(highest, pl.Series("seen", seen.gather(ordered["meter"])))
    return ordered.with_columns(out_of_order=us <= before).sort("position")["out_of_order"]


def _rounds(rows: pl.DataFrame, env: Environment) -> pl.DataFrame:
    """Adds `round`: each reading that is out of order has one of its own, or shares it with those next to it that are
    held, or not, as it is.
    """
    late = pl.col("out_of_order")
    if env.at_once:
        turn = pl.struct(late, (late & pl.col("held")).alias("late_and_held")).rle_id()
    else:
        turn = (late | late.shift(1).over("meter").fill_null(False)).cast(pl.Int32).cum_sum()
    return rows.with_columns(round=turn.over("meter")).sort("round", "position")


def _anew(
    state: ShardState,
    ordered: pl.DataFrame,
    part: pl.DataFrame,
    pairs: pl.DataFrame,
    told: pl.DataFrame,
    env: Environment,
) -> Anew:
    """Late readings of some meters: all that the state holds of these, up to them, judged from the base on."""
    meters = part["meter"].implode()
    base = state.base.join(pairs, on=PAIR, how="semi")
    if part.is_empty():
        return Anew(base, base, no_rows(CHANGE_SCHEMA))
    held = [chunk.rows.filter(pl.col("meter").is_in(meters)) for chunk in (*state.closed, *state.open)]
    rows = pl.concat([rows.select(ROW_SCHEMA.names()) for rows in (*held, up_to(ordered, part).filter("held"))])
    of_pairs = told.join(pairs, on=PAIR, how="semi")
    said_anew, gap = said(rows, pairs, env), env.settings.gap_intervals
    moved, changes = revise(said_anew, base, of_pairs, env.meter_versions, gap, caused_by(part))
    return Anew(moved, base, changes)
