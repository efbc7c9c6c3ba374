"""Windows that share a slot with others, or lie over the end of a meter's version: what each has of it.

Here: readings longer than a quarter-hour or across its edge, spread evenly over the windows that they cover, and
windows within which a meter is exchanged. Not here: windows made of whole slots (`windows`).
"""

from __future__ import annotations

import polars as pl

from metering.load.registers import register_energy, within_chain
from metering.readings.slots import WINDOW_US, pieces, slots_at
from metering.tables.lake import CHAIN, MOST_KW, PHASES, REGISTERS, WINDOW_S
from metering.tables.schema import TIMESTAMP

_OF_SLOT = ("register_modulus", "step_most_kw", "step_tolerance", "step_count_kwh")
_OF_WINDOW = ("meter_id", "customer_no", "nominal_v")
_HOUR_US = 3_600_000_000
_MEANS = {"p_kw": "p_mean_kw", "q_kvar": "q_mean_kvar", **{f"u{p}_v": f"u{p}_mean_v" for p in PHASES}}
_MINUTES = ("u_monitored_min", "u_over_min", "u_under_min")
_SPREAD_KWH = ("energy_kwh", "import_kvarh", "export_kvarh", "q_import_kvarh", "q_export_kvarh")


def shared_windows(rows: pl.DataFrame, meter_versions: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """Windows with a reading that covers other windows too, or ends with its version of the meter within the window.

    `rows`: one reading for each slot, sorted by meter and slot, with `start_us` and `stop_us` (`slots.spans`) and what
    `windows` works out. Means are weighed by the time that they stand for; energy of a reading is that of its registers
    since the slot before, else of its power, and is spread evenly. Energy, minutes and means as in `windows`.
    """
    slots = _with_energy(rows, meter_versions)
    cut = pieces(slots)
    ours = cut.filter(_is_shared(cut, meter_versions)).select("meter", "window_us").unique()
    cut = cut.join(ours, on=("meter", "window_us"), how="semi", maintain_order="left")
    cut = cut.with_columns((pl.col("piece_us") / (pl.col("stop_us") - pl.col("start_us"))).alias("share"))
    cut = cut.with_columns(
        (pl.col("stop_us") <= pl.col("window_us")).alias("ends_here"), (pl.col("share") < 1).alias("is_spread")
    )
    made = cut.group_by("meter", "window_us", maintain_order=True).agg(_aggregates())
    due = _expected(cut.select("meter", "window_us", "version").unique(), meter_versions, timezone)
    made = made.join(due, on=("meter", "window_us"), how="left", maintain_order="left")
    made = made.with_columns(meter_versions[name].gather(made["version"]) for name in _OF_WINDOW)
    return made.with_columns(
        pl.col("window_us").cast(TIMESTAMP).alias("window_end"),
        pl.min_horizontal(pl.col("covered_us") / 60_000_000, WINDOW_S / 60).alias("covered_min"),
        pl.when(pl.col("energy_kwh").is_null())
        .then(None)
        .when("is_spread")
        .then(pl.lit("spread"))
        .when("is_powered")
        .then(pl.lit("power"))
        .otherwise(pl.lit("registers"))
        .alias("energy_basis"),
    ).drop("window_us", "covered_us", "is_spread", "is_powered")


def _with_energy(rows: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.DataFrame:
    """What each slot used [kWh, kvarh]."""
    adjacent = (pl.col("meter") == pl.col("meter").shift()) & (pl.col("stop_us").shift() == pl.col("start_us"))
    adjacent &= pl.col(CHAIN).eq_missing(pl.col(CHAIN).shift())
    rows = rows.with_columns(
        *(pl.when(adjacent).then(pl.col(name).shift()).alias(f"{name}_start") for name in REGISTERS),
        *(pl.col(name).alias(f"{name}_end") for name in REGISTERS),
        pl.when(adjacent).then(pl.col("version").shift()).alias("version_start"),
        pl.col("stamp_us").shift().alias("stamp_us_start"),
        pl.col("stamp_us").alias("stamp_us_end"),
    )
    rows = rows.with_columns(meter_versions[name].gather(rows["version"]) for name in _OF_SLOT)
    hours = (pl.col("stop_us") - pl.col("start_us")) / _HOUR_US
    powered = pl.when(pl.col("p_kw").abs() <= MOST_KW).then(pl.col("p_kw") * hours)
    rows = register_energy(within_chain(rows, meter_versions), powered, pl.col("p_low"))
    return rows.with_columns(
        pl.coalesce("registered", powered).alias("energy_kwh"),
        pl.col("registered").is_null().alias("is_powered"),
        (pl.col("q_import_kvar") * hours).alias("q_import_kvarh"),
        (pl.col("q_export_kvar").abs() * hours).alias("q_export_kvarh"),
    )


def _is_shared(cut: pl.DataFrame, meter_versions: pl.DataFrame) -> pl.Expr:
    """Whether a slot is not the whole of its version's interval, or not within one window."""
    whole = WINDOW_S % pl.lit(meter_versions["interval_s"].gather(cut["version"])) == 0
    seams = [meter_versions[name].to_physical().gather(cut["version"]) for name in ("valid_from", "valid_to")]
    end = pl.col("window_us")
    cut_here = pl.any_horizontal((pl.lit(seam) > end - WINDOW_US) & (pl.lit(seam) < end) for seam in seams)
    return ~whole | cut_here.fill_null(False)


def _aggregates() -> list[pl.Expr]:
    piece = pl.col("piece_us")

    def mean(name: str) -> pl.Expr:
        known = pl.col(name).is_not_null()
        return pl.when(known.any()).then((pl.col(name) * piece).sum() / piece.filter(known).sum())

    def shared(name: str) -> pl.Expr:
        return pl.when(pl.col(name).is_not_null().any()).then((pl.col(name) * pl.col("share")).sum())

    minutes = piece / (pl.col("interval_s").cast(pl.Int64) * 1_000_000)
    return [
        pl.col("version", "end_us").last(),
        pl.col("ends_here").sum().cast(pl.Int32).alias("n"),
        piece.sum().alias("covered_us"),
        *(mean(name).alias(of) for name, of in _MEANS.items()),
        pl.col("p_high").max().alias("p_max_kw"),
        pl.col("p_low").min().alias("p_min_kw"),
        pl.col("u_min_v").min(),
        pl.col("u_max_v").max(),
        *((pl.col(name) * minutes).sum().alias(name) for name in _MINUTES),
        *(shared(name).alias(name) for name in _SPREAD_KWH),
        pl.col("is_spread").any(),
        (pl.col("is_powered") & pl.col("energy_kwh").is_not_null()).any().alias("is_powered"),
        pl.col("reason").drop_nulls().unique(maintain_order=True).str.join("; ").replace("", None),
    ]


def _expected(keys: pl.DataFrame, meter_versions: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """`n_expected`: slots that end in each window (`meter`, `window_us`), of the versions that were heard in it."""
    version, end = keys["version"], keys["window_us"]
    begin = meter_versions["valid_from"].to_physical().gather(version)
    stop = meter_versions["valid_to"].to_physical().gather(version)
    limits = pl.DataFrame([begin.alias("begin"), stop.alias("stop"), end.alias("end")]).select(
        pl.max_horizontal(pl.col("end") - WINDOW_US, "begin").alias("after"),
        pl.min_horizontal("end", "stop").alias("to"),
    )
    counted = keys.select("meter", "window_us").with_columns(pl.lit(0, pl.Int32).alias("n_expected"))
    at, to = limits["after"], limits["to"]
    while (going := at < to).any():
        _, slot_end = slots_at(at + 1, version, meter_versions, timezone)
        reached = pl.select(pl.min_horizontal(slot_end, stop)).to_series()
        inside = going & (reached <= to)
        counted = counted.with_columns(pl.col("n_expected") + inside.cast(pl.Int32))
        at = pl.select(pl.when(going).then(reached).otherwise(at)).to_series()
    return counted.group_by("meter", "window_us").agg(pl.col("n_expected").sum())
