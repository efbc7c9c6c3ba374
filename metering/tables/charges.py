"""What is charged: power factor and maximum demand of a month, the lines of its bill, and bills that came compared with them.

Here: the declarations. Not here: prices and rules (settings), the calculation (`metering.load.demand`,
`metering.charges`).
"""

from __future__ import annotations

import polars as pl

from metering.tables.schema import TIMESTAMP, Column, Table

YUAN = pl.Decimal(18, 2)
QUANTITY = pl.Decimal(18, 4)
PRICE = pl.Decimal(18, 8)
SLIDING, BLOCK = "sliding", "block"
BASES = ("capacity", "contract_demand", "actual_demand")
SUPPLY_MODES = ("proxy", "retail", "wholesale")
RUNNING, FINAL, CLOSED, DELTA = "running", "final", "closed", "delta"
LINE_STATES = (RUNNING, FINAL, CLOSED, DELTA)
CAUSES = (
    "equal", "rounding", "quantity", "price", "quantity_and_price", "arithmetic", "basis", "power_factor", "follows",
    "not_on_bill", "not_ours", "no_lines",
)  # fmt: skip

PF_MEASURES = "Measures for power-factor tariff adjustment, 1983"
_DEMAND = "maximum demand: 15-min mean sliding by 1 min, reset on the settlement day"
_BASIC = "two-part tariff: basic charge"
_CUSTOMER = Column("customer_no", pl.String, "Customer number, the only key of a customer", nullable=False)
_MONTH = Column("month", pl.Date, "First day of the local month", nullable=False)
_BASIS = Column("basis", pl.String, "15-min mean sliding by 1 min, or block of 15 min", allowed=(SLIDING, BLOCK))

POWER_FACTOR_MONTHLY = Table(
    "power_factor_monthly",
    "Power factor of one customer's local month and the tariff adjustment that follows from it.",
    ("customer_no", "month"),
    (
        _CUSTOMER,
        _MONTH,
        Column("active_kwh", pl.Float64, "Active energy drawn from the grid", "kWh", PF_MEASURES),
        Column("import_kvarh", pl.Float64, "Reactive import (lagging) energy", "kvarh", minimum=0),
        Column("export_kvarh", pl.Float64, "Reactive export (leading) energy", "kvarh", minimum=0),
        Column(
            "power_factor",
            pl.Float64,
            "P / sqrt(P^2 + Q^2), Q = |import| + |export| (or net, by the settings), 2 decimals; null at P = Q = 0",
            "",
            PF_MEASURES,
            minimum=0,
            maximum=1,
        ),
        Column("pf_standard", pl.Float64, "The customer's standard", "", PF_MEASURES, nullable=False),
        Column(
            "adjustment_pct",
            pl.Float64,
            "Surcharge (+) or discount (-) on the adjustment base",
            "%",
            PF_MEASURES,
            minimum=-1.3,
            maximum=150,
        ),
        Column(
            "kvar_needed",
            pl.Float64,
            "Capacitors that lift the month's power factor to the standard, over the days it has so far; 0: it is met",
            "kvar",
            "P (tan phi1 - tan phi2)",
            minimum=0,
        ),
        Column(
            "projected_power_factor",
            pl.Float64,
            "Power factor at the month's end if it goes on as so far, 2 decimals",
            "",
            PF_MEASURES,
            minimum=0,
            maximum=1,
        ),
    ),
)

DEMAND_DAILY = Table(
    "demand_daily",
    "Maximum demand of one supply source of a customer on one local day, which days' and months' demand is made of.",
    ("customer_no", "date", "source_no"),
    (
        _CUSTOMER,
        Column("date", pl.Date, "Local calendar date", nullable=False),
        Column("source_no", pl.Int32, "Supply source, 1 or 2; 0: all of them together", nullable=False, minimum=0),
        Column("demand_kw", pl.Float64, "Largest 15-min mean of active power", "kW", _DEMAND),
        Column("demand_at", TIMESTAMP, "End of the first 15 minutes with it", "UTC"),
        _BASIS,
        Column("s_max_kva", pl.Float64, "Largest quarter-hour apparent power sqrt(P^2 + Q^2), of source 0", "kVA"),
        Column("reason", pl.String, "Why there is no demand, or what it rests on besides validated readings"),
    ),
)

DEMAND_MONTHLY = Table(
    "demand_monthly",
    "Maximum demand of one customer's month: from one settlement day to the next, which is a setting.",
    ("customer_no", "month"),
    (
        _CUSTOMER,
        _MONTH,
        Column("demand_kw", pl.Float64, "Maximum demand; of several sources as the settings have it", "kW", _DEMAND),
        Column(
            "demand_at",
            TIMESTAMP,
            "End of its 15 minutes; of sources measured apart that of the largest of them",
            "UTC",
        ),
        _BASIS,
        Column("contract_demand_kw", pl.Float64, "Contract demand on the period's last day; null: none", "kW"),
        Column(
            "contract_capacity_kva", pl.Float64, "Contract capacity on the period's last day", "kVA", nullable=False
        ),
        Column(
            "overrun_kw",
            pl.Float64,
            "Largest demand above the contract demand of its day; 0: none; null without a contract demand",
            "kW",
            _BASIC,
            minimum=0,
        ),
        Column(
            "max_load_rate",
            pl.Float64,
            "Largest apparent power of a quarter-hour over the contract capacity of its day; null without Q",
            "",
            "transformer load rate Smax / SN",
            minimum=0,
        ),
        Column(
            "utilisation_hours",
            pl.Float64,
            "The calendar month's energy over the maximum demand; null unless it is above 0",
            "h",
            "utilisation hours E / Pmax",
            minimum=0,
        ),
        Column("period_from", pl.Date, "First local day that counts: demand is reset at its 00:00", nullable=False),
        Column("period_to", pl.Date, "Last local day that counts", nullable=False),
        Column("days", pl.Int32, "Days of the period with a demand", nullable=False, minimum=0),
        Column("sources", pl.Int32, "Supply sources that were measured apart and summed", nullable=False, minimum=0),
        Column("frozen_kw", pl.Float64, "Maximum demand that the meters froze for the period; null: none came", "kW"),
        Column("reason", pl.String, "Why there is no demand, or what it rests on besides validated readings"),
    ),
)

CHARGES_MONTHLY = Table(
    "charges_monthly",
    "The lines of one customer's month, exact in decimal. Their sum is what is due; a month that is closed changes by "
    "lines of status delta alone.",
    ("customer_no", "month", "item"),
    (
        _CUSTOMER,
        _MONTH,
        Column(
            "item", pl.String, "The line: a price component, with its period, or a price's first day", nullable=False
        ),
        Column("name_zh", pl.String, "Name of the line in Chinese", nullable=False),
        Column("component", pl.String, "Price component of the settings, or power_factor_adjustment", nullable=False),
        Column("period", pl.String, "Time-of-use period; null: not by period"),
        Column("quantity", QUANTITY, "What is charged", "as unit says"),
        Column(
            "unit", pl.String, "Unit of the quantity", nullable=False, allowed=("kWh", "kVA", "kW", "month", "yuan")
        ),
        Column("price", PRICE, "Price of a unit; of prices by hour or quarter-hour the mean", "yuan"),
        Column("amount", YUAN, "Quantity x price, rounded as the tariff says; of a running month so far", "yuan"),
        Column("rule", pl.String, "How the amount came about, with the clause of its price", nullable=False),
        Column(
            "alternative",
            YUAN,
            "What the line would be under the cheapest other basis of the basic charge; null: the same",
            "yuan",
            _BASIC,
        ),
        Column("alternative_basis", pl.String, "That basis", allowed=BASES),
        Column("alternatives", pl.String, "Basic charge under every other basis that is possible"),
        Column(
            "projected",
            YUAN,
            "The amount at the month's end if energy goes on as so far, and demand grows no more; null: month over",
            "yuan",
        ),
        Column(
            "status",
            pl.String,
            "running; final: the month is over; closed: only deltas change it; delta: a change after closing",
            nullable=False,
            allowed=LINE_STATES,
        ),
        Column("corrects", pl.String, "Of a delta: the line whose quantity and amount it changes"),
        Column("restated_at", TIMESTAMP, "Of a delta: data time at which it was found", "UTC"),
    ),
)

BILL_CHECK = Table(
    "bill_check",
    "Bills that came, line by line, against what we charge; each difference has its cause.",
    ("customer_no", "month", "item"),
    (
        _CUSTOMER,
        _MONTH,
        Column("item", pl.String, "Line of charges_monthly, or of the bill where we have none; total", nullable=False),
        Column("event_id", pl.String, "The service event that brought the bill", nullable=False),
        Column("billed_quantity", QUANTITY, "Quantity on the bill"),
        Column("quantity", QUANTITY, "Our quantity, deltas included"),
        Column("billed_price", PRICE, "Price on the bill", "yuan"),
        Column("price", PRICE, "Our price", "yuan"),
        Column("billed_amount", YUAN, "Amount on the bill", "yuan"),
        Column("amount", YUAN, "Our amount, deltas included", "yuan"),
        Column("difference", YUAN, "Billed less ours", "yuan"),
        Column("cause", pl.String, "Why they differ", nullable=False, allowed=CAUSES),
        Column("explanation_zh", pl.String, "The difference in words and figures, Chinese", nullable=False),
        Column("explanation_en", pl.String, "The difference in words and figures, English", nullable=False),
    ),
)

CHARGES = (DEMAND_DAILY, DEMAND_MONTHLY, CHARGES_MONTHLY, BILL_CHECK)
