"""Register steps of meters whose readings do not come in order: as they stood whenever one came.

Here: which of such meters need a look at all, and what each arrival changes: its own step, and those after it. Not
here: the machine that goes through it (`disputed`), steps themselves (`metering.events.registers`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

from metering.events import register_screen, registers
from metering.tables.lake import CHAIN, REGISTERS
from pipelines.shard.blocks import next_ends
from pipelines.shard.state import State
from pipelines.shard.steps import (
    BLOCKS_BACK,
    LAST,
    READINGS_BACK,
    before_first,
    first_of,
    held_of,
    known_around,
    of_lake,
    one_a_slot,
    with_last,
    without_enough,
)
from pipelines.shard.store import Context

ORDER = ("stamp_us", "source_partition", "log_offset", "source_row", "logged_at")
"""What tells which of several readings of a slot counts."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCK_CHANGE_US = 7_200_000_000


def counts_more(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Of a slot's readings (ORDER) the one stamped last; of those the one that `metering.load.windows.latest` takes: of
    one log the later in it, of several the later logged.
    """
    if one[0] != other[0]:
        return bool(one[0] > other[0])
    one, other = one[1:], other[1:]
    if one[0] == other[0] and (one[3] is None) == (other[3] is None):
        return tuple(one[1:3]) >= tuple(other[1:3])
    return (one[3] or _EPOCH, one[0]) > (other[3] or _EPOCH, other[0])


def screened(state: State, rows: pl.DataFrame, context: Context) -> tuple[State, pl.Series]:
    """The state after readings (as at their slots, in the order of the log) of meters of which some are late; and the
    meters (codes) of which a step may have been wrong, whatever came first.
    """
    rows = _with_registers(rows, state)
    if rows.is_empty():
        return state, rows["meter"]
    known = _around(rows, state, context)
    both = pl.concat([known, rows.select(known.columns)])
    counting = one_a_slot([_unplaced(both)], context, _looked_at(context)).with_columns(_no_seed(both))
    told = register_screen.screened(counting, context.meter_versions, context.settings)
    state = state.having({LAST: with_last(state.frame(LAST), told)})
    lone = pl.any_horizontal(
        (pl.col(name).is_null() != pl.col(name).shift(1).is_null()) & (pl.col("meter") == pl.col("meter").shift(1))
        for name in REGISTERS
    )
    values = pl.struct("p_kw", *(name for name in (*REGISTERS, CHAIN) if name in both.columns))
    doubled = both.filter(pl.struct("meter", "slot_us").is_duplicated()) if counting.height < both.height else both[:0]
    changed = doubled.group_by("meter", "slot_us").agg(values.n_unique().alias("n")).filter(pl.col("n") > 1)["meter"]
    wrong = told.filter(pl.col("wrong") | lone.fill_null(False))["meter"]
    return state, pl.concat([changed, wrong]).unique().sort()


def _around(rows: pl.DataFrame, state: State, context: Context) -> pl.DataFrame:
    """What is known around readings: what is held, or else the blocks that windows ask for, too; and only where these
    begin with no reading, what the lake has from long before. Of all columns those that steps are told by.
    """
    first, names = first_of(rows), _looked_at(context)
    known = held_of(first["meter"], state, context, columns=names)
    short = without_enough(before_first(known, first), first, context, readings=1, blocks=1)
    if short.is_empty():
        return known
    mine = rows.join(short, on="meter", how="semi")
    following = mine.select("meter", next_ends(mine, context).alias("end_us"))
    blocks = pl.concat([mine.select("meter", "end_us"), following]).unique()
    known = one_a_slot([_unplaced(known), context.past.readings(blocks)], context, names)
    short = without_enough(before_first(known, short), short, context, readings=1, blocks=1)
    if short.is_empty():
        return known
    more = of_lake(short, context, readings=1, blocks=1)
    return pl.concat([known.join(short, on="meter", how="anti"), more.select(known.columns)])


def _looked_at(context: Context) -> list[str]:
    """Of what is held of a reading, that which its steps are told by, and which of a slot's readings counts."""
    told_by = {"meter", "version", "ts", "slot_us", "end_us", "p_kw", *REGISTERS, CHAIN, *ORDER}
    return [name for name in context.held_columns if name in told_by]


def _with_registers(rows: pl.DataFrame, state: State) -> pl.DataFrame:
    """Readings of meters that report a register, now or the last time: of others there are no steps."""
    any_register = pl.any_horizontal(pl.col(name).is_not_null() for name in REGISTERS if name in rows.columns)
    known = state.frame(LAST)
    last = known.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in REGISTERS))["meter"]
    meters = pl.concat([rows.filter(any_register)["meter"], last]).unique()
    return rows.filter(pl.col("meter").is_in(meters.implode()))


def _no_seed(rows: pl.DataFrame) -> list[pl.Expr]:
    """Nothing is known of a block before the first of these readings; and of a register that none reports."""
    kinds = dict(registers.SEED_SCHEMA) | dict.fromkeys({*REGISTERS, CHAIN} - {*rows.columns}, pl.Float64())
    return [pl.lit(None, kind).alias(name) for name, kind in kinds.items()]


def _unplaced(rows: pl.DataFrame) -> pl.DataFrame:
    """Readings as they are held."""
    return rows.with_columns(pl.col("stamp_us").cast(rows.schema["ts"]).alias("ts"))


@dataclass(slots=True)
class _Slots:
    """A meter's readings, one a slot, in order of time: ends of slots [us], numbers of rows."""

    us: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    which: list[tuple[Any, ...]] = field(default_factory=list)

    def put(self, us: int, row: int, which: tuple[Any, ...]) -> int | None:
        """Where a reading comes to stand; None: another one of its slot counts more."""
        at = bisect_left(self.us, us)
        if at < len(self.us) and self.us[at] == us:
            if not counts_more(which, self.which[at]):
                return None
            self.rows[at], self.which[at] = row, which
            return at
        self.us.insert(at, us)
        self.rows.insert(at, row)
        self.which.insert(at, which)
        return at


def as_they_came(rows: pl.DataFrame, meters: pl.Series, state: State, context: Context) -> pl.DataFrame:
    """Readings of some meters, each whenever its step is another one: with the values of steps, and `position`, that of
    the arrival which makes it so. In the order of arrival, and of one arrival the latest first.

    `rows`: as at their slots, in the order of the log.
    """
    mine = rows.filter(pl.col("meter").is_in(meters.implode()))
    known = known_around(first_of(mine), state, context).sort("meter", "slot_us")
    names = [name for name in mine.columns if name in known.columns]
    every = pl.concat([known.select(names), mine.select(names)])
    positions = [None] * known.height + mine["position"].to_list()
    block_us = context.meter_versions["block_us"].gather(every["version"]).to_list()
    taken = list(_taken(every, positions, block_us))
    picked = pl.DataFrame(
        taken, schema={"row": pl.UInt32, "key": pl.UInt32, "position": mine.schema["position"]}, orient="row"
    )
    found = every[picked["row"]].with_columns(picked["key"], picked["position"])
    told = registers.steps(found, context.meter_versions, context.settings, key="key")
    told = _otherwise_than_before(told.filter(pl.col("position").is_not_null()))
    return told.sort("position", "slot_us", descending=[False, True]).select(*names, *registers.VALUES, "position")


def _otherwise_than_before(told: pl.DataFrame) -> pl.DataFrame:
    """Without what is told of a slot as it was told of it last: an arrival has all that may change after it told."""
    by_slot = told.sort("meter", "slot_us", "position")
    said = ("meter", "slot_us", *ORDER, *registers.VALUES)
    return by_slot.filter(pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift(1)) for name in said))


def _taken(
    every: pl.DataFrame, positions: list[int | None], block_us: list[int | None]
) -> Iterator[tuple[int, int, int | None]]:
    """(row, key, position) of what is to be told anew by what stands before it: `position` None, what stands before."""
    slots: dict[int, _Slots] = {}
    key = 0
    going_on: dict[int, list[tuple[int, int]]] = {}  # timely arrivals of a meter, that are told together

    def together(meter: int) -> Iterator[tuple[int, int, int | None]]:
        nonlocal key
        arrived = going_on.pop(meter, [])
        if arrived:
            mine = slots[meter]
            last = len(mine.us)
            own = dict(zip((row for row, _ in arrived), (position for _, position in arrived), strict=True))
            start = _context_from(mine, last - len(arrived), *of[mine.rows[last - len(arrived)]])
            yield from ((row, key, own.get(row)) for row in mine.rows[start:])
            key += 1

    ends = every["end_us"].to_list()
    of = {row: (end, block or 900_000_000) for row, (end, block) in enumerate(zip(ends, block_us, strict=True))}
    read = every.select("meter", "slot_us", *ORDER).iter_rows()
    for row, (meter, us, *which) in enumerate(read):
        position = positions[row]
        mine = slots.setdefault(meter, _Slots())
        if position is None:
            mine.put(us, row, tuple(which))
            continue
        if not mine.us or us > mine.us[-1]:
            mine.put(us, row, tuple(which))
            going_on.setdefault(meter, []).append((row, position))
            continue
        yield from together(meter)
        at = mine.put(us, row, tuple(which))
        if at is None:
            continue
        end_us, length_us = of[row]
        start = _context_from(mine, at, end_us, length_us)
        reach_us = end_us + (BLOCKS_BACK - 1) * length_us + _slack(length_us)
        stop = max(at + READINGS_BACK + 1, bisect_left(mine.us, reach_us + 1))
        yield from (
            (other, key, position if number >= at else None)
            for number, other in enumerate(mine.rows[start:stop], start)
        )
        key += 1
    for meter in list(going_on):
        yield from together(meter)


def _context_from(slots: _Slots, at: int, end_us: int, length_us: int) -> int:
    """From where on readings matter to the steps of one that ends in a block."""
    since_us = end_us - BLOCKS_BACK * length_us - _slack(length_us)
    return max(0, min(at - READINGS_BACK, bisect_left(slots.us, since_us)))


def _slack(length_us: int) -> int:
    return _CLOCK_CHANGE_US if length_us > _CLOCK_CHANGE_US // 2 else 0
