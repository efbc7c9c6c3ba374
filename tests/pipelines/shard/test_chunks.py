"""Rows held in pieces: few of them however small what is added, and split at a bound without a loss."""

from __future__ import annotations

import random

import polars as pl
import pytest

from pipelines.shard import meters
from pipelines.shard.chunks import Chunks
from pipelines.shard.state import FLOORS, NEVER, Bound
from pipelines.shard.store import HELD_SCHEMA


def _held(ends: list[int], offset: int = 0, meters: list[int] | None = None) -> pl.DataFrame:
    offsets = range(offset, offset + len(ends))
    rows = pl.DataFrame({"end_us": ends, "log_offset": offsets, "meter": meters or [0] * len(ends)})
    return rows.select(
        pl.col(name).cast(dtype) if name in rows.columns else pl.lit(None, dtype).alias(name)
        for name, dtype in HELD_SCHEMA.items()
    )


def _bound(*of_shard: int, floors: dict[int, int] | None = None) -> Bound:
    """Meter n is in shard n + 1."""
    numbers = pl.Series(range(1, len(of_shard) + 1), dtype=pl.UInt16)
    own = pl.DataFrame(
        {"meter": list(floors or {}), "us": list((floors or {}).values())}, schema={"meter": pl.UInt32, "us": pl.Int64}
    )
    return Bound(pl.Series([NEVER, *of_shard]), numbers, own)


def test_pieces_stay_few_however_many_small_ones_are_added() -> None:
    rng = random.Random(1)
    chunks, rows, moved = Chunks(), 0, 0
    for _ in range(20_000):
        count = rng.randint(1, 5)
        before = {id(piece[0]) for piece in chunks.pieces}
        chunks = chunks.add(_held([rows] * count, offset=rows))
        moved += sum(piece[0].height for piece in chunks.pieces if id(piece[0]) not in before)
        rows += count
        assert len(chunks.pieces) <= 2 + rows.bit_length()
    assert chunks.height == rows
    assert pl.concat(chunks.frames())["log_offset"].equals(pl.int_range(rows, eager=True), check_dtypes=False)
    assert moved < rows * rows.bit_length()  # a row is copied a few times, not once for each later one


def test_a_late_reading_after_very_many_turns_meets_few_pieces() -> None:
    chunks = Chunks()
    for turn in range(15_000):
        chunks = chunks.add(_held([turn], offset=turn))
    late = chunks.add(_held([3], offset=15_000))
    assert len(late.pieces) <= 15
    assert len(late.where(pl.col("end_us") == 3, 3, 3)) <= 3
    assert pl.concat(late.where(pl.col("end_us") == 3, 3, 3))["log_offset"].to_list() == [3, 15_000]


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 9])
def test_splitting_loses_nothing_and_keeps_order(at: int) -> None:
    chunks = Chunks(Chunks.of(_held([2, 1, 3, 2, 2])).pieces + Chunks.of(_held([4, 4], 5)).pieces).add(_held([1], 7))
    assert len(chunks.pieces) == 3
    early, late = chunks.split(_bound(at))
    ends = [end for rows in chunks.frames() for end in rows["end_us"]]
    assert [end for rows in early for end in rows["end_us"]] == [end for end in ends if end <= at]
    assert [end for rows in late.frames() for end in rows["end_us"]] == [end for end in ends if end > at]
    for rows, first, last in late.pieces:
        assert (rows["end_us"].min(), rows["end_us"].max()) == (first, last)
    if not early:
        assert all(one[0] is other[0] for one, other in zip(late.pieces, chunks.pieces, strict=True))


def test_each_meter_is_split_where_its_shard_or_its_floor_is() -> None:
    chunks = Chunks.of(_held([1, 2, 3, 1, 2, 3], meters=[0, 0, 0, 1, 1, 1]))
    for floors, meter_1 in ((None, 1), ({1: 2}, 2), ({1: 0}, 1)):
        early, late = chunks.split(_bound(2, 1, floors=floors))
        found = [(meter, end) for rows in early for meter, end in rows.select("meter", "end_us").iter_rows()]
        assert found == [(0, 1), (0, 2), *((1, end) for end in range(1, meter_1 + 1))]
        assert late.height == 6 - len(found)


def test_a_bound_knows_its_lowest_and_highest() -> None:
    bound = _bound(5, 3, floors={1: 9})
    assert (bound.lowest, bound.highest, bound.of(pl.Series([1, 0], dtype=pl.UInt32)).to_list()) == (3, 9, [9, 5])
    less = bound.less(2)
    assert (less.lowest, less.highest, less.of(pl.Series([1, 0], dtype=pl.UInt32)).to_list()) == (1, 7, [7, 3])
    assert (_bound().lowest, _bound().highest) == (NEVER, NEVER)
    assert FLOORS.empty().height == meters.FLOORS.empty().height == 0
