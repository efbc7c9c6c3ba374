"""The warehouse's tables: what analysts query, in DuckDB.

`daily_load` has one energy column for each time-of-use period that the settings name, so the tables are made by
`warehouse(periods)`. Times are UTC instants (TIMESTAMPTZ); `date` and `month` are local calendar dates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from metering.tables.alarms import (
    ALARM_HANDLING,
    ALARMS,
    METER_EVENTS_JOINED,
    METERING_FAULTS,
    REGISTER_DAILY,
    RULE_OBSERVABILITY,
)
from metering.tables.charges import BASES, CHARGES, PF_MEASURES, SUPPLY_MODES
from metering.tables.charges import POWER_FACTOR_MONTHLY as POWER_FACTOR_MONTHLY
from metering.tables.control import CONTROL
from metering.tables.evidence import QUALITY_RESULTS, RECONCILIATION, RESTATEMENTS
from metering.tables.kpi import KPI
from metering.tables.lists import CUSTOMER_LISTS
from metering.tables.notices import NOTICES
from metering.tables.rollups import SCOPE_CURVE, load_indices_table
from metering.tables.schema import TIMESTAMP, Column, Table
from metering.tables.storms import STORMS
from metering.tables.supply import SUPPLY
from metering.tables.supply import VOLTAGE_DAILY as VOLTAGE_DAILY

SEGMENTS = ("large", "sme", "important")
WIRINGS = ("3p4w", "3p3w", "1p")
MAIN = "main"
ROLES = (MAIN, "check", "sub")
SAMPLINGS = ("mean", "snapshot")
STATUSES = ("raw", "validated", "estimated", "edited", "missing")
STATUS_MEANING = (
    "validated: all readings are there and every check passed; raw: as it came though a check failed, which the reason "
    "names; estimated: wholly or partly filled or spread, or told as an estimate by its reading; edited: by a correction; "
    "missing: nothing is known"
)


def _customer(scope: bool = False) -> Column:
    meaning = "Customer number, the only key of a customer" + ("; * is the whole scope" if scope else "")
    return Column("customer_no", pl.String, meaning, nullable=False)


_DATE = Column("date", pl.Date, "Local calendar date", nullable=False)

CUSTOMERS = Table(
    "customers",
    "The registry of customers, as in registry/customers.csv. A customer may have several rows, one a period.",
    ("customer_no", "valid_from"),
    (
        _customer(),
        Column("name", pl.String, "Name", nullable=False),
        Column("segment", pl.String, "Segment", nullable=False, allowed=SEGMENTS),
        Column("industry", pl.String, "Industry"),
        Column("voltage_level_kv", pl.Float64, "Supply voltage level", "kV", nullable=False, minimum=0.1, maximum=1100),
        Column("contract_capacity_kva", pl.Float64, "Contract capacity", "kVA", nullable=False, minimum=0),
        Column("contract_demand_kw", pl.Float64, "Contract demand; null: none", "kW", minimum=0),
        Column(
            "pf_standard",
            pl.Float64,
            "Power-factor standard: 0.90, 0.85 or 0.80",
            "",
            PF_MEASURES,
            nullable=False,
            minimum=0.8,
            maximum=0.9,
        ),
        Column("tariff", pl.String, "Name of a tariff in the settings", nullable=False),
        Column("dual_supply", pl.Boolean, "Supplied from two sources", nullable=False),
        Column("feeder", pl.String, "Feeder"),
        Column("manager", pl.String, "Role or office that looks after the customer"),
        Column("controllable", pl.Boolean, "Equipped for load control", nullable=False),
        Column(
            "suspended_kva",
            pl.Float64,
            "Part of the contract capacity that is registered as suspended; null: none",
            "kVA",
            minimum=0,
            optional=True,
        ),
        Column(
            "protected_kw", pl.Float64, "Load never cut by load control; null: none", "kW", optional=True, minimum=0
        ),
        Column(
            "supply_mode",
            pl.String,
            "How energy is bought: by the utility as proxy, from a retailer, wholesale",
            nullable=False,
            allowed=SUPPLY_MODES,
            optional=True,
            default="proxy",
        ),
        Column(
            "basic_charge",
            pl.String,
            "What the basic charge goes by; null: the contract demand where there is one, else capacity",
            allowed=BASES,
            optional=True,
        ),
        Column("valid_from", pl.Date, "First local date of the row's period; null: from ever", optional=True),
        Column("valid_to", pl.Date, "Last local date of the row's period; null: still valid", optional=True),
    ),
)

METERS_IN_FILE = Table(
    "meters",
    "The registry of meters, as in registry/meters.csv. A meter may have several rows with separate validity.",
    ("meter_id", "valid_from"),
    (
        Column("meter_id", pl.String, "Meter", nullable=False),
        _customer(),
        Column("wiring", pl.String, "Wiring", nullable=False, allowed=WIRINGS),
        Column(
            "nominal_v",
            pl.Float64,
            "Nominal voltage, meter side (line to line for 3p3w)",
            "V",
            nullable=False,
            minimum=1,
        ),
        Column("pt_ratio", pl.Float64, "Voltage transformer ratio", nullable=False, minimum=0),
        Column("ct_ratio", pl.Float64, "Current transformer ratio", nullable=False, minimum=0),
        Column("rated_a", pl.Float64, "Rated (base) current, meter side", "A", nullable=False, minimum=0),
        Column("max_a", pl.Float64, "Maximum current, meter side", "A", nullable=False, minimum=0),
        Column("register_digits", pl.Int32, "Integer digits of the registers", nullable=False, minimum=1, maximum=15),
        Column(
            "interval_s", pl.Int32, "Reporting interval; divides a day", "s", nullable=False, minimum=1, maximum=86400
        ),
        Column("source_no", pl.Int32, "Supply source, 1 or 2", nullable=False, minimum=1, maximum=2),
        Column("valid_from", pl.Date, "First local date of validity", nullable=False),
        Column("valid_to", pl.Date, "Last local date of validity; null: still valid"),
        Column(
            "role",
            pl.String,
            "Main meters add up to the customer; check and sub meters are not added",
            nullable=False,
            allowed=ROLES,
            optional=True,
            default="main",
        ),
        Column(
            "sampling",
            pl.String,
            "Whether a reading's values are means over its interval or snapshots at its end",
            nullable=False,
            allowed=SAMPLINGS,
            optional=True,
            default="mean",
        ),
    ),
)
"""The file's columns; in `valid_from` and `valid_to` a local time may stand for a date."""

METERS = replace(
    METERS_IN_FILE,
    key=("meter_id", "valid_from_at"),
    columns=(
        *METERS_IN_FILE.columns,
        Column("valid_from_at", TIMESTAMP, "Instant at which validity begins", "UTC"),
        Column("valid_to_at", TIMESTAMP, "Instant at which validity ends; null: still valid", "UTC"),
    ),
)

DAILY_CURVE = Table(
    "daily_curve",
    "One row for each real quarter-hour of the local day (92, 96 or 100), summed over the customer's meters.",
    ("customer_no", "date", "point"),
    (
        _customer(),
        _DATE,
        Column(
            "point",
            pl.Int32,
            "Quarter-hour of the local day, from 1, in order of time",
            nullable=False,
            minimum=1,
            maximum=100,
        ),
        Column("window_end", TIMESTAMP, "End of the quarter-hour", "UTC", nullable=False),
        Column(
            "p_kw", pl.Float64, "Mean active power, import less export; of registers, their energy over the time", "kW"
        ),
        Column("q_kvar", pl.Float64, "Mean reactive power, import less export", "kvar"),
        Column("energy_kwh", pl.Float64, "Active energy drawn from the grid", "kWh"),
        Column("export_kwh", pl.Float64, "Active energy fed into the grid", "kWh"),
        Column("status", pl.String, STATUS_MEANING, nullable=False, allowed=STATUSES),
        Column("rule", pl.String, "The validation that failed, the estimation that was used, edited, or missing"),
        Column("reason", pl.String, "Why the status is not validated; names the meter where there are several"),
    ),
)

METER_DAILY = Table(
    "meter_daily",
    "One meter's local day: the sums of its quarter-hours, which every customer's figures are sums of.",
    ("meter_id", "date"),
    (
        Column("meter_id", pl.String, "Meter", nullable=False),
        _customer(),
        _DATE,
        Column("energy_kwh", pl.Float64, "Active energy drawn from the grid", "kWh"),
        Column("export_kwh", pl.Float64, "Active energy fed into the grid", "kWh"),
        Column("import_kvarh", pl.Float64, "Reactive import (lagging) energy", "kvarh"),
        Column("export_kvarh", pl.Float64, "Reactive export (leading) energy", "kvarh"),
        Column("p_max_kw", pl.Float64, "Largest quarter-hour mean power", "kW"),
        Column("points", pl.Int32, "Quarter-hours due", nullable=False, minimum=0),
        Column("known_points", pl.Int32, "Quarter-hours whose energy is known", nullable=False, minimum=0),
        *(
            Column(f"{status}_points", pl.Int32, f"Quarter-hours of status {status}", nullable=False, minimum=0)
            for status in ("validated", "raw", "estimated", "edited")
        ),
        Column("repeated_kw", pl.Float64, "The day's last known power", "kW"),
        Column(
            "repeated_points",
            pl.Int32,
            "Quarter-hours for which it has been the same, those of days before included",
            nullable=False,
            minimum=0,
        ),
        Column("zero_days", pl.Int32, "Days without energy in a row, this one included", nullable=False, minimum=0),
    ),
)


def _daily_load(periods: Sequence[str]) -> Table:
    tariff = tuple(
        Column(
            f"energy_{p}_kwh",
            pl.Float64,
            f"Energy drawn in the time-of-use period '{p}' of the customer's tariff",
            "kWh",
        )
        for p in periods
    )
    return Table(
        "daily_load",
        "Load indices of one customer's local day; customer_no * is the whole scope.",
        ("customer_no", "date"),
        (
            _customer(scope=True),
            _DATE,
            Column("energy_kwh", pl.Float64, "Active energy drawn from the grid", "kWh"),
            Column("export_kwh", pl.Float64, "Active energy fed into the grid", "kWh"),
            Column("p_max_kw", pl.Float64, "Largest quarter-hour mean power", "kW"),
            Column("p_max_at", TIMESTAMP, "End of the first quarter-hour with p_max_kw", "UTC"),
            Column("p_min_kw", pl.Float64, "Smallest quarter-hour mean power", "kW"),
            Column("p_min_at", TIMESTAMP, "End of the first quarter-hour with p_min_kw", "UTC"),
            Column("p_mean_kw", pl.Float64, "Mean power", "kW"),
            Column("load_factor", pl.Float64, "Pmean / Pmax; null unless Pmax > 0"),
            Column("min_rate", pl.Float64, "Pmin / Pmax; null unless Pmax > 0"),
            Column("peak_valley_kw", pl.Float64, "Pmax - Pmin", "kW", minimum=0),
            Column("peak_valley_rate", pl.Float64, "(Pmax - Pmin) / Pmax; null unless Pmax > 0", minimum=0),
            Column("demand_max_kw", pl.Float64, "Maximum demand: 15-min mean of active power", "kW"),
            Column("demand_basis", pl.String, "sliding by 1 min, or block of 15 min", allowed=("sliding", "block")),
            *tariff,
            Column(
                "completeness",
                pl.Float64,
                "Readings received / readings due; null: none is due yet",
                minimum=0,
                maximum=1,
            ),
        ),
    )


FORECAST = Table(
    "forecast",
    "Day-ahead load forecast, one row for each quarter-hour; customer_no * is the whole scope.",
    ("customer_no", "issued_at", "target"),
    (
        _customer(scope=True),
        Column("issued_at", TIMESTAMP, "Data time of issue: local midnight of the target day", "UTC", nullable=False),
        Column("target", TIMESTAMP, "End of the quarter-hour that is forecast", "UTC", nullable=False),
        Column("p_kw", pl.Float64, "Forecast mean power", "kW"),
        Column("p10_kw", pl.Float64, "10 % quantile", "kW"),
        Column("p90_kw", pl.Float64, "90 % quantile", "kW"),
        Column("model", pl.String, "What made it", nullable=False),
    ),
)

FORECAST_ACCURACY = Table(
    "forecast_accuracy",
    "Accuracy of a day's forecast against the daily curve.",
    ("customer_no", "date"),
    (
        _customer(scope=True),
        _DATE,
        Column(
            "grid_accuracy", pl.Float64, "[1 - sqrt(mean(((Pf - Pa) / Pa)^2))] x 100", "%", "grid assessment formula"
        ),
        Column("mape_accuracy", pl.Float64, "(1 - mean(|Pf - Pa| / |Pa|)) x 100", "%"),
        Column("capacity_accuracy", pl.Float64, "(1 - RMSE / contract capacity) x 100", "%"),
        Column("wape", pl.Float64, "sum |Pf - Pa| / sum |Pa| x 100", "%", minimum=0),
        Column("skill", pl.Float64, "1 - MAE / MAE of same weekday last week"),
        Column("points", pl.Int32, "Points compared", nullable=False, minimum=0),
        Column(
            "left_out", pl.Int32, "Points left out of ratios: |Pa| under 1 % of the mean", nullable=False, minimum=0
        ),
        Column("model", pl.String, "What made the forecast", nullable=False),
    ),
)


def warehouse(periods: Sequence[str]) -> dict[str, Table]:
    """All tables of the warehouse; `periods` are the time-of-use periods that the settings name."""
    tables = (
        CUSTOMERS, METERS, CUSTOMER_LISTS, DAILY_CURVE, METER_DAILY, _daily_load(periods), SCOPE_CURVE,
        load_indices_table(periods), *SUPPLY, POWER_FACTOR_MONTHLY, *CHARGES, ALARMS, STORMS, ALARM_HANDLING,
        METER_EVENTS_JOINED, METERING_FAULTS, REGISTER_DAILY, RULE_OBSERVABILITY, NOTICES, *CONTROL, FORECAST,
        FORECAST_ACCURACY, KPI, RECONCILIATION, QUALITY_RESULTS, RESTATEMENTS,
    )  # fmt: skip
    return {t.name: t for t in tables}
