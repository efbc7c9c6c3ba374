"""The warehouse's table of KPIs.

Here: its declaration. Not here: the KPIs (`metering/kpi/kpis.toml`), their rows (`metering.kpi`).
"""

from __future__ import annotations

import polars as pl

from metering.tables.schema import Column, Table

KPI = Table(
    "kpi",
    "The KPI tree. No data is never a pass.",
    ("period", "kpi_id", "scope"),
    (
        Column("period", pl.String, "Local day YYYY-MM-DD or month YYYY-MM", nullable=False),
        Column("kpi_id", pl.String, "KPI, as listed in docs/kpi.md", nullable=False),
        Column(
            "scope",
            pl.String,
            "Customer number, a group such as segment:large (docs/kpi.md), or * for all",
            nullable=False,
        ),
        Column("name_zh", pl.String, "Name in Chinese", nullable=False),
        Column("name_en", pl.String, "Name in English", nullable=False),
        Column("numerator", pl.Float64, "Numerator, in the KPI's own unit"),
        Column("denominator", pl.Float64, "Denominator, in the KPI's own unit"),
        Column("value", pl.Float64, "Value, in `unit`"),
        Column("unit", pl.String, "%, 1 for a pure number, or the unit of a quotient", nullable=False),
        Column("target", pl.Float64, "Target, in `unit`"),
        # null in parts that were made before these two were there
        Column("direction", pl.String, "Which side of the target is met", allowed=("at_least", "at_most")),
        Column("weight", pl.Float64, "The KPI's share where several are put together", minimum=0),
        Column("status", pl.String, "met, missed, or no_data", nullable=False, allowed=("met", "missed", "no_data")),
        Column(
            "coverage",
            pl.Float64,
            "Share of what should have been looked at that was",
            nullable=False,
            minimum=0,
            maximum=1,
        ),
    ),
)
