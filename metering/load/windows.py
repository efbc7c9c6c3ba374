"""15-minute windows of one meter: what was read, what it used, how its voltage stood.

Here: which reading of a time counts, and the aggregates of a window. Not here: slots, and what is believed of readings
(`metering.readings`), readings that reach beyond a window (`spread`), when a window is closed, which revision it is
(`pipelines`), sums over a customer's meters (`curve`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

import polars as pl

from metering.load.registers import register_energy, seams, within_chain
from metering.load.spread import shared_windows
from metering.readings import plausible
from metering.readings.slots import WINDOW_US, is_last, on_grid, pieces, placed, spans
from metering.registry.meter_versions import OFF_GRID_US
from metering.supply.phases import phase_voltages
from metering.supply.power_factor import power_factor
from metering.supply.voltage import monitored, over, under
from metering.tables.lake import (
    CURRENTS,
    LINE_VOLTAGES,
    MEASURED,
    MOST_KW,
    MOST_KWH,
    PHASES,
    REGISTERS,
    WINDOW_S,
    WINDOWS,
)
from metering.tables.schema import TIMESTAMP, no_rows

USED = tuple(name for name in MEASURED if name not in (*CURRENTS, *LINE_VOLTAGES))
"""The measured values that windows look at; rules have theirs in `metering.events.catalogue.values_read`."""
_SPAN_BITS = 40
_METER_BITS = 23
_ORDER = ("log_offset", "source_row")
_OF_VERSION = ("interval_s", "u_lower_v", "u_upper_v", "u_band_lower_v", "u_band_upper_v")
_OF_WINDOW = (
    "meter_id", "customer_no", "nominal_v", "register_modulus", "chain", "step_most_kw", "step_tolerance",
    "step_count_kwh", "valid_from",
)  # fmt: skip
_WILD = pl.Schema({"meter": pl.UInt32(), "window_end": TIMESTAMP, "wild": pl.String()})
_MEANS = {"p": "p_mean_kw", "q": "q_mean_kvar"}
_MOST = {
    column.name: {"kW": MOST_KW, "kvar": MOST_KW, "kWh": MOST_KWH, "kvarh": MOST_KWH}.get(
        column.unit, sys.float_info.max
    )
    for column in WINDOWS.columns
    if column.dtype == pl.Float64
} | dict.fromkeys(("p_max_kw", "p_min_kw"), sys.float_info.max)
"""What is beyond is no power or energy of any meter, or no finite number: told by the extremes, and not counted."""


def withdrawn() -> pl.Expr:
    """Whether a row of `windows` says that there is no such window any more: no reading stands for any of it."""
    return (pl.col("n") == 0) & (pl.col("covered_min") == 0).fill_null(False)


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


def windows(readings: pl.DataFrame, meter_versions: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """Aggregates of every window that readings stand for.

    `readings`: the result of `latest`, with `version` (row in `meter_versions`); to know a window's start edge it must
    hold the readings of the slot that ends there, if there were any. Of a slot's readings the last counts; extremes see
    all.

    Returns the columns of `windows` but for `revision` and `date`, plus `meter`, `version` and `end_us` (end of the
    block, see `metering.readings.slots`), sorted by meter and window_end. What is not believed of a reading is not
    counted, and told in `reason`. Results that are no finite number are null, and so are mean powers and energies
    beyond MOST_KW and MOST_KWH.
    """
    rows = readings.select("meter", "version", "ts", *USED).with_columns(*phase_voltages(readings, meter_versions))
    over = plausible.beyond(rows, meter_versions)
    raw = rows
    rows = plausible.without(rows, over).with_columns(
        *(meter_versions[name].gather(readings["version"]) for name in _OF_VERSION)
    )
    rows = rows.with_columns(*_inside()).with_columns(
        *_voltage_minutes(), p_high=pl.col("p_kw"), p_low=pl.col("p_kw"), stamp_us=pl.col("ts").to_physical()
    )
    rows = placed(rows, meter_versions, timezone).with_columns(*_reactive_parts())
    wild = _wild(raw.with_columns(rows["slot_us", "end_us"]), over, meter_versions, timezone)
    if on_grid(readings, meter_versions):
        return _finished(_begun(_whole(rows, meter_versions)), wild)
    rows = spans(_one_a_slot(rows), meter_versions, timezone)
    whole = _begun(_whole(rows, meter_versions)).filter(WINDOW_S % pl.col("interval_s") == 0)
    off_grid = meter_versions["grid_us"].gather(rows["version"]) == OFF_GRID_US
    if not off_grid.any():
        return _finished(whole, wild)
    theirs = pl.col("meter").is_in(rows["meter"].filter(off_grid).unique().implode())
    shared = shared_windows(rows.filter(theirs), meter_versions, timezone)
    keys = ("meter", "window_end")
    made = pl.concat([whole.join(shared.select(keys), on=keys, how="anti"), shared], how="diagonal_relaxed")
    return _finished(made.sort(keys), wild)


def _one_a_slot(rows: pl.DataFrame) -> pl.DataFrame:
    """The last reading of each slot, with the extremes of all."""
    slot = ("meter", "version", "slot_us")
    seen = rows.group_by(pl.struct(slot).rle_id().alias("slot"), maintain_order=True).agg(
        pl.col("p_high", "u_max_v").max(), pl.col("p_low", "u_min_v").min()
    )
    return rows.filter(is_last(*slot)).with_columns(seen.drop("slot"))


def _wild(
    rows: pl.DataFrame, over: Mapping[str, pl.Series], meter_versions: pl.DataFrame, timezone: str
) -> pl.DataFrame:
    """What is said of values beyond belief: `meter`, `window_end`, `wild`. Of each kind the farthest is named."""
    said = []
    for name, mask in over.items():
        theirs = rows.filter(mask).with_columns(pl.col("end_us").alias("window_us"))
        off_grid = meter_versions["grid_us"].gather(theirs["version"]) == OFF_GRID_US
        spread = pieces(spans(theirs.filter(off_grid).drop("window_us"), meter_versions, timezone))
        theirs = pl.concat([frame.select("meter", "window_us", name) for frame in (theirs.filter(~off_grid), spread)])
        farthest = theirs.group_by("meter", "window_us").agg(pl.col(name).get(pl.col(name).abs().arg_max()))
        texts = pl.Series("wild", [plausible.told(name, value) for value in farthest[name]], dtype=pl.String)
        said.append(farthest.select("meter", pl.col("window_us").cast(TIMESTAMP).alias("window_end"), texts))
    if not said:
        return no_rows(_WILD)
    by_window = pl.concat(said).group_by("meter", "window_end", maintain_order=True)
    return by_window.agg(pl.col("wild").unique(maintain_order=True).str.join("; "))


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


# --- windows that are made of whole slots ----------------------------------------------------------------------------


def _whole(rows: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    """Windows of rows, one for each slot, sorted by meter and slot, as if all slots lay in one window."""
    # Not flagged as sorted, for Polars sums slices three times as slowly.
    window = (pl.col("meter").cast(pl.Int64) * (1 << 32) + pl.col("end_us") // WINDOW_US).alias("window")
    grouped = rows.with_columns(window).group_by("window", maintain_order=True).agg(_aggregates())
    last = grouped["n"].cum_sum().cast(pl.Int64) - 1
    first = last - grouped["n"] + 1
    found = grouped.with_columns(*_of_group(rows, first), *_at_edges(rows, first, last))
    found = found.with_columns(meter_versions[name].gather(found["version"]) for name in _OF_WINDOW)
    found = _without_seams(found, seams(rows), first, last)
    return _with_energy(within_chain(found, meter_versions))


def _begun(made: pl.DataFrame) -> pl.DataFrame:
    """Windows that do not end where their version of the meter begins: registers read then are another's edge only."""
    before = made["window_end"] <= made["valid_from"]
    return made.filter(~before) if before.any() else made


def _without_seams(found: pl.DataFrame, seam: pl.Series | None, first: pl.Series, last: pl.Series) -> pl.DataFrame:
    """Windows without the registers at their start, where those are of another chain than some reading since."""
    if seam is None:
        return found
    count = seam.cast(pl.Int64).cum_sum()
    broken = (count.gather(last) - count.gather(first) > 0) | seam.gather(first)
    return found.with_columns(found[f"{name}_start"].set(broken, None) for name in REGISTERS)


def _aggregates() -> list[pl.Expr]:
    """Only what has to look at every reading: each costs its price for each window."""
    return [
        pl.len().cast(pl.Int32).alias("n"),
        pl.col("p_kw").sum().alias("p_sum"),
        pl.col("p_kw").count().alias("p_n"),
        pl.col("p_high").max().alias("p_max_kw"),
        pl.col("p_low").min().alias("p_min_kw"),
        pl.col("q_kvar").sum().alias("q_sum"),
        pl.col("q_kvar").count().alias("q_n"),
        pl.col("q_import_kvar", "q_export_kvar").sum(),
        *(pl.col(f"u{p}_v").mean().alias(f"u{p}_mean_v") for p in PHASES),
        pl.col("u_min_v").min(),
        pl.col("u_max_v").max(),
        pl.col("u_monitored_min", "u_over_min", "u_under_min").sum(),
    ]


def _of_group(rows: pl.DataFrame, first: pl.Series) -> list[pl.Series]:
    end_us = rows["end_us"].gather(first)
    return [
        *(rows[name].gather(first) for name in ("meter", "version", "interval_s")),
        end_us,
        end_us.cast(TIMESTAMP).alias("window_end"),
    ]


def _at_edges(rows: pl.DataFrame, first: pl.Series, last: pl.Series) -> list[pl.Series]:
    """The registers of the slots that end at each window's start and at its end, and when they were read. The former is
    just before the window's first slot.
    """
    end_us = rows["end_us"].gather(first)
    before = (first - 1).set(first == 0, None)
    at_start = (rows["meter"].gather(before) == rows["meter"].gather(first)) & (
        rows["slot_us"].gather(before) == end_us - WINDOW_US
    )
    at_end = rows["slot_us"].gather(last) == end_us
    edges = {"start": before.set(~at_start, None), "end": last.set(~at_end, None)}
    names = (*REGISTERS, "version", "stamp_us")
    return [rows[name].gather(at).alias(f"{name}_{edge}") for edge, at in edges.items() for name in names]


def _with_energy(grouped: pl.DataFrame) -> pl.DataFrame:
    hours = pl.col("interval_s") * (1 / 3600)
    named = grouped.with_columns(
        (WINDOW_S / pl.col("interval_s")).ceil().cast(pl.Int32).alias("n_expected"),
        *(_within(pl.col(f"{n}_sum") / pl.col(f"{n}_n"), MOST_KW).alias(mean) for n, mean in _MEANS.items()),
        _within(pl.when(pl.col("p_n") > 0).then(pl.col("p_sum") * hours), MOST_KWH).alias("powered"),
        *(
            pl.when(pl.col("q_n") > 0).then(pl.col(f"{name}_kvar").abs() * hours).alias(f"{name}_kvarh")
            for name in ("q_import", "q_export")
        ),
        (pl.col("n") * pl.col("interval_s") / 60).alias("covered_min"),
    )
    whole = pl.col("p_n") == pl.col("n_expected")
    registered = register_energy(named, pl.when(whole).then("powered"), pl.col("p_min_kw"))
    return registered.with_columns(
        pl.coalesce("registered", "powered").alias("energy_kwh"),
        pl.when(pl.col("registered").is_not_null())
        .then(pl.lit("registers"))
        .when(pl.col("powered").is_not_null())
        .then(pl.lit("power"))
        .alias("energy_basis"),
    )


# --- what windows of either kind have in common ----------------------------------------------------------------------


def _finished(made: pl.DataFrame, wild: pl.DataFrame) -> pl.DataFrame:
    nominal = pl.col("nominal_v")
    derived = made.with_columns(
        ((pl.col("u_min_v") - nominal) / nominal * 100).alias("u_dev_min_pct"),
        ((pl.col("u_max_v") - nominal) / nominal * 100).alias("u_dev_max_pct"),
        power_factor(pl.col("p_mean_kw"), pl.col("q_mean_kvar")).alias("pf"),
    )
    if wild.height:
        derived = derived.join(wild, on=("meter", "window_end"), how="left", maintain_order="left")
        derived = derived.with_columns(
            pl.concat_str("reason", "wild", separator="; ", ignore_nulls=True).replace("", None).alias("reason")
        )
    bounded = [_within(pl.col(name), most).alias(name) for name, most in _MOST.items()]
    names = [n for n in WINDOWS.names if n not in ("revision", "date")]
    return derived.with_columns(bounded).select("meter", "version", "end_us", *names)


def _within(value: pl.Expr, most: float) -> pl.Expr:
    """`value`, null beyond `most` and where it is no number."""
    return pl.when(value.abs() <= most).then(value)
