"""Rows in fewer bytes, without a loss: for many that are held long and looked at seldom.

Here: narrowing the columns of a frame, and its rows as they were. Not here: which rows are held so (`chunks`, `state`).

A column that is empty, or the same in every row, is not kept at all. Whole numbers and times are kept as what they are
more than the least of them; floats with at most three decimals, which is what meters send, as thousandths. So a few
rows are found and made wide again without doing so with all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

MANY = 1 << 17
"""So many rows are worth it."""
_THOUSANDTHS = 1000
_EXACT = 2.0**52
_WIDTHS = ((1 << 8, pl.UInt8), (1 << 16, pl.UInt16), (1 << 32, pl.UInt32))


@dataclass(frozen=True, slots=True, eq=False)
class Narrow:
    """Rows of a frame with `meter`: the narrow columns that are kept, and what makes the frame's columns of them."""

    kept: pl.DataFrame
    wide: dict[str, pl.Expr]

    @classmethod
    def of(cls, rows: pl.DataFrame) -> Narrow:
        narrowed = {column.name: _narrowed(column) for column in rows}
        kept = [column for column, _ in narrowed.values() if column is not None]
        return cls(pl.DataFrame(kept), {name: expr.alias(name) for name, (_, expr) in narrowed.items()})

    @property
    def height(self) -> int:
        return self.kept.height

    def rows(self) -> pl.DataFrame:
        """The rows as they were."""
        return self._wide(self.kept, self.wide)

    def __getitem__(self, name: str) -> pl.Series:
        return self._wide(self.kept, (name,))[name]

    def filter(self, condition: pl.Expr | pl.Series) -> pl.DataFrame:
        """Rows that meet a condition, as they were."""
        return self._wide(self.only(condition).kept, self.wide)

    def only(self, condition: pl.Expr | pl.Series) -> Narrow:
        """Rows that meet a condition, as narrow as they are."""
        if isinstance(condition, pl.Expr):
            asked = self._wide(self.kept, dict.fromkeys(condition.meta.root_names()))
            condition = asked.select(condition).to_series()
        return Narrow(self.kept.filter(condition), self.wide)

    def _wide(self, kept: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
        names = list(names)
        return kept.with_columns(self.wide[name] for name in names).select(names)


def _narrowed(column: pl.Series) -> tuple[pl.Series | None, pl.Expr]:
    """What is kept of a column, if anything, and what makes the column of it."""
    name, dtype = column.name, column.dtype
    same = column, pl.col(name)
    if dtype.is_unsigned_integer():  # codes of meters and versions: as many as there are rows
        return same
    if column.null_count() == len(column):
        return None, pl.lit(None, dtype)
    numbers = _thousandths(column) if dtype == pl.Float64 else column.to_physical()
    if numbers is None or not numbers.dtype.is_integer():
        return same
    least, most = numbers.min(), numbers.max()
    assert isinstance(least, int)
    assert isinstance(most, int)
    if least == most and not numbers.has_nulls():
        return None, _again(pl.lit(least, pl.Int64), dtype)
    narrow = next((width for beyond, width in _WIDTHS if most - least < beyond), None)
    if narrow is None:
        return same
    return (numbers.cast(pl.Int64) - least).cast(narrow), _again(pl.col(name).cast(pl.Int64) + least, dtype)


def _thousandths(column: pl.Series) -> pl.Series | None:
    """Whole thousandths of a column of floats; None where that loses a bit of any."""
    scaled = column * _THOUSANDTHS
    if not scaled.is_between(-_EXACT, _EXACT).all():  # also where one is no number
        return None
    whole = scaled.round().cast(pl.Int64)
    again = whole.to_frame().select(_again(pl.first(), column.dtype)).to_series()
    below_zero = -float("inf")
    return whole if again.equals(column) and not (1.0 / column == below_zero).any() else None


def _again(numbers: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if dtype != pl.Float64:
        return numbers.cast(dtype)
    # Divided by a column: by one number Polars would multiply with one over it, which rounds twice.
    floats = numbers.cast(pl.Float64)
    return floats / (floats * 0.0 + _THOUSANDTHS)
