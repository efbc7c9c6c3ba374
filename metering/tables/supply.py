"""The warehouse's tables of supply voltage: qualification, EN 50160 weeks, unbalance, months and roll-ups.

Here: their declarations. Not here: the formulae (`metering.supply`), power factor (`warehouse`).
"""

from __future__ import annotations

import polars as pl

from metering.tables.lake import PHASES
from metering.tables.schema import Column, Table

PASS, FAIL, INCOMPLETE, NOT_OBSERVABLE, NO_DATA = "pass", "fail", "incomplete", "not_observable", "no_data"
_U = "GB/T 12325-2008"
_EN50160 = "EN 50160"
_UNBALANCE = "GB/T 15543"

_METER = Column("meter_id", pl.String, "Meter", nullable=False)
_CUSTOMER = Column("customer_no", pl.String, "Customer number, the only key of a customer", nullable=False)
_DATE = Column("date", pl.Date, "Local calendar date", nullable=False)
_PHASE = Column("phase", pl.String, "Phase (three-wire: a is uab, c is ucb)", nullable=False, allowed=PHASES)


def _minutes(name: str, meaning: str, maximum: float | None = None) -> Column:
    return Column(name, pl.Float64, meaning, "min", _U, nullable=False, minimum=0, maximum=maximum)


_OVER = _minutes("over_min", "Minutes above the upper limit")
_UNDER = _minutes("under_min", "Minutes below the lower limit")
_RATE = Column(
    "qualification_rate",
    pl.Float64,
    "(1 - (over + under) / monitored) x 100; null without monitored minutes",
    "%",
    _U,
    minimum=0,
    maximum=100,
)
_U_MIN_PCT = Column("u_min_pct", pl.Float64, "Lowest monitored voltage, of nominal", "%", _U, minimum=0)
_U_MAX_PCT = Column("u_max_pct", pl.Float64, "Highest monitored voltage, of nominal", "%", _U, minimum=0)


def _spread(span: str) -> Column:
    return Column(
        "spread_pct",
        pl.Float64,
        f"For 35 kV and above: |+dev| + |-dev| of the {span}'s extremes, of one sign the larger",
        "%",
        _U,
        minimum=0,
    )


VOLTAGE_DAILY = Table(
    "voltage_daily",
    "Voltage qualification of one meter's phase on one local day. Each reading weighs its interval.",
    ("meter_id", "date", "phase"),
    (
        _METER,
        _CUSTOMER,
        _DATE,
        _PHASE,
        _minutes("monitored_min", "Minutes with a voltage within the assessment band 0.70-1.20 Un", 1500),
        _OVER,
        _UNDER,
        _RATE,
        Column("u_min_v", pl.Float64, "Lowest monitored voltage, meter side", "V"),
        Column("u_max_v", pl.Float64, "Highest monitored voltage, meter side", "V"),
        _spread("day"),
        _U_MIN_PCT,
        _U_MAX_PCT,
        Column("u_min_primary_v", pl.Float64, "Lowest monitored voltage, primary side: meter side x pt_ratio", "V"),
        Column("u_max_primary_v", pl.Float64, "Highest monitored voltage, primary side: meter side x pt_ratio", "V"),
        Column(
            "tenmin_means",
            pl.Int32,
            "10-min means of the day, counted from local midnight, of enough of their minutes and above the limit of "
            "an interruption; null: the meter's interval is longer than 10 min",
            "",
            _EN50160,
            minimum=0,
            maximum=150,
        ),
        Column("tenmin_within_10", pl.Int32, "Those of them within +-10 % of nominal", "", _EN50160, minimum=0),
        Column("tenmin_within_15", pl.Int32, "Those of them within +10/-15 % of nominal", "", _EN50160, minimum=0),
    ),
)

VOLTAGE_WEEKLY = Table(
    "voltage_weekly",
    "10-min means of one meter's phase over an ISO week, Monday to Sunday by local time, after EN 50160: at most 5 % of "
    "them outside +-10 % of nominal, and none outside +10/-15 %. Means during interruptions do not count.",
    ("meter_id", "week", "phase"),
    (
        _METER,
        _CUSTOMER,
        Column("week", pl.Date, "The week's Monday, a local date", nullable=False),
        _PHASE,
        Column(
            "tenmin_means",
            pl.Int32,
            "10-min means of the week (1008 of a whole one); null: not observable",
            "",
            _EN50160,
            minimum=0,
            maximum=1020,
        ),
        Column(
            "within_10_pct",
            pl.Float64,
            "Share of the means within +-10 % of nominal; null without any",
            "%",
            _EN50160,
            minimum=0,
            maximum=100,
        ),
        Column(
            "within_15_pct",
            pl.Float64,
            "Share of the means within +10/-15 % of nominal; null without any",
            "%",
            _EN50160,
            minimum=0,
            maximum=100,
        ),
        Column(
            "verdict",
            pl.String,
            "pass, fail; incomplete: too few means of the week to pass, and none that fails it; not_observable: the "
            "meter's interval is longer than 10 min; no_data: not one mean",
            "",
            _EN50160,
            nullable=False,
            allowed=(PASS, FAIL, INCOMPLETE, NOT_OBSERVABLE, NO_DATA),
        ),
        Column(
            "reason", pl.String, "Why it is neither pass nor fail, or what the means are worth; null: nothing to say"
        ),
    ),
)


def _pct(name: str, meaning: str, source: str = _UNBALANCE) -> Column:
    return Column(name, pl.Float64, meaning, "%", source, minimum=0, maximum=100)


_METER_FORMULA = "meter event catalogue: (max - min) / max"
UNBALANCE_DAILY = Table(
    "unbalance_daily",
    "Unbalance of one meter on one local day: negative sequence, from the three line-to-line voltages, and apart from "
    "it (max - min) / max of phases, as meters tell it. Single-phase meters have none.",
    ("meter_id", "date"),
    (
        _METER,
        _CUSTOMER,
        _DATE,
        _pct(
            "negative_sequence_p95_pct",
            "Negative over positive sequence: the largest of the day's readings when the 5 % largest are put aside; "
            "null: see reason",
        ),
        _pct("negative_sequence_max_pct", "Negative over positive sequence: the largest of the day; null: see reason"),
        Column(
            "negative_sequence_values",
            pl.Int32,
            "Readings that tell it, one for each slot of the meter",
            nullable=False,
            minimum=0,
        ),
        _pct("meter_formula_max_pct", "Largest (max - min) / max of the phases' voltages", _METER_FORMULA),
        _pct(
            "current_max_pct",
            "Largest (max - min) / max of the phases' currents, where the largest of them tells something",
            _METER_FORMULA,
        ),
        Column(
            "p95_verdict",
            pl.String,
            "Whether the 95 % value is within the limit (2 %); null: it is not known",
            "",
            _UNBALANCE,
            allowed=(PASS, FAIL),
        ),
        Column(
            "max_verdict",
            pl.String,
            "Whether the largest is within the short-term limit (4 %); null: it is not known",
            "",
            _UNBALANCE,
            allowed=(PASS, FAIL),
        ),
        Column("reason", pl.String, "Why negative sequence is not known; null: it is"),
    ),
)


SCOPE_KINDS = ("meter", "customer", "segment", "industry", "voltage_level_kv", "feeder", "manager", "whole")

VOLTAGE_MONTHLY = Table(
    "voltage_monthly",
    "Voltage qualification of one local month, by meter and phase, and rolled up: phase-minutes of all meters of a "
    "scope together. Monitored minutes alone weigh.",
    ("month", "scope", "phase"),
    (
        Column("month", pl.Date, "First day of the local month", nullable=False),
        Column(
            "scope",
            pl.String,
            "meter:<meter_id>, a customer's number, a group such as feeder:10kV-01, or * for the whole scope",
            nullable=False,
        ),
        Column("scope_kind", pl.String, "Kind of the scope", nullable=False, allowed=SCOPE_KINDS),
        Column("phase", pl.String, "Phase of a meter; all: of all phases", nullable=False, allowed=(*PHASES, "all")),
        Column("meters", pl.Int32, "Meters with a voltage in the month", nullable=False, minimum=0),
        Column("days", pl.Int32, "Local days with a voltage", nullable=False, minimum=0, maximum=31),
        _minutes("monitored_min", "Minutes with a voltage within the assessment band 0.70-1.20 Un"),
        _OVER,
        _UNDER,
        _RATE,
        _U_MIN_PCT,
        _U_MAX_PCT,
        Column("u_min_primary_v", pl.Float64, "Lowest monitored voltage, primary side; of a meter alone", "V"),
        Column("u_max_primary_v", pl.Float64, "Highest monitored voltage, primary side; of a meter alone", "V"),
        _spread("month"),
        Column(
            "spread_verdict",
            pl.String,
            "For 35 kV and above: whether the spread is within its limit (10 %); of a group: of its worst phase",
            "",
            _U,
            allowed=(PASS, FAIL),
        ),
        Column("worst_meter_id", pl.String, "Meter of the lowest rate of a phase; of equal ones the first by id"),
        Column("worst_rate", pl.Float64, "Its rate", "%", _U, minimum=0, maximum=100),
    ),
)

SUPPLY = (VOLTAGE_DAILY, VOLTAGE_WEEKLY, VOLTAGE_MONTHLY, UNBALANCE_DAILY)
