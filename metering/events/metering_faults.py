"""What a metering fault cost: the energy that a meter did not count while it missed a voltage or a current, or stood.

Here: estimates by two methods, each the bound of the other; and by power, where that goes on. Not here: finding the
faults (the limit rules, `register_short`), gaps in the data (`metering.vee`): a meter with a fault goes on reporting,
and what it says is too little.

- `reference_days`: the mean power of the same quarter-hours on the newest days of the same kind without a fault, less
  what was measured.
- `other_phases`: of n measuring elements k are lost for a share f of a quarter-hour, so the meter shows 1 - f k / n of
  the power; load is taken to be spread evenly over the elements.
- `power_integral`: the register stands still and power is measured on, so its integral is what was not counted, give or
  take what power may be off by.
"""

from __future__ import annotations

from datetime import datetime

import polars as pl

from metering.settings import MeteringSettings
from metering.supply.phases import PHASES_OF_WIRING
from metering.tables.alarms import METERING_FAULTS
from metering.vee.estimation import reference_days
from metering.vee.meter_curve import placed

QUARTER_S = 900
_HOURS = QUARTER_S / 3600
_MISSING = ("missing", "estimated")


def metering_faults(
    alarms: pl.DataFrame, curve: pl.DataFrame, meters: pl.DataFrame, settings: MeteringSettings, until: datetime
) -> pl.DataFrame:
    """METERING_FAULTS of `alarms` (ALARMS) of the rules that the settings name, up to `until` where they last.

    `curve`: METER_CURVE of their meters, from `vee.reference_horizon_days` before each on; `meters`: meter_id, wiring.
    """
    named = alarms.filter(pl.col("rule").is_in(settings.metering_faults.rules), pl.col("state") != "withdrawn")
    every = named.select(
        "violation_id", "meter_id", "customer_no", "rule", "phase", "started_at",
        to=pl.min_horizontal("ended_at", pl.lit(until)), ended_at="ended_at",
    ).filter(pl.col("to") > pl.col("started_at"))  # fmt: skip
    by_power = pl.col("rule").is_in(settings.metering_faults.by_power)
    faults = every.filter(~by_power)
    elements = {wiring: len(phases) for wiring, phases in PHASES_OF_WIRING.items()}
    n = meters.select("meter_id", elements=pl.col("wiring").replace_strict(elements, return_dtype=pl.Float64))
    spans = _spans(faults.join(n, on="meter_id", how="left"))
    quarters = _with_reference(spans, curve, settings)
    figures = quarters.group_by("violation_id").agg(
        measured_kwh=(pl.col("p_kw") * _HOURS * pl.col("share")).sum(),
        reference_days_kwh=_sum_if_all("by_reference"),
        other_phases_kwh=_sum_if_all("by_phases"),
    )
    both = pl.col("reference_days_kwh", "other_phases_kwh")
    rows = faults.join(figures, on="violation_id", how="left").with_columns(
        method=pl.when(pl.col("reference_days_kwh").is_not_null())
        .then(pl.lit("reference_days"))
        .when(pl.col("other_phases_kwh").is_not_null())
        .then(pl.lit("other_phases")),
        lost_kwh=pl.coalesce("reference_days_kwh", "other_phases_kwh"),
        low_kwh=pl.when(pl.all_horizontal(both.is_not_null())).then(pl.min_horizontal(both)),
        high_kwh=pl.when(pl.all_horizontal(both.is_not_null())).then(pl.max_horizontal(both)),
    )
    stood = _by_power(every.filter(by_power), curve, settings)
    return pl.concat([METERING_FAULTS.conform(rows), stood]).sort(METERING_FAULTS.key)


def _by_power(faults: pl.DataFrame, curve: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """METERING_FAULTS of registers that stood: what a block says shows at its end, and holds from its start."""
    step = f"{QUARTER_S}s"
    blocks = faults.with_columns(pl.col("started_at", "to").dt.truncate(step)).with_columns(elements=pl.lit(1.0))
    spans = _spans(blocks).filter(pl.col("share") > 0)
    known = curve.filter(pl.col("status") != "missing").select("meter_id", "window_end", "p_kw")
    sign = pl.when(pl.col("phase").str.starts_with("export")).then(-1.0).otherwise(1.0)
    used = (pl.col("p_kw") * sign).clip(lower_bound=0) * pl.col("share") * _HOURS
    powered = spans.join(known, on=["meter_id", "window_end"], how="left").with_columns(used=used)
    sums = powered.group_by("violation_id").agg(power_kwh=_sum_if_all("used"))
    error = settings.metering_faults.power_error
    rows = faults.join(sums, on="violation_id", how="left").with_columns(
        method=pl.when(pl.col("power_kwh").is_not_null()).then(pl.lit("power_integral")),
        measured_kwh=pl.lit(0.0),
        lost_kwh="power_kwh",
        low_kwh=pl.col("power_kwh") * (1 - error),
        high_kwh=pl.col("power_kwh") * (1 + error),
    )
    return METERING_FAULTS.conform(rows)


def _sum_if_all(name: str) -> pl.Expr:
    """The sum, where the method has an answer for every quarter-hour."""
    return pl.when(pl.col(name).is_not_null().all() & (pl.len() > 0)).then(pl.col(name).sum())


def _spans(faults: pl.DataFrame) -> pl.DataFrame:
    """The quarter-hours (`window_end`) of each fault: `share` of it that the fault takes, `lost`: what all faults of
    the meter take of all elements (each element at most once), and `of_all`: the fault's part in that.
    """
    step = QUARTER_S * 1_000_000
    first = (pl.col("started_at").dt.epoch("us") // step + 1) * step
    last = -(-pl.col("to").dt.epoch("us") // step) * step
    rows = faults.with_columns(end_us=pl.int_ranges(first, last + 1, step)).explode("end_us")
    window_end = pl.col("end_us").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    rows = rows.with_columns(window_end=window_end)
    begin = pl.max_horizontal("started_at", pl.col("window_end") - pl.duration(seconds=QUARTER_S))
    taken = (pl.min_horizontal("to", "window_end") - begin).dt.total_microseconds() / step
    per_fault = rows.with_columns(share=taken)
    whole = pl.when(pl.col("phase") == "total").then(pl.col("elements")).otherwise(1.0)
    place = ("meter_id", "window_end")
    weights = per_fault.with_columns(weight=pl.col("share") * whole)
    lost = (pl.col("weight").sum().over(place) / pl.col("elements")).clip(upper_bound=1.0)
    return weights.with_columns(lost=lost, of_all=pl.col("weight") / pl.col("weight").sum().over(place))


def _with_reference(spans: pl.DataFrame, curve: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    place = ["meter_id", "window_end"]
    points = curve.select(*place, "p_kw", "status").with_columns(*placed(settings))
    ids = points.select("meter_id").unique().sort("meter_id").with_row_index("meter")
    points = points.join(ids, on="meter_id").with_columns(quarter=pl.col("window_end").dt.epoch("s") // QUARTER_S)
    struck = spans.select(place).unique()
    good = points.join(struck, on=place, how="anti").filter(
        ~pl.col("status").is_in(_MISSING), pl.col("p_kw").is_not_null()
    )
    wanted = points.join(struck, on=place, how="semi")
    reference = reference_days(
        wanted.select("meter", "quarter", "date", "slot", "kind"),
        good.select("meter", "date", "slot", "kind", "p_kw", q_kvar=pl.lit(0.0)),
        settings.vee.reference_days,
    )
    known = wanted.filter(~pl.col("status").is_in(_MISSING)).join(reference, on=["meter", "quarter"], how="left")
    rows = spans.join(known.select(*place, "p_kw", "p_ref_kw"), on=place, how="left")
    whole_kw = pl.when(pl.col("lost") < 1).then(pl.col("p_kw") / (1 - pl.col("lost")))
    return rows.with_columns(
        by_reference=(pl.col("p_ref_kw") - pl.col("p_kw")).clip(lower_bound=0) * _HOURS * pl.col("of_all"),
        by_phases=(whole_kw - pl.col("p_kw")).clip(lower_bound=0) * _HOURS * pl.col("of_all"),
    )
