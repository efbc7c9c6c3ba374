"""The warehouse's tables of alarms: violations with what people said of them, and how alarms were handled.

Here: their declarations. Not here: what the stream writes (`lake`), the figures (`metering.events.feedback`,
`metering.kpi.alarms`).
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from metering.tables.lake import VIOLATIONS
from metering.tables.schema import TIMESTAMP, Column, Table

_HANDLING = "fault handling: accuracy = confirmed / (confirmed + false), handling rate = closed / confirmed"

ALARMS = replace(
    VIOLATIONS,
    meaning="Limit violations, last state of each, and what people said of them (alarm.feedback.v1).",
    columns=(
        *VIOLATIONS.columns,
        Column("raised_at", TIMESTAMP, "Event time of the reading that raised it first", "UTC"),
        Column("acknowledged_at", TIMESTAMP, "When somebody knew of it; null: nobody said so", "UTC"),
        Column("confirmed", pl.Boolean, "Whether it was one indeed; null: nobody said so; the last word counts"),
        Column("handled_at", TIMESTAMP, "When it was mended; null: nobody said so", "UTC"),
        Column("closed_at", TIMESTAMP, "When it was done with; null: nobody said so", "UTC"),
    ),
)

ALARM_HANDLING = Table(
    "alarm_handling",
    "How alarms that began in a period were handled, by rule and scope. Withdrawn ones count only where somebody has "
    "confirmed or refuted them.",
    ("period", "rule", "scope"),
    (
        Column("period", pl.String, "Local day YYYY-MM-DD or month YYYY-MM that the alarms began in", nullable=False),
        Column("rule", pl.String, "Rule; * for all", nullable=False),
        Column(
            "scope", pl.String, "Customer number, a group such as segment:large (docs/kpi.md), or * for all",
            nullable=False,
        ),
        Column("raised", pl.Int64, "Alarms", nullable=False, minimum=0),
        Column("confirmed", pl.Int64, "Those that were confirmed", nullable=False, minimum=0),
        Column("false_alarms", pl.Int64, "Those that were refuted", nullable=False, minimum=0),
        Column("handled", pl.Int64, "Confirmed ones that were mended", nullable=False, minimum=0),
        Column("closed", pl.Int64, "Confirmed ones that were closed", nullable=False, minimum=0),
        Column(
            "accuracy", pl.Float64, "confirmed / (confirmed + false_alarms) x 100; null: nobody said", "%", _HANDLING,
            minimum=0, maximum=100,
        ),
        Column(
            "handling_rate", pl.Float64, "closed / confirmed x 100; null: none was confirmed", "%", _HANDLING,
            minimum=0, maximum=100,
        ),
        Column(
            "ack_minutes_p50", pl.Float64, "Median of the time from raising to acknowledging", "min", minimum=0
        ),
        Column("repair_minutes_p50", pl.Float64, "Median of the time from raising to mending", "min", minimum=0),
    ),
)  # fmt: skip
