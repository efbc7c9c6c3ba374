"""Storms as the warehouse shows them: what has one cause, with all that it touched.

Not here: which violations are one storm (`metering.events.grouping`).
"""

from __future__ import annotations

import polars as pl

from metering.tables.schema import TIMESTAMP, Column, Table

_CLAUSE = "event catalogue: one cause is one alarm"

STORMS = Table(
    "storms",
    "Losses and silence on one feeder that began together, of several meters: one cause. Its members are the violations of its "
    "storm_id.",
    ("storm_id",),
    (
        Column("storm_id", pl.String, "Feeder, group of rules, and the span of time it began in", nullable=False),
        Column("feeder", pl.String, "Feeder", nullable=False),
        Column("storm", pl.String, "Group of rules, as their rows have it", nullable=False),
        Column("started_at", TIMESTAMP, "Start of its first member", "UTC", nullable=False),
        Column("last_started_at", TIMESTAMP, "Start of its last member", "UTC", nullable=False),
        Column("ended_at", TIMESTAMP, "End of its last member; null while one is open", "UTC"),
        Column("duration_s", pl.Int64, "From the first start to the last end", "s", _CLAUSE, minimum=0),
        Column("members", pl.Int32, "Meters", "", _CLAUSE, nullable=False, minimum=1),
        Column("open_members", pl.Int32, "Meters for which it is not over", nullable=False, minimum=0),
        Column("customers", pl.Int32, "Customers", nullable=False, minimum=1),
        Column("kva", pl.Float64, "Contract capacity of these customers", "kVA", minimum=0),
        Column("violations", pl.Int32, "Violations: a meter may lose several phases", nullable=False, minimum=1),
        Column("rules", pl.String, "Rules that were broken", nullable=False),
        Column("by_rule", pl.String, "Meters by rule, the most first: power_off 12, reading_missing 3", nullable=False),
        Column("date", pl.Date, "Local calendar date of started_at", nullable=False),
    ),
)
