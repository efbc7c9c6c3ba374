"""Maximum demand: the largest 15-min mean of active power, of days, and of months from one settlement day to the next.

Here: means that slide by 1 min where every main meter reports often enough, else the largest quarter-hour; supply
sources apart and summed. Not here: what is charged for it (`metering.charges`), the curve (`curve`).
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

import polars as pl

from metering.calendar import day_bounds
from metering.charges.settlement import demand_month, demand_period
from metering.registry.customer_days import customer_days
from metering.settings import MeteringSettings, in_force
from metering.tables.charges import BLOCK, DEMAND_DAILY, DEMAND_MONTHLY, SLIDING
from metering.tables.lake import MOST_KW
from metering.tables.schema import TIMESTAMP, finite, no_rows
from metering.tables.warehouse import MAIN
from metering.text import filled
from metering.vee.expected import due_until, meters_on

TOGETHER = 0
"""Source number of all sources of a customer together."""
DEMAND_MIN = 15
_SLIDE_S = 60
_SNAPSHOT = "snapshot"
_BY = ("customer_no", "source_no")
_SLID = pl.Schema(
    {"customer_no": pl.String(), "source_no": pl.Int32(), "sliding_kw": pl.Float64(), "sliding_at": TIMESTAMP}
)


def slides(meter_versions: pl.DataFrame) -> bool:
    """Whether any meter reports often enough for a maximum demand that slides by 1 min."""
    return bool((_SLIDE_S % meter_versions["interval_s"] == 0).any())


def demand_daily(
    curve: pl.DataFrame,
    meter_curve: pl.DataFrame,
    readings: pl.DataFrame | None,
    meter_versions: pl.DataFrame,
    day: date,
    settings: MeteringSettings,
    until: datetime | None = None,
) -> pl.DataFrame:
    """DEMAND_DAILY of the local `day`: of each customer in `curve`, and of each of its sources.

    `curve`: the customers' DAILY_CURVE of the day; `meter_curve`: METER_CURVE of the day, for the sources;
    `readings`: what the means slide over (`sliding_demand`), None where no meter reports by the minute. A customer with
    a main meter that sends snapshots has no demand: what is between them is not known.
    """
    of_day = curve.filter(pl.col("date") == day)
    meters = _main(meter_versions, day, settings)
    points = pl.concat([_together(of_day), _apart(meter_curve, meters)])
    slid = _slid(readings, meter_versions, day, settings, until)
    rows = (
        _blocks(points)
        .join(slid, on=_BY, how="left")
        .join(_apparent(of_day), on=_BY, how="left")
        .join(_snapshots(meters), on="customer_no", how="left")
    )
    known = pl.col("meters").is_null()
    sliding = pl.col("sliding_kw").is_not_null()
    estimate = filled("the quarter-hour is {}", "status")
    told = finite(rows).with_columns(
        pl.when(known).then(pl.coalesce("sliding_kw", "block_kw")).alias("demand_kw"),
        pl.when(known).then(pl.when(sliding).then("sliding_at").otherwise("block_at")).alias("demand_at"),
        pl.when(known & sliding)
        .then(pl.lit(SLIDING))
        .when(known & pl.col("block_kw").is_not_null())
        .then(pl.lit(BLOCK))
        .alias("basis"),
        pl.when(~known)
        .then(filled("snapshots give no demand: meter {}", "meters"))
        .when(sliding)
        .then(None)
        .when(pl.col("block_kw").is_null())
        .then(pl.lit("no power is known"))
        .when(pl.col("status").is_in(["estimated", "edited"]))
        .then(estimate)
        .alias("reason"),
    )
    alone = told.join(meters.filter(~pl.col("several")).select("customer_no", "source_no").unique(), on="customer_no")
    theirs = alone.with_columns(pl.col("source_no_right").alias("source_no"), s_max_kva=pl.lit(None, pl.Float64))
    every = pl.concat([told, theirs.select(told.columns)])
    return DEMAND_DAILY.conform(every, date=day).sort(DEMAND_DAILY.key)


def sliding_demand(
    readings: pl.DataFrame | None,
    meter_versions: pl.DataFrame,
    day: date,
    settings: MeteringSettings,
    until: datetime | None = None,
) -> pl.DataFrame:
    """Largest 15-min mean of active power that ends on the local `day`, sliding by 1 min.

    Columns: customer_no, sliding_kw [kW].
    For customers all of whose meters report at whole fractions of a minute. A mean counts when every reading of every
    meter in its 15 min is there; it reaches back over midnight where `readings` (meter_id, p_kw, and what they answer
    for: slot_end, slot_s) go back that far, but not over a settlement day's: there demand begins anew. Customers
    without one full mean (within MOST_KW) have no row.
    """
    slid = _slid(readings, meter_versions, day, settings, until)
    return slid.filter(pl.col("source_no") == TOGETHER).select("customer_no", "sliding_kw").sort("customer_no")


def demand_of_day(rows: pl.DataFrame, day: date, settings: MeteringSettings) -> pl.DataFrame:
    """Maximum demand of each customer's day, of several sources as the settings have it.

    `rows`: DEMAND_DAILY of the day. Columns: customer_no, demand_max_kw, demand_basis.
    """
    return of_sources(rows, day, settings).select(
        "customer_no", pl.col("demand_kw").alias("demand_max_kw"), pl.col("basis").alias("demand_basis")
    )


def demand_monthly(
    days: pl.DataFrame,
    energy: pl.DataFrame,
    customers: pl.DataFrame,
    month: date,
    settings: MeteringSettings,
    until: date,
    frozen: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """DEMAND_MONTHLY of the month that the date `month` lies in, up to the local day `until`.

    `days`: DEMAND_DAILY; those outside the month's period are left out. `energy`: customer_no and active_kwh of the
    calendar month; `customers`: the registry's, with their periods: overrun and load rate of a day are judged by its
    own row. `frozen`: customer_no and frozen_kw, where meters have told it.
    """
    first = month.replace(day=1)
    start, end = demand_period(first, settings.settlement)
    theirs = days.filter(pl.col("date").is_between(start, end))
    dated = customer_days(customers, start, min(end, until))
    last = dated.sort("date").unique("customer_no", keep="last").select("customer_no", *_JUDGED)
    daily = pl.concat(
        [pl.DataFrame(schema=_OF_DAY), *(_judged(rows, day, dated, settings) for day, rows in _by_day(theirs))]
    )
    over = daily.group_by("customer_no").agg(pl.col("overrun_kw", "load_rate").max())
    rows = (
        of_sources(theirs, first, settings)
        .join(last, on="customer_no")
        .join(over, on="customer_no", how="left")
        .join(energy.select("customer_no", "active_kwh"), on="customer_no", how="left")
    )
    if frozen is not None:
        rows = rows.join(frozen, on="customer_no", how="left")
    overrun = pl.when(pl.col("contract_demand_kw").is_not_null(), pl.col("demand_kw").is_not_null())
    above = (pl.col("demand_kw") - pl.col("contract_demand_kw")).clip(lower_bound=0)
    told = finite(
        rows.with_columns(
            overrun.then(pl.when(pl.col("sources") > 1).then(above).otherwise("overrun_kw")).alias("overrun_kw"),
            pl.col("load_rate").alias("max_load_rate"),
            pl.when(pl.col("demand_kw") > 0)
            .then(pl.col("active_kwh") / pl.col("demand_kw"))
            .alias("utilisation_hours"),
        )
    )
    return DEMAND_MONTHLY.conform(told, month=first, period_from=start, period_to=end).sort(DEMAND_MONTHLY.key)


_JUDGED = ("contract_demand_kw", "contract_capacity_kva")
_OF_DAY = pl.Schema({"customer_no": pl.String(), "overrun_kw": pl.Float64(), "load_rate": pl.Float64()})


def _by_day(days: pl.DataFrame) -> list[tuple[date, pl.DataFrame]]:
    return [(day, rows) for (day,), rows in sorted(days.partition_by("date", as_dict=True).items())]


def _judged(rows: pl.DataFrame, day: date, dated: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """What a day's demand is above the contract of that day, and its load rate."""
    s_max = rows.filter(pl.col("source_no") == TOGETHER).select("customer_no", "s_max_kva")
    joined = (
        of_sources(rows, day, settings)
        .join(dated.filter(pl.col("date") == day), on="customer_no")
        .join(s_max, on="customer_no", how="left")
    )
    above = (pl.col("demand_kw") - pl.col("contract_demand_kw")).clip(lower_bound=0)
    rate = pl.when(pl.col("contract_capacity_kva") > 0).then(pl.col("s_max_kva") / pl.col("contract_capacity_kva"))
    return joined.select("customer_no", above.alias("overrun_kw"), rate.alias("load_rate"))


def of_sources(rows: pl.DataFrame, day: date, settings: MeteringSettings) -> pl.DataFrame:
    """Customers' demand of one or more days: the largest of all sources together, or the sum of each one's largest.

    Columns: customer_no, demand_kw, demand_at, basis, days, sources, reason. The time and reason of a sum are those of
    its largest part; it slides where each part does. Of a source without a demand there is none of the customer.
    """
    apart = in_force(settings.settlement, day).sources == "apart"
    used = rows.filter((pl.col("source_no") != TOGETHER) == apart)
    largest = (
        used.sort("customer_no", "source_no", "date")
        .group_by(_BY, maintain_order=True)
        .agg(
            pl.col("demand_kw").max(),
            *(
                pl.col(name).get(pl.col("demand_kw").arg_max(), null_on_oob=True)
                for name in ("demand_at", "basis", "reason")
            ),
            pl.col("demand_kw").count().alias("days"),
            pl.col("reason").drop_nulls().first().alias("why_none"),
        )
    )
    known = pl.col("demand_kw").null_count() == 0
    best = pl.col("demand_kw").arg_max()
    return largest.group_by("customer_no", maintain_order=True).agg(
        pl.when(known).then(pl.col("demand_kw").sum()).alias("demand_kw"),
        pl.when(known).then(pl.col("demand_at").get(best, null_on_oob=True)).alias("demand_at"),
        pl.when(known)
        .then(pl.when((pl.col("basis") == SLIDING).all()).then(pl.lit(SLIDING)).otherwise(pl.lit(BLOCK)))
        .alias("basis"),
        pl.col("days").min(),
        pl.len().alias("sources"),
        pl.when(known)
        .then(pl.col("reason").get(best, null_on_oob=True))
        .otherwise(pl.col("why_none").drop_nulls().first())
        .alias("reason"),
    )


def _main(meter_versions: pl.DataFrame, day: date, settings: MeteringSettings) -> pl.DataFrame:
    meters = meters_on(meter_versions, day, settings).filter(pl.col("role") == MAIN)
    return meters.select("meter_id", "customer_no", "source_no", "sampling").with_columns(
        (pl.col("source_no").n_unique() > 1).over("customer_no").alias("several")
    )


def _together(curve: pl.DataFrame) -> pl.DataFrame:
    return curve.select("customer_no", pl.lit(TOGETHER, pl.Int32).alias("source_no"), "window_end", "p_kw", "status")


def _apart(meter_curve: pl.DataFrame, meters: pl.DataFrame) -> pl.DataFrame:
    """Points of each source of customers that have several, summed over its main meters; known where all are."""
    p = pl.col("p_kw")
    return (
        meter_curve.select("meter_id", "window_end", "p_kw", "status")
        .join(meters.filter("several"), on="meter_id")
        .sort("customer_no", "source_no", "window_end", "meter_id")
        .group_by("customer_no", "source_no", "window_end", maintain_order=True)
        .agg(
            pl.when(p.count() > 0).then(p.sum()).alias("p_kw"),
            pl.col("status").sort_by(pl.col("status").is_in(["estimated", "edited"])).last().alias("status"),
        )
    )


def _blocks(points: pl.DataFrame) -> pl.DataFrame:
    best = pl.col("p_kw").arg_max()
    return (
        points.sort(*_BY, "window_end")
        .group_by(_BY, maintain_order=True)
        .agg(
            pl.col("p_kw").max().alias("block_kw"),
            pl.col("window_end").get(best, null_on_oob=True).alias("block_at"),
            pl.col("status").get(best, null_on_oob=True),
        )
    )


def _apparent(curve: pl.DataFrame) -> pl.DataFrame:
    """Largest apparent power of a quarter-hour, where Q is known."""
    s = (pl.col("p_kw").pow(2) + pl.col("q_kvar").pow(2)).sqrt()
    return curve.group_by("customer_no").agg(pl.lit(TOGETHER, pl.Int32).alias("source_no"), s.max().alias("s_max_kva"))


def _snapshots(meters: pl.DataFrame) -> pl.DataFrame:
    of_snapshots = meters.filter(pl.col("sampling") == _SNAPSHOT)
    return of_snapshots.group_by("customer_no").agg(pl.col("meter_id").sort().str.join(", ").alias("meters"))


def _slid(
    readings: pl.DataFrame | None,
    meter_versions: pl.DataFrame,
    day: date,
    settings: MeteringSettings,
    until: datetime | None,
) -> pl.DataFrame:
    """Largest sliding mean of each customer's sources, together and (where there are several) apart.

    Columns: customer_no, source_no, sliding_kw, sliding_at (its end; the first of equals).
    """
    start, _ = day_bounds(day, settings.timezone)
    begins = day == demand_period(demand_month(day, settings.settlement), settings.settlement)[0]
    back = DEMAND_MIN - 1
    first, end = start if begins else start - timedelta(minutes=back), due_until(day, settings, until)
    due = _due(meter_versions, first, end)
    if readings is None or due.is_empty():
        return no_rows(_SLID)
    minutes = _full_minutes(readings, due, first, end)
    unbroken = pl.all_horizontal(pl.col(name).shift(back) == pl.col(name) for name in _BY) & (
        pl.col("minute").shift(back) == pl.col("minute").dt.offset_by(f"-{back}m")
    )
    # With weights every mean is summed by itself: a running sum keeps for ever what an absurd value has done to it.
    mean = pl.col("p_kw").rolling_mean(DEMAND_MIN, weights=[1.0] * DEMAND_MIN)
    found = (
        minutes.with_columns(mean.alias("sliding_kw"), unbroken.alias("unbroken"))
        .filter("unbroken", pl.col("minute") > start, pl.col("sliding_kw").abs() <= MOST_KW)
        .group_by(_BY, maintain_order=True)
        .agg(
            pl.col("sliding_kw").max(),
            pl.col("minute").get(pl.col("sliding_kw").arg_max(), null_on_oob=True).alias("sliding_at"),
        )
    )
    return found.select(pl.col(name).cast(dtype) for name, dtype in _SLID.items())


def _due(meter_versions: pl.DataFrame, after: datetime, until: datetime) -> pl.DataFrame:
    """Main meters between two instants, of customers all of whose ones report at whole fractions of a minute.

    A row for each that counts for all sources together, and one for its own source where the customer has several:
    meter_id, customer_no, source_no, interval_s, and from when to when (null: on). Meters are exchanged at noon.
    """
    valid = (pl.col("valid_from") < until) & (pl.col("valid_to").is_null() | (pl.col("valid_to") > after))
    never = meter_versions.schema["valid_to"]
    meters = (
        meter_versions.filter(valid, pl.col("role") == MAIN)
        .group_by("meter_id", "customer_no", "source_no", "interval_s")
        .agg(
            pl.col("valid_from").min(),
            pl.when(pl.col("valid_to").null_count() == 0).then(pl.col("valid_to").max().cast(never)).alias("valid_to"),
        )
    )
    # one coarse meter leaves the customer without: a part of its demand would be told as the whole
    fine = meters.filter((_SLIDE_S % pl.col("interval_s") == 0).all().over("customer_no"))
    several = (pl.col("source_no").n_unique() > 1).over("customer_no")
    together = fine.with_columns(pl.lit(TOGETHER, pl.Int32).alias("source_no"))
    return pl.concat([together, fine.filter(several)])


def _full_minutes(readings: pl.DataFrame, due: pl.DataFrame, after: datetime, until: datetime) -> pl.DataFrame:
    """Mean power of the minutes that every meter due in them has told: customer_no, source_no, minute (its end), p_kw;
    sorted by these.
    """
    end = pl.col("slot_end")
    minute = (end - pl.duration(microseconds=1)).dt.truncate("1m").dt.offset_by("1m")
    valid = (pl.col("minute") > pl.col("valid_from")) & (
        pl.col("valid_to").is_null() | (pl.col("minute") <= pl.col("valid_to"))
    )
    slots = _SLIDE_S // pl.col("interval_s")
    throughout = (pl.col("valid_from") <= after) & (pl.col("valid_to").is_null() | (pl.col("valid_to") >= until))
    constant = due.with_columns(throughout.all().over(_BY).alias("constant"))
    whole = constant.filter("constant").group_by(_BY).agg(slots.sum().alias("due"))
    spans = pl.datetime_range(after, until, "1m", closed="right", time_unit="us", eager=True).alias("minute")
    changing = (
        constant.filter(~pl.col("constant"))
        .join(spans.cast(TIMESTAMP).to_frame(), how="cross")
        .filter(valid)
        .group_by(*_BY, "minute")
        .agg(slots.sum().alias("due_then"))
    )
    weight = pl.col("interval_s") / _SLIDE_S
    return (
        readings.filter(end > after, end <= until, pl.col("slot_s") > 0, pl.col("p_kw").is_not_null())
        .select("meter_id", "p_kw", minute.alias("minute"))
        .join(due, on="meter_id")
        .filter(valid)
        .group_by(*_BY, "minute")
        .agg((pl.col("p_kw") * weight).sum().alias("p_kw"), pl.len().alias("came"))
        .join(whole, on=_BY, how="left")
        .join(changing, on=[*_BY, "minute"], how="left")
        .filter(pl.col("came") == pl.coalesce("due", "due_then"))
        .sort(*_BY, "minute")
    )
