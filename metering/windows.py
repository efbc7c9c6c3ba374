"""15-minute windows of one meter: what was read, what it used, how its voltage stood.

Here: which reading of a time counts, and the aggregates of a window. Not here: when a window is closed, which revision
it is (`pipelines`), sums over a customer's meters (`curve`).
"""

from __future__ import annotations

import polars as pl

from metering.calendar import window_end
from metering.phases import phase_voltages
from metering.power_factor import power_factor
from metering.registers import difference
from metering.tables.lake import CURRENTS, MEASURED, PHASES, REGISTERS, WINDOW_S, WINDOWS
from metering.voltage import monitored, over, under

USED = tuple(name for name in MEASURED if name not in CURRENTS)
"""The measured values that windows, and the rules, look at."""
_SPAN_BITS = 40
_METER_BITS = 23
_ORDER = ("source_offset", "source_row")
_FACTS = ("interval_s", "wiring", "u_lower_v", "u_upper_v", "u_band_lower_v", "u_band_upper_v")
_FLOATS = tuple(n for n, t in WINDOWS.schema.items() if t == pl.Float64)


def latest(readings: pl.DataFrame) -> pl.DataFrame:
    """One reading for each (meter, ts), the one that came last; sorted by meter and ts.

    `readings`: columns of `readings` with `meter` (code [UInt32]), in any order. Of one partition that is the reading
    with the higher offset. Offsets of different partitions say nothing of each other (a meter moves when its topic
    gets more of them): of each partition's last reading the one counts that was logged later. Without a column
    `source_partition` all are of one.
    """
    if readings.height <= 1:
        return readings
    ordered = readings.with_columns(_key(readings).alias("key")).sort("key", maintain_order=True)
    if (ordered["key"] == ordered["key"].shift(-1)).any():
        if "source_partition" in readings.columns:
            ordered = _last_of("key", "source_partition", rows=ordered, order=_ORDER)
            ordered = _last_of("key", rows=ordered, order=("logged_at", "source_partition"))
        else:
            ordered = _last_of("key", rows=ordered, order=_ORDER)
    return ordered.drop("key")


def _last_of(*group: str, rows: pl.DataFrame, order: tuple[str, ...]) -> pl.DataFrame:
    ordered = rows.sort(*group, *order)
    return ordered.filter(pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift(-1)) for name in group))


def _key(readings: pl.DataFrame) -> pl.Series:
    """(meter, ts) as one integer, which sorts much faster than two columns; a dense rank where the span is too wide."""
    ts = readings["ts"].to_physical()
    meter = readings["meter"].cast(pl.Int64)
    base, top, last = ts.min(), ts.max(), meter.max()
    assert isinstance(base, int)
    assert isinstance(top, int)
    assert isinstance(last, int)
    if top - base >= 1 << _SPAN_BITS or last >= 1 << _METER_BITS:
        return readings.select(pl.struct("meter", "ts").rank("dense").cast(pl.Int64)).to_series()
    return meter * (1 << _SPAN_BITS) + (ts - base)


def windows(readings: pl.DataFrame, facts: pl.DataFrame) -> pl.DataFrame:
    """Aggregates of every window that has a reading.

    `readings`: the result of `latest`, with `fact` (row in `facts`); to know a window's start edge it must hold the
    reading at the window's start, if there was one. Returns the columns of `windows` but for `revision` and `date`,
    plus `meter` and `fact`, sorted by meter and window_end. Results that are no finite number are null.
    """
    rows = readings.select("meter", "fact", "ts", *USED, window_end(pl.col("ts")).alias("window_end"))
    rows = rows.with_columns(facts[name].gather(rows["fact"]) for name in _FACTS).with_columns(
        *phase_voltages(), *_start_edges()
    )
    grouped = (
        rows.with_columns(*_voltage_minutes(), group=pl.struct("meter", "window_end").rle_id())
        .with_columns(pl.col("group").set_sorted())
        .group_by("group", maintain_order=True)
        .agg(_aggregates())
    )
    return _derived(grouped, facts)


def _start_edges() -> list[pl.Expr]:
    """The registers at the window's start, on the window's first row."""
    start = pl.col("window_end") - pl.duration(seconds=WINDOW_S)
    known = (pl.col("meter").shift(1) == pl.col("meter")) & (pl.col("ts").shift(1) == start)
    return [pl.when(known).then(pl.col(name).shift(1)).alias(f"{name}_start") for name in REGISTERS]


def _voltage_minutes() -> list[pl.Expr]:
    minutes = pl.col("interval_s") * (1 / 60)  # times: see compliance

    def total(condition: list[pl.Expr]) -> pl.Expr:
        return pl.sum_horizontal(c.cast(pl.UInt8) for c in condition) * minutes

    phases = [pl.col(f"u{p}_v") for p in PHASES]
    return [
        total([monitored(u) for u in phases]).alias("u_monitored_min"),
        total([over(u) for u in phases]).alias("u_over_min"),
        total([under(u) for u in phases]).alias("u_under_min"),
        pl.min_horizontal(phases).alias("u_min_v"),
        pl.max_horizontal(phases).alias("u_max_v"),
    ]


def _aggregates() -> list[pl.Expr]:
    hours = pl.col("interval_s").first() * (1 / 3600)
    q = pl.col("q_kvar")
    at_end = pl.col("ts").last() == pl.col("window_end").first()
    return [
        pl.col("meter", "fact", "window_end", "interval_s").first(),
        pl.len().cast(pl.Int32).alias("n"),
        pl.col("p_kw").mean().alias("p_mean_kw"),
        pl.col("p_kw").max().alias("p_max_kw"),
        pl.col("p_kw").min().alias("p_min_kw"),
        q.mean().alias("q_mean_kvar"),
        (pl.col("p_kw").sum() * hours).alias("p_kwh"),
        pl.col("p_kw").count().alias("p_n"),
        (q.clip(lower_bound=0).sum() * hours).alias("q_import_kvarh"),
        (q.clip(upper_bound=0).sum().abs() * hours).alias("q_export_kvarh"),
        q.count().alias("q_n"),
        *(pl.col(f"u{p}_v").mean().alias(f"u{p}_mean_v") for p in PHASES),
        pl.col("u_min_v").min(),
        pl.col("u_max_v").max(),
        pl.col("u_monitored_min", "u_over_min", "u_under_min").sum(),
        *(pl.col(f"{name}_start").first() for name in REGISTERS),
        *(pl.when(at_end).then(pl.col(name).last()).alias(f"{name}_end") for name in REGISTERS),
    ]


def _derived(grouped: pl.DataFrame, facts: pl.DataFrame) -> pl.DataFrame:
    fact = grouped["fact"]
    named = grouped.with_columns(
        facts[name].gather(fact) for name in ("meter_id", "customer_no", "nominal_v", "register_modulus")
    )
    modulus = pl.col("register_modulus")
    used = {name: difference(pl.col(f"{name}_start"), pl.col(f"{name}_end"), modulus) for name in REGISTERS}
    # A meter without an export register reports none at either edge; one that lost an edge does not know.
    no_export = pl.col("export_kwh_start").is_null() & pl.col("export_kwh_end").is_null()
    registered = used["import_kwh"] - pl.when(no_export).then(0.0).otherwise(used["export_kwh"])
    powered = pl.when((pl.col("p_n") > 0) & pl.col("p_kwh").is_finite()).then("p_kwh")
    nominal = pl.col("nominal_v")
    derived = named.with_columns(
        (WINDOW_S / pl.col("interval_s")).ceil().cast(pl.Int32).alias("n_expected"),
        pl.when(registered.is_finite()).then(registered).alias("registered"),
        powered.alias("powered"),
        used["import_kvarh"].alias("import_kvarh"),
        used["export_kvarh"].alias("export_kvarh"),
        pl.when(pl.col("q_n") > 0).then("q_import_kvarh").alias("q_import_kvarh"),
        pl.when(pl.col("q_n") > 0).then("q_export_kvarh").alias("q_export_kvarh"),
        ((pl.col("u_min_v") - nominal) / nominal * 100).alias("u_dev_min_pct"),
        ((pl.col("u_max_v") - nominal) / nominal * 100).alias("u_dev_max_pct"),
        power_factor(pl.col("p_mean_kw"), pl.col("q_mean_kvar")).alias("pf"),
    ).with_columns(
        pl.coalesce("registered", "powered").alias("energy_kwh"),
        pl.when(pl.col("registered").is_not_null())
        .then(pl.lit("register"))
        .when(pl.col("powered").is_not_null())
        .then(pl.lit("power"))
        .alias("energy_basis"),
    )
    finite = [pl.when(pl.col(name).is_finite()).then(name).alias(name) for name in _FLOATS]
    names = [n for n in WINDOWS.names if n not in ("revision", "date")]
    return derived.with_columns(finite).select("meter", "fact", *names)
