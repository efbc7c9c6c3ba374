"""The warehouse's tables of load put together: curves of groups, load indices of days, months and years.

Here: their declarations. Not here: a customer's day (`warehouse`), the calculations (`metering.load.rollup`).
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from metering.tables.schema import TIMESTAMP, Column, Table

DAY, MONTH, YEAR = "day", "month", "year"
PERIOD_KINDS = (DAY, MONTH, YEAR)
GROUP_KINDS = ("segment", "industry", "voltage_level_kv", "feeder", "manager", "whole")
LOAD_BANDS = ("oversized", "normal", "tight", "overload")
_INDICES = "load indices: domain handbook, section 6"

_SCOPE = "a customer's number, a group such as feeder:10kV-01, or * for the whole scope"

SCOPE_CURVE = Table(
    "scope_curve",
    "The daily curve of every group of customers and of the whole scope: for each quarter-hour the sum of its customers' "
    "known values.",
    ("scope_kind", "scope", "date", "point"),
    (
        Column("scope_kind", pl.String, "Kind of the scope", nullable=False, allowed=GROUP_KINDS),
        Column("scope", pl.String, "A group such as feeder:10kV-01, or * for the whole scope", nullable=False),
        Column("date", pl.Date, "Local calendar date", nullable=False),
        Column("point", pl.Int32, "Quarter-hour of the local day, from 1", nullable=False, minimum=1, maximum=100),
        Column("window_end", TIMESTAMP, "End of the quarter-hour", "UTC", nullable=False),
        Column("p_kw", pl.Float64, "Mean active power, import less export", "kW"),
        Column("q_kvar", pl.Float64, "Mean reactive power, import less export", "kvar"),
        Column("energy_kwh", pl.Float64, "Active energy drawn from the grid", "kWh"),
        Column("export_kwh", pl.Float64, "Active energy fed into the grid", "kWh"),
        Column("customers", pl.Int32, "Customers whose power is known then", nullable=False, minimum=0),
    ),
)


def _number(name: str, meaning: str, unit: str = "", minimum: float | None = None) -> Column:
    return Column(name, pl.Float64, meaning, unit, _INDICES, minimum=minimum)


def _at(name: str, of: str) -> Column:
    return Column(name, TIMESTAMP, f"End of the first quarter-hour with {of}", "UTC")


def load_indices_table(periods: Sequence[str]) -> Table:
    """LOAD_INDICES; `periods` are the time-of-use periods that the settings name."""
    tariff = (_number(f"energy_{p}_kwh", f"Energy drawn in the time-of-use period '{p}'", "kWh") for p in periods)
    return Table(
        "load_indices",
        "Load indices of customers, of groups of them and of the whole scope, for each local day, month and year to date.",
        ("period_kind", "period", "scope_kind", "scope"),
        (
            Column("period_kind", pl.String, "How long the period is", nullable=False, allowed=PERIOD_KINDS),
            Column("period", pl.Date, "The period's first local day", nullable=False),
            Column("scope_kind", pl.String, "Kind of the scope", nullable=False, allowed=("customer", *GROUP_KINDS)),
            Column("scope", pl.String, _SCOPE, nullable=False),
            Column("days", pl.Int32, "Local days that it is of", nullable=False, minimum=1, maximum=366),
            Column("customers", pl.Int32, "Customers that it is of, as of its last day", nullable=False, minimum=0),
            Column("points", pl.Int32, "Quarter-hours of its days", nullable=False, minimum=1),
            Column("known_points", pl.Int32, "Those whose power is known", nullable=False, minimum=0),
            _number("energy_kwh", "Active energy drawn from the grid", "kWh"),
            _number("export_kwh", "Active energy fed into the grid", "kWh"),
            *tariff,
            _number("p_max_kw", "Largest quarter-hour mean power", "kW"),
            _at("p_max_at", "p_max_kw"),
            _number("p_min_kw", "Smallest quarter-hour mean power", "kW"),
            _at("p_min_at", "p_min_kw"),
            _number("p_mean_kw", "Mean power over the known quarter-hours", "kW"),
            _number("load_factor", "Pmean / Pmax; null unless Pmax > 0"),
            _number("min_rate", "Pmin / Pmax; null unless Pmax > 0"),
            _number("peak_valley_kw", "Pmax - Pmin of the period", "kW", 0),
            _number("peak_valley_rate", "(Pmax - Pmin) / Pmax; null unless Pmax > 0", minimum=0),
            _number("daily_load_factor_mean", "Mean of the days' load factors"),
            _number("daily_peak_valley_max_kw", "Largest Pmax - Pmin of one day", "kW", 0),
            _number("utilisation_hours", "E / Pmax; null unless Pmax > 0", "h"),
            _number("sum_p_max_kw", "Sum of the customers' own maxima of the period, whenever they were", "kW"),
            _number("coincidence_factor", "max(sum P) / sum(max P); null unless that is > 0"),
            _number("s_max_kva", "Largest quarter-hour apparent power, sqrt(P^2 + Q^2) of the means", "kVA", 0),
            _at("s_max_at", "s_max_kva"),
            _number("capacity_kva", "Contract capacity, less what is suspended; of a group the sum", "kVA", 0),
            _number("max_load_rate", "Transformer load rate: Smax / SN", "", 0),
            Column(
                "load_band",
                pl.String,
                "oversized: load rate below 30 %; tight: above 80 %; overload: above 100 % (settings)",
                "",
                _INDICES,
                allowed=LOAD_BANDS,
            ),
            _number("over_capacity_kva", "Smax beyond the capacity; 0: within", "kVA", 0),
            _number("demand_max_kw", "Maximum demand: largest 15-min mean of active power", "kW"),
            Column(
                "demand_basis",
                pl.String,
                "sliding by 1 min, or block of 15 min; of a group always block",
                allowed=("sliding", "block"),
            ),
            _number(
                "contract_demand_kw", "Contract demand; of a group the sum of those there are; null: none", "kW", 0
            ),
            _number("demand_rate", "Maximum demand / contract demand"),
            _number("overrun_kw", "Maximum demand beyond the contract demand; 0: within; null: no contract", "kW", 0),
        ),
    )
