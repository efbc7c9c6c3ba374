"""NEM12 and NEM13, Australia's meter data file format (AEMO MDFF): interval and accumulated metering data.

Here: its records (100, 200, 300, 400, 500, 900; 250, 550), units, quality and suffixes. Not here: what becomes of the
values (`interval_data`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import polars as pl

from metering.errors import MappingError
from metering.tables.schema import TIMESTAMP
from metering.tabular.convert import REJECTS, Replayed
from metering.tabular.delimited import RECORDS, cut
from metering.tabular.field_options import IGNORED, FieldOptions, meter_name
from metering.tabular.interval_data import ENERGY, REGISTER, VALUES, reject, to_readings
from metering.tabular.mapping import Mapping
from metering.text import filled

MARKET_TIME = timezone(timedelta(hours=10))
"""Of all its dates and times: Australian Eastern Standard Time, never daylight saving (MDFF specification, 2)."""
SUFFIXES = {"E": "import_kwh", "B": "export_kwh", "Q": "import_kvarh", "K": "export_kvarh"}
"""Master metering by the first letter of a NMI suffix (NMI procedure, table of suffixes). The market's export is the
customer's import. Other letters are check, average and net metering, volts, amperes: no register of a customer."""
DIRECTIONS = {"E": ("import_kwh", "import_kvarh"), "I": ("export_kwh", "export_kvarh")}
"""NEM13: by direction from and to the market."""
QUALITY = {"A": "good", "S": "estimated", "F": "estimated", "E": "estimated", "N": "reject"}
"""Actual, substitute, final substitute, forward estimate, null data."""
_VARIABLE = "V"
_UNITS = {
    f"{prefix}{unit}": (f"k{unit}", factor)
    for unit in ("wh", "varh", "w", "var")
    for prefix, factor in {"": 1e-3, "k": 1.0, "m": 1e3, "g": 1e6}.items()
}
_DAY_MIN = 1440
_OF_A_STREAM = ("300", "400", "500")
_KINDS = ("100", "200", *_OF_A_STREAM, "250", "550", "900")


def read_nem12(content: bytes, mapping: Mapping) -> Replayed:
    """Readings of a NEM12 or NEM13 file. A record that cannot be read is a reject.

    Raises MappingError when it is none, or when one meter_id would stand for several NMIs.
    """
    options = mapping.options
    records = _records(content.decode(mapping.encoding, errors="replace"))
    if not records["kind"].is_in(["200", "250"]).any() and not (records["kind"] == "100").any():
        raise MappingError("format: the file has no 100, 200 or 250 record, so it is neither NEM12 nor NEM13")
    bad = [_unreadable(records), _unended(records)]
    sound = (
        records.with_row_index("row")
        .with_columns(_head())
        .filter(pl.col("kind").is_in(_KINDS), pl.col("problem").is_null())
    )
    names = sorted({*_natives(sound, "200"), *_natives(sound, "250")})
    meters = pl.DataFrame(
        {"nmi": names, "meter_id": [meter_name(name, options, len(names)) for name in names]},
        schema={"nmi": pl.String, "meter_id": pl.String},
    )
    intervals, of_intervals = _intervals(sound, meters, options)
    registers, of_registers = _registers(sound, meters, options)
    return to_readings(pl.concat([intervals, registers]), [*bad, *of_intervals, *of_registers])


def meters_in(content: bytes) -> list[str]:
    """The NMIs of a file, sorted."""
    records = _records(content.decode("utf-8-sig", errors="replace"))
    return sorted({*_natives(records, "200"), *_natives(records, "250")})


def looks_like(text: str) -> bool:
    """Whether a text begins as NEM12 or NEM13 do."""
    cells = [cell.strip().strip('"').upper() for cell in text.lstrip("\ufeff \t\r\n").partition("\n")[0].split(",")]
    return cells[:2] in (["100", "NEM12"], ["100", "NEM13"]) or (cells[0] in {"200", "250"} and len(cells) >= 9)


# --- records ---------------------------------------------------------------------------------------------------------


def _records(text: str) -> pl.DataFrame:
    """RECORDS and `kind`, the record indicator, with every line that has text."""
    table = cut("\n" + text.removeprefix("\ufeff"), ",") if text.strip() else None
    if table is None or not table.header:
        return pl.DataFrame(schema={**RECORDS, "kind": pl.String})
    first = {"line": [table.header_line], "text": [",".join(table.header)], "cells": [list(table.header)]}
    whole = pl.concat([pl.DataFrame({**first, "problem": [None]}, schema=RECORDS), table.records])
    return whole.select(
        pl.col("line") - 1,
        "text",
        pl.col("cells").list.eval(pl.element().str.strip_chars()),
        "problem",
        pl.col("cells").list.first().str.strip_chars().alias("kind"),
    )


def _unreadable(records: pl.DataFrame) -> pl.DataFrame:
    broken = records.filter(pl.col("problem").is_not_null())
    unknown = records.filter(pl.col("problem").is_null(), ~pl.col("kind").is_in(_KINDS))
    said = filled("'{}' is no record indicator", pl.col("kind").str.slice(0, 20))
    return pl.concat([reject(broken, "broken_quoting", pl.col("problem")), reject(unknown, "bad_record", said)])


def _unended(records: pl.DataFrame) -> pl.DataFrame:
    """A reject for each 100 record without a 900, and for a file that is cut off after the last line."""
    ends = records.filter(pl.col("kind").is_in(["100", "900"]))
    if ends.is_empty() or ends["kind"][-1] != "900":
        said = "the file does not end with a 900 record: it may have been cut off here"
        return reject(records.tail(1), "cut_off", pl.lit(said))
    return pl.DataFrame(schema=REJECTS)


def _head() -> pl.Expr:
    """The row of the record that a stream's records stand under: one that cannot be read may have been a 200 record."""
    of_a_stream = pl.col("kind").is_in(_OF_A_STREAM) & pl.col("problem").is_null()
    return pl.when(~of_a_stream.fill_null(False)).then(pl.col("row")).forward_fill().alias("head")


def _natives(records: pl.DataFrame, kind: str) -> list[str]:
    return [name for name in records.filter(pl.col("kind") == kind).select(_cell(1)).to_series().unique() if name]


def _cell(index: int) -> pl.Expr:
    return pl.col("cells").list.get(index, null_on_oob=True)


def _field(suffix: pl.Expr, options: FieldOptions, otherwise: pl.Expr | None = None) -> pl.Expr:
    """The register that a suffix stands for: the whole one counts before its first letter; null: none."""
    own = dict(options.suffixes)
    letters = {**SUFFIXES, **own} if otherwise is None else own
    whole = suffix.replace_strict(own or {"": ""}, default=None, return_dtype=pl.String)
    letter = suffix.str.slice(0, 1).replace_strict(letters or {"": ""}, default=None, return_dtype=pl.String)
    return pl.coalesce(whole, letter, otherwise if otherwise is not None else pl.lit(None, pl.String))


def _unit(cell: pl.Expr) -> list[pl.Expr]:
    """`unit` (kwh, kvarh, kw, kvar) and `factor` to it; null: another."""
    key = cell.str.to_lowercase()
    units = {name: unit for name, (unit, _) in _UNITS.items()}
    factors = {name: factor for name, (_, factor) in _UNITS.items()}
    return [
        key.replace_strict(units, default=None, return_dtype=pl.String).alias("unit"),
        key.replace_strict(factors, default=None, return_dtype=pl.Float64).alias("factor"),
    ]


def _mark(quality: pl.Expr, options: FieldOptions) -> pl.Expr:
    """What a quality mark means, by its whole text, then its letter; null: nothing known."""
    marks = {**QUALITY, **dict(options.quality)}
    whole, letter = quality.str.to_uppercase(), quality.str.slice(0, 1).str.to_uppercase()
    return pl.coalesce(
        whole.replace_strict(marks, default=None, return_dtype=pl.String),
        letter.replace_strict(marks, default=None, return_dtype=pl.String),
    )


def _quantity(what: str) -> pl.Expr:
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


# --- NEM12: 200, 300, 400 --------------------------------------------------------------------------------------------


def _intervals(
    records: pl.DataFrame, meters: pl.DataFrame, options: FieldOptions
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Values of the 300 records, and rejects."""
    days, bad_days = _days(records, meters, options)
    ranges, bad_ranges = _ranges(records, days)
    values = _values(days).join(ranges, on=["row", "interval"], how="left", maintain_order="left")
    quality = pl.coalesce("range_quality", "quality")
    judged = values.with_columns(quality.alias("mark_of")).with_columns(_mark(pl.col("mark_of"), options).alias("mark"))
    number = pl.col("cell").cast(pl.Float64, strict=False)
    value = number * pl.col("factor")
    why = (
        pl.when(pl.col("mark_of").str.slice(0, 1).str.to_uppercase() == _VARIABLE)
        .then(pl.struct(reason=pl.lit("no_quality"), detail=pl.lit("quality V, yet no 400 record names them")))
        .when(pl.col("mark") == "reject")
        .then(pl.struct(reason=pl.lit("no_data"), detail=filled("quality {}", "mark_of")))
        .when(pl.col("cell").fill_null("") == "")
        .then(pl.struct(reason=pl.lit("no_data"), detail=pl.lit("the cell is empty")))
        .when(~value.is_finite().fill_null(False))
        .then(pl.struct(reason=pl.lit("not_a_number"), detail=filled("'{}'", "cell")))
        .when(value < 0)
        .then(pl.struct(reason=pl.lit("negative_energy"), detail=filled("{}", "cell")))
    )
    judged = judged.with_columns(why.alias("why"))
    good = judged.with_columns(pl.when(pl.col("why").is_null()).then(value).round(9).alias("value"))
    intervals = good.select(
        "line",
        "meter_id",
        "field",
        pl.lit(ENERGY).alias("kind"),
        pl.col("suffix").alias("stream"),
        pl.col("date").dt.epoch("d").cast(pl.Int64).alias("day"),
        (pl.col("midnight") + pl.duration(minutes=pl.col("interval") * pl.col("length_min"))).alias("ts"),
        (pl.col("length_min") * 60).alias("duration_s"),
        "value",
        (pl.col("mark") == "estimated").fill_null(False).alias("estimated"),
    ).cast(VALUES)
    return intervals, [bad_days, bad_ranges, _told(judged.filter(pl.col("why").is_not_null()))]


def _days(records: pl.DataFrame, meters: pl.DataFrame, options: FieldOptions) -> tuple[pl.DataFrame, pl.DataFrame]:
    """300 records with what their 200 record says of them; and rejects."""
    length = _cell(8).cast(pl.Int64, strict=False)
    heads = records.filter(pl.col("kind") == "200").select(
        pl.col("row").alias("head"),
        _cell(1).alias("nmi"),
        _cell(4).fill_null("").str.to_uppercase().alias("suffix"),
        _cell(7).fill_null("").alias("uom"),
        pl.when(length.is_between(1, _DAY_MIN) & (_DAY_MIN % length == 0)).then(length).alias("length_min"),
        _field(_cell(4).str.to_uppercase(), options).alias("field"),
        *_unit(_cell(7)),
        pl.lit(True).alias("headed"),
    )
    due = _DAY_MIN // pl.col("length_min")
    days = (
        records.filter(pl.col("kind") == "300")
        .join(heads, on="head", how="left", maintain_order="left")
        .join(meters, on="nmi", how="left", maintain_order="left")
        .with_columns(due.alias("n"))
        .with_columns(
            pl.col("cells").list.get(pl.col("n") + 2, null_on_oob=True).alias("quality"),
            _date(_cell(1)).alias("date"),
        )
    )
    days = days.with_columns(_midnight(days["date"], options))
    marks = "".join({*QUALITY, _VARIABLE, *(name[:1].upper() for name, _ in options.quality)} - {""})
    fits = pl.col("quality").str.contains(rf"(?i)^[{marks}]\d*$").fill_null(False)
    count = pl.col("cells").list.len()
    problem = (
        pl.when(pl.col("headed").is_null())
        .then(pl.lit("no 200 record stands before it"))
        .when(pl.col("meter_id").is_null())
        .then(pl.lit("the 200 record before it names no NMI"))
        .when(pl.col("length_min").is_null())
        .then(pl.lit("the interval length of the 200 record before it is no whole part of a day, in minutes"))
        .when(~fits)
        .then(
            filled(
                "its 200 record says {} minutes, so {} values and a quality are due; its {} cells are not that",
                "length_min", "n", count,
            )
        )
    )  # fmt: skip
    return _sifted(days.with_columns(_quantity("suffix").alias("other"), problem.alias("wrong")))


def _sifted(days: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows without `wrong`, `other` or a missing date; and the rest, as rejects."""
    wrong = days.filter(pl.col("wrong").is_not_null())
    rest = days.filter(pl.col("wrong").is_null())
    other = rest.filter(pl.col("other").is_not_null())
    rest = rest.filter(pl.col("other").is_null())
    undated = rest.filter(pl.col("midnight").is_null())
    rejects = [
        reject(wrong, "bad_record", pl.col("wrong")),
        reject(other, "other_quantity", pl.col("other")),
        _undated(undated, _cell(1), "such as 20260301"),
    ]
    return rest.filter(pl.col("midnight").is_not_null()), pl.concat(rejects)


def _undated(rows: pl.DataFrame, cell: pl.Expr, such: str) -> pl.DataFrame:
    """Rejects of times that are none, or none that a meter can mean."""
    is_date = cell.str.contains(r"^\d{8}") & cell.str.slice(0, 8).str.to_date("%Y%m%d", strict=False).is_not_null()
    marked = rows.with_columns(is_date.fill_null(False).alias("is_date"))
    none = reject(
        marked.filter(~pl.col("is_date")), "bad_time", filled(f"'{{}}' is no date {such}", cell.fill_null(""))
    )
    odd = filled("'{}' is not in the years 2000 to 2100", cell)
    return pl.concat([none, reject(marked.filter("is_date"), "implausible_time", odd)])


def _date(cell: pl.Expr) -> pl.Expr:
    date = pl.when(cell.str.contains(r"^\d{8}$")).then(cell).str.to_date("%Y%m%d", strict=False)
    return pl.when(date.dt.year().is_between(2000, 2100)).then(date)


def _midnight(dates: pl.Series, options: FieldOptions) -> pl.Series:
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


def _ranges(records: pl.DataFrame, days: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`row` (of the 300 record), `interval`, `range_quality` of the 400 records; and rejects."""
    owner = pl.when(pl.col("kind") == "300").then(pl.col("row")).forward_fill().over("head")
    first, last = (_cell(index).cast(pl.Int64, strict=False) for index in (1, 2))
    events = (
        records.with_columns(owner.alias("owner"))
        .filter(pl.col("kind") == "400")
        .drop("row")
        .join(days.select(pl.col("row").alias("owner"), "n"), on="owner", how="left", maintain_order="left")
        .with_columns(first.alias("first"), last.alias("last"), _cell(3).fill_null("").alias("range_quality"))
    )
    fits = (pl.col("first") >= 1) & (pl.col("first") <= pl.col("last")) & (pl.col("last") <= pl.col("n"))
    events = events.with_columns((fits & (pl.col("range_quality") != "")).fill_null(False).alias("fits"))
    said = (
        pl.when(pl.col("n").is_null())
        .then(pl.lit("no 300 record that could be read stands before it"))
        .otherwise(filled("it does not name intervals 1 to {} and a quality", "n"))
    )
    spread = (
        events.filter("fits")
        .select(
            pl.col("owner").alias("row"), pl.int_ranges("first", pl.col("last") + 1).alias("interval"), "range_quality"
        )
        .explode("interval")
        .unique(["row", "interval"], keep="last", maintain_order=True)
    )
    return spread, reject(events.filter(~pl.col("fits")), "bad_record", said)


def _values(days: pl.DataFrame) -> pl.DataFrame:
    """A row for each interval: `interval` from 1 and `cell`, with the columns of `days`; powers as energies."""
    hours = pl.when(pl.col("unit").is_in(["kw", "kvar"])).then(pl.col("length_min") / 60).otherwise(1.0)
    kept = ("row", "line", "text", "meter_id", "field", "suffix", "date", "midnight", "length_min", "quality", "factor")
    return (
        days.with_columns((pl.col("factor") * hours).alias("factor"))
        .select(
            *kept, pl.int_ranges(1, pl.col("n") + 1).alias("interval"), pl.col("cells").list.slice(2, "n").alias("cell")
        )
        .explode("interval", "cell")
    )


def _told(bad: pl.DataFrame) -> pl.DataFrame:
    """One reject for a record and reason, which names its intervals."""
    runs = (
        bad.sort("line", "interval", maintain_order=True)
        .with_columns(pl.col("why").struct.unnest())
        .with_columns(
            (pl.col("interval").diff() != 1).fill_null(True).cum_sum().over("line", "reason", "detail").alias("run")
        )
        .group_by("line", "reason", "detail", "run", maintain_order=True)
        .agg(pl.col("text").first(), pl.col("interval").min().alias("from"), pl.col("interval").max().alias("to"))
        .with_columns(
            pl.when(pl.col("from") == pl.col("to"))
            .then(filled("{}", "from"))
            .otherwise(filled("{} to {}", "from", "to"))
            .alias("span")
        )
        .group_by("line", "reason", "detail", maintain_order=True)
        .agg(pl.col("text").first(), pl.col("span").str.join(", "))
    )
    return runs.select("line", "reason", filled("intervals {}: {}", "span", "detail").alias("detail"), "text").cast(
        REJECTS
    )


# --- NEM13: 250 ------------------------------------------------------------------------------------------------------


def _registers(
    records: pl.DataFrame, meters: pl.DataFrame, options: FieldOptions
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Both register reads of each 250 record, on the scale of its quantity, and rejects."""
    direction = _cell(7).str.to_uppercase()
    unit, factor = _unit(_cell(19))
    kind = pl.when(pl.col("unit").is_in(["kvarh", "kvar"])).then(1).otherwise(0)
    by_direction = pl.coalesce(
        *(
            pl.when((direction == letter) & (kind == at)).then(pl.lit(ways[at]))
            for letter, ways in DIRECTIONS.items()
            for at in (0, 1)
        )
    )
    reads = (
        records.filter(pl.col("kind") == "250")
        .with_columns(unit, factor, _cell(19).fill_null("").alias("uom"), _cell(1).alias("nmi"))
        .with_columns(_cell(4).fill_null("").str.to_uppercase().alias("suffix"))
        .with_columns(_field(pl.col("suffix"), options, by_direction).alias("field"))
        .join(meters, on="nmi", how="left", maintain_order="left")
        .with_columns(
            *(_cell(index).cast(pl.Float64, strict=False).alias(name) for name, index in _READS.items()),
            *(_cell(index).fill_null("").alias(f"{name}_mark") for name, index in _MARKS.items()),
        )
    )
    reads = reads.with_columns(
        _instants(reads, 9, options).alias("previous_at"), _instants(reads, 14, options).alias("current_at")
    )
    reads = reads.with_columns(_multiplier().alias("multiplier"))
    numbers = pl.all_horizontal(pl.col(name).is_finite().fill_null(False) & (pl.col(name) >= 0) for name in _READS)
    said = "it needs two register reads and a quantity, all numbers from 0 on"
    problem = (
        pl.when(pl.col("meter_id").is_null())
        .then(pl.lit("it names no NMI"))
        .when(~numbers)
        .then(pl.lit(said))
        .when(pl.col("multiplier").is_null())
        .then(pl.lit("its quantity does not come from its register reads, with any one multiplier"))
    )
    timed = pl.col("previous_at") < pl.col("current_at")
    powers = pl.col("unit").is_in(["kw", "kvar"])
    other = (
        pl.when(powers).then(filled("a register cannot count '{}'", "uom")).otherwise(_quantity("direction or suffix"))
    )
    wrong = reads.with_columns(problem.alias("wrong"), other.alias("other"), timed.fill_null(False).alias("timed"))
    bad = wrong.filter(pl.col("wrong").is_not_null())
    rest = wrong.filter(pl.col("wrong").is_null())
    elsewhere = rest.filter(pl.col("other").is_not_null())
    rest = rest.filter(pl.col("other").is_null())
    rejects = [
        reject(bad, "bad_record", pl.col("wrong")),
        reject(elsewhere, "other_quantity", pl.col("other")),
        reject(
            rest.filter(~pl.col("timed")),
            "bad_time",
            pl.lit("its two reads are not at two times of 2000 to 2100, one after the other"),
        ),
    ]
    good = rest.filter("timed")
    parts, marked = [], []
    for name in ("previous", "current"):
        mark = _mark(pl.col(f"{name}_mark"), options)
        at = good.with_columns(mark.alias("mark"), pl.col(name).alias("read"), pl.col(f"{name}_at").alias("ts"))
        fit = at.filter((pl.col("mark") != "reject").fill_null(True))
        marked.append(
            reject(
                at.filter(pl.col("mark") == "reject"), "no_data", filled(f"{name} read: quality {{}}", f"{name}_mark")
            )
        )
        parts.append(
            fit.select(
                "line",
                "meter_id",
                "field",
                pl.lit(REGISTER).alias("kind"),
                filled("{} {}", "suffix", _cell(3).fill_null("")).alias("stream"),
                pl.col("ts").dt.epoch("d").cast(pl.Int64).alias("day"),
                "ts",
                pl.lit(0).alias("duration_s"),
                (pl.col("read") * pl.col("multiplier") * pl.col("factor")).round(9).alias("value"),
                (pl.col("mark") == "estimated").fill_null(False).alias("estimated"),
            ).cast(VALUES)
        )
    return pl.concat(parts), [*rejects, *marked]


_READS = {"previous": 8, "current": 13, "quantity": 18}
_MARKS = {"previous": 10, "current": 15}
_ROUNDING = 0.005


def _multiplier() -> pl.Expr:
    """What the register counts, times this, is the quantity: a whole number, as transformer ratios are; null: nothing.

    A register that went on past its last digit began again at 0. Without use there is nothing to tell it by: 1.
    """
    digits = _cell(8).str.split(".").list.first().str.len_chars()
    step = pl.col("current") - pl.col("previous")
    step = pl.when(step < 0).then(step + 10.0 ** digits.cast(pl.Float64)).otherwise(step)
    ratio = pl.col("quantity") / step
    whole = ratio.round()
    near = (whole >= 1) & (
        (whole * step - pl.col("quantity")).abs() <= pl.max_horizontal(1.0, _ROUNDING * pl.col("quantity"))
    )
    return pl.when((step == 0) & (pl.col("quantity") == 0)).then(1.0).when((step > 0) & near).then(whole)


def _instants(reads: pl.DataFrame, index: int, options: FieldOptions) -> pl.Series:
    """Times such as 20260301093055, or without seconds or time, in standard time; null: none of 2000 to 2100."""
    cells = reads.select(_cell(index).alias("cell"))
    cell = pl.col("cell")
    padded = pl.when(cell.str.contains(r"^\d{8}(\d{4}(\d{2})?)?$")).then(cell.str.pad_end(14, "0"))
    walls = cells.select(padded.str.to_datetime("%Y%m%d%H%M%S", strict=False, time_unit="us").alias("wall"))["wall"]
    dates = walls.dt.date()
    in_range = dates.dt.year().is_between(2000, 2100)
    known = dates.set(~in_range.fill_null(False), None)
    return _midnight(known, options) + (walls - walls.dt.truncate("1d"))
