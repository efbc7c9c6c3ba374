"""The warehouse's tables of alarms: violations with what people said of them, how alarms were handled, what meters say
themselves, and what readings cannot show.

Here: their declarations. Not here: what the stream writes (`lake`), the figures (`metering.events.feedback`,
`metering.events.meter_events`, `metering.events.observable`, `metering.kpi.alarms`).
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from metering.tables.lake import VIOLATIONS
from metering.tables.schema import TIMESTAMP, Column, Table

_HANDLING = "fault handling: accuracy = confirmed / (confirmed + false), handling rate = closed / confirmed"

ALARMS = replace(
    VIOLATIONS,
    meaning="Limit violations, last state of each, and what people said of them (alarm.feedback.v1); storm_id is null "
    "where there is no storm.",
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

METER_EVENTS_JOINED = Table(
    "meter_events",
    "Events that meters report themselves (meter.events.v1), beside the violations that are derived from readings.",
    ("meter_id", "at", "code", "violation_id"),
    (
        Column("meter_id", pl.String, "Meter", nullable=False),
        Column("customer_no", pl.String, "Customer number; null: the registry does not know the meter"),
        Column("code", pl.String, "The meter's code; empty: derived only", nullable=False),
        Column("name_zh", pl.String, "What it is, in Chinese; null: the settings do not know the code"),
        Column("name_en", pl.String, "What it is, in English"),
        Column("rule", pl.String, "The limit rule that sees the same in readings; null: none does"),
        Column("at", TIMESTAMP, "Start, as the meter says; derived only: start of the violation", "UTC", nullable=False),
        Column("cleared_at", TIMESTAMP, "End; null: it lasts, or has none", "UTC"),
        Column("violation_id", pl.String, "The violation that is the same; empty: none is", nullable=False),
        Column(
            "found", pl.String, "Who saw it: both, the meter alone, or readings alone",
            nullable=False, allowed=("both", "device_only", "derived_only"),
        ),
        Column("detail", pl.String, "What the meter says besides"),
        Column("date", pl.Date, "Local calendar date of at", nullable=False),
    ),
)  # fmt: skip

RULE_OBSERVABILITY = Table(
    "rule_observability",
    "Which limit rules a meter's readings can show. What is not observable is not absent.",
    ("meter_id", "rule"),
    (
        Column("meter_id", pl.String, "Meter", nullable=False),
        Column("customer_no", pl.String, "Customer number", nullable=False),
        Column("rule", pl.String, "Rule that is on for the meter, as listed in docs/rules.md", nullable=False),
        Column("observable", pl.Boolean, "Whether an event that lasts for the hold time shows", nullable=False),
        Column("reason", pl.String, "Why it is not observable"),
        Column("hold_s", pl.Float64, "Hold time of the rule", "s", nullable=False, minimum=0),
        Column("interval_s", pl.Int32, "Reporting interval of the meter", "s", nullable=False, minimum=1),
        Column(
            "detection_delay_s", pl.Float64, "Longest time from the start of an event to its raising, when readings "
            "come at once; of one that is not observable, if it lasts long enough; null: never", "s", minimum=0,
        ),
    ),
)  # fmt: skip

REGISTER_DAILY = Table(
    "register_daily",
    "What a meter's registers counted on a local day, import less export, against the integral of its power over the same "
    "time: between register readings whose whole time has power.",
    ("meter_id", "date"),
    (
        Column("meter_id", pl.String, "Meter", nullable=False),
        Column("customer_no", pl.String, "Customer number", nullable=False),
        Column("date", pl.Date, "Local calendar date", nullable=False),
        Column("hours", pl.Float64, "Time of the day that both are known for", "h", nullable=False, minimum=0),
        Column("registered_kwh", pl.Float64, "What the registers counted in it", "kWh", nullable=False),
        Column("power_kwh", pl.Float64, "Integral of power over it", "kWh", nullable=False),
        Column("ratio", pl.Float64, "registered_kwh / power_kwh; null where there was no power drawn"),
        Column("count_kwh", pl.Float64, "One count of the register: what a day may be off by", "kWh", minimum=0),
    ),
)  # fmt: skip

METERING_FAULTS = Table(
    "metering_faults",
    "Energy that a meter did not count while it missed a voltage or a current, stood still, or counted less than its "
    "power for days on end (register_short, a sign of theft), estimated with bounds.",
    ("violation_id",),
    (
        Column(
            "violation_id", pl.String, "The violation that is the fault; of register_short, which only days tell, a name of "
            "its own that violations do not have", nullable=False,
        ),
        Column("meter_id", pl.String, "Meter", nullable=False),
        Column("customer_no", pl.String, "Customer number", nullable=False),
        Column("rule", pl.String, "The rule that was broken, or register_short", nullable=False),
        Column("phase", pl.String, "Phase, or total", nullable=False),
        Column("started_at", TIMESTAMP, "Start", "UTC", nullable=False),
        Column("ended_at", TIMESTAMP, "End; null: it lasts, and the figures go up to the newest watermark", "UTC"),
        Column(
            "method", pl.String, "Where lost_kwh comes from: the same quarter-hours of days without a fault, or the other "
            "phases' power, or the integral of power; null: none of them tells",
            allowed=("reference_days", "other_phases", "power_integral"),
        ),
        Column("measured_kwh", pl.Float64, "What was measured meanwhile", "kWh"),
        Column("lost_kwh", pl.Float64, "What was not counted", "kWh", minimum=0),
        Column("low_kwh", pl.Float64, "The lesser of both methods, or by how far power may be off; null: no bound", "kWh", minimum=0),
        Column("high_kwh", pl.Float64, "The greater of both methods, or by how far power may be off; null: no bound", "kWh", minimum=0),
        Column("reference_days_kwh", pl.Float64, "By reference days; null: a quarter-hour has none", "kWh", minimum=0),
        Column(
            "other_phases_kwh", pl.Float64, "By the other phases, load taken as even; null: all phases were lost", "kWh",
            minimum=0,
        ),
        Column("power_kwh", pl.Float64, "Integral of power meanwhile, where the registers stood or were short", "kWh"),
        Column("days", pl.Int32, "Of register_short: days that were", minimum=1),
        Column("evidence", pl.String, "Of register_short: each day, and what its registers counted of the integral of power"),
    ),
)  # fmt: skip
