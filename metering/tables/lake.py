"""The lake's tables: what the stream writes, and what batch work starts from.

`date` is the partition: the local calendar date of the interval that the row ends (00:00 belongs to the day
before). It is a folder name in the lake, a column everywhere else. Times are UTC.
"""

from __future__ import annotations

import polars as pl

from metering.tables.control import LOAD_CONTROL
from metering.tables.notices import NOTICES
from metering.tables.notices import SEVERITIES as SEVERITIES
from metering.tables.records import KINDS
from metering.tables.schema import SOURCE, TIMESTAMP, Column, Table

PHASES = ("a", "b", "c")
VOLTAGES = ("ua_v", "ub_v", "uc_v")
CURRENTS = ("ia_a", "ib_a", "ic_a")
REGISTERS = ("import_kwh", "export_kwh", "import_kvarh", "export_kvarh")
LINE_VOLTAGES = ("uab_v", "ubc_v", "uca_v")
CHAIN = "register_chain"
"""Readings with another number, or of which only one has a number, have no register step between them."""
MEASURED = (*VOLTAGES, *LINE_VOLTAGES, *CURRENTS, "p_kw", "q_kvar", *REGISTERS, CHAIN)

ESTIMATED = 1 << 16
"""Bit of a reading's `status`: an estimate of whoever exported it. Above the words of 8 and 16 bits that meters send."""

WINDOW_S = 900
MOST_KWH = 2.0**50 / 1_000_000
MOST_KW = MOST_KWH * 3600 / WINDOW_S
"""Energy of a window and power beyond which there is none: of all the world's power stations together."""

_METER = Column("meter_id", pl.String, "Meter, as in the registry", nullable=False)
_CUSTOMER = Column("customer_no", pl.String, "Customer number, the only key of a customer", nullable=False)
_DATE = Column("date", pl.Date, "Local calendar date of the interval that the row ends", nullable=False)
_REVISION = Column("revision", pl.Int32, "Higher replaces lower for the same key", nullable=False, minimum=0)


def _measured() -> tuple[Column, ...]:
    voltage = tuple(
        Column(f"u{p}_v", pl.Float64, f"Voltage of phase {p}, meter side (three-wire: uab, absent, ucb)", "V")
        for p in PHASES
    )
    current = tuple(Column(f"i{p}_a", pl.Float64, f"Current of phase {p}, meter side", "A") for p in PHASES)
    line = tuple(
        Column(name, pl.Float64, f"Voltage {name[1]} to {name[2]}, meter side, where the meter tells it", "V")
        for name in LINE_VOLTAGES
    )
    return (
        *voltage,
        *line,
        *current,
        Column("p_kw", pl.Float64, "Active power, three-phase total, primary side, import positive", "kW"),
        Column("q_kvar", pl.Float64, "Reactive power, three-phase total, primary side, import positive", "kvar"),
        Column("import_kwh", pl.Float64, "Cumulative register, active import, primary side", "kWh"),
        Column("export_kwh", pl.Float64, "Cumulative register, active export, primary side", "kWh"),
        Column("import_kvarh", pl.Float64, "Cumulative register, reactive import, primary side", "kvarh"),
        Column("export_kvarh", pl.Float64, "Cumulative register, reactive export, primary side", "kvarh"),
        Column(
            CHAIN,
            pl.Float64,
            "Number of the chain that the registers belong to, where they are sums of interval energies: no energy "
            "leads from one chain to another; null: the meter's own registers",
        ),
    )


READINGS = Table(
    "readings",
    "Every accepted reading, as it came. Of two readings of one meter and ts the higher offset counts.",
    ("source", "source_partition", "source_offset", "source_row"),
    (
        _METER,
        Column("ts", TIMESTAMP, "End of the interval that the reading describes", "UTC", nullable=False),
        *_measured(),
        Column("status", pl.Int64, "Status bit field of the meter; bit 16 (65,536): an estimate"),
        _CUSTOMER,
        *SOURCE,
        _DATE,
    ),
)

REJECTS = Table(
    "rejects",
    "Every reading or record that was not accepted, with its original bytes and the reason. A reading that was replayed "
    "since stays here, and stands in readings under the same key.",
    ("source", "source_partition", "source_offset", "source_row"),
    (
        Column(
            "reason",
            pl.String,
            "Why it was rejected",
            nullable=False,
            allowed=(
                "unparsable",
                "wrong_type",
                "missing_meter",
                "missing_time",
                "implausible_time",
                "unknown_meter",
                "future_time",
                "non_finite",
                "missing_field",
                "bad_value",
                "unknown_type",
            ),
        ),
        Column("detail", pl.String, "What exactly was wrong", nullable=False),
        Column("meter_id", pl.String, "Meter, where it could be read"),
        Column("ts", TIMESTAMP, "Time of the reading, where it could be read", "UTC"),
        Column("payload", pl.Binary, "The original bytes", nullable=False),
        Column("content_type", pl.String, "How the payload is encoded", nullable=False),
        Column("message_key", pl.Binary, "Key of the Kafka message"),
        *SOURCE,
        _DATE,
    ),
)

WINDOWS = Table(
    "windows",
    "15-minute windows (end - 15 min, end] of one meter. Append-only; the highest revision of a key is current.",
    ("meter_id", "window_end"),
    (
        _METER,
        _CUSTOMER,
        Column("window_end", TIMESTAMP, "End of the window", "UTC", nullable=False),
        Column(
            "n", pl.Int32, "Slots of the meter that end in the window and have a reading", nullable=False, minimum=0
        ),
        Column("n_expected", pl.Int32, "Slots of the meter that end in the window", nullable=False, minimum=0),
        Column("p_mean_kw", pl.Float64, "Mean active power over the readings present", "kW"),
        Column("p_max_kw", pl.Float64, "Largest active power reading", "kW"),
        Column("p_min_kw", pl.Float64, "Smallest active power reading", "kW"),
        Column("q_mean_kvar", pl.Float64, "Mean reactive power over the readings present", "kvar"),
        Column(
            "energy_kwh",
            pl.Float64,
            "Import less export: from the registers when both edges are known, "
            "else from power over the readings present",
            "kWh",
        ),
        Column(
            "energy_basis",
            pl.String,
            "Where energy_kwh comes from: registers, power, or readings that reach beyond the window, spread evenly",
            allowed=("registers", "power", "spread"),
        ),
        Column(
            "covered_min",
            pl.Float64,
            "Minutes of the window that readings stand for",
            "min",
            minimum=0,
            maximum=WINDOW_S / 60,
        ),
        Column("reason", pl.String, "Why a value is not what the meter says (null: it is)"),
        Column("import_kvarh", pl.Float64, "Difference of the reactive import register", "kvarh", minimum=0),
        Column("export_kvarh", pl.Float64, "Difference of the reactive export register", "kvarh", minimum=0),
        Column(
            "q_import_kvarh",
            pl.Float64,
            "Positive part of q_kvar integrated over the readings present",
            "kvarh",
            minimum=0,
        ),
        Column(
            "q_export_kvarh",
            pl.Float64,
            "Negative part of q_kvar integrated over the readings present",
            "kvarh",
            minimum=0,
        ),
        Column("ua_mean_v", pl.Float64, "Mean voltage, phase a", "V"),
        Column("ub_mean_v", pl.Float64, "Mean voltage, phase b", "V"),
        Column("uc_mean_v", pl.Float64, "Mean voltage, phase c", "V"),
        Column("u_min_v", pl.Float64, "Lowest voltage of any phase", "V"),
        Column("u_max_v", pl.Float64, "Highest voltage of any phase", "V"),
        Column("u_dev_min_pct", pl.Float64, "Lowest voltage deviation (U - Un) / Un", "%", "GB/T 12325-2008"),
        Column("u_dev_max_pct", pl.Float64, "Highest voltage deviation (U - Un) / Un", "%", "GB/T 12325-2008"),
        Column(
            "u_monitored_min", pl.Float64, "Monitored minutes, summed over phases", "min", "GB/T 12325-2008", minimum=0
        ),
        Column(
            "u_over_min",
            pl.Float64,
            "Minutes above the upper limit, summed over phases",
            "min",
            "GB/T 12325-2008",
            minimum=0,
        ),
        Column(
            "u_under_min",
            pl.Float64,
            "Minutes below the lower limit, summed over phases",
            "min",
            "GB/T 12325-2008",
            minimum=0,
        ),
        Column(
            "pf", pl.Float64, "Power factor |P| / sqrt(P^2 + Q^2) of the means; null at P = Q = 0", minimum=0, maximum=1
        ),
        _REVISION,
        _DATE,
    ),
)

VIOLATIONS = Table(
    "violations",
    "State changes of limit violations. Append-only; the highest revision of a violation_id is current.",
    ("violation_id",),
    (
        Column("violation_id", pl.String, "Function of meter, rule, phase and start", nullable=False),
        Column(
            "state",
            pl.String,
            "State after this change",
            nullable=False,
            allowed=("raised", "updated", "cleared", "withdrawn"),
        ),
        _REVISION,
        Column("rule", pl.String, "The rule that was broken, as listed in docs/rules.md", nullable=False),
        Column("phase", pl.String, "Phase, register, or total", nullable=False, allowed=(*PHASES, "total", *REGISTERS)),
        Column("started_at", TIMESTAMP, "Start of the first interval of the run that raised it", "UTC", nullable=False),
        Column("ended_at", TIMESTAMP, "Start of the first interval of the run that cleared it", "UTC"),
        Column("value", pl.Float64, "Most extreme value since started_at, in `unit`", nullable=False),
        Column("limit_value", pl.Float64, "The limit that was broken, in `unit`", nullable=False),
        Column("unit", pl.String, "Unit of value and limit_value (1: a pure number)", nullable=False),
        Column("severity", pl.String, "How bad it is", nullable=False, allowed=SEVERITIES),
        _METER,
        _CUSTOMER,
        Column("customer_name", pl.String, "Name of the customer"),
        Column("feeder", pl.String, "Feeder of the customer"),
        Column("manager", pl.String, "Role or office that looks after the customer"),
        Column("quantity", pl.String, "What was measured: ua, uab, ia, p, q, s, pf"),
        Column("nominal", pl.Float64, "What the limit is a fraction of, in `unit`; null: of nothing"),
        Column("percent", pl.Float64, "value in percent of nominal", "%"),
        Column(
            "duration_s",
            pl.Int64,
            "From started_at to ended_at, or to `at` of one that is open; null where it is withdrawn",
            "s",
            minimum=0,
        ),
        Column("event_class", pl.String, "Class of the message, as its rule has it"),
        Column(
            "storm_id",
            pl.String,
            "Feeder, group of rules and span of time: what begins together on one feeder has one cause",
        ),
        Column("advice_zh", pl.String, "What to do, in Chinese"),
        Column("advice_en", pl.String, "What to do, in English"),
        Column("message_zh", pl.String, "What happened, in Chinese", nullable=False),
        Column("message_en", pl.String, "What happened, in English", nullable=False),
        Column("ruleset", pl.String, "The version of the rule that judged it", nullable=False),
        Column(
            "at",
            TIMESTAMP,
            "Event time of the reading that caused this change; of the newest one, where a late one did while it goes on",
            "UTC",
            nullable=False,
        ),
        Column(
            "occurrences",
            pl.Int32,
            "How often it was raised: more than once where it came back within its rule's flicker_s",
            minimum=1,
        ),
        _DATE,
    ),
)

_VOLTAGE_SOURCE = "GB/T 12325-2008"
_PF_SOURCE = "Measures for power-factor tariff adjustment, 1983"


def _compliance_columns(prefix: str, span: str) -> tuple[Column, ...]:
    return (
        Column(
            f"{prefix}_monitored_min",
            pl.Float64,
            f"Monitored voltage minutes, {span}, over phases",
            "min",
            _VOLTAGE_SOURCE,
            minimum=0,
        ),
        Column(
            f"{prefix}_over_min",
            pl.Float64,
            f"Minutes above the upper limit, {span}",
            "min",
            _VOLTAGE_SOURCE,
            minimum=0,
        ),
        Column(
            f"{prefix}_under_min",
            pl.Float64,
            f"Minutes below the lower limit, {span}",
            "min",
            _VOLTAGE_SOURCE,
            minimum=0,
        ),
        Column(
            f"{prefix}_qualification_rate",
            pl.Float64,
            f"Voltage qualification rate, {span}; null without monitored minutes",
            "%",
            _VOLTAGE_SOURCE,
            minimum=0,
            maximum=100,
        ),
        Column(f"{prefix}_active_kwh", pl.Float64, f"Active energy of the closed windows, {span}", "kWh"),
        Column(f"{prefix}_import_kvarh", pl.Float64, f"Reactive import energy, {span}", "kvarh", minimum=0),
        Column(f"{prefix}_export_kvarh", pl.Float64, f"Reactive export energy, {span}", "kvarh", minimum=0),
        Column(f"{prefix}_power_factor", pl.Float64, f"Power factor, {span}", "", _PF_SOURCE, minimum=0, maximum=1),
    )


COMPLIANCE = Table(
    "compliance",
    "Voltage qualification and power factor of one meter, day-to-date and month-to-date, from its closed windows. "
    "Append-only; the highest revision of a key is current.",
    ("meter_id", "date"),
    (
        _METER,
        _CUSTOMER,
        _DATE,
        Column("as_of", TIMESTAMP, "End of the newest window of the day", "UTC", nullable=False),
        *_compliance_columns("day", "day to date"),
        *_compliance_columns("month", "month to date"),
        Column(
            "kvar_needed",
            pl.Float64,
            "Capacitors that lift the month's power factor so far to the customer's standard; 0: it is met",
            "kvar",
            "P (tan phi1 - tan phi2)",
            minimum=0,
        ),
        Column(
            "projected_power_factor",
            pl.Float64,
            "Power factor at the month's end if it goes on as so far",
            "",
            _PF_SOURCE,
            minimum=0,
            maximum=1,
        ),
        _REVISION,
    ),
)

GAPS = Table(
    "gaps",
    "Offsets that the log no longer held, and that an operator chose to go on without (kilowatch stream --accept-gap).",
    ("source", "source_partition", "missing_from", "accepted_at"),
    (
        Column("source", pl.String, "Topic", nullable=False),
        Column("source_partition", pl.Int32, "Kafka partition", nullable=False, minimum=0),
        Column("missing_from", pl.Int64, "First offset that is missing", nullable=False, minimum=0),
        Column("missing_to", pl.Int64, "Last offset that is missing", nullable=False, minimum=0),
        Column("accepted_at", TIMESTAMP, "When the stream went on without them", "UTC", nullable=False),
        Column("date", pl.Date, "Local calendar date of accepted_at", nullable=False),
    ),
)

RECORDS: dict[str, Table] = {name: kind.table for name, kind in KINDS.items()}
LAKE: dict[str, Table] = {
    **{t.name: t for t in (READINGS, WINDOWS, VIOLATIONS, COMPLIANCE, LOAD_CONTROL, REJECTS, GAPS, NOTICES)},
    **RECORDS,
}
