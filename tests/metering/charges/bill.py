"""A customer's month as frames, without meters: what its charges are counted from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import polars as pl

from metering.charges.measured import Measured
from metering.charges.monthly import charges_monthly
from metering.charges.months import month_parts
from metering.charges.settlement import next_month
from metering.settings import MeteringSettings, in_force
from metering.supply.power_factor import adjustment_pct
from metering.tables.charges import POWER_FACTOR_MONTHLY
from metering.tables.warehouse import CUSTOMERS

MONTH = date(2026, 3, 1)
Energy = Mapping[date, Mapping[str, float]]
_CUSTOMER: dict[str, Any] = {
    "customer_no": "310105200001", "name": "城东钢厂", "segment": "large", "voltage_level_kv": 10.0,
    "contract_capacity_kva": 1000.0, "contract_demand_kw": None, "pf_standard": 0.90, "tariff": "large_industry",
    "dual_supply": False, "controllable": False, "suspended_kva": None, "valid_from": None, "valid_to": None,
    "supply_mode": "proxy", "basic_charge": None,
}  # fmt: skip


def customers(*rows: Mapping[str, Any]) -> pl.DataFrame:
    """Rows of the registry; what is not given is that of a plain 10 kV customer of 1,000 kVA."""
    whole = [{**_CUSTOMER, **row} for row in rows or ({},)]
    schema = {name: CUSTOMERS.schema[name] for name in whole[0]}
    return CUSTOMERS.conform(pl.DataFrame(whole, schema=schema, orient="row"))


def frame(columns: Mapping[str, Any], *rows: tuple[Any, ...]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=dict(columns), orient="row")


def charged(
    settings: MeteringSettings,
    rows: pl.DataFrame,
    energy: Mapping[str, Energy],
    *,
    month: date = MONTH,
    pf: Mapping[str, float] | None = None,
    demand: Mapping[str, float | None] | None = None,
    contract_demand: tuple[tuple[str, int, float], ...] = (),
    slots: tuple[tuple[str, date, int, float], ...] = (),
    frozen: tuple[tuple[str, str | None, float], ...] = (),
    frozen_kw: tuple[tuple[str, float], ...] = (),
    elapsed: Mapping[date, float] | None = None,
    over: bool = True,
    closed: bool = False,
) -> pl.DataFrame:
    """CHARGES_MONTHLY of customers with so much energy by day and period [kWh]."""
    names = {period: f"energy_{period}_kwh" for period in settings.periods}
    loads = [
        {"customer_no": no, "date": day, "energy_kwh": sum(own.values())}
        | {name: own.get(period, 0.0) for period, name in names.items()}
        for no, days in energy.items()
        for day, own in days.items()
    ]
    columns = {"customer_no": pl.String, "date": pl.Date, **dict.fromkeys(["energy_kwh", *names.values()], pl.Float64)}
    of_slots = {"customer_no": pl.String, "date": pl.Date, "slot": pl.Int32, "energy_kwh": pl.Float64}
    last = next_month(month) - timedelta(days=1)
    return charges_monthly(
        month_parts(rows, month, settings),
        Measured(
            loads=pl.DataFrame(loads, schema=columns, orient="row"),
            slots=frame(of_slots, *slots),
            power_factor=_factors(settings, rows, energy, pf or {}, month),
            demand=frame(
                {"customer_no": pl.String, "contract": pl.UInt32, "demand_kw": pl.Float64},
                *((no, None, kw) for no, kw in (demand or {}).items()),
                *contract_demand,
            ),
            frozen=frame({"customer_no": pl.String, "period": pl.String, "frozen_kwh": pl.Float64}, *frozen),
            frozen_demand=frame({"customer_no": pl.String, "frozen_kw": pl.Float64}, *frozen_kw),
            elapsed=elapsed or {month + timedelta(days=n): 1.0 for n in range(last.day)},
        ),
        settings,
        over=over,
        closed=closed,
    )


def _factors(
    settings: MeteringSettings, rows: pl.DataFrame, energy: Mapping[str, Energy], pf: Mapping[str, float], month: date
) -> pl.DataFrame:
    last = rows.unique("customer_no", keep="last").select("customer_no", "pf_standard")
    table = frame(
        {"customer_no": pl.String, "active_kwh": pl.Float64, "power_factor": pl.Float64},
        *((no, sum(sum(own.values()) for own in days.values()), pf.get(no)) for no, days in energy.items()),
    ).join(last, on="customer_no")
    adjustment = in_force(settings.power_factor, month)
    pct = adjustment_pct(pl.col("power_factor"), pl.col("pf_standard"), adjustment)
    return POWER_FACTOR_MONTHLY.conform(table.with_columns(pct.alias("adjustment_pct")), month=month)
