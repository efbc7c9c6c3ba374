"""Which meter is where: a turn's readings in their places, meters that change shards, and those that fall silent.

Here: the frames METERS and FLOORS (`state`), which readings are late, who has moved, who leaves. Not here: what late
readings change (the detectors).

A meter heard in another shard than before moves by a value in a column. Where its old shard had come further it is
judged by those marks until the new one has come as far (docs/adr/0004-one-turn-one-state.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl
import structlog

from metering.readings.slots import WINDOW_US, placed
from pipelines.shard.blocks import next_ends
from pipelines.shard.chunks import NEVER, Bound
from pipelines.shard.state import FLOORS, METERS, Frame, State, without
from pipelines.shard.store import Context

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """Accepted readings in their places, and how far they bring the shards.

    `rows`, those of a shard one after the other in the order of its log: columns as held (`store.HELD_SCHEMA`),
    `shard`, `position` in the turn, `late` for their block, `edge_late` for the one after it, `held`: of a block of
    which the state holds the readings, and `closed`: of one that was closed before. `before` and `after`: up to where
    blocks of each meter are closed. `moves_on`: there may be blocks to close. `late` and `closed`: whether any row is.
    """

    rows: pl.DataFrame
    before: Bound
    after: Bound
    moves_on: bool
    late: bool = False
    closed: bool = False


def segments(rows: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    """The readings of each shard (its number), which stand together."""
    if rows.is_empty():
        return
    runs = rows["shard"].rle().struct.unnest()
    at = 0
    for length, shard in runs.iter_rows():
        yield shard, rows.slice(at, length)
        at += length


def any_moved(state: State, rows: pl.DataFrame, context: Context) -> bool:
    """Whether a meter is heard in another shard than the last time, or in two of them."""
    if len(state.shards.names) <= 2 or rows.is_empty():  # one shard, and that of none
        return False
    before = state.meters(context.index)["shard"][rows["meter"]]
    elsewhere = before != rows["shard"]
    if not elsewhere.any():
        return False
    if (elsewhere & (before != 0)).any():
        return True
    shards = rows.filter(elsewhere).group_by("meter").agg(pl.col("shard").n_unique())["shard"]
    return bool((shards > 1).any())


def moved(state: State, shard: int, rows: pl.DataFrame, context: Context) -> State:
    """The state once the meters of `rows`, all in one shard, are in that."""
    meters = rows["meter"].unique().sort()
    held = state.meters(context.index)
    was = held["shard"][meters]
    movers = meters.filter((was != 0) & (was != shard))
    if movers.is_empty():
        return state
    marks = state.shards
    from_shard = held["shard"][movers]
    sources = [marks.names[number] for number in from_shard.unique().sort()]
    log.info("meters moved", sources=sources, target=marks.names[shard], meters=len(movers))
    reached = pl.DataFrame(
        [
            movers.alias("meter"),
            pl.Series("max_us", marks.max_us, dtype=pl.Int64)[from_shard],
            pl.Series("closed_us", marks.closed_us, dtype=pl.Int64)[from_shard],
        ]
    )
    floors = pl.concat([state.frame(FLOORS), reached]).group_by("meter").agg(pl.all().max()).sort("meter")
    number = pl.repeat(shard, len(movers), dtype=pl.UInt16, eager=True)
    meters_now = held.with_columns(held["shard"].clone().scatter(movers, number))
    return _without_reached_floors(state.having({METERS: meters_now, FLOORS: floors}), context)


def _without_reached_floors(state: State, context: Context) -> State:
    """Floors that the shards have come as far as are none any more."""
    floors = state.frame(FLOORS)
    if floors.is_empty():
        return state
    shard = state.meters(context.index)["shard"][floors["meter"]]
    max_us = pl.Series(state.shards.max_us, dtype=pl.Int64)[shard]
    closed_us = pl.Series(state.shards.closed_us, dtype=pl.Int64)[shard]
    return state.having({FLOORS: floors.filter((floors["max_us"] > max_us) | (floors["closed_us"] > closed_us))})


def place(
    state: State, accepted: pl.DataFrame, ended: Collection[int], open_blocks: pl.DataFrame, context: Context
) -> tuple[State, Turn]:
    """The turn that accepted readings make (columns as they arrive, and `shard`), none of them of a meter that is in
    another shard; and the state with how far that brings the shards. Of shards in `ended` all windows close, also those
    of `open_blocks` (`meter`, `version`, `end_us`), which were open before: a block longer than a window for its meter.
    """
    state = _located(state, accepted, context)
    before = state.closed(context.index)
    rows = _timed(state, accepted, before, context)
    lateness_us = context.settings.lateness_s * 1_000_000
    marks = rows.group_by("shard").agg(pl.col("high").max())
    max_us: dict[int, int] = dict(marks.iter_rows())
    closed_us = {shard: (at - lateness_us) // WINDOW_US * WINDOW_US for shard, at in max_us.items()}
    floors = state.frame(FLOORS).height
    if ended:
        theirs = rows.filter(rows["shard"].is_in(list(ended))).select(open_blocks.columns)
        blocks = pl.concat([open_blocks, theirs])
        long = context.meter_versions["block_us"].gather(blocks["version"]) != WINDOW_US
        state = _with_floors(state, blocks.filter(long))
        for shard, end_us in _last_ends(state, blocks.filter(~long), context):
            closed_us[shard] = max(end_us, closed_us.get(shard, NEVER))
    shards = state.shards.raised(max_us, closed_us)
    moves_on = bool(ended) or shards.closed_us != state.shards.closed_us
    state = _without_reached_floors(replace(state, shards=shards), context)
    after = state.closed(context.index) if moves_on or floors else before
    any_late, any_closed = rows.select((pl.col("late") | pl.col("edge_late")).any(), pl.col("closed").any()).row(0)
    moves_on = moves_on or after.floors.height != floors
    return state, Turn(rows, before, after, moves_on, any_late, any_closed)


def _with_floors(state: State, blocks: pl.DataFrame) -> State:
    """The state with meters' blocks closed up to their last of `blocks`."""
    if blocks.is_empty():
        return state
    closed = blocks.select("meter", pl.lit(NEVER, pl.Int64).alias("max_us"), closed_us="end_us")
    floors = pl.concat([state.frame(FLOORS), closed]).group_by("meter").agg(pl.all().max()).sort("meter")
    return state.having({FLOORS: floors})


def _last_ends(state: State, blocks: pl.DataFrame, context: Context) -> Iterator[tuple[int, int]]:
    """Each shard's last end of a block."""
    shard = state.meters(context.index)["shard"].gather(blocks["meter"])
    yield from blocks.group_by(shard).agg(pl.col("end_us").max()).iter_rows()


def _timed(state: State, accepted: pl.DataFrame, before: Bound, context: Context) -> pl.DataFrame:
    """Readings with their windows, the highest time of their shard up to each (`high`), and what that says of them."""
    end, closed = pl.col("end_us"), pl.col("closed_us")
    marks = pl.Series("was", state.shards.max_us, dtype=pl.Int64)
    high = pl.col("ts").to_physical().cum_max()
    if accepted["shard"].n_unique() > 1:
        high = high.over("shard")
    rows = placed(accepted, context.meter_versions, context.settings.timezone).with_columns(
        before.of(accepted["meter"]).alias("closed_us"), high.alias("high"), marks[accepted["shard"]].alias("was")
    )
    rows = rows.with_columns(pl.max_horizontal("high", "was").alias("high"))
    watermark = pl.max_horizontal(_floored(state, rows) - context.settings.lateness_s * 1_000_000, "closed_us")
    rows = rows.with_columns(watermark.alias("watermark")).with_columns((pl.col("watermark") >= end).alias("late"))
    edge_late = rows["late"]  # and so none, most often
    if edge_late.any():
        edge_late &= (rows["slot_us"] == rows["end_us"]) & (rows["watermark"] >= next_ends(rows, context))
    return rows.with_columns(
        edge_late.alias("edge_late"),
        (end > closed - context.windows_kept * WINDOW_US).alias("held"),
        (end <= closed).alias("closed"),
    ).with_row_index("position")


def _floored(state: State, rows: pl.DataFrame) -> pl.Expr:
    """The highest time, but for meters whose old shard had come further."""
    floors = state.frame(FLOORS)
    if floors.is_empty():
        return pl.col("high")
    own = rows.select("meter").join(floors, on="meter", how="left", maintain_order="left")["max_us"]
    return pl.max_horizontal("high", own)


def closing(turn: Turn) -> Turn:
    """A turn in which there may be windows to close although no shard has come further."""
    return replace(turn, moves_on=True)


def _located(state: State, rows: pl.DataFrame, context: Context) -> State:
    """With the shard of meters that are heard for the first time."""
    if rows.is_empty():
        return state
    held = state.meters(context.index)
    new = held["shard"][rows["meter"]] == 0
    if not new.any():
        return state
    first = rows.filter(new).unique("meter")
    return state.having({METERS: held.with_columns(held["shard"].clone().scatter(first["meter"], first["shard"]))})


def heard(state: State, rows: pl.DataFrame, heard_us: pl.Series, context: Context) -> State:
    """With when the meters of `rows` were last heard: the end of the last slot that they answered for. `heard_us`: when
    they were before, as `recalled` says.
    """
    if rows.is_empty():
        return state
    held = state.meters(context.index)
    newest = rows.group_by("meter").agg(pl.col("slot_us").max().alias("us"))
    before = heard_us[newest["meter"]].alias("before_us")
    newest = newest.with_columns(before).select("meter", us=pl.max_horizontal("us", "before_us"))
    return state.having({METERS: held.with_columns(held["seen_us"].clone().scatter(newest["meter"], newest["us"]))})


# --- silence --------------------------------------------------------------------------------------------------------


def recalled(state: State, rows: pl.DataFrame, context: Context) -> pl.Series:
    """When meters were last heard [us], by code, those of `rows` that may have left included."""
    seen_us = state.meters(context.index)["seen_us"]
    if state.left_us is None or rows.is_empty():
        return seen_us
    unheard = rows.filter((seen_us[rows["meter"]] == 0) & (rows["slot_us"] <= state.left_us))
    if unheard.is_empty():
        return seen_us
    since = unheard.select(pl.col("ts").min().dt.offset_by("-1us")).item()
    later = context.past.readings_since(unheard["meter"].unique(), since)
    newest = later.group_by("meter").agg(pl.col("slot_us").max().alias("us"))
    return seen_us.clone().scatter(newest["meter"], newest["us"]) if newest.height else seen_us


def dismissed(state: State, frames: Sequence[Frame], turn: Turn, context: Context) -> State:
    """The state without meters last heard so long before the windows that are held. Only where a look at the past is
    needed depends on who has left, never what comes out.
    """
    if not turn.moves_on:
        return state
    state = _without_long_unknown(state, context)
    held = state.meters(context.index)
    silent_us = int(context.silent_s * 1_000_000) + context.windows_kept * WINDOW_US
    until = turn.after.of_shard[held["shard"]] - silent_us
    gone = ((held["seen_us"] != 0) & (held["seen_us"] <= until)).arg_true().cast(pl.UInt32)
    meters = gone.filter(~gone.is_in(turn.rows["meter"].unique().implode()))  # far behind, and yet it speaks
    if meters.is_empty():
        return state
    left_us = held["seen_us"][meters].max()
    assert isinstance(left_us, int)
    return replace(without(state, frames, meters), left_us=max(left_us, state.left_us or left_us))


def _without_long_unknown(state: State, context: Context) -> State:
    """Meters that the registry has not known for so long will not come back with what was known of them."""
    heard = state.unknown.get(METERS.name)
    if heard is None:
        return state
    until = max(state.shards.closed_us) - int(context.silent_s * 1_000_000)
    silent = heard.filter(pl.col("seen_us") <= until)
    if silent.is_empty():
        return state
    gone = pl.col("meter_id").is_in(silent["meter_id"].implode())
    left = {name: rows.filter(~gone) for name, rows in state.unknown.items()}
    left_us = silent["seen_us"].max()
    assert isinstance(left_us, int)
    unknown = {name: rows for name, rows in left.items() if rows.height}
    return replace(state, unknown=unknown, left_us=max(left_us, state.left_us or left_us))
