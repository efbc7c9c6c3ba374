"""What NEM12 and NEM13 have in common (AEMO MDFF): cells, suffixes, units, quality, dates.

Here: the vocabulary. Not here: the records (`nem12`, `nem13`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import polars as pl

from metering.tables.schema import TIMESTAMP
from metering.tabular.field_options import IGNORED, FieldOptions
from metering.tabular.interval_data import reject
from metering.text import filled

MARKET_TIME = timezone(timedelta(hours=10))
"""Of all its dates and times: Australian Eastern Standard Time, never daylight saving (MDFF specification, 2)."""
SUFFIXES = {"E": "import_kwh", "B": "export_kwh", "Q": "import_kvarh", "K": "export_kvarh"}
"""Master metering by the first letter of a NMI suffix (NMI procedure, table of suffixes). The market's export is the
customer's import. Other letters are check, average and net metering, volts, amperes: no register of a customer."""
QUALITY = {"A": "good", "S": "estimated", "F": "estimated", "E": "estimated", "N": "reject"}
"""Actual, substitute, final substitute, forward estimate, null data."""
VARIABLE = "V"
_UNITS = {
    f"{prefix}{unit}": (f"k{unit}", factor)
    for unit in ("wh", "varh", "w", "var")
    for prefix, factor in {"": 1e-3, "k": 1.0, "m": 1e3, "g": 1e6}.items()
}


def cell_at(index: int) -> pl.Expr:
    return pl.col("cells").list.get(index, null_on_oob=True)


def field_of(suffix: pl.Expr, options: FieldOptions, otherwise: pl.Expr | None = None) -> pl.Expr:
    """The register that a suffix stands for: the whole one counts before its first letter; null: none."""
    own = dict(options.suffixes)
    letters = {**SUFFIXES, **own} if otherwise is None else own
    whole = suffix.replace_strict(own or {"": ""}, default=None, return_dtype=pl.String)
    letter = suffix.str.slice(0, 1).replace_strict(letters or {"": ""}, default=None, return_dtype=pl.String)
    return pl.coalesce(whole, letter, otherwise if otherwise is not None else pl.lit(None, pl.String))


def unit_of(cell: pl.Expr) -> list[pl.Expr]:
    """`unit` (kwh, kvarh, kw, kvar) and `factor` to it; null: another."""
    key = cell.str.to_lowercase()
    units = {name: unit for name, (unit, _) in _UNITS.items()}
    factors = {name: factor for name, (_, factor) in _UNITS.items()}
    return [
        key.replace_strict(units, default=None, return_dtype=pl.String).alias("unit"),
        key.replace_strict(factors, default=None, return_dtype=pl.Float64).alias("factor"),
    ]


def mark_of(quality: pl.Expr, options: FieldOptions) -> pl.Expr:
    """What a quality mark means, by its whole text, then its letter; null: nothing known."""
    marks = {**QUALITY, **dict(options.quality)}
    whole, letter = quality.str.to_uppercase(), quality.str.slice(0, 1).str.to_uppercase()
    return pl.coalesce(
        whole.replace_strict(marks, default=None, return_dtype=pl.String),
        letter.replace_strict(marks, default=None, return_dtype=pl.String),
    )


def why_no_field(what: str) -> pl.Expr:
    """Why a suffix and unit are no field of a reading, or null."""
    active = pl.col("field").str.ends_with("_kwh") & pl.col("unit").is_in(["kwh", "kw"])
    reactive = pl.col("field").str.ends_with("_kvarh") & pl.col("unit").is_in(["kvarh", "kvar"])
    suffix, uom = pl.col("suffix").fill_null(""), pl.col("uom").fill_null("")
    return (
        pl.when(pl.col("field") == IGNORED)
        .then(filled(f"{what} '{{}}' is left out by suffixes", suffix))
        .when(pl.col("field").is_null())
        .then(
            filled(
                f"{what} '{{}}' is none of {', '.join(SUFFIXES)}: say in [suffixes] which register it is, or {IGNORED}",
                suffix,
            )
        )
        .when(pl.col("unit").is_null())
        .then(filled(f"{what} '{{}}' is in '{{}}', which is neither energy nor power", suffix, uom))
        .when(~(active | reactive))
        .then(filled(f"{what} '{{}}' stands for {{}}, yet its unit is {{}}", suffix, pl.col("field"), uom))
    )


def undated(rows: pl.DataFrame, cell: pl.Expr, such: str) -> pl.DataFrame:
    """Rejects of times that are none, or none that a meter can mean."""
    is_date = cell.str.contains(r"^\d{8}") & cell.str.slice(0, 8).str.to_date("%Y%m%d", strict=False).is_not_null()
    marked = rows.with_columns(is_date.fill_null(False).alias("is_date"))
    none = reject(
        marked.filter(~pl.col("is_date")), "bad_time", filled(f"'{{}}' is no date {such}", cell.fill_null(""))
    )
    odd = filled("'{}' is not in the years 2000 to 2100", cell)
    return pl.concat([none, reject(marked.filter("is_date"), "implausible_time", odd)])


def date_of(cell: pl.Expr) -> pl.Expr:
    date = pl.when(cell.str.contains(r"^\d{8}$")).then(cell).str.to_date("%Y%m%d", strict=False)
    return pl.when(date.dt.year().is_between(2000, 2100)).then(date)


def midnight_of(dates: pl.Series, options: FieldOptions) -> pl.Series:
    """The first instants of dates in standard time, UTC."""
    zone = ZoneInfo(options.timezone) if options.timezone else MARKET_TIME
    known = dates.drop_nulls().unique()
    starts = [_standard(datetime(day.year, day.month, day.day), zone) for day in known]
    table = pl.DataFrame({"date": known, "midnight": pl.Series(starts, dtype=TIMESTAMP)})
    return dates.to_frame("date").join(table, on="date", how="left", maintain_order="left")["midnight"]


def _standard(wall: datetime, zone: timezone | ZoneInfo) -> datetime:
    """The instant of a local standard time, whatever daylight saving does."""
    local = wall.replace(tzinfo=zone)
    offset = (local.utcoffset() or timedelta()) - (local.dst() or timedelta())
    return (wall - offset).replace(tzinfo=UTC)
