"""Register steps in the stream: which meters' registers need a look, and with the readings before.

Here: the frames LAST and PRIOR, what register rules say of readings in order, and the readings before some that steps
are told by. Not here: steps themselves (`metering.events.registers`), late readings (`late_steps`).

A timely reading is held against its meter's last one (LAST). Only where that step is wrong the readings before are
asked for, which tell whether it leads back to where the register stood: from what is held, or the lake.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import polars as pl

from metering.events import judge, register_screen, registers
from metering.load.windows import latest
from metering.readings.slots import answering, at_slots
from metering.tables.lake import CHAIN, REGISTERS
from metering.tables.schema import TIMESTAMP, no_rows
from pipelines.shard.blocks import starts
from pipelines.shard.checks import RUNS
from pipelines.shard.meters import Turn
from pipelines.shard.state import Frame, State
from pipelines.shard.store import EPOCH, HELD_SCHEMA, Context
from pipelines.shard.windows import CLOSED, OPEN

LAST = Frame(
    "last",
    2,
    pl.Schema(
        {
            "meter": pl.UInt32(),
            "version": pl.UInt32(),
            "ts": TIMESTAMP,
            "slot_us": pl.Int64(),
            "end_us": pl.Int64(),
            **dict.fromkeys((*REGISTERS, CHAIN), pl.Float64()),
            **registers.SEED_SCHEMA,
        }
    ),
    dated="ts",
    stays=pl.lit(True),
)
"""Each meter's last reading, and what is known of its block so far."""
PRIOR = Frame("prior", 1, HELD_SCHEMA, dated="ts")
"""The last readings that are held no longer, of meters whose registers are looked at."""

_SCREENED = ("meter", "version", "slot_us", "end_us", "stamp_us", *REGISTERS, CHAIN)
READINGS_BACK, BLOCKS_BACK = 3, 3


def in_order(
    state: State, rows: pl.DataFrame, earlier: pl.DataFrame, context: Context
) -> tuple[State, pl.DataFrame, pl.DataFrame]:
    """The state after readings (as at their slots) that come after all of their meters'; them with the values of their
    steps, and the (meter, code) pairs for which one speaks for a start. `earlier`: readings (as held) of this turn that
    came before them.
    """
    if rows.is_empty() or not judge.step_checks(context.settings):
        return state, rows, no_rows(judge.STARTS_SCHEMA)
    known = state.frame(LAST)
    mine = known.filter(pl.col("meter").is_in(rows["meter"].unique().implode()))
    seeds = mine.with_columns(pl.col("ts").to_physical().alias("stamp_us")).drop("ts")
    both = pl.concat([seeds, rows.select("p_kw", *_SCREENED)], how="diagonal").sort("meter", "slot_us")
    screened = register_screen.screened(both, context.meter_versions, context.settings)
    runs = state.frame(RUNS)
    going_on = runs["meter"].filter(runs["code"].is_in(step_codes(context)))
    state = state.having({LAST: with_last(known, screened)})
    meters = pl.concat([screened["meter"].filter(screened["wrong"]), going_on]).unique()
    if meters.is_empty():
        return state, rows, no_rows(judge.STARTS_SCHEMA)
    theirs = pl.col("meter").is_in(meters.implode())
    looked_at = with_values(rows.filter(theirs), state, context, earlier)
    suspects = judge.step_starts(looked_at, context.meter_versions, context.settings)
    return state, pl.concat([looked_at, rows.filter(~theirs)], how="diagonal"), suspects


def step_codes(context: Context) -> list[int]:
    """The checks that look at steps."""
    return [check.code for check in judge.step_checks(context.settings)]


def with_last(known: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """LAST with the last of each meter's rows, sorted by meter and slot, of `registers.steps`."""
    last = told.filter((pl.col("meter") != pl.col("meter").shift(-1)).fill_null(True))
    last = last.with_columns(pl.col("stamp_us").cast(TIMESTAMP).alias("ts")).select(LAST.schema.names())
    before = last.select("meter").join(known, on="meter", how="left", maintain_order="left")["slot_us"]
    last = last.filter((last["slot_us"] >= before).fill_null(True))
    return pl.concat([known.join(last, on="meter", how="anti"), last]).sort("meter")


def valued(rows: pl.DataFrame, pairs: pl.DataFrame, state: State, context: Context) -> pl.DataFrame:
    """`rows` with the values of their steps where some of `pairs` look at these, for meters of which they do."""
    meters = pairs["meter"].filter(pairs["code"].is_in(step_codes(context))).unique()
    if meters.is_empty():
        return rows
    theirs = pl.col("meter").is_in(meters.implode())
    return pl.concat([with_values(rows.filter(theirs), state, context), rows.filter(~theirs)], how="diagonal")


def evicted(state: State, gone: Sequence[pl.DataFrame], pairs: pl.DataFrame, turn: Turn, context: Context) -> State:
    """PRIOR once readings are held no longer, of meters that some of `pairs` look at the steps of."""
    meters = pairs["meter"].filter(pairs["code"].is_in(step_codes(context))).unique()
    prior = state.frame(PRIOR)
    if meters.is_empty():
        return state.having({PRIOR: PRIOR.empty()}) if prior.height else state
    names = context.held_columns
    old = turn.rows["meter"].filter(~turn.rows["held"])  # they are in no order that is known here
    theirs = pl.col("meter").is_in(meters.filter(~meters.is_in(old.unique().implode())).implode())
    parts = [part for part in (prior, *gone) if part.height]
    if not parts:
        return state
    rows = pl.concat([part.filter(theirs).select(names) for part in parts]).sort(
        "meter", "slot_us", maintain_order=True
    )
    last = rows.group_by("meter").agg(pl.col("end_us").max())
    since = last.select("meter", _reach(last, context, BLOCKS_BACK).alias("since_us"))
    joined = rows.join(since, on="meter", how="left", maintain_order="left")
    back = pl.int_range(pl.len(), 0, -1).over("meter")
    kept = joined.filter((pl.col("slot_us") >= pl.col("since_us")) | (back <= 2 * READINGS_BACK))
    return state.having({PRIOR: kept.drop("since_us")})


def with_values(
    rows: pl.DataFrame, state: State, context: Context, earlier: pl.DataFrame | None = None
) -> pl.DataFrame:
    """`rows` (as at their slots, one for each) with the values of their steps, told by what is known before them."""
    first = first_of(rows)
    before = before_first(known_around(first, state, context, earlier=earlier), first)
    numbered = rows.with_row_index("row")
    names = [name for name in numbered.columns if name in before.columns or name == "row"]
    every = pl.concat([before, numbered.select(names)], how="diagonal").sort("meter", "slot_us")
    told = registers.steps(every, context.meter_versions, context.settings)
    values = told.filter(pl.col("row").is_not_null()).sort("row")
    return rows.with_columns(values.select(registers.VALUES).get_columns())


def known_around(
    first: pl.DataFrame,
    state: State,
    context: Context,
    readings: int = READINGS_BACK,
    blocks: int = BLOCKS_BACK,
    earlier: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Readings (as at their slots) that are known of meters, from before those in `first` (`meter`, `slot_us`,
    `end_us`) on; those of this turn only if they are among `earlier` (as held).
    """
    known = held_of(first["meter"], state, context, earlier)
    short = without_enough(before_first(known, first), first, context, readings, blocks)
    if short.is_empty():
        return known
    more = of_lake(short, context, readings, blocks, earlier)
    return pl.concat([known.join(short, on="meter", how="anti"), more])


def first_of(rows: pl.DataFrame) -> pl.DataFrame:
    """The first reading of each meter: `meter`, `slot_us`, `end_us`."""
    return rows.group_by("meter", maintain_order=True).agg(pl.col("slot_us", "end_us").get(pl.col("slot_us").arg_min()))


def held_of(
    meters: pl.Series,
    state: State,
    context: Context,
    earlier: pl.DataFrame | None = None,
    columns: Sequence[str] | None = None,
) -> pl.DataFrame:
    """What the state holds of meters (and is among `earlier`), one reading for each slot, as at these; `columns`: of
    those that are held, if not all.
    """
    theirs = pl.col("meter").is_in(meters.implode())
    parts = [rows for frame in (CLOSED, OPEN) for rows in state.chunks(frame).where(theirs)]
    prior = state.frame(PRIOR)
    parts += [part.filter(theirs) for part in (prior, earlier) if part is not None and part.height]
    return one_a_slot(parts, context, columns)


def one_a_slot(parts: list[pl.DataFrame], context: Context, columns: Sequence[str] | None = None) -> pl.DataFrame:
    names = context.held_columns if columns is None else columns
    empty = pl.DataFrame(schema=HELD_SCHEMA).select(names)
    rows = pl.concat([empty, *(part.select(names) for part in parts)])
    return at_slots(answering(latest(rows)))


def before_first(known: pl.DataFrame, first: pl.DataFrame) -> pl.DataFrame:
    """Of `known` readings those before the one of their meter in `first` (`meter`, `slot_us`)."""
    until = known.select("meter").join(first.select("meter", "slot_us"), on="meter", how="left", maintain_order="left")
    return known.filter((known["slot_us"] < until["slot_us"]).fill_null(False))


def without_enough(
    before: pl.DataFrame,
    first: pl.DataFrame,
    context: Context,
    readings: int = READINGS_BACK,
    blocks: int = BLOCKS_BACK,
) -> pl.DataFrame:
    """Those of `first` (`meter`, `slot_us`, `end_us`) before which fewer `readings` are known, or not back to where the
    last of so many `blocks` starts.
    """
    found = before.group_by("meter").agg(pl.len().alias("n"), pl.col("slot_us").min().alias("since_us"))
    seen = first.join(found, on="meter", how="left", maintain_order="left")
    enough = (seen["n"] >= readings) & (seen["since_us"] <= _reach(first, context, blocks))
    return first.filter(~enough.fill_null(False))


def of_lake(
    first: pl.DataFrame, context: Context, readings: int, blocks: int, earlier: pl.DataFrame | None = None
) -> pl.DataFrame:
    """What the lake knows of meters, from so long before the readings in `first` on that there are enough: from an hour
    or a day before, and else from as long as steps are told over.
    """
    found = one_a_slot([], context)
    theirs = pl.col("meter").is_in(first["meter"].implode())
    coming = [] if earlier is None else [earlier.filter(theirs)]
    earliest = pl.select(pl.min_horizontal(_reach(first, context, blocks).min(), first["slot_us"].min())).item()
    for days in (1 / 24, 1.0, context.settings.plausibility.step_days):
        since = EPOCH + timedelta(microseconds=max(0, earliest - int(days * 86_400_000_000)))
        found = one_a_slot([context.past.readings_since(first["meter"], since), *coming], context)
        if without_enough(before_first(found, first), first, context, readings, blocks).is_empty():
            break
    return found


def _reach(first: pl.DataFrame, context: Context, blocks: int) -> pl.Series:
    """Where the last of so many blocks before starts [us]: from that of a reading on backwards."""
    at = first.select("meter", "end_us")
    for _ in range(blocks):
        at = at.with_columns(starts(at, context).alias("end_us"))
    return at["end_us"]
