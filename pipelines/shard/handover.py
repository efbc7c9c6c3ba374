"""Meters that move from one shard to another, as they do when a topic gets more partitions: what is known of them
moves along (docs/adr/0003-meters-move-with-their-state.md).

Here: taking meters out of a state, giving them to another, and the step of a state that has such guests. Not here: when
meters move and how that is committed (`worker`), the step of one watermark (`advance`).

A watermark belongs to a partition, and neither shard's may move because of the other. So meters that come over keep the
marks they were at until those of their new shard have come as far; so long they are its guests. Guests that are behind
are brought up at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import compress
from operator import not_, or_

import polars as pl

from metering.events.lifecycle import PAIR
from pipelines.shard.advance import Marks, Results, advance, highest
from pipelines.shard.environment import Environment
from pipelines.shard.state import Chunk, ShardState


def heard(state: ShardState, meters: pl.Series) -> pl.Series:
    """For each of the meters (codes), whether the state, or a guest of it, has heard it and holds anything of it."""
    known = pl.repeat(False, len(meters), eager=True)
    for of in (state, *state.guests):
        if len(of.seen_us):
            known |= of.seen_us.gather(meters) != 0
        known |= meters.is_in(of.told["meter"].implode())  # its violation was open when it left
    return known


def take(state: ShardState, meters: pl.Series) -> tuple[ShardState, tuple[ShardState, ...]]:
    """The state without the meters (codes), and what it knew of them: pieces, each with the marks it was at."""
    rest, own = _parted(replace(state, guests=()), meters)
    parted = [_parted(guest, meters) for guest in state.guests]
    left = tuple(guest for guest, _ in parted if _holds(guest))
    return replace(rest, guests=left), tuple(p for p in (own, *(piece for _, piece in parted)) if _holds(p))


def _holds(state: ShardState) -> bool:
    return state.meters_held > 0 or state.told.height > 0


def give(state: ShardState, pieces: Sequence[ShardState], left_us: int | None) -> ShardState:
    """The state with what another one knew of meters that it has not heard, which meters have left up to `left_us`."""
    return replace(state, guests=(*state.guests, *pieces), left_us=highest(state.left_us, left_us))


def step(state: ShardState, accepted: pl.DataFrame, env: Environment, end: bool = False) -> tuple[ShardState, Results]:
    """As `advance`, also for a state with guests: those that its watermark has reached are its own after it."""
    if not state.guests:
        return advance(state, accepted, env, end)
    newest, (rows, *rows_of_guests) = _shared_out(state, accepted)
    own, results = advance(replace(state, guests=()), rows, env, end, Marks(newest))
    guests = list(zip(state.guests, rows_of_guests, strict=True))
    ahead = [_is_ahead(guest, own) for guest in state.guests]
    reached, told = _raised(list(compress(guests, map(not_, ahead))), Marks(own.max_us, own.closed_us), env, end)
    still, told_ahead = _raised(list(compress(guests, ahead)), _furthest(compress(state.guests, ahead)), env, end)
    left = (reduce(_united, still),) if still else ()
    return replace(reduce(_united, reached, own), guests=left), _together([results, *told, *told_ahead])


def _shared_out(state: ShardState, accepted: pl.DataFrame) -> tuple[int | None, list[pl.DataFrame]]:
    """The highest time after the readings, and the state's own readings, then each guest's, with `high_us` of all."""
    high = pl.col("ts").to_physical().cum_max()
    rows = accepted.with_columns(high_us=high if state.max_us is None else high.clip(lower_bound=state.max_us))
    theirs = [heard(guest, rows["meter"]) for guest in state.guests]
    own = reduce(or_, theirs).not_()
    return highest(rows["high_us"].max(), state.max_us), [rows.filter(mask) for mask in (own, *theirs)]


def _is_ahead(guest: ShardState, own: ShardState) -> bool:
    """Whether the guest has come further in any way; a shard that has heard nothing at all has not come anywhere."""
    if own.max_us is None or guest.max_us is None or guest.max_us > own.max_us:
        return True
    return guest.closed_us is not None and (own.closed_us is None or guest.closed_us > own.closed_us)


def _furthest(states: Iterable[ShardState]) -> Marks:
    marks = [(state.max_us, state.closed_us) for state in states]
    return Marks(highest(*(at for at, _ in marks)), highest(*(at for _, at in marks)))


def _raised(
    guests: Sequence[tuple[ShardState, pl.DataFrame]], marks: Marks, env: Environment, end: bool
) -> tuple[list[ShardState], list[Results]]:
    """Guests after their readings, all at the same marks, and what that says."""
    moved = [advance(guest, rows, env, end, marks) for guest, rows in guests]
    return [state for state, _ in moved], [results for _, results in moved]


def _united(one: ShardState, other: ShardState) -> ShardState:
    """Two states at the same marks, of different meters, as one."""
    heard = pl.select(pl.when(one.seen_us != 0).then(one.seen_us).otherwise(other.seen_us).alias("seen_us"))
    return replace(
        one,
        left_us=highest(one.left_us, other.left_us),
        open=(*one.open, *other.open),
        closed=(*one.closed, *other.closed),
        emitted=pl.concat([one.emitted, other.emitted]),
        seen_us=heard.to_series(),
        days=pl.concat([one.days, other.days]),
        pairs=pl.concat([one.pairs, other.pairs]).sort(PAIR),
        base=pl.concat([one.base, other.base]).sort(PAIR),
        told=pl.concat([one.told, other.told]),
    )


def _together(results: Sequence[Results]) -> Results:
    tables = ("windows", "violations", "compliance")
    return Results(*(pl.concat([getattr(result, table) for result in results]) for table in tables))


def _parted(state: ShardState, meters: pl.Series) -> tuple[ShardState, ShardState]:
    """A state without guests as two: without the meters (codes), and of them alone."""
    theirs = pl.col("meter").is_in(meters.implode())
    seen = state.seen_us.to_frame().with_row_index("meter").select("seen_us", theirs=theirs)
    zero = pl.lit(0, pl.Int64)
    without = seen.select(pl.when("theirs").then(zero).otherwise("seen_us").alias("seen_us")).to_series()
    alone = seen.select(pl.when("theirs").then("seen_us").otherwise(zero).alias("seen_us")).to_series()
    return _only(state, ~theirs, without), _only(state, theirs, alone)


def _only(state: ShardState, wanted: pl.Expr, seen_us: pl.Series) -> ShardState:
    return replace(
        state,
        open=_chunks(state.open, wanted),
        closed=_chunks(state.closed, wanted),
        emitted=state.emitted.filter(wanted),
        seen_us=seen_us,
        days=state.days.filter(wanted),
        pairs=state.pairs.filter(wanted),
        base=state.base.filter(wanted),
        told=state.told.filter(wanted),
    )


def _chunks(chunks: tuple[Chunk, ...], wanted: pl.Expr) -> tuple[Chunk, ...]:
    parted = [Chunk.of(chunk.rows.filter(wanted), chunk.pairs.filter(wanted)) for chunk in chunks]
    return tuple(chunk for chunk in parted if chunk.rows.height)
