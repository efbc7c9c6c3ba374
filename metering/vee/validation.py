"""Validation: what looks wrong in a day's readings and quarter-hours, meter by meter.

Here: every check of the domain handbook's section 9, each a function from frames to FINDINGS; thresholds, severities
and clauses are rows of the settings ([vee.validation.*]). A check keeps nothing back: a finding names meter, time,
value and limit, and a warning makes the value `raw`. Not here: what a register step may be at most (plausibility, where
readings become windows), filling gaps (`estimation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

import polars as pl

from metering.settings import VeeSettings
from metering.settings.vee import Validation
from metering.tables.lake import REGISTERS
from metering.tables.schema import TIMESTAMP
from metering.text import filled
from metering.vee.chains import counted, end_of
from metering.vee.expected import QUARTER_HOUR_MIN
from metering.vee.findings import FINDINGS, MeterDay

_FOUND = ("meter_id", "window_end", "value", "limit", "detail")


def duplicate(repeats: pl.DataFrame, row: Validation) -> pl.DataFrame:
    """Readings of one meter and time that came `threshold` times or more; the last one counts.

    `repeats`: meter_id, ts, copies.
    """
    return repeats.filter(pl.col("copies") >= row.threshold).select(
        "meter_id",
        pl.col("ts").alias("window_end"),
        pl.col("copies").cast(pl.Float64).alias("value"),
        pl.lit(row.threshold).alias("limit"),
        filled("{} readings of one time", "copies").alias("detail"),
    )


def interval_size(rhythms: pl.DataFrame, row: Validation) -> pl.DataFrame:
    """Meters whose usual step between readings is off the registered interval by more than `threshold` %.

    `rhythms`: meter_id, interval_s (registered), seems_s (median step).
    """
    off = (pl.col("seems_s") / pl.col("interval_s") - 1).abs() * 100
    return rhythms.filter(off > row.threshold).select(
        "meter_id",
        pl.lit(None, TIMESTAMP).alias("window_end"),
        pl.col("seems_s").cast(pl.Float64).alias("value"),
        pl.col("interval_s").cast(pl.Float64).alias("limit"),
        filled("readings come every {} s, registered are {} s", pl.col("seems_s").round(1), "interval_s").alias(
            "detail"
        ),
    )


def missing(found: MeterDay, row: Validation) -> pl.DataFrame:
    """Quarter-hours that lack `threshold` slots or more."""
    lacking = pl.col("n_expected").fill_null(1) - pl.col("n").fill_null(0)
    return found.points.filter(lacking >= row.threshold).select(
        "meter_id",
        "window_end",
        lacking.cast(pl.Float64).alias("value"),
        pl.lit(row.threshold).alias("limit"),
        pl.when(pl.col("n").is_null())
        .then(pl.lit("no reading"))
        .otherwise(filled("{} of {} readings", "n", "n_expected"))
        .alias("detail"),
    )


def spike(found: MeterDay, row: Validation) -> pl.DataFrame:
    """The day's highest power where it is more than `threshold` % of the third-highest."""
    highest = (
        found.points.filter(pl.col("p_kw") > 0)
        .sort("p_kw", descending=True)
        .group_by("meter_id", maintain_order=True)
        .agg(
            pl.col("window_end", "p_kw").first(),
            pl.col("p_kw").get(2, null_on_oob=True).alias("third"),
        )
    )
    ratio = pl.col("p_kw") / pl.col("third") * 100
    return highest.filter(ratio > row.threshold).select(
        "meter_id",
        "window_end",
        ratio.alias("value"),
        pl.lit(row.threshold).alias("limit"),
        filled("{} kW, third-highest of the day {} kW", pl.col("p_kw").round(3), pl.col("third").round(3)).alias(
            "detail"
        ),
    )


def zero(found: MeterDay, row: Validation) -> pl.DataFrame:
    """Days without any energy of meters that use more than `threshold` kWh a day on the mean of their history."""
    return _against_history(
        found,
        lambda used, mean: (used == 0) & (mean > row.threshold),
        pl.lit(row.threshold),
        "no energy all day, {} kWh a day before",
    )


def negative(found: MeterDay, row: Validation) -> pl.DataFrame:
    """Power below -`threshold` kW at meters that have no export register, and so only import."""
    only_import = (
        found.points.filter(pl.col(end_of("import_kwh")).is_not_null())
        .group_by("meter_id")
        .agg(pl.col(end_of("export_kwh")).null_count() == pl.len())
    )
    importing = only_import.filter(pl.col(end_of("export_kwh"))).select("meter_id")
    return (
        found.points.join(importing, on="meter_id", how="semi")
        .filter(pl.col("p_kw") < -row.threshold)
        .select(
            "meter_id",
            "window_end",
            pl.col("p_kw").alias("value"),
            pl.lit(-row.threshold).alias("limit"),
            filled("{} kW at a meter that only imports", pl.col("p_kw").round(3)).alias("detail"),
        )
    )


def high(found: MeterDay, row: Validation) -> pl.DataFrame:
    """Days with more than `threshold` % of the mean energy of the history."""
    return _against_history(
        found,
        lambda used, mean: used > mean * row.threshold / 100,
        pl.lit(row.threshold),
        "{} kWh, {} kWh a day before",
        share=True,
    )


def low(found: MeterDay, row: Validation) -> pl.DataFrame:
    """Days with less than `threshold` % of the mean energy of the history (0 is another check's)."""
    return _against_history(
        found,
        lambda used, mean: (used > 0) & (used < mean * row.threshold / 100),
        pl.lit(row.threshold),
        "{} kWh, {} kWh a day before",
        share=True,
    )


def consecutive_equal(found: MeterDay, row: Validation) -> pl.DataFrame:
    """Days at whose end one power other than 0 has been repeated for `threshold` hours or more."""
    before = found.history.filter(pl.col("date") == found.day - timedelta(days=1)).select(
        "meter_id", run="repeated_points", run_kw="repeated_kw"
    )
    runs = repeated(found.points, before)
    hours = pl.col("repeated_points") * (QUARTER_HOUR_MIN / 60)
    return runs.filter(hours >= row.threshold, pl.col("repeated_kw") != 0).select(
        "meter_id",
        pl.lit(None, TIMESTAMP).alias("window_end"),
        hours.alias("value"),
        pl.lit(row.threshold).alias("limit"),
        filled("{} kW for {} h", pl.col("repeated_kw").round(3), hours).alias("detail"),
    )


def sum_check(found: MeterDay, row: Validation) -> pl.DataFrame:
    """Days whose energy is off the registers' difference by more than `threshold` multipliers, where the registers of
    the day are one chain of steps that the meter can have made.
    """
    return _sums(found, ("import_kwh",), row)


def kvarh_check(found: MeterDay, row: Validation) -> pl.DataFrame:
    """As `sum_check`, for reactive energy, import and export."""
    return _sums(found, ("import_kvarh", "export_kvarh"), row)


def inactive(found: MeterDay, row: Validation) -> pl.DataFrame:
    """Meters without energy for `threshold` days or more, this one included."""
    today = _energies(found).filter(pl.col("used") == 0).select("meter_id")
    idle = found.history.filter(pl.col("date") == found.day - timedelta(days=1)).join(today, on="meter_id", how="semi")
    days = pl.col("zero_days") + 1
    return idle.filter(days >= row.threshold).select(
        "meter_id",
        pl.lit(None, TIMESTAMP).alias("window_end"),
        days.cast(pl.Float64).alias("value"),
        pl.lit(row.threshold).alias("limit"),
        filled("no energy for {} days", days).alias("detail"),
    )


def dynamic_comparison(found: MeterDay, row: Validation) -> pl.DataFrame:
    """Days whose energy is more than `threshold` standard deviations off the mean of the history.

    The limit moves with the meter: one that varies much is allowed much, and never less than 1 % of its mean.
    """
    spread = pl.max_horizontal(pl.col("deviation").fill_null(0.0), pl.col("mean").abs() * 0.01)
    off = (pl.col("used") - pl.col("mean")).abs() / spread
    return (
        _energies(found)
        .join(_history(found), on="meter_id")
        .filter(off > row.threshold)
        .select(
            "meter_id",
            pl.lit(None, TIMESTAMP).alias("window_end"),
            off.alias("value"),
            pl.lit(row.threshold).alias("limit"),
            filled(
                "{} kWh, {} standard deviations off {} kWh",
                pl.col("used").round(3), off.round(1), pl.col("mean").round(3),
            ).alias("detail"),
        )
    )  # fmt: skip


def implausible(found: MeterDay, row: Validation) -> pl.DataFrame:
    """Quarter-hours with values that the meter cannot have had, as its windows tell; see plausibility."""
    return found.points.filter(pl.col("window_reason").is_not_null()).select(
        "meter_id",
        "window_end",
        pl.lit(1.0).alias("value"),
        pl.lit(row.threshold).alias("limit"),
        pl.col("window_reason").alias("detail"),
    )


READING_CHECKS: dict[str, Callable[[pl.DataFrame, Validation], pl.DataFrame]] = {
    "duplicate": duplicate,
    "interval_size": interval_size,
}
"""Checks of readings, where they become windows."""
CHECKS: dict[str, Callable[[MeterDay, Validation], pl.DataFrame]] = {
    "implausible": implausible,
    "missing": missing,
    "spike": spike,
    "zero": zero,
    "negative": negative,
    "high": high,
    "low": low,
    "consecutive_equal": consecutive_equal,
    "sum_check": sum_check,
    "kvarh_check": kvarh_check,
    "inactive": inactive,
    "dynamic_comparison": dynamic_comparison,
}
"""Checks of a meter's day, each by the name that a row of the settings gives it."""


def rows_of(vee: VeeSettings, check: str) -> Iterable[tuple[str, Validation]]:
    """The rows that are switched on and name the function `check`, with their names."""
    return ((name, row) for name, row in vee.validation.items() if (row.check or name) == check and row.threshold)


def findings_of_readings(repeats: pl.DataFrame, rhythms: pl.DataFrame, vee: VeeSettings) -> pl.DataFrame:
    """FINDINGS of the checks of readings; see `duplicate` and `interval_size` for the frames."""
    frames = {"duplicate": repeats, "interval_size": rhythms}
    return _all(
        _named(check(frames[kind], row), name, row)
        for kind, check in READING_CHECKS.items()
        for name, row in rows_of(vee, kind)
    )


def findings_of_day(found: MeterDay, vee: VeeSettings) -> pl.DataFrame:
    """FINDINGS of every check of a meter's day."""
    return _all(
        _named(check(found, row), name, row) for kind, check in CHECKS.items() for name, row in rows_of(vee, kind)
    )


def repeated(points: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """How long the last power of each meter has been repeated: meter_id, repeated_kw, repeated_points.

    `points`: meter_id, window_end, p_kw; `before`: meter_id, run, run_kw: the same of the day before.
    """
    rows = points.filter(pl.col("p_kw").is_not_null()).sort("meter_id", "window_end")
    last = pl.col("p_kw").last()
    differs = pl.col("p_kw") != last
    runs = rows.group_by("meter_id", maintain_order=True).agg(
        last.alias("repeated_kw"),
        pl.len().alias("points"),
        (pl.len() - pl.when(differs).then(pl.int_range(1, pl.len() + 1)).max().fill_null(0)).alias("tail"),
    )
    goes_on = (pl.col("tail") == pl.col("points")) & (pl.col("run_kw") == pl.col("repeated_kw"))
    earlier = pl.when(goes_on.fill_null(False)).then("run").otherwise(0)
    return runs.join(before, on="meter_id", how="left").select(
        "meter_id", "repeated_kw", (pl.col("tail").cast(pl.Int64) + earlier).cast(pl.Int32).alias("repeated_points")
    )


def _all(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=FINDINGS), *frames])


def _named(found: pl.DataFrame, name: str, row: Validation) -> pl.DataFrame:
    return (
        found.select(_FOUND)
        .with_columns(rule=pl.lit(name), severity=pl.lit(row.severity))
        .select(pl.col(column).cast(dtype) for column, dtype in FINDINGS.items())
    )


def _energies(found: MeterDay) -> pl.DataFrame:
    """What each meter used over the day [kWh], where all of its quarter-hours are known."""
    whole = pl.col("import_kwh").null_count() == 0
    return (
        found.points.group_by("meter_id")
        .agg(pl.when(whole).then((pl.col("import_kwh") + pl.col("export_kwh").fill_null(0)).sum()).alias("used"))
        .filter(pl.col("used").is_not_null())
    )


def _history(found: MeterDay) -> pl.DataFrame:
    """Mean and deviation of the days of its kind before [kWh], of the meters that have enough of them."""
    used = pl.col("energy_kwh") + pl.col("export_kwh").fill_null(0)
    alike = pl.col("date").is_in(list(found.alike))
    whole = found.history.filter(alike, pl.col("known_points") == pl.col("points"))
    return (
        whole.group_by("meter_id")
        .agg(used.mean().alias("mean"), used.std().alias("deviation"), pl.len().alias("days"))
        .filter(pl.col("days") >= found.min_history_days)
    )


def _against_history(
    found: MeterDay,
    bad: Callable[[pl.Expr, pl.Expr], pl.Expr],
    limit: pl.Expr,
    said: str,
    share: bool = False,
) -> pl.DataFrame:
    used, mean = pl.col("used"), pl.col("mean")
    texts = [used.round(3), mean.round(3)][-said.count("{}") :]
    return (
        _energies(found)
        .join(_history(found), on="meter_id")
        .filter(bad(used, mean))
        .select(
            "meter_id",
            pl.lit(None, TIMESTAMP).alias("window_end"),
            (used / mean * 100 if share else used).alias("value"),
            limit.alias("limit"),
            filled(said, *texts).alias("detail"),
        )
    )


def _sums(found: MeterDay, registers: Iterable[str], row: Validation) -> pl.DataFrame:
    frames = []
    for register in registers:
        assert register in REGISTERS
        apart = _apart(found, register, row)
        of_them = found.points.join(apart, on="meter_id", how="semi", maintain_order="left")
        sums = counted(of_them, found.start, register)
        sums = sums.filter(pl.col("summed").is_not_null()).join(found.meters, on="meter_id")
        off = pl.col("summed") - pl.col("registered")
        frames.append(
            sums.filter(off.abs() > row.threshold * pl.col("multiplier")).select(
                "meter_id",
                pl.lit(None, TIMESTAMP).alias("window_end"),
                off.alias("value"),
                (row.threshold * pl.col("multiplier")).alias("limit"),
                filled(
                    f"{register}: intervals {{}}, registers {{}}",
                    pl.col("summed").round(3),
                    pl.col("registered").round(3),
                ).alias("detail"),
            )
        )
    return pl.concat(frames)


def _apart(found: MeterDay, register: str, row: Validation) -> pl.DataFrame:
    """Meters whose day's intervals are not its first and last registers' difference: few, and looked at closer."""
    end, value = pl.col(end_of(register)), pl.col(register)
    ends = found.points.group_by("meter_id", maintain_order=True).agg(
        end.drop_nulls().first().alias("first"), end.drop_nulls().last().alias("last"),
        pl.when(end.first().is_not_null()).then(value.first()).alias("first_value"), value.sum().alias("sum"),
    )  # fmt: skip
    rows = ends.join(found.start.select("meter_id", end.alias("start")), on="meter_id", how="left")
    rows = rows.join(found.meters, on="meter_id")
    step = pl.col("last") - pl.coalesce("start", "first")
    summed = pl.col("sum") - pl.when(pl.col("start").is_null()).then(pl.col("first_value").fill_null(0)).otherwise(0)
    off = (summed - step).abs()
    rolled = (summed - step - pl.col("register_modulus")).abs()
    return rows.filter(pl.min_horizontal(off, rolled) > row.threshold * pl.col("multiplier")).select("meter_id")
