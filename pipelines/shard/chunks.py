"""Times by meter, and frames that grow: what makes a turn cost what it holds, and not what is remembered.

Not here: the state that they are part of (`state`).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipelines.shard.narrow import MANY, Narrow

NEVER = -(1 << 62)
"""A time before all others [us]."""


# --- times by meter -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bound:
    """A time for each meter [us]: that of its shard, or a later one of its own (`floors`: meter, us)."""

    of_shard: pl.Series
    shard_of: pl.Series
    floors: pl.DataFrame

    def of(self, meters: pl.Series) -> pl.Series:
        """The times of meters (codes) [Int64]."""
        times = self.of_shard[self.shard_of[meters]]
        if self.floors.is_empty():
            return times
        own = meters.alias("meter").to_frame().join(self.floors, on="meter", how="left", maintain_order="left")["us"]
        return pl.select(pl.max_horizontal(times, own)).to_series()

    def less(self, us: int) -> Bound:
        """The same, so much earlier."""
        return Bound(self.of_shard - us, self.shard_of, self.floors.with_columns(pl.col("us") - us))

    @property
    def lowest(self) -> int:
        """No meter's time is earlier."""
        return _int(self.of_shard.slice(1).min(), NEVER)

    @property
    def highest(self) -> int:
        """No meter's time is later."""
        return max(_int(self.of_shard.max(), NEVER), _int(self.floors["us"].max(), NEVER))


def _int(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


# --- frames that grow -----------------------------------------------------------------------------------------------


Rows = pl.DataFrame | Narrow
Piece = tuple[Rows, int, int]


@dataclass(frozen=True, slots=True)
class Chunks:
    """Rows in the order they came, in pieces that fall off in size: adding a few costs little however many there are,
    and there are never many pieces. Each piece with the least and the greatest `end_us` in it. One with many rows is
    full: it is held narrow, and joined no more.
    """

    pieces: tuple[Piece, ...] = ()

    @classmethod
    def of(cls, rows: pl.DataFrame) -> Chunks:
        return cls().add(rows)

    def add(self, rows: pl.DataFrame) -> Chunks:
        if rows.is_empty():
            return self
        pieces = list(self.pieces)
        while pieces and isinstance(before := pieces[-1][0], pl.DataFrame) and before.height < 2 * rows.height:
            rows = pl.concat([before, rows], rechunk=True)
            pieces.pop()
        return Chunks((*pieces, _piece(rows if rows.height < MANY else Narrow.of(rows))))

    def split(self, bound: Bound) -> tuple[list[pl.DataFrame], Chunks]:
        """Rows of windows that end up to the bound of their meter, and the others."""
        lowest, highest = bound.lowest, bound.highest
        early: list[pl.DataFrame] = []
        kept: list[Piece] = []
        for piece in self.pieces:
            rows, first, last = piece
            if first > highest:
                kept.append(piece)
            elif last <= lowest:
                early.append(wide(rows))
            else:
                over = rows["end_us"] <= bound.of(rows["meter"])
                if not over.any():
                    kept.append(piece)
                    continue
                early.append(rows.filter(over))
                if not over.all():
                    kept.append(_piece(rows.only(~over) if isinstance(rows, Narrow) else rows.filter(~over)))
        return early, Chunks(tuple(kept))

    def where(self, condition: pl.Expr, first_us: int = NEVER, last_us: int = -NEVER) -> list[pl.DataFrame]:
        """Rows that meet the condition, of pieces that reach into [first_us, last_us]."""
        return [rows.filter(condition) for rows, first, last in self.pieces if first <= last_us and last >= first_us]

    def frames(self) -> list[pl.DataFrame]:
        return [wide(rows) for rows, _, _ in self.pieces]

    @property
    def height(self) -> int:
        return sum(rows.height for rows, _, _ in self.pieces)


def wide(rows: Rows) -> pl.DataFrame:
    """Rows as they were before they were held narrow, if they are."""
    return rows.rows() if isinstance(rows, Narrow) else rows


def _piece(rows: Rows) -> Piece:
    ends = rows["end_us"]
    return rows, _int(ends.min(), NEVER), _int(ends.max(), NEVER)
