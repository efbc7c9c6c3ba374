"""A table as it was known at a time: restatements since then taken back, what was not over then left out.

Here: that alone, for any table. Not here: what a restatement is (`metering.tables.restate`), which rows there are.
"""

from __future__ import annotations

from datetime import datetime

import polars as pl

from metering.explain.reach import ends
from metering.tables.schema import Table


def key_text(table: Table) -> pl.Expr:
    """A row's key as restatements have it."""
    parts = [pl.concat_str(pl.lit(f"{name}="), pl.col(name).cast(pl.String)) for name in table.key]
    return pl.concat_str(parts, separator=", ")


def as_known(table: Table, rows: pl.DataFrame, restatements: pl.DataFrame, at: datetime, timezone: str) -> pl.DataFrame:
    """`rows` of `table` as they were known at the data time `at`.

    `restatements`: RESTATEMENTS of any tables. Rows of a time that was not over at `at` are left out; of the others
    every restated value is what it was before the first restatement after `at`. A row that only came by one is left
    out; one that went by one is there again, with what restatements tell of it.
    """
    over = ends(table, timezone)
    if over is not None:
        rows = rows.filter(over <= at)
    since = restatements.filter(pl.col("table_name") == table.name, pl.col("restated_at") > at)
    if since.is_empty():
        return rows
    first = since.sort("restated_at", "number").unique(("key", "column"), keep="first", maintain_order=True)
    before = first.pivot("column", index="key", values="before")
    changed = [name for name in before.columns if name in table.names]
    marks = first.pivot("column", index="key", values="table_name").select(
        "key", *(pl.col(name).is_not_null().alias(f"{name} changed") for name in changed)
    )
    told = before.join(marks, on="key")
    there = rows.with_columns(key_text(table).alias(" key"))
    both = there.join(told, left_on=" key", right_on="key", how="left", suffix=" before", maintain_order="left")
    known = both.with_columns(
        pl.when(pl.col(f"{name} changed").fill_null(False))
        .then(_typed(f"{name} before", table, name))
        .otherwise(pl.col(name))
        .alias(name)
        for name in changed
    )
    compared = [c.name for c in table.columns if c.name not in table.key and c.dtype != pl.String]
    touched = pl.any_horizontal(pl.col(f"{name} changed").fill_null(False) for name in changed)
    nothing = pl.all_horizontal(pl.col(name).is_null() for name in compared) if compared else pl.lit(False)
    known = known.filter(~(touched & nothing)).select(rows.columns)
    gone = told.join(there.select(pl.col(" key").alias("key")), on="key", how="anti")
    return pl.concat([known, _again(table, gone, changed, rows, over, at)])


def _typed(name: str, table: Table, column: str) -> pl.Expr:
    kind = table.column(column).dtype
    if kind == pl.Date:
        return pl.col(name).str.to_date("%Y-%m-%d", strict=False)
    if kind == pl.Boolean:
        return pl.col(name) == "true"
    if kind.is_temporal():
        return pl.col(name).str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", time_unit="us", strict=False)
    return pl.col(name).cast(kind, strict=False)


def _again(
    table: Table, gone: pl.DataFrame, changed: list[str], rows: pl.DataFrame, over: pl.Expr | None, at: datetime
) -> pl.DataFrame:
    """Rows that there were and are no more."""
    if gone.is_empty():
        return rows.clear()
    parts = pl.col("key").str.split(", ")
    keys = [_typed(" cell", table, name).alias(name) for name in table.key]
    frame = gone
    for number, (name, typed) in enumerate(zip(table.key, keys, strict=True)):
        cell = parts.list.get(number, null_on_oob=True).str.strip_prefix(f"{name}=")
        frame = frame.with_columns(cell.alias(" cell")).with_columns(typed).drop(" cell")
    values = [_typed(name, table, name).alias(name) for name in changed]
    frame = frame.with_columns(values)
    absent = [pl.lit(None, table.column(n).dtype).alias(n) for n in rows.columns if n not in (*table.key, *changed)]
    frame = frame.with_columns(absent).select(rows.columns)
    known = [name for name in changed if name in rows.columns]
    frame = frame.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in known))
    frame = frame.cast(rows.schema)
    return frame if over is None else frame.filter(over <= at)
