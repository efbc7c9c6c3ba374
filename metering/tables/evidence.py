"""Tables that tell how far the others can be trusted: reconciliation, what checks found, what was restated.

Here: their declarations. Not here: their rows (`reconcile`, `quality`, `restate`).
"""

from __future__ import annotations

import polars as pl

from metering.tables.schema import TIMESTAMP, Column, Table

_DATE = Column("date", pl.Date, "Local calendar date", nullable=False)

RECONCILIATION = Table(
    "reconciliation",
    "Does what the stream wrote equal what batch computes from the readings? One row for each day and table.",
    ("date", "table_name"),
    (
        _DATE,
        Column("table_name", pl.String, "Lake table", nullable=False),
        Column("stream_rows", pl.Int64, "Keys that the stream wrote", nullable=False, minimum=0),
        Column("batch_rows", pl.Int64, "Keys that batch computes", nullable=False, minimum=0),
        Column("differing_rows", pl.Int64, "Keys that are on one side only, or differ", nullable=False, minimum=0),
    ),
)

QUALITY_RESULTS = Table(
    "quality_results",
    "What checks found: one row for each day, table and rule. What blocks keeps the day of a table from being "
    "published; an error keeps the rows that fail it out; a warning marks them; info is only told.",
    ("date", "table_name", "rule"),
    (
        _DATE,
        Column("table_name", pl.String, "Table that was checked", nullable=False),
        Column(
            "rule", pl.String, "A validation of the settings, or an expectation of the declared columns", nullable=False
        ),
        Column(
            "severity",
            pl.String,
            "How much it keeps back",
            nullable=False,
            allowed=("info", "warning", "error", "blocking"),
        ),
        Column("failing_rows", pl.Int64, "Rows that fail it", nullable=False, minimum=0),
        Column("sample", pl.String, "Some of them, with meter (or key), time and value"),
    ),
)

RESTATEMENTS = Table(
    "restatements",
    "Values that were published for a time that was over, and have changed since.",
    ("table_name", "key", "restated_at", "column", "number"),
    (
        Column("table_name", pl.String, "Table", nullable=False),
        Column("key", pl.String, "Key of the row, as column=value, ...", nullable=False),
        Column("restated_at", TIMESTAMP, "Data time: the newest watermark when it was restated", "UTC", nullable=False),
        Column("column", pl.String, "Column that changed", nullable=False),
        Column("before", pl.String, "Value before; null: unknown, or no such row"),
        Column("after", pl.String, "Value after; null: unknown, or no such row"),
        Column("cause", pl.String, "What changed beneath it", nullable=False),
        Column(
            "number",
            pl.Int32,
            "Which restatement of the figure at that data time, from 1: an edit brings no new data",
            nullable=False,
            minimum=1,
            default=1,
        ),
    ),
)
