"""Supply compliance of a meter, day-to-date and month-to-date, from its closed windows.

Here: sums of a meter's day, how windows change them, and the rows that follow. Not here: when windows close, voltage of
single phases (`voltage`), a customer's month (`power_factor`).

Sums are kept as integers (seconds, thousandths of a watt-hour), so that they do not depend on the order in which
windows came.
"""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl

from metering.calendar import instant, local_date
from metering.settings import MeteringSettings
from metering.supply.power_factor import kvar_needed, power_factor
from metering.supply.voltage import qualification
from metering.tables.lake import COMPLIANCE, MOST_KWH
from metering.tables.schema import TIMESTAMP

SUMS = ("monitored_s", "over_s", "under_s", "active_mwh", "import_mvarh", "export_mvarh")
_MILLI = 1_000_000  # thousandths of a Wh in a kWh
_LARGEST = MOST_KWH * _MILLI  # 2**50: a month has fewer than the 2**13 windows that an Int64 holds the sum of
_DECIMALS = 6

DAYS_SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32(),
        "date": pl.Date(),
        "version": pl.UInt32(),
        "as_of": TIMESTAMP,
        "count": pl.Int32(),
        **dict.fromkeys(SUMS, pl.Int64()),
        "settled": pl.Boolean(),
    }
)
"""One row for each meter and local day: its sums, and in `count` how often a window of it was closed or revised.

A `settled` row stands for its day and all days of its month before it.
"""
_WHOLE = timedelta(days=1)
_MONTH = pl.col("date").dt.month_start().alias("month")
_TOTALS = (pl.col("version", "as_of").max(), pl.col("count", *SUMS).sum(), pl.col("settled").any())


def contributions(windows: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """What windows (columns of `windows`, `meter`, `version`) add to their days: DAYS_SCHEMA, a row for each window."""
    import_kvarh = pl.coalesce("import_kvarh", "q_import_kvarh")
    export_kvarh = pl.coalesce("export_kvarh", "q_export_kvarh")
    return windows.select(
        "meter",
        date=local_date(pl.col("window_end"), settings.timezone),
        version="version",
        as_of="window_end",
        count=pl.lit(0, pl.Int32),
        monitored_s=_integer(pl.col("u_monitored_min"), 60),
        over_s=_integer(pl.col("u_over_min"), 60),
        under_s=_integer(pl.col("u_under_min"), 60),
        active_mwh=_integer(pl.col("energy_kwh"), _MILLI),
        import_mvarh=_integer(import_kvarh, _MILLI),
        export_mvarh=_integer(export_kvarh, _MILLI),
        settled=pl.lit(False),
    )


def _integer(value: pl.Expr, scale: int) -> pl.Expr:
    """0 for what is not known, and for what no window can hold (a lake may have such windows)."""
    scaled = value.fill_null(0) * scale
    return pl.when(scaled.abs() <= _LARGEST).then(scaled).otherwise(0.0).round().cast(pl.Int64)


def advance(
    days: pl.DataFrame, added: pl.DataFrame, removed: pl.DataFrame, meter_versions: pl.DataFrame, timezone: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Add and take away windows' contributions (DAYS_SCHEMA; `count` of `added`: emissions of the window).

    Of the days added to, and of later ones, none is settled (`forgotten` tells which have to be known first).

    Returns the new days, and rows of `compliance` for every day that changed and, of the same month, all later ones:
    their month-to-date changed with it. A row's `revision` is the number of emissions of its month's windows up to it,
    less one.
    """
    if added.is_empty() and removed.is_empty():
        return days, COMPLIANCE.empty()
    taken = removed.with_columns(-pl.col(SUMS), pl.lit(0, pl.Int32).alias("count"))
    delta = _summed(pl.concat([added, taken]))
    days = _summed(pl.concat([days, delta]))
    return days, _rows(days, delta.select("meter", "date"), meter_versions, timezone)


def _summed(days: pl.DataFrame) -> pl.DataFrame:
    return days.group_by("meter", "date").agg(*_TOTALS).select(DAYS_SCHEMA.names()).cast(DAYS_SCHEMA)


def _rows(days: pl.DataFrame, touched: pl.DataFrame, meter_versions: pl.DataFrame, timezone: str) -> pl.DataFrame:
    month = ("meter", "month")
    months = touched.with_columns(_MONTH)
    first = months.group_by(month).agg(pl.col("date").min().alias("from"))
    with_month = days.with_columns(_MONTH)
    rows = (
        with_month.join(first, on=month)
        .sort("meter", "date")
        .with_columns(pl.struct(month).ne_missing(pl.struct(month).shift(1)).alias("begins"))
        .with_columns(
            _to_date("count").sub(1).alias("revision"), *(_to_date(name).alias(f"month_{name}") for name in SUMS)
        )
        .filter(pl.col("date") >= pl.col("from"))
    )
    named = rows.with_columns(
        meter_versions[n].gather(rows["version"]) for n in ("meter_id", "customer_no", "pf_standard", "valid_from")
    )
    named = named.rename({name: f"day_{name}" for name in SUMS})
    figured = named.with_columns(*_figures("day"), *_figures("month"))
    return COMPLIANCE.conform(figured.with_columns(_projected(timezone)))


def _projected(timezone: str) -> list[pl.Expr]:
    """What the month comes to if it goes on as so far."""
    begin = pl.max_horizontal(instant(pl.col("month"), timezone), "valid_from")
    hours = (pl.col("as_of") - begin).dt.total_seconds() / 3600
    kvarh = pl.col("month_import_kvarh").abs() + pl.col("month_export_kvarh").abs()
    needed = kvar_needed(pl.col("month_active_kwh"), kvarh, pl.col("pf_standard"), hours)
    return [
        needed.round(_DECIMALS).alias("kvar_needed"),
        pl.col("month_power_factor").alias("projected_power_factor"),
    ]


def _to_date(name: str) -> pl.Expr:
    """Sum from the row on that `begins` a month: much cheaper than a window for each of many small months."""
    running = pl.col(name).cum_sum()
    return running - pl.when("begins").then(running - pl.col(name)).forward_fill()


def _figures(span: str) -> list[pl.Expr]:
    minutes = {n: _quotient(f"{span}_{n}_s", 60) for n in ("monitored", "over", "under")}
    active, imported, exported = (
        _quotient(f"{span}_{n}", _MILLI) for n in ("active_mwh", "import_mvarh", "export_mvarh")
    )
    return [
        *(value.alias(f"{span}_{name}_min") for name, value in minutes.items()),
        qualification(minutes["monitored"], minutes["over"], minutes["under"]).alias(f"{span}_qualification_rate"),
        active.alias(f"{span}_active_kwh"),
        imported.alias(f"{span}_import_kvarh"),
        exported.alias(f"{span}_export_kvarh"),
        power_factor(active, imported.abs() + exported.abs()).alias(f"{span}_power_factor"),
    ]


def _quotient(name: str, divisor: int) -> pl.Expr:
    """Rounded, for Polars divides one row otherwise than many: by the divisor, and by its reciprocal."""
    return (pl.col(name) / divisor).round(_DECIMALS)


def forget(days: pl.DataFrame, today: date) -> pl.DataFrame:
    """Settle the days before yesterday, as of `today` or as of the meter's newest day if that is earlier.

    A month that is settled to its end is dropped, unless it is the meter's newest.
    """
    aged = days.filter(~pl.col("settled") & (pl.col("date") < today - _WHOLE))
    if aged.is_empty():
        return days
    meters = aged.select("meter").unique()
    theirs = days.join(meters, on="meter", how="semi")
    newest = pl.col("date").max().over("meter")
    old = pl.col("settled") | (pl.col("date") < pl.min_horizontal(newest, today) - _WHOLE)
    theirs = theirs.with_columns(newest.dt.month_start().alias("newest"), old.alias("settled"), _MONTH)
    theirs = theirs.filter((pl.col("month") == pl.col("newest")) | ~pl.col("settled").all().over("meter", "month"))
    settled = theirs.filter("settled").group_by("meter", "month").agg(pl.col("date").max(), *_TOTALS)
    kept = [theirs.filter(~pl.col("settled")), settled.cast({"count": pl.Int32})]
    return pl.concat([days.join(meters, on="meter", how="anti"), *(part.select(days.columns) for part in kept)])


def forgotten(days: pl.DataFrame, touched: pl.DataFrame, left_until: date | None) -> pl.DataFrame:
    """The (meter, month) of which `touched` (meter, date) needs a day that is settled, or was dropped.

    Dropped are months before a meter's newest, and up to that of `left_until` those of meters that left (None: none
    did) and so of any meter of which there is nothing.
    """
    wanted = touched.group_by("meter", _MONTH).agg(pl.col("date").min())
    if left_until is None and _all_newer(touched, days):
        return wanted.clear().select("meter", "month")
    theirs = days.join(wanted, on="meter", how="semi").select("meter", _MONTH, "settled", last="date")
    known = theirs.group_by("meter", "month").agg(pl.col("last").filter("settled").max().alias("settled_to"), here=True)
    newest = theirs.group_by("meter").agg(pl.col("last").max().alias("newest"))
    found = wanted.join(known, on=("meter", "month"), how="left").join(newest, on="meter", how="left")
    dropped = pl.col("newest") > pl.col("month")
    if left_until is not None:
        dropped = dropped.fill_null(False) | (pl.col("month") <= left_until)
    needed = pl.when("here").then(pl.col("date") <= pl.col("settled_to")).otherwise(dropped)
    return found.filter(needed).select("meter", "month")


def _all_newer(touched: pl.DataFrame, days: pl.DataFrame) -> bool:
    """Whether no day that is touched lies before a settled one, or in a month before any meter's newest."""
    first = touched["date"].min()
    newest, settled = days["date"].max(), days.filter("settled")["date"].max()
    assert isinstance(first, date)
    return (not isinstance(newest, date) or newest.replace(day=1) <= first) and (
        not isinstance(settled, date) or settled < first
    )


def recalled(days: pl.DataFrame, months: pl.DataFrame) -> pl.DataFrame:
    """Days with those of `months` (DAYS_SCHEMA, whole months of a meter each) in place of what they say of them."""
    known = months.select("meter", _MONTH).unique()
    others = days.with_columns(_MONTH).join(known, on=("meter", "month"), how="anti").drop("month")
    return pl.concat([others, months])


def remembered(rows: pl.DataFrame) -> pl.DataFrame:
    """Days (DAYS_SCHEMA) as current rows of `compliance` (with `meter`, `version`) of whole months tell them."""
    minutes = {f"{n}_s": f"day_{n}_min" for n in ("monitored", "over", "under")}
    energies = dict(zip(SUMS[3:], ("day_active_kwh", "day_import_kvarh", "day_export_kvarh"), strict=True))
    before = pl.col("revision").shift(1).over("meter", pl.col("date").dt.month_start()).fill_null(-1)
    return rows.sort("meter", "date").select(
        "meter",
        "date",
        "version",
        "as_of",
        (pl.col("revision") - before).cast(pl.Int32).alias("count"),
        *(_integer(pl.col(column), 60).alias(name) for name, column in minutes.items()),
        *(_integer(pl.col(column), _MILLI).alias(name) for name, column in energies.items()),
        settled=pl.lit(False),
    )
