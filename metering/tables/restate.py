"""What changed between two states of a table's partition: rows of `restatements`.

Not here: when a change is a restatement and not a day that goes on (`assets.batch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from metering.tables.charges import LINE_STATES
from metering.tables.evidence import RESTATEMENTS
from metering.tables.schema import Column, Table

_TOLERANCE = 1e-9
_WORDS = ("status",)


def restated(table: Table, before: pl.DataFrame, after: pl.DataFrame, at: datetime, cause: str) -> pl.DataFrame:
    """RESTATEMENTS of every figure, time and status of `table` that differs; floats by more than 1e-9 of the larger.

    A row that is on one side only differs from nulls. `at` is the data time of the change.
    """
    compared = [c.name for c in table.columns if c.name not in table.key and (c.dtype != pl.String or _is_status(c))]
    both = before.join(after, on=list(table.key), how="full", coalesce=True, suffix="_after")
    key = pl.concat_str([pl.concat_str(pl.lit(f"{k}="), pl.col(k).cast(pl.String)) for k in table.key], separator=", ")
    frames = [
        both.filter(_differ(name, table)).select(
            key.alias("key"),
            pl.lit(name).alias("column"),
            pl.col(name).cast(pl.String).alias("before"),
            pl.col(f"{name}_after").cast(pl.String).alias("after"),
        )
        for name in compared
    ]
    rows = pl.concat([RESTATEMENTS.empty().select("key", "column", "before", "after"), *frames])
    return RESTATEMENTS.conform(rows, table_name=table.name, restated_at=at, cause=cause)


def _is_status(column: Column) -> bool:
    """A word that says what a value is. How far a line of a bill is settled changes with time alone."""
    return column.name in _WORDS and column.allowed != LINE_STATES


def together(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """RESTATEMENTS of several runs in order, all of them: those of a figure at one data time are numbered on."""
    rows = pl.concat([RESTATEMENTS.empty(), *frames])
    figure = [name for name in RESTATEMENTS.key if name != "number"]
    return RESTATEMENTS.conform(rows.with_columns(number=pl.int_range(1, pl.len() + 1).over(figure)))


def _differ(name: str, table: Table) -> pl.Expr:
    before, after = pl.col(name), pl.col(f"{name}_after")
    unequal = before.ne_missing(after)
    if table.column(name).dtype != pl.Float64:
        return unequal
    larger = pl.max_horizontal(before.abs(), after.abs())
    return unequal & ((before - after).abs() > _TOLERANCE * larger).fill_null(True)
