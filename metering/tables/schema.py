"""How a table is declared. One declaration feeds Polars, Arrow, DuckDB, expectations and the documentation.

Here: the `Column` and `Table` types. Not here: the tables themselves (`lake`, `warehouse`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import polars as pl

TIMESTAMP = pl.Datetime("us", "UTC")


def no_rows(schema: pl.Schema) -> pl.DataFrame:
    """A frame without rows. Made once for each schema, for that costs more than many a step of the stream."""
    return _made(tuple(schema.items())).clone()


@cache
def _made(columns: tuple[tuple[str, pl.DataType], ...]) -> pl.DataFrame:
    return pl.DataFrame(schema=dict(columns))


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type, what it means, and what values are sane.

    `unit` is the physical unit ("" when none); `source` names the standard and clause the meaning comes from.
    `minimum` and `maximum` are inclusive; `allowed` lists the values of an enumeration. A file may lack an `optional`
    column; where it or a cell of it is empty, `default` holds.
    """

    name: str
    dtype: pl.DataType | type[pl.DataType]
    meaning: str
    unit: str = ""
    source: str = ""
    nullable: bool = True
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[str, ...] = ()
    optional: bool = False
    default: str | float | None = None

    @property
    def comment(self) -> str:
        """The text shown to an analyst: meaning, unit, allowed values, source."""
        unit = f" [{self.unit}]" if self.unit else ""
        allowed = f"; one of {', '.join(self.allowed)}" if self.allowed else ""
        source = f" ({self.source})" if self.source else ""
        return f"{self.meaning}{unit}{allowed}{source}"


def finite(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with null for every float that is no finite number: what left the range of a float is not known."""
    floats = pl.col([name for name, dtype in frame.schema.items() if dtype.is_float()])
    return frame.with_columns(pl.when(floats.is_finite()).then(floats))


@dataclass(frozen=True)
class Table:
    """A named set of columns with a key. `key` columns are unique together in the table's current state."""

    name: str
    meaning: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"table {self.name} declares a column twice: {names}")
        missing = set(self.key) - set(names)
        if missing:
            raise ValueError(f"table {self.name}: key columns {sorted(missing)} are not declared")

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @cached_property
    def schema(self) -> pl.Schema:
        """The Polars schema, in declared order."""
        return pl.Schema({column.name: column.dtype for column in self.columns})

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def allowing(self, **values: Iterable[str]) -> Table:
        """This table with columns that allow the values given, where those depend on settings."""
        columns = (replace(c, allowed=tuple(values[c.name])) if c.name in values else c for c in self.columns)
        return replace(self, columns=tuple(columns))

    def empty(self) -> pl.DataFrame:
        return no_rows(self.schema)

    def conform(self, frame: pl.DataFrame, **extra: Any) -> pl.DataFrame:
        """`frame` with exactly this table's columns, in order and type; absent ones are from `extra`, or their default."""
        present = frame.schema

        def conformed(column: Column) -> pl.Expr:
            name = column.name
            if name not in extra and present.get(name) == column.dtype:
                return pl.col(name)  # as nearly all are: a cast would cost as much again
            absent = pl.lit(extra.get(name, column.default))
            value = absent if name in extra or name not in present else pl.col(name)
            return value.cast(column.dtype).alias(name)

        return frame.select(map(conformed, self.columns))

    def ordered(self, frame: pl.DataFrame) -> pl.DataFrame:
        """`frame` sorted by the key; to see that it is so already costs much less than to sort."""
        later = pl.lit(False)
        for name in reversed(self.key):
            before = pl.col(name).shift(1)
            later = (pl.col(name) > before) | ((pl.col(name) == before) & later)
        in_order = frame.select(later.fill_null(False).slice(1).all()).item()
        return frame if in_order else frame.sort(self.key)


SOURCE = (
    Column("logged_at", TIMESTAMP, "The Kafka message's own timestamp; null for files", "UTC"),
    Column("source", pl.String, "Topic or file the row came from", nullable=False),
    Column(
        "source_partition",
        pl.Int32,
        "Kafka partition; number of the sub-folder, 0: none, for files",
        nullable=False,
        minimum=0,
    ),
    Column("source_offset", pl.Int64, "Kafka offset; row number, from 0, for files", nullable=False, minimum=0),
    Column("source_row", pl.Int32, "Row within the Kafka message, from 0; 0 for files", nullable=False, minimum=0),
    Column(
        "log_offset",
        pl.Int64,
        "Place in the shard's log: the Kafka offset; number among all rows of a folder's files (null: older than this)",
        minimum=0,
    ),
)
"""Where a row of the lake came from; readings, rejects and records have them."""
