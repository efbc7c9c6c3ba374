"""The tables of load control: execution of plans, each customer's day under a plan.

Here: declarations. Not here: plans themselves (`metering.tables.records`), what holds when (`metering.control`).
"""

from __future__ import annotations

import polars as pl

from metering.tables.schema import TIMESTAMP, Column, Table

KINDS = ("demand_response", "orderly_usage")
LEVELS = ("red", "orange", "yellow", "blue")
STATES = ("live", "final", "withdrawn")
ALARM_RULES = ("load_control_warning", "load_control_violation", "demand_warning", "capacity_warning")
"""What is raised about quarter-hours; rows of `[control.alarms]` in the settings."""

_LOAD_MANAGEMENT = "Measures for power load management, 2023"
_PLAN = Column("plan_id", pl.String, "Load-control plan", nullable=False)
_CUSTOMER = Column("customer_no", pl.String, "Customer number, the only key of a customer", nullable=False)
_KIND = Column("kind", pl.String, "Demand response comes first, orderly usage is the floor", "", _LOAD_MANAGEMENT,
               nullable=False, allowed=KINDS)  # fmt: skip
_LEVEL = Column("level", pl.String, "Warning band of the shortage; null: none is named", "", _LOAD_MANAGEMENT,
                allowed=LEVELS)  # fmt: skip

LOAD_CONTROL = Table(
    "load_control",
    "Execution of a load-control plan: one customer's quarter-hour. Append-only; the highest revision of a key is "
    "current.",
    ("plan_id", "customer_no", "window_end"),
    (
        _PLAN,
        _CUSTOMER,
        Column("window_end", TIMESTAMP, "End of the quarter-hour", "UTC", nullable=False),
        _KIND,
        _LEVEL,
        Column("state", pl.String, "live: the window is running; final: it is closed; withdrawn: the plan does not hold "
               "for it any more", nullable=False, allowed=STATES),
        Column("cap_kw", pl.Float64, "Mean power allowed, not below the protected load; null: no baseline to take the "
               "reduction from", "kW", minimum=0),
        Column("instructed_kw", pl.Float64, "Reduction asked for; null: no baseline", "kW", minimum=0),
        Column("protected_kw", pl.Float64, "Base load that is never cut; null: none", "kW", _LOAD_MANAGEMENT, minimum=0),
        Column("baseline_kw", pl.Float64, "Mean of the same quarter-hour on reference days; null: there is none", "kW"),
        Column("baseline_days", pl.Int32, "Reference days that the baseline is the mean of", nullable=False, minimum=0),
        Column("baseline_method", pl.String, "Method of the baseline, as the settings name it", nullable=False),
        Column("actual_kw", pl.Float64, "Mean power, so far while it is live; null: none known", "kW"),
        Column("projected_kw", pl.Float64, "Mean power at the window's end if it goes on as at as_of", "kW"),
        Column("achieved_kw", pl.Float64, "max(0, baseline - actual)", "kW", minimum=0),
        Column("compliant", pl.Boolean, "Whether power stayed at or under the cap; while live: will, as projected; null: "
               "not known"),
        Column("headroom_kw", pl.Float64, "Cap less projected power; below 0: the cap will be passed", "kW"),
        Column("meters", pl.Int32, "Main meters whose power is known", nullable=False, minimum=0),
        Column("meters_due", pl.Int32, "Main meters of the customer", nullable=False, minimum=0),
        Column("as_of", TIMESTAMP, "Up to when readings count; of one revision the later row is newer", "UTC",
               nullable=False),
        Column("plan_revision", pl.Int32, "The plan's revision that holds", nullable=False, minimum=0),
        Column("revision", pl.Int32, "Late readings folded in, those of days looked at for the baseline too, and plan revisions superseded",
               nullable=False, minimum=0),
        Column("date", pl.Date, "Local calendar date of the interval that the row ends", nullable=False),
    ),
)  # fmt: skip

LOAD_CONTROL_DAILY = Table(
    "load_control_daily",
    "A customer's local day under a plan, as it is settled: energy asked for and given, and windows kept.",
    ("plan_id", "customer_no", "date"),
    (
        _PLAN,
        _CUSTOMER,
        Column("date", pl.Date, "Local calendar date", nullable=False),
        _KIND,
        _LEVEL,
        Column("windows", pl.Int32, "Quarter-hours under the plan that are due", nullable=False, minimum=0),
        Column("known_windows", pl.Int32, "Those with a verdict: power of all meters, and a cap", nullable=False,
               minimum=0),
        Column("compliant_windows", pl.Int32, "Those at or under the cap", nullable=False, minimum=0),
        Column("compliance_rate", pl.Float64, "Compliant of known windows; null: none is known", "%", minimum=0,
               maximum=100),
        Column("baseline_kwh", pl.Float64, "Energy of the baseline", "kWh"),
        Column("actual_kwh", pl.Float64, "Energy drawn while the baseline is known", "kWh"),
        Column("instructed_kwh", pl.Float64, "Reduction asked for; null: no baseline", "kWh", minimum=0),
        Column("achieved_kwh", pl.Float64, "Reduction: sum of max(0, baseline - actual)", "kWh", minimum=0),
        Column("counted_kwh", pl.Float64, "Reduction that counts: at most what was asked for in each window", "kWh",
               minimum=0),
        Column("settled_kwh", pl.Float64, "Counted reduction that counts for no plan before this one (settings: "
               "control.settle_first): what overlapping plans ask for is settled once", "kWh", minimum=0),
        Column("offered_kwh", pl.Float64, "Reduction that the customer has taken on: what the plan asks for, before "
               "protected load is left out", "kWh", _LOAD_MANAGEMENT, minimum=0),
        Column("based_windows", pl.Int32, "Quarter-hours with a baseline", nullable=False, minimum=0),
        Column("available_windows", pl.Int32, "Those in which the load that could be cut was at least what was offered",
               nullable=False, minimum=0),
        Column("availability_rate", pl.Float64, "Available of quarter-hours with a baseline; null: none has one", "%",
               minimum=0, maximum=100),
        Column("execution_rate", pl.Float64, "Counted of instructed reduction; null: nothing was asked for", "%",
               minimum=0, maximum=100),
        Column("available_kw", pl.Float64, "Load that could be cut: mean of baseline less protected load", "kW",
               minimum=0),
        Column("baseline_method", pl.String, "Method of the baseline, as the settings name it", nullable=False),
        Column("baseline_days", pl.Int32, "Fewest reference days of any window", nullable=False, minimum=0),
        Column("answer", pl.String, "The customer's last answer to the plan; null: none",
               allowed=("accepted", "declined", "opted_out")),
        Column("answered_at", TIMESTAMP, "When it was given", "UTC"),
    ),
)  # fmt: skip

LOAD_CONTROL_SETTLEMENT = Table(
    "load_control_settlement",
    "A customer's plan as a whole, ready to be settled: what was offered, asked for and delivered, and how much of it "
    "counts. The sum of its days in load_control_daily.",
    ("plan_id", "customer_no"),
    (
        _PLAN,
        _CUSTOMER,
        _KIND,
        _LEVEL,
        Column("first_date", pl.Date, "First local day under the plan", nullable=False),
        Column("date", pl.Date, "Last local day under the plan so far", nullable=False),
        Column("days", pl.Int32, "Local days", nullable=False, minimum=1),
        *(LOAD_CONTROL_DAILY.column(name) for name in (
            "windows", "known_windows", "compliant_windows", "compliance_rate", "offered_kwh", "instructed_kwh",
            "achieved_kwh", "counted_kwh", "settled_kwh", "execution_rate", "based_windows", "available_windows",
            "availability_rate",
        )),
        Column("data_rate", pl.Float64, "Quarter-hours with a verdict, of those that are due", "%", minimum=0,
               maximum=100),
        *(LOAD_CONTROL_DAILY.column(name) for name in ("baseline_method", "baseline_days", "answer", "answered_at")),
    ),
)  # fmt: skip

CONTROLLABLE_LOAD = Table(
    "controllable_load",
    "How much of a day's peak load is equipped for control; customer_no * is the whole scope.",
    ("customer_no", "date"),
    (
        Column("customer_no", pl.String, "Customer number; * is the whole scope", nullable=False),
        Column("date", pl.Date, "Local calendar date", nullable=False),
        Column("p_max_kw", pl.Float64, "Largest quarter-hour mean power", "kW"),
        Column("controllable_kw", pl.Float64, "The same of control-equipped customers alone; 0: not equipped", "kW"),
    ),
)

CONTROL = (LOAD_CONTROL, LOAD_CONTROL_DAILY, LOAD_CONTROL_SETTLEMENT, CONTROLLABLE_LOAD)
"""Those that the warehouse has."""
