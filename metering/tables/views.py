"""The warehouse's views: answers to what analysts ask first, each SQL over its tables.

Here: their declarations, name, meaning, SQL and columns. Not here: the tables (`warehouse`), how views are made (`sinks`).
"Newest" is of the data, never of a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from metering.tables.schema import TIMESTAMP, Column, Table


@dataclass(frozen=True)
class View:
    """A view: what it answers, its SQL, and the columns that it gives, in order."""

    name: str
    meaning: str
    sql: str
    columns: tuple[Column, ...]


def _text(name: str, meaning: str) -> Column:
    return Column(name, pl.String, meaning)


def _number(name: str, meaning: str, unit: str = "") -> Column:
    return Column(name, pl.Float64, meaning, unit)


def _count(name: str, meaning: str) -> Column:
    return Column(name, pl.Int64, meaning)


_CUSTOMER = _text("customer_no", "Customer number")
_NAME = _text("name", "Name of the customer, as the registry last has it")
_FEEDER = _text("feeder", "Feeder of the customer")
_MANAGER = _text("manager", "Role or office that looks after the customer")
_METER = _text("meter_id", "Meter")
_DATE = Column("date", pl.Date, "Local calendar date")
_MONTH = Column("month", pl.Date, "First day of the local month")
_RANK = _count("rank", "Place, from 1")
_NEWEST_OF = """(
    SELECT customer_no, arg_max(name, valid) AS name, arg_max(feeder, valid) AS feeder,
           arg_max(manager, valid) AS manager, arg_max(segment, valid) AS segment
    FROM (SELECT *, coalesce(valid_from, DATE '0001-01-01') AS valid FROM customers) GROUP BY customer_no
)"""
"""Each customer once, with the words of its newest row."""

_VIEWS = (
    View(
        "voltage_worst",
        "Worst voltage of the newest day: meters' phases by qualification rate, lowest first.",
        f"""
        SELECT v.date, v.meter_id, v.customer_no, c.name, c.feeder, v.phase, v.qualification_rate, v.over_min,
               v.under_min, v.u_min_pct, v.u_max_pct
        FROM voltage_daily v LEFT JOIN {_NEWEST_OF} c USING (customer_no)
        WHERE v.date = (SELECT max(date) FROM voltage_daily) AND v.qualification_rate IS NOT NULL
        ORDER BY v.qualification_rate, v.over_min + v.under_min DESC, v.meter_id, v.phase""",
        (
            _DATE, _METER, _CUSTOMER, _NAME, _FEEDER, _text("phase", "Phase"),
            _number("qualification_rate", "Voltage qualification rate", "%"),
            _number("over_min", "Minutes above the upper limit", "min"),
            _number("under_min", "Minutes below the lower limit", "min"),
            _number("u_min_pct", "Lowest monitored voltage, of nominal", "%"),
            _number("u_max_pct", "Highest monitored voltage, of nominal", "%"),
        ),
    ),
    View(
        "demand_top20",
        "The 20 customers of the largest demand in each month.",
        f"""
        SELECT period AS month, rank, scope AS customer_no, c.name, c.feeder, demand_max_kw, demand_basis, p_max_at,
               contract_demand_kw, demand_rate
        FROM (
            SELECT *, rank() OVER (PARTITION BY period ORDER BY demand_max_kw DESC) AS rank FROM load_indices
            WHERE period_kind = 'month' AND scope_kind = 'customer' AND demand_max_kw IS NOT NULL
        ) i LEFT JOIN {_NEWEST_OF} c ON c.customer_no = i.scope
        WHERE rank <= 20 ORDER BY month DESC, rank, i.scope""",
        (
            _MONTH, _RANK, _CUSTOMER, _NAME, _FEEDER, _number("demand_max_kw", "Maximum demand of the month", "kW"),
            _text("demand_basis", "sliding by 1 min, or block of 15 min"),
            Column("p_max_at", TIMESTAMP, "End of the quarter-hour of the largest mean power", "UTC"),
            _number("contract_demand_kw", "Contract demand; null: none", "kW"),
            _number("demand_rate", "Maximum demand / contract demand"),
        ),
    ),
    View(
        "load_factor_ranking",
        "Customers by load factor in each day, month and year, highest first: WHERE period_kind = 'month' AND period = ...",
        f"""
        SELECT i.period_kind, i.period,
               rank() OVER (PARTITION BY i.period_kind, i.period ORDER BY i.load_factor DESC) AS rank,
               i.scope AS customer_no, c.name, c.segment, i.load_factor, i.daily_load_factor_mean, i.p_mean_kw,
               i.p_max_kw, i.utilisation_hours
        FROM load_indices i LEFT JOIN {_NEWEST_OF} c ON c.customer_no = i.scope
        WHERE i.scope_kind = 'customer' AND i.load_factor IS NOT NULL
        ORDER BY i.period_kind, i.period DESC, rank, i.scope""",
        (
            _text("period_kind", "day, month or year"), Column("period", pl.Date, "The period's first local day"), _RANK,
            _CUSTOMER, _NAME, _text("segment", "Segment"), _number("load_factor", "Pmean / Pmax of the period"),
            _number("daily_load_factor_mean", "Mean of the days' load factors"),
            _number("p_mean_kw", "Mean power", "kW"), _number("p_max_kw", "Largest quarter-hour mean power", "kW"),
            _number("utilisation_hours", "E / Pmax", "h"),
        ),
    ),
    View(
        "forecast_against_actual",
        "Day-ahead forecast beside what came, quarter-hour by quarter-hour; customer_no * is the whole scope.",
        """
        SELECT f.customer_no, f.target, f.p_kw AS forecast_kw, a.p_kw AS actual_kw, f.p_kw - a.p_kw AS error_kw,
               (f.p_kw - a.p_kw) / nullif(a.p_kw, 0) * 100 AS error_pct, a.p_kw BETWEEN f.p10_kw AND f.p90_kw AS in_band,
               f.model
        FROM forecast f LEFT JOIN (
            SELECT customer_no, window_end, p_kw FROM daily_curve
            UNION ALL SELECT '*', window_end, p_kw FROM scope_curve WHERE scope_kind = 'whole'
        ) a ON a.customer_no = f.customer_no AND a.window_end = f.target
        ORDER BY f.target DESC, f.customer_no""",
        (
            _CUSTOMER, Column("target", TIMESTAMP, "End of the quarter-hour", "UTC"),
            _number("forecast_kw", "Forecast mean power", "kW"),
            _number("actual_kw", "Mean power that came; null: not known, or not yet", "kW"),
            _number("error_kw", "Forecast less actual", "kW"), _number("error_pct", "Of the actual", "%"),
            Column("in_band", pl.Boolean, "Actual within the 10 % and 90 % quantiles"),
            _text("model", "What made the forecast"),
        ),
    ),
    View(
        "violations_by_rule",
        "Violations by rule and feeder, with how long they lasted; withdrawn ones do not count.",
        """
        SELECT rule, feeder, severity, count(*) AS violations, count(*) FILTER (WHERE ended_at IS NULL) AS still_open,
               count(DISTINCT customer_no) AS customers, CAST(sum(duration_s) AS DOUBLE) / 3600 AS total_h,
               CAST(median(duration_s) AS DOUBLE) / 60 AS median_min, CAST(max(duration_s) AS DOUBLE) / 60 AS longest_min,
               min(started_at) AS first_started_at, max(started_at) AS last_started_at
        FROM violations WHERE state <> 'withdrawn' GROUP BY rule, feeder, severity
        ORDER BY violations DESC, rule, feeder, severity""",
        (
            _text("rule", "Rule, as listed in docs/rules.md"), _FEEDER, _text("severity", "How bad they are"),
            _count("violations", "How many"), _count("still_open", "Those that are not over"),
            _count("customers", "Customers that had some"), _number("total_h", "Together", "h"),
            _number("median_min", "Half of them lasted no longer", "min"), _number("longest_min", "The longest", "min"),
            Column("first_started_at", TIMESTAMP, "Start of the first", "UTC"),
            Column("last_started_at", TIMESTAMP, "Start of the newest", "UTC"),
        ),
    ),
    View(
        "completeness_by_meter",
        "How much of each meter's day is known, newest day first, worst first.",
        """
        SELECT date, meter_id, customer_no, points, known_points, known_points / nullif(points, 0) * 100 AS known_pct,
               (validated_points + raw_points) / nullif(points, 0) * 100 AS measured_pct, estimated_points,
               edited_points, points - known_points AS missing_points
        FROM meter_daily ORDER BY date DESC, known_pct, measured_pct, meter_id""",
        (
            _DATE, _METER, _CUSTOMER, Column("points", pl.Int32, "Quarter-hours due"),
            Column("known_points", pl.Int32, "Quarter-hours whose energy is known"),
            _number("known_pct", "Of those due", "%"), _number("measured_pct", "Validated or raw, of those due", "%"),
            Column("estimated_points", pl.Int32, "Estimated ones"), Column("edited_points", pl.Int32, "Edited ones"),
            Column("missing_points", pl.Int32, "Missing ones"),
        ),
    ),
    View(
        "over_capacity",
        "Customers over their contract capacity or contract demand, month by month, and by how much.",
        f"""
        SELECT i.period AS month, i.scope AS customer_no, c.name, c.feeder, i.s_max_kva, i.s_max_at, i.capacity_kva,
               i.over_capacity_kva, i.max_load_rate * 100 AS load_rate_pct, i.demand_max_kw, i.contract_demand_kw,
               i.overrun_kw
        FROM load_indices i LEFT JOIN {_NEWEST_OF} c ON c.customer_no = i.scope
        WHERE i.period_kind = 'month' AND i.scope_kind = 'customer' AND (i.over_capacity_kva > 0 OR i.overrun_kw > 0)
        ORDER BY month DESC, greatest(coalesce(i.max_load_rate, 0), coalesce(i.demand_rate, 0)) DESC, i.scope""",
        (
            _MONTH, _CUSTOMER, _NAME, _FEEDER, _number("s_max_kva", "Largest quarter-hour apparent power", "kVA"),
            Column("s_max_at", TIMESTAMP, "End of the quarter-hour of it", "UTC"),
            _number("capacity_kva", "Contract capacity less what is suspended", "kVA"),
            _number("over_capacity_kva", "Beyond the capacity; 0: within", "kVA"),
            _number("load_rate_pct", "Smax / SN", "%"), _number("demand_max_kw", "Maximum demand", "kW"),
            _number("contract_demand_kw", "Contract demand; null: none", "kW"),
            _number("overrun_kw", "Demand beyond the contract; 0: within; null: no contract", "kW"),
        ),
    ),
    View(
        "kvar_wanted",
        "Who needs how many kvar of capacitors to meet the standard, in the newest month, most first.",
        f"""
        SELECT p.month, p.customer_no, c.name, c.manager, p.kvar_needed, p.power_factor, p.pf_standard, p.adjustment_pct
        FROM power_factor_monthly p LEFT JOIN {_NEWEST_OF} c USING (customer_no)
        WHERE p.month = (SELECT max(month) FROM power_factor_monthly) AND p.kvar_needed > 0
        ORDER BY p.kvar_needed DESC, p.customer_no""",
        (
            _MONTH, _CUSTOMER, _NAME, _MANAGER, _number("kvar_needed", "Capacitors needed", "kvar"),
            _number("power_factor", "Power factor of the month"), _number("pf_standard", "The customer's standard"),
            _number("adjustment_pct", "Surcharge (+) or discount (-)", "%"),
        ),
    ),
    View(
        "meters_last_heard",
        "The newest day on which each meter's energy is known, those silent longest first.",
        f"""
        SELECT m.meter_id, arg_max(m.customer_no, m.valid_from) AS customer_no,
               arg_max(c.name, m.valid_from) AS name, max(d.date) AS last_known,
               (SELECT max(date) FROM meter_daily) - max(d.date) AS days_ago
        FROM meters m LEFT JOIN (SELECT meter_id, date FROM meter_daily WHERE known_points > 0) d USING (meter_id)
        LEFT JOIN {_NEWEST_OF} c ON c.customer_no = m.customer_no
        WHERE m.valid_to IS NULL OR m.valid_to >= (SELECT max(date) FROM meter_daily)
        GROUP BY m.meter_id ORDER BY last_known NULLS FIRST, m.meter_id""",
        (
            _METER, _CUSTOMER, _NAME, Column("last_known", pl.Date, "Newest local day of which some is known; null: none"),
            _count("days_ago", "Days before the newest day of the warehouse"),
        ),
    ),
    View(
        "list_counts",
        "How many customers each list has of each segment: as approved today, and as proposed.",
        f"""
        SELECT list, c.segment,
               count(DISTINCT customer_no) FILTER (WHERE state = 'approved' AND valid_from <= as_of
                                                   AND (valid_to IS NULL OR valid_to >= as_of)) AS approved,
               count(DISTINCT customer_no) FILTER (WHERE change = 'add') AS to_add,
               count(DISTINCT customer_no) FILTER (WHERE change = 'remove') AS to_remove, any_value(as_of) AS as_of
        FROM customer_lists LEFT JOIN {_NEWEST_OF} c USING (customer_no) GROUP BY list, c.segment
        ORDER BY list, c.segment""",
        (
            _text("list", "List"), _text("segment", "Segment"), _count("approved", "Customers on it"),
            _count("to_add", "Customers proposed to be added"), _count("to_remove", "Customers proposed to be removed"),
            Column("as_of", pl.Date, "Last local day whose data the proposal knows"),
        ),
    ),
)  # fmt: skip


def views(tables: Iterable[Table], periods: Sequence[str]) -> dict[str, View]:
    """All views by name, over the warehouse's `tables`; `periods` are the time-of-use periods of the settings."""
    known = tuple(tables)
    charged = any(table.name == "charges_monthly" for table in known)
    every = (*_VIEWS, _below_standard(charged), _peak_valley(periods), _freshness(known))
    return {view.name: view for view in sorted(every, key=lambda view: view.name)}


def _below_standard(charged: bool) -> View:
    """What it costs is in percent, and in yuan where charges are computed."""
    cost = """ LEFT JOIN (
            SELECT customer_no, month, CAST(sum(amount) AS DECIMAL(18, 2)) AS surcharge_yuan FROM charges_monthly
            WHERE component = 'power_factor_adjustment' GROUP BY customer_no, month
        ) s USING (customer_no, month)"""
    yuan = Column(
        "surcharge_yuan", pl.Decimal(18, 2), "What that is, deltas included; of a running month so far", "yuan"
    )
    return View(
        "below_power_factor_standard",
        "Customers under their power-factor standard, month by month, with the surcharge it costs, worst first.",
        f"""
        SELECT p.month, p.customer_no, c.name, c.manager, p.power_factor, p.pf_standard,
               round(p.pf_standard - p.power_factor, 2) AS short_by, p.adjustment_pct, {"surcharge_yuan," if charged else ""}
               p.kvar_needed, p.active_kwh, p.projected_power_factor
        FROM power_factor_monthly p LEFT JOIN {_NEWEST_OF} c USING (customer_no){cost if charged else ""}
        WHERE p.power_factor < p.pf_standard
        ORDER BY p.month DESC, p.adjustment_pct DESC, p.customer_no""",
        (
            _MONTH, _CUSTOMER, _NAME, _MANAGER, _number("power_factor", "Power factor of the month"),
            _number("pf_standard", "The customer's standard"), _number("short_by", "Standard less power factor"),
            _number("adjustment_pct", "Surcharge on basic and energy charge, without government funds", "%"),
            *((yuan,) if charged else ()),
            _number("kvar_needed", "Capacitors that lift it to the standard", "kvar"),
            _number("active_kwh", "Energy that the surcharge is on, by its energy charge", "kWh"),
            _number("projected_power_factor", "At the month's end if it goes on as so far"),
        ),
    )  # fmt: skip


def _peak_valley(periods: Sequence[str]) -> View:
    """Energy by tariff period stands beside the difference, as share of the whole."""
    shares = "".join(f', i."energy_{p}_kwh" / nullif(i.energy_kwh, 0) * 100 AS "{p}_pct"' for p in periods)
    return View(
        "peak_valley_by_segment",
        "Peak-valley difference of each segment's load by month, and how its energy falls on the tariff's periods.",
        f"""
        SELECT i.period AS month, replace(i.scope, 'segment:', '') AS segment, i.p_max_kw, i.p_max_at, i.p_min_kw,
               i.peak_valley_kw, i.peak_valley_rate * 100 AS peak_valley_pct, i.daily_peak_valley_max_kw,
               i.coincidence_factor, i.energy_kwh{shares}
        FROM load_indices i WHERE i.period_kind = 'month' AND i.scope_kind = 'segment'
        ORDER BY month DESC, i.peak_valley_kw DESC, segment""",
        (
            _MONTH, _text("segment", "Segment"), _number("p_max_kw", "Largest quarter-hour mean power", "kW"),
            Column("p_max_at", TIMESTAMP, "End of its first quarter-hour", "UTC"),
            _number("p_min_kw", "Smallest", "kW"), _number("peak_valley_kw", "Pmax - Pmin of the month", "kW"),
            _number("peak_valley_pct", "Of Pmax", "%"),
            _number("daily_peak_valley_max_kw", "Largest difference of one day", "kW"),
            _number("coincidence_factor", "max(sum P) / sum(max P)"), _number("energy_kwh", "Energy drawn", "kWh"),
            *(_number(f"{p}_pct", f"Of it in the period '{p}'", "%") for p in periods),
        ),
    )  # fmt: skip


_DATED = ("date", "month", "week", "year", "period", "window_end", "target", "at", "started_at", "as_of", "restated_at")


def _freshness(tables: Iterable[Table]) -> View:
    return View(
        "freshness",
        "How far each table has come: its rows, and the newest day or instant in it.",
        " UNION ALL ".join(_newest(tables)) + " ORDER BY table_name",
        (
            _text("table_name", "Table"), _count("rows", "Rows"),
            Column("newest_day", pl.Date, "Newest local day, or first day of the newest week, month or year"),
            Column("newest_at", TIMESTAMP, "Newest instant", "UTC"),
        ),
    )  # fmt: skip


def _newest(tables: Iterable[Table]) -> Iterator[str]:
    for table in tables:
        kinds = {name: table.schema[name] for name in _DATED if name in table.names}
        day = next((f'max("{name}")' for name, kind in kinds.items() if kind == pl.Date), "CAST(NULL AS DATE)")
        at = next((f'max("{n}")' for n, kind in kinds.items() if kind == TIMESTAMP), "CAST(NULL AS TIMESTAMPTZ)")
        yield (
            f"SELECT '{table.name}' AS table_name, count(*) AS \"rows\", {day} AS newest_day, {at} AS newest_at "
            f'FROM "{table.name}"'
        )
