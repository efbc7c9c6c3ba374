"""Which of several records counts.

Records come late, twice and out of order, and all of them stay in the lake. Here: the last of each key, by the record's
own word first. Not here: reading them (`decode`).
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from metering.tables.records import RecordKind


def current(rows: pl.DataFrame, kind: RecordKind) -> pl.DataFrame:
    """One row for each of the kind's keys, sorted by it: the last by `kind.order`, then by when Kafka had it, then by
    its place in the log. Whatever order `rows` (the kind's lake table) are in, the answer is the same.
    """
    ordered = rows.sort(*kind.key, *kind.order_in_log, "source", "source_partition", nulls_last=False)
    return ordered.unique(list(kind.key), keep="last", maintain_order=True)


def broadcast(rows: pl.DataFrame, kind: RecordKind) -> pl.DataFrame:
    """What every worker knows of a broadcast kind: its `current` rows, and all of its revisions where it has some."""
    told = rows.filter(pl.col(kind.variant).is_in(kind.told)) if kind.told else rows
    return current(told, replace(kind, key=(*kind.key, *kind.revisions)))
