"""Tables that batch work keeps between its steps, in the marts alone: windows with registers, meters' curves.

Here: their declarations. Not here: what the stream writes (`lake`), what analysts query (`warehouse`).
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from metering.tables.lake import CHAIN, READINGS, REGISTERS, WINDOWS
from metering.tables.schema import TIMESTAMP, Column, Table
from metering.tables.warehouse import STATUS_MEANING, STATUSES

REGISTER_ENDS = tuple(f"{name}_end" for name in REGISTERS)

BATCH_WINDOWS = replace(
    WINDOWS,
    meaning="15-minute windows computed again from the lake's readings, and the registers as read at their ends.",
    columns=(
        *WINDOWS.columns,
        *(
            Column(f"{name}_end", pl.Float64, f"Register {name} as read at the end of the window; null: not read then")
            for name in REGISTERS
        ),
        Column(CHAIN, pl.Float64, READINGS.column(CHAIN).meaning),
        Column("estimates", pl.Int32, "Slots whose reading is an estimate of whoever exported it; null: none"),
    ),
)

METER_CURVE = Table(
    "meter_curve",
    "One row for each quarter-hour that a meter owes on a local day: measured, estimated, edited or missing.",
    ("meter_id", "date", "point"),
    (
        Column("meter_id", pl.String, "Meter", nullable=False),
        Column("customer_no", pl.String, "Customer number", nullable=False),
        Column("date", pl.Date, "Local calendar date", nullable=False),
        Column("point", pl.Int32, "Quarter-hour of the local day, from 1", nullable=False, minimum=1, maximum=100),
        Column("window_end", TIMESTAMP, "End of the quarter-hour", "UTC", nullable=False),
        Column(
            "p_kw", pl.Float64, "Mean active power, import less export; of registers, their energy over the time", "kW"
        ),
        Column("q_kvar", pl.Float64, "Mean reactive power, import less export", "kvar"),
        Column("energy_kwh", pl.Float64, "Active energy drawn from the grid", "kWh"),
        Column("export_kwh", pl.Float64, "Active energy fed into the grid", "kWh"),
        Column("import_kvarh", pl.Float64, "Reactive import (lagging) energy", "kvarh"),
        Column("export_kvarh", pl.Float64, "Reactive export (leading) energy", "kvarh"),
        Column("status", pl.String, STATUS_MEANING, nullable=False, allowed=STATUSES),
        Column("rule", pl.String, "The validation that failed, the estimation that was used, or edited"),
        Column("reason", pl.String, "Why the status is not validated"),
    ),
)

BATCH: dict[str, Table] = {t.name: t for t in (BATCH_WINDOWS, METER_CURVE)}
