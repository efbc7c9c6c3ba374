"""Maximum demand, charges and bills of months: which days and records each calculation gets.

Here: reading what the months that a run touches need, and no older ones. Not here: the calculations
(`metering.load.demand`, `metering.charges`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta

import polars as pl

from assets.batch import Batch, Part
from assets.curves import days_of_month
from assets.picture import charges_picture, demand_picture
from assets.seen import Shown
from metering.calendar import day_bounds
from metering.charges.bills import BILL, TOTAL, bill_check
from metering.charges.closing import with_deltas
from metering.charges.frozen import frozen_demand, frozen_energy, frozen_findings
from metering.charges.measured import Measured
from metering.charges.monthly import charges_monthly
from metering.charges.months import MonthParts, month_parts
from metering.charges.settlement import closes_at, days_between, demand_month, demand_period
from metering.load.demand import demand_monthly, of_sources
from metering.records.current import current
from metering.settings import in_force
from metering.tables import Table
from metering.tables.charges import (
    BILL_CHECK,
    CHARGES_MONTHLY,
    DELTA,
    DEMAND_DAILY,
    DEMAND_MONTHLY,
    POWER_FACTOR_MONTHLY,
)
from metering.tables.records import FROZEN, SERVICE
from metering.tables.warehouse import METER_DAILY
from metering.text import filled
from metering.vee.findings import FINDINGS
from sinks.marts import day_partition, month_partition


def demands(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    settings, marts = batch.settings, batch.marts
    for month, last in _touched(batch, days).items():
        start, end = demand_period(month, settings.settlement)
        daily = marts.read(DEMAND_DAILY, days_between(start, end))
        energy = marts.scan(POWER_FACTOR_MONTHLY, [month_partition(month)]).collect()
        frozen = frozen_demand(_frozen(batch, [end]), batch.registry.meter_versions, month, settings)
        table = demand_monthly(daily, energy, batch.registry.customers, month, settings, max(last, start), frozen)
        yield Part(month_partition(month), table, last)


def charges(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Each month whose energy or demand the days count for; of a month that is closed what has changed since."""
    settings, marts = batch.settings, batch.marts
    for month, last in _touched(batch, days).items():
        partition = month_partition(month)
        parts = month_parts(batch.registry.customers, month, settings)
        measured, findings = _measured(batch, parts)
        over = _over(batch, month)
        closing = closes_at(month, settings)
        closed = over and batch.until is not None and batch.until >= closing
        rows = charges_monthly(parts, measured, settings, over=over, closed=closed)
        if closed and batch.until is not None and marts.files(CHARGES_MONTHLY.name, [partition]):
            published = marts.scan(CHARGES_MONTHLY, [partition]).collect()
            rows = with_deltas(rows, published, batch.until, "readings, edits or settings that came later")
        yield Part(partition, rows, last, findings=pl.concat([findings, _unpriced(parts, rows, month)]))


def _touched(batch: Batch, days: Sequence[date]) -> dict[date, date]:
    """The months whose energy or demand the days count for, each with the last of the days that touches it.

    And the month before, on its following month's first day, which has what meters froze in its last moment, and when
    it is closed.
    """
    rows = batch.settings.settlement
    found: dict[date, date] = {}
    for day in days:
        before = (day.replace(day=1) - timedelta(days=1)).replace(day=1)
        of_demand = demand_month(day, rows)
        again = day.day in (1, in_force(rows, before).close_day + 1)
        for month in {day.replace(day=1), of_demand, *([before] if again else [])}:
            if month == day.replace(day=1) or _has_energy(batch, month) or month == of_demand:
                found[month] = max(day, found.get(month, day))
    return dict(sorted(found.items()))


def _has_energy(batch: Batch, month: date) -> bool:
    return bool(batch.marts.files(POWER_FACTOR_MONTHLY.name, [month_partition(month)]))


def _over(batch: Batch, month: date) -> bool:
    """Whether all of the month has come, and has been materialised as far as it is there."""
    days = days_of_month(month)
    if batch.until is None or batch.until < day_bounds(days[-1], batch.settings.timezone)[1]:
        return False
    missing = [day for day in days if not batch.marts.files("daily_load", [day_partition(day)])]
    return not any(_has_readings(batch, day) for day in batch.lake.dates("readings") if day in missing)


def _has_readings(batch: Batch, day: date) -> bool:
    """Whether anything is told of the day but the registers at its end, which are the next one's start."""
    _, end = day_bounds(day, batch.settings.timezone)
    with batch.lake.held():
        return batch.lake.scan("readings", [day]).filter(pl.col("ts") < end).head(1).collect().height > 0


def _measured(batch: Batch, parts: MonthParts) -> tuple[Measured, pl.DataFrame]:
    marts, settings, month = batch.marts, batch.settings, parts.month
    days = days_of_month(month)
    loads = marts.read(batch.tables["daily_load"], days)
    power_factor = marts.scan(POWER_FACTOR_MONTHLY, [month_partition(month)]).collect()
    demand = marts.scan(DEMAND_MONTHLY, [month_partition(month)]).collect()
    start, end = demand_period(month, settings.settlement)
    frozen = _frozen(batch, [days[0], days[-1], end])
    versions = batch.registry.meter_versions
    energy = frozen_energy(frozen, versions, month, settings)
    of_demand = frozen_demand(frozen, versions, month, settings)
    own = power_factor.select("customer_no", "active_kwh").join(
        demand.select("customer_no", "demand_kw"), on="customer_no", how="left"
    )
    told = frozen_findings(energy, of_demand, own, month, settings)
    told = pl.concat([told, _differing(loads, power_factor, month)])
    findings = told.with_columns(meter_id=pl.lit(None, pl.String), window_end=pl.lit(None, FINDINGS["window_end"]))
    measured = Measured(
        loads=loads.select("customer_no", "date", *(n for n in loads.columns if n.startswith("energy_"))),
        slots=_slots(batch, parts),
        power_factor=power_factor,
        demand=_demand(batch, parts, demand, start, end),
        frozen=energy,
        frozen_demand=of_demand,
        elapsed={day: _elapsed(batch, day) for day in days},
    )
    return measured, findings.select(FINDINGS.names())


def _differing(loads: pl.DataFrame, power_factor: pl.DataFrame, month: date) -> pl.DataFrame:
    """Customers whose days do not add up to the month's energy: one energy, whatever table it is asked of."""
    days = loads.group_by("customer_no").agg(pl.col("energy_kwh").sum())
    both = days.join(power_factor.select("customer_no", "active_kwh"), on="customer_no")
    off = (pl.col("energy_kwh") - pl.col("active_kwh")).abs()
    limit = 1e-9 * pl.col("active_kwh").abs() + 0.001
    said = filled(f"customer {{}} in {month:%Y-%m}: {{}} kWh of its days, {{}} kWh of its month",
                  "customer_no", "energy_kwh", "active_kwh")  # fmt: skip
    return both.filter(off > limit).select(
        pl.lit("one_energy").alias("rule"),
        pl.lit("error").alias("severity"),
        off.alias("value"),
        limit.alias("limit"),
        said.alias("detail"),
    )


def _demand(batch: Batch, parts: MonthParts, of_month: pl.DataFrame, start: date, end: date) -> pl.DataFrame:
    """Demand of the month, and of each contract of customers whose contract changed within it."""
    whole = of_month.select("customer_no", pl.lit(None, pl.UInt32).alias("contract"), "demand_kw")
    contracts = pl.col("contract").n_unique().over("customer_no") > 1
    changed = parts.parts.filter(contracts)
    if changed.is_empty():
        return whole
    daily = batch.marts.read(DEMAND_DAILY, days_between(start, end))
    # of a settlement day within the month before, its days are of the contract that this month begins with
    begins = changed.sort("first").unique("customer_no", keep="first").select("customer_no", begins="contract")
    dated = (
        daily.join(parts.days, on=["customer_no", "date"], how="left")
        .join(begins, on="customer_no")
        .with_columns(pl.coalesce("contract", "begins").alias("contract"))
    )
    # each contract is asked as if it were a customer
    alone = dated.with_columns(pl.col("contract").cast(pl.String).alias("customer_no"))
    demands = of_sources(alone, parts.month, batch.settings).select(
        pl.col("customer_no").cast(pl.UInt32).alias("contract"), "demand_kw"
    )
    theirs = changed.select("customer_no", "contract").unique().join(demands, on="contract")
    return pl.concat([whole, theirs.select(whole.columns)])


def _slots(batch: Batch, parts: MonthParts) -> pl.DataFrame:
    """The curves of customers that are priced by the hour, by the quarter-hour of the clock."""
    start = pl.col("window_end").dt.convert_time_zone(batch.settings.timezone).dt.offset_by("-15m")
    slot = start.dt.hour().cast(pl.Int32) * 4 + start.dt.minute().cast(pl.Int32) // 15
    columns = ("customer_no", "date", slot.alias("slot"), "energy_kwh")
    curve = batch.tables["daily_curve"]
    if parts.by_slot.is_empty():
        return curve.empty().select(columns)
    partitions = map(day_partition, days_of_month(parts.month))
    theirs = batch.marts.scan(curve, partitions).filter(pl.col("customer_no").is_in(parts.by_slot.implode()))
    return theirs.filter(pl.col("energy_kwh").is_not_null()).select(columns).collect()


def _elapsed(batch: Batch, day: date) -> float:
    """The share of a local day that is over."""
    start, end = day_bounds(day, batch.settings.timezone)
    if batch.until is None:
        return 1.0
    return min(1.0, max(0.0, (batch.until - start) / (end - start)))


def _frozen(batch: Batch, ends: Sequence[date]) -> pl.DataFrame:
    """Current frozen registers near the days' first and last moments."""
    near = {day + timedelta(days=n) for day in ends for n in (-1, 0, 1)}
    dates = [day for day in batch.lake.dates(FROZEN.table.name) if day in near]
    with batch.lake.held():
        return current(batch.lake.scan(FROZEN.table.name, dates).collect(), FROZEN)


def _unpriced(parts: MonthParts, rows: pl.DataFrame, month: date) -> pl.DataFrame:
    """Customers of the month that no price is for."""
    nothing = [part for part, prices in parts.prices.items() if not prices]
    theirs = parts.parts.filter(pl.col("part").is_in(nothing)).join(rows, on="customer_no", how="anti")
    said = filled(
        f"customer {{}} in {month:%Y-%m}: the settings have no price for tariff {{}}", "customer_no", "tariff"
    )
    found = theirs.select(pl.lit("no_price").alias("rule"), pl.lit("warning").alias("severity"), said.alias("detail"))
    schema = FINDINGS.items()
    return found.unique().select(
        pl.col(name).cast(dtype) if name in found.columns else pl.lit(None, dtype).alias(name) for name, dtype in schema
    )


def bill_checks(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """Bills for the months of the days, and for those of which a bill came on the days."""
    came = _bills(batch, lambda day: day in days)
    touched = _touched(batch, days)
    wanted = {*touched, *came["month"].drop_nulls()}
    bills = _bills(batch, lambda day: day >= min(wanted))
    for month in sorted(wanted & {*bills["month"].drop_nulls()}):
        lines = batch.marts.scan(CHARGES_MONTHLY, [month_partition(month)]).collect()
        rows = bill_check(bills, lines, month, batch.settings, _notes(batch, month))
        yield Part(month_partition(month), rows, touched.get(month, days[-1]))


def _bills(batch: Batch, of_day: Callable[[date], bool]) -> pl.DataFrame:
    """Current bills that came on some days; none comes before its month."""
    dates = [day for day in batch.lake.dates(SERVICE.table.name) if of_day(day)]
    with batch.lake.held():
        rows = batch.lake.scan(SERVICE.table.name, dates).filter(pl.col("type") == BILL).collect()
    return current(rows, SERVICE)


def _notes(batch: Batch, month: date) -> dict[str, str]:
    """What customers' energy of the month rests on besides readings."""
    columns = ("customer_no", "points", "estimated_points", "edited_points", "known_points")
    sums = (
        batch.marts.read(METER_DAILY, days_of_month(month), columns).group_by("customer_no").agg(pl.exclude("n").sum())
    )
    notes = {}
    for row in sums.iter_rows(named=True):
        said = {
            "estimated": row["estimated_points"],
            "edited": row["edited_points"],
            "missing": row["points"] - row["known_points"],
        }
        words = ", ".join(f"{count} {what}" for what, count in said.items() if count)
        if words:
            notes[row["customer_no"]] = f"of {row['points']} quarter-hours {words}"
    return notes


def seen_demand(batch: Batch, day: date) -> Shown:
    rows = _month(batch, DEMAND_MONTHLY, day)
    known = rows.filter(pl.col("demand_kw").is_not_null())
    if known.is_empty():
        return {}
    over = rows.filter(pl.col("overrun_kw") > 0)
    return {
        "largest_demand_kw": known.select(pl.max("demand_kw")).item(),
        "customers_above_contract": over.height,
        "customers_without_demand": rows.height - known.height,
        "picture": demand_picture(known),
    }


def seen_charges(batch: Batch, day: date) -> Shown:
    rows = _month(batch, CHARGES_MONTHLY, day)
    if rows.is_empty():
        return {}
    projected = rows.select(pl.coalesce("projected", "amount").sum()).item()
    return {
        "due_yuan": float(rows["amount"].sum()),
        "projected_yuan": float(projected),
        "deltas": rows.filter(pl.col("status") == DELTA).height,
        "picture": charges_picture(rows),
    }


def seen_bills(batch: Batch, day: date) -> Shown:
    rows = _month(batch, BILL_CHECK, day).filter(pl.col("item") != TOTAL)
    counts = rows.filter(~pl.col("cause").is_in(["equal", "rounding"])).group_by("cause").len().sort("cause")
    return {"lines": rows.height, "differing_lines": int(counts["len"].sum()), **dict(counts.iter_rows())}


def _month(batch: Batch, table: Table, day: date) -> pl.DataFrame:
    return batch.marts.scan(table, [month_partition(day)]).collect()
