"""15-minute windows of one meter: what was read, what it used, how its voltage stood.

Here: which reading of a time counts, and the aggregates of a window. Not here: when a window is closed, which revision
it is (`pipelines`), sums over a customer's meters (`curve`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import polars as pl

from metering.calendar import window_end
from metering.load.registers import difference
from metering.supply.phases import phase_voltages
from metering.supply.power_factor import power_factor
from metering.supply.voltage import monitored, over, under
from metering.tables.lake import CURRENTS, MEASURED, MOST_KW, MOST_KWH, PHASES, REGISTERS, WINDOW_S, WINDOWS

USED = tuple(name for name in MEASURED if name not in CURRENTS)
"""The measured values that windows look at; rules have theirs in `metering.events.catalogue.values_read`."""
_SPAN_BITS = 40
_METER_BITS = 23
_ORDER = ("log_offset", "source_row")
_OF_VERSION = ("interval_s", "u_lower_v", "u_upper_v", "u_band_lower_v", "u_band_upper_v")
_MEANS = {"p": "p_mean_kw", "q": "q_mean_kvar"}
_MOST = {
    column.name: {"kW": MOST_KW, "kvar": MOST_KW, "kWh": MOST_KWH, "kvarh": MOST_KWH}.get(
        column.unit, sys.float_info.max
    )
    for column in WINDOWS.columns
    if column.dtype == pl.Float64
} | dict.fromkeys(("p_max_kw", "p_min_kw"), sys.float_info.max)
"""What is beyond is no power or energy of any meter, or no finite number: told by the extremes, and not counted."""


def latest(readings: pl.DataFrame) -> pl.DataFrame:
    """One reading for each (meter, ts), the one that came last; sorted by meter and ts.

    `readings`: columns of `readings` with `meter` (code [UInt32]), in any order. Of one partition that is the reading
    with the higher `log_offset`. Offsets of different partitions say nothing of each other (a meter moves when a topic
    gets more of them): of each partition's last reading the one counts that was logged later; what came from a file,
    which tells no such time, counts less than a message. Without a column `source_partition` all are of one.
    """
    if readings.height <= 1:
        return readings
    ordered = readings.with_columns(_key(readings).alias("key")).sort("key", maintain_order=True)
    if (ordered["key"] == ordered["key"].shift(-1)).any():
        if "source_partition" in readings.columns:
            ordered = ordered.with_columns(from_file=pl.col("logged_at").is_null())
            ordered = _last_of("key", "source_partition", "from_file", rows=ordered, order=_ORDER)
            ordered = _last_of("key", rows=ordered, order=("logged_at", "source_partition")).drop("from_file")
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


def windows(readings: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    """Aggregates of every window that has a reading.

    `readings`: the result of `latest`, with `version` (row in `meter_versions`); to know a window's start edge it must
    hold the reading at its start, if there was one. Returns the columns of `windows` but for `revision` and `date`,
    plus `meter` and `version`, sorted by meter and window_end. Results that are no finite number are null, and so are
    mean powers and energies beyond MOST_KW and MOST_KWH.
    """
    rows = readings.select("meter", "version", "ts", *USED, window_end(pl.col("ts")).alias("window_end"))
    rows = rows.with_columns(
        *phase_voltages(readings, meter_versions),
        *(meter_versions[name].gather(readings["version"]) for name in _OF_VERSION),
        _number(pl.col("meter"), pl.col("window_end")).alias("window"),
    )
    rows = rows.with_columns(*_inside()).with_columns(*_voltage_minutes(), *_reactive_parts())
    grouped = rows.group_by("window", maintain_order=True).agg(_aggregates())
    last = grouped["n"].cum_sum().cast(pl.Int64) - 1
    first = last - grouped["n"] + 1
    return _derived(grouped.with_columns(*_of_group(rows, first), *_at_edges(rows, first, last)), meter_versions)


def _number(meter: pl.Expr, end: pl.Expr) -> pl.Expr:
    """A meter's window as one integer; not flagged as sorted, for Polars sums slices three times as slowly."""
    return meter.cast(pl.Int64) * (1 << 32) + end.to_physical() // (WINDOW_S * 1_000_000)


def _reactive_parts() -> list[pl.Expr]:
    q = pl.col("q_kvar")
    return [q.clip(lower_bound=0).alias("q_import_kvar"), q.clip(upper_bound=0).alias("q_export_kvar")]


def _inside() -> list[pl.Expr]:
    return [monitored(pl.col(f"u{p}_v")).alias(f"{p}_inside") for p in PHASES]


def _voltage_minutes() -> list[pl.Expr]:
    minutes = pl.col("interval_s") * (1 / 60)  # times: see compliance

    def total(conditions: Iterable[pl.Expr]) -> pl.Expr:
        return pl.sum_horizontal(condition.cast(pl.UInt8) for condition in conditions) * minutes

    phases = [pl.col(f"u{p}_v") for p in PHASES]
    inside = [pl.col(f"{p}_inside") for p in PHASES]
    return [
        total(inside).alias("u_monitored_min"),
        total(map(over, phases, inside)).alias("u_over_min"),
        total(map(under, phases, inside)).alias("u_under_min"),
        pl.min_horizontal(phases).alias("u_min_v"),
        pl.max_horizontal(phases).alias("u_max_v"),
    ]


def _aggregates() -> list[pl.Expr]:
    """Only what has to look at every reading: each costs its price for each window."""
    return [
        pl.len().cast(pl.Int32).alias("n"),
        pl.col("p_kw").sum().alias("p_sum"),
        pl.col("p_kw").count().alias("p_n"),
        pl.col("p_kw").max().alias("p_max_kw"),
        pl.col("p_kw").min().alias("p_min_kw"),
        pl.col("q_kvar").sum().alias("q_sum"),
        pl.col("q_kvar").count().alias("q_n"),
        pl.col("q_import_kvar", "q_export_kvar").sum(),
        *(pl.col(f"u{p}_v").mean().alias(f"u{p}_mean_v") for p in PHASES),
        pl.col("u_min_v").min(),
        pl.col("u_max_v").max(),
        pl.col("u_monitored_min", "u_over_min", "u_under_min").sum(),
    ]


def _of_group(rows: pl.DataFrame, first: pl.Series) -> list[pl.Series]:
    return [rows[name].gather(first) for name in ("meter", "version", "window_end", "interval_s")]


def _at_edges(rows: pl.DataFrame, first: pl.Series, last: pl.Series) -> list[pl.Series]:
    """The registers at each window's start, read just before its first reading, and at its end, its last reading."""
    end = rows["window_end"].gather(first)
    before = (first - 1).set(first == 0, None)
    at_start = (rows["meter"].gather(before) == rows["meter"].gather(first)) & (
        rows["ts"].gather(before) == end.dt.offset_by(f"-{WINDOW_S}s")
    )
    at_end = rows["ts"].gather(last) == end
    edges = {"start": before.set(~at_start, None), "end": last.set(~at_end, None)}
    return [rows[name].gather(at).alias(f"{name}_{edge}") for edge, at in edges.items() for name in REGISTERS]


def _derived(grouped: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    version = grouped["version"]
    hours = pl.col("interval_s") * (1 / 3600)
    named = grouped.with_columns(
        *(
            meter_versions[name].gather(version)
            for name in ("meter_id", "customer_no", "nominal_v", "register_modulus")
        ),
        (WINDOW_S / pl.col("interval_s")).ceil().cast(pl.Int32).alias("n_expected"),
        *(_within(pl.col(f"{n}_sum") / pl.col(f"{n}_n"), MOST_KW).alias(mean) for n, mean in _MEANS.items()),
        pl.when(pl.col("p_n") > 0).then(pl.col("p_sum") * hours).alias("powered"),
        *(
            pl.when(pl.col("q_n") > 0).then(pl.col(f"{name}_kvar").abs() * hours).alias(f"{name}_kvarh")
            for name in ("q_import", "q_export")
        ),
    )
    modulus = pl.col("register_modulus")
    used = {name: difference(pl.col(f"{name}_start"), pl.col(f"{name}_end"), modulus) for name in REGISTERS}
    # A meter without an export register reports none at either edge; one that lost an edge does not know.
    no_export = pl.col("export_kwh_start").is_null() & pl.col("export_kwh_end").is_null()
    registered = used["import_kwh"] - pl.when(no_export).then(0.0).otherwise(used["export_kwh"])
    nominal = pl.col("nominal_v")
    derived = named.with_columns(
        _within(registered, MOST_KWH).alias("registered"),
        _within(pl.col("powered"), MOST_KWH).alias("powered"),
        used["import_kvarh"].alias("import_kvarh"),
        used["export_kvarh"].alias("export_kvarh"),
        ((pl.col("u_min_v") - nominal) / nominal * 100).alias("u_dev_min_pct"),
        ((pl.col("u_max_v") - nominal) / nominal * 100).alias("u_dev_max_pct"),
        power_factor(pl.col("p_mean_kw"), pl.col("q_mean_kvar")).alias("pf"),
        pl.min_horizontal(pl.col("n") * pl.col("interval_s"), WINDOW_S).truediv(60).alias("covered_min"),
        pl.lit(None, pl.String).alias("reason"),
    ).with_columns(
        pl.coalesce("registered", "powered").alias("energy_kwh"),
        pl.when(pl.col("registered").is_not_null())
        .then(pl.lit("registers"))
        .when(pl.col("powered").is_not_null())
        .then(pl.lit("power"))
        .alias("energy_basis"),
    )
    bounded = [_within(pl.col(name), most).alias(name) for name, most in _MOST.items()]
    names = [n for n in WINDOWS.names if n not in ("revision", "date")]
    return derived.with_columns(bounded).select("meter", "version", *names)


def _within(value: pl.Expr, most: float) -> pl.Expr:
    """`value`, null beyond `most` and where it is no number."""
    return pl.when(value.abs() <= most).then(value)
