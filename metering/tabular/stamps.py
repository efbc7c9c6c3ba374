"""Printed times to instants: formats, zones and their names, epochs, serial days, doubled and absent local hours.

Here: `with_stamp` (what a stamp says) and `placed` (which instant that is). Not here: which interval it names
(`timestamps`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from metering.errors import MappingError
from metering.tables.schema import TIMESTAMP
from metering.tabular.layout import cell_name, matches
from metering.tabular.shape import EPOCHS, NUMERIC_FORMATS, SERIALS, Mapping
from metering.text import filled, printable

_WALL = pl.Datetime("us")
_OFFSET = re.compile(r"%([:#]?z|\+)")
_HOUR, _MINUTE = re.compile("%[-_0]?[HkIl]"), re.compile("%[-_0]?[MRTXcr+]")
_ISO_WALL = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_ISO_INSTANT = ("%+", "%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""Times that a meter can mean: from the first, before the second (contract, rejects: `implausible_time`)."""
_ALIASES = {"MEZ": "CET", "MESZ": "CEST", "Z": "UTC", "GMT": "UTC"}


def read_stamps(rows: pl.DataFrame, mapping: Mapping, workbook: bool = False) -> pl.DataFrame:
    """`rows` with `ts`, the instant that `stamp` names (UTC), or null and why in `time_problem`.

    `rows` has `line`, `meter_id` and `stamp` (String, or as typed in the file), in file order. `time_problem` is
    bad_time, implausible_time or absent_local_time. Raises MappingError when the format reads no stamp at all.
    """
    return placed(_parsed(rows, mapping, workbook), mapping).drop("wall", "instant")


def with_stamp(rows: pl.DataFrame, columns: tuple[str, ...], mapping: Mapping, workbook: bool) -> pl.DataFrame:
    """`rows` with what the stamp in `columns` gives, as `_parsed` says."""
    cells = [pl.col(cell_name(name)) for name in columns]
    stamp = cells[0] if len(cells) == 1 else pl.concat_str([c.cast(pl.String) for c in cells], separator=" ")
    return _parsed(rows.with_columns(stamp.alias("stamp")), mapping, workbook)


def _parsed(rows: pl.DataFrame, mapping: Mapping, workbook: bool) -> pl.DataFrame:
    """`rows` without `stamp`, with `wall` (local, without zone) or `instant` (UTC), whichever it gives; where it gives
    none, why in `time_problem` and `time_detail`."""
    stamp, format = rows["stamp"], mapping.timestamp.format
    wall, instant = pl.Series("wall", [None], _WALL), pl.Series("instant", [None], TIMESTAMP)
    wall, instant = wall.new_from_index(0, rows.height), instant.new_from_index(0, rows.height)
    wild, detail = pl.repeat(False, rows.height, eager=True), pl.repeat(None, rows.height, dtype=pl.String, eager=True)
    if isinstance(stamp.dtype, pl.Datetime) and stamp.dtype.time_zone is not None:
        instant = stamp.dt.convert_time_zone("UTC").cast(TIMESTAMP)
    elif stamp.dtype in (pl.Datetime, pl.Date):
        wall = stamp.cast(_WALL)
    elif format in NUMERIC_FORMATS:
        wall, instant, wild = _numeric(stamp, format, mapping.decimal)
        if format in EPOCHS and wild.any():
            hint = f"not between 2000 and 2100 as '{format}'; 'epoch' tells each number's unit by its size"
            detail = detail.zip_with(~wild, pl.repeat(hint, rows.height, eager=True))
        if workbook:
            wall = _filled_up(wall, instant, stamp, _iso_wall)
    else:
        text = stamp.cast(pl.String).str.strip_chars()
        try:
            wall, instant, detail = _textual(text, mapping)
            if workbook:
                wall = _filled_up(wall, instant, text, _iso_wall)
        except pl.exceptions.PolarsError as error:
            wrong = printable(str(error).splitlines()[0], 120)
            raise MappingError(f"timestamp.format: '{printable(format or '')}' cannot be used: {wrong}") from error
        if workbook:
            wall = _filled_up(wall, instant, text, lambda left: _numeric(left, "excel", mapping.decimal)[0])
    _check_read(stamp, wall, instant, wild, format)
    unread = wall.is_null() & instant.is_null()
    return rows.drop("stamp").with_columns(
        wall.alias("wall"),
        instant.alias("instant"),
        pl.when(wild).then(pl.lit("implausible_time")).when(unread).then(pl.lit("bad_time")).alias("time_problem"),
        detail.alias("time_detail"),
    )


def _numeric(stamp: pl.Series, format: str, decimal: str) -> tuple[pl.Series, pl.Series, pl.Series]:
    """`wall` (serial days) and `instant` (epochs) of numbers, and where a number lies outside EARLIEST to LATEST."""
    frame = pl.DataFrame({"n": stamp})
    if not stamp.dtype.is_numeric():
        text = pl.col("n").cast(pl.String).str.strip_chars()
        frame = frame.with_columns(text.str.replace(",", ".", literal=True) if decimal == "," else text)
    number, whole = pl.col("n").cast(pl.Float64, strict=False), pl.col("n").cast(pl.Int64, strict=False)
    if stamp.dtype.is_float():
        whole = pl.when(pl.col("n") == pl.col("n").floor()).then(whole)
    finite = number.is_finite().fill_null(False)
    if format in SERIALS:
        zero = datetime(*SERIALS[format])
        first, last = ((end.replace(tzinfo=None) - zero) / timedelta(days=1) for end in (EARLIEST, LATEST))
        inside = finite & number.is_between(first, last, closed="left")
        seconds = (number * 86_400).round().cast(pl.Int64, strict=False)
        time_us = pl.when(inside).then(pl.lit(zero, _WALL) + pl.duration(seconds=pl.when(inside).then(seconds)))
        none = pl.lit(None, TIMESTAMP)
        done = frame.select(time_us.cast(_WALL).alias("wall"), none.alias("instant"), wild=finite & ~inside)
    else:
        units = EPOCHS.values() if format == "epoch" else (EPOCHS[format],)
        micros = []
        for unit in units:
            inside = finite & (number * unit).is_between(
                EARLIEST.timestamp() * 1e6, LATEST.timestamp() * 1e6, closed="left"
            )
            exact = whole * int(unit) if unit >= 1 else whole // round(1 / unit)
            rounded = pl.when(inside).then(number * unit).round().cast(pl.Int64, strict=False)
            micros.append(pl.when(inside).then(pl.coalesce(exact, rounded)))
        instant = pl.coalesce(micros).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        wall = pl.lit(None, _WALL)
        done = frame.select(wall.alias("wall"), instant.alias("instant"), wild=finite & instant.is_null())
    height = frame.height
    wall_out, instant_out = (
        s if s.len() == height else s.new_from_index(0, height) for s in (done["wall"], done["instant"])
    )
    return wall_out, instant_out, done["wild"]


def _textual(text: pl.Series, mapping: Mapping) -> tuple[pl.Series, pl.Series, pl.Series]:
    """`wall`, `instant` and `detail` of texts, by a strftime format or by ISO 8601."""
    format = mapping.timestamp.format
    none = pl.Series([None], dtype=TIMESTAMP).new_from_index(0, text.len())
    detail = pl.repeat(None, text.len(), dtype=pl.String, eager=True)
    if format is None:
        wall = _iso_wall(text)
        iso = text.str.replace(" ", "T", literal=True)
        instant = none if wall.null_count() == 0 else _first_of(iso, _ISO_INSTANT, "UTC")
        # a name may follow: 2026-03-01 00:15 CET
        left = wall.is_null() & instant.is_null() & text.str.contains(r"\d\s?[A-Za-z]{3,5}$").fill_null(False)
        if left.any():
            named, name = _cut_name(text.zip_with(left, none.cast(pl.String)))
            instant, detail = _by_name(_iso_wall(named), name, mapping.timezone, instant)
        return wall, instant, detail
    if format.endswith("%Z"):
        named, name = _cut_name(text)
        instant, detail = _by_name(_wall(named, (format[:-2].rstrip(),)), name, mapping.timezone, none)
        return none.cast(_WALL), instant, detail
    if _OFFSET.search(format):
        return none.cast(_WALL), _first_of(text, (re.sub("%:?z", "%#z", format),), "UTC"), detail
    wall = _wall(text, (format,))
    if format.endswith(("Z", "UTC", "GMT")):
        return none.cast(_WALL), wall.dt.replace_time_zone("UTC"), detail
    return wall, none, detail


def _iso_wall(text: pl.Series) -> pl.Series:
    return _wall(text.cast(pl.String).str.strip_chars().str.replace(" ", "T", literal=True), _ISO_WALL)


def _wall(text: pl.Series, formats: tuple[str, ...]) -> pl.Series:
    """Local times. 24:00 is the midnight that ends its date; where the mapping says which figures are the year, two of
    them are one of this century's (ISO 8601 has no such year)."""
    wall = _first_of(text, formats)
    left = wall.is_null() & text.str.contains("24").fill_null(False)
    if left.any():
        midnight = text.str.replace(r"\b24:00", "00:00").str.replace(r"(^|\D|\d{6})24((?:[: ]?00){0,2})$", "${1}00${2}")
        next_day = _first_of(midnight.zip_with(left & (midnight != text).fill_null(False), _no_text(text)), formats)
        wall = wall.zip_with(wall.is_not_null(), next_day.dt.offset_by("1d"))
    short = (wall.dt.year() < 100).fill_null(False)
    if formats is not _ISO_WALL and short.any():
        century = _first_of(text, tuple(format.replace("%Y", "%y") for format in formats))
        wall = century.zip_with(short & century.is_not_null(), wall)
    return wall


def _first_of(text: pl.Series, formats: tuple[str, ...], zone: str | None = None) -> pl.Series:
    """By the first format that reads a text; null where none does. Without minutes an hour is a full one."""
    done = pl.Series([None], dtype=pl.Datetime("us", zone)).new_from_index(0, text.len())
    for format in formats:
        hours_only = bool(_HOUR.search(format)) and not _MINUTE.search(format)
        # Polars takes an hour with its minute only
        given = text + " 00" if hours_only else text
        parsed = given.str.to_datetime(
            f"{format} %M" if hours_only else format, strict=False, time_unit="us", time_zone=zone
        )
        done = done.zip_with(done.is_not_null(), parsed)
        if done.null_count() == text.null_count():
            break
    return done


def _no_text(like: pl.Series) -> pl.Series:
    return pl.repeat(None, like.len(), dtype=pl.String, eager=True)


def _filled_up(
    wall: pl.Series, instant: pl.Series, stamp: pl.Series, read: Callable[[pl.Series], pl.Series]
) -> pl.Series:
    left = wall.is_null() & instant.is_null() & stamp.is_not_null()
    return wall.zip_with(~left, read(stamp)) if left.any() else wall


def _cut_name(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    """A stamp, and the zone's name behind it."""
    return text.str.extract(r"^(.*?)\s*([A-Za-z]{1,5})$", 1), text.str.extract(r"([A-Za-z]{1,5})$", 1)


def _by_name(wall: pl.Series, name: pl.Series, zone: str, instant: pl.Series) -> tuple[pl.Series, pl.Series]:
    """`instant`, filled up with local times that say by which of the zone's names they are, and why not where not."""
    offsets = _offsets_s(zone, wall)
    known = {given: offsets.get(_ALIASES.get(given.upper(), given.upper())) for given in name.drop_nulls().unique()}
    frame = pl.DataFrame({"wall": wall, "name": name, "instant": instant})
    offset = pl.col("name").replace_strict(known, default=None, return_dtype=pl.Int64)
    said = (pl.col("wall") - pl.duration(seconds=offset)).dt.replace_time_zone("UTC")
    names = ", ".join(offsets)
    done = frame.select(
        pl.coalesce("instant", said).alias("instant"),
        pl.when(pl.col("wall").is_not_null() & offset.is_null())
        .then(filled("'{}' is no name of the time in " + f"{zone} ({names})", "name"))
        .alias("detail"),
    )
    return done["instant"], done["detail"]


def _offsets_s(zone: str, wall: pl.Series) -> dict[str, int]:
    """The names of a zone's times in the years of `wall`, and their offsets in seconds."""
    years = wall.dt.year().unique()
    offsets = {"UTC": 0}
    for year in years.filter(years.is_between(EARLIEST.year, LATEST.year)).sort().to_list():
        for month in range(1, 13):
            local = datetime(year, month, 15, tzinfo=ZoneInfo(zone))
            offset = local.utcoffset()
            if offset is not None:
                offsets[str(local.tzname()).upper()] = round(offset.total_seconds())
    return offsets


def _check_read(stamp: pl.Series, wall: pl.Series, instant: pl.Series, wild: pl.Series, format: str | None) -> None:
    """A format that reads nothing is the mapping's mistake, not the rows'."""
    given = stamp.drop_nulls()
    if given.is_empty() or wall.is_not_null().any() or instant.is_not_null().any() or wild.any():
        return
    wanted = f"'{printable(format)}'" if format else "ISO 8601, which holds where none is given,"
    first = str(given[0])
    fits = [name for name in NUMERIC_FORMATS if name not in ("epoch", format) and _fits(first, name)]
    hint = f"; as a number it fits '{fits[0]}'" if fits else ""
    raise MappingError(f"timestamp.format: {wanted} reads none of the stamps; the first is '{printable(first)}'{hint}")


def _fits(text: str, format: str) -> bool:
    wall, instant, _ = _numeric(pl.Series([text.replace(",", ".")]), format, ".")
    return wall.is_not_null().any() or instant.is_not_null().any()


# --- local time ------------------------------------------------------------------------------------------------------


def placed(timed: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    """`timed` with `ts` of its `wall` or `instant`, null where that is no time, and why in `time_problem`."""
    zone, stamp = mapping.timezone, mapping.timestamp
    both = timed.with_columns(located("wall", zone, "earliest"), located("wall", zone, "latest"))
    choice: pl.Expr | pl.Series
    inferred: pl.Expr = pl.lit(False)
    if stamp.second_pass is not None:
        choice = matches(pl.col(cell_name(stamp.second_pass.column)), stamp.second_pass.values)
    elif stamp.ambiguous == "infer" and not mapping.wide and (both["earliest"] != both["latest"]).any():
        choice = _second_pass(both, series(mapping))
        inferred = (pl.col("earliest") != pl.col("latest")).fill_null(False)
    else:
        choice = pl.lit(stamp.ambiguous == "latest")
    ts = pl.coalesce("instant", pl.when(choice).then("latest").otherwise("earliest"))
    wild = ~ts.is_between(EARLIEST, LATEST, closed="left")
    problem = (
        pl.when(pl.col("time_problem").is_not_null())
        .then("time_problem")
        .when(wild)
        .then(pl.lit("implausible_time"))
        .when(ts.is_null())
        .then(pl.lit("absent_local_time"))
    )
    return both.with_columns(
        pl.when(~wild).then(ts).alias("ts"), problem.alias("time_problem"), inferred.alias("inferred")
    ).drop("earliest", "latest")


def series(mapping: Mapping) -> list[str]:
    """What rows follow one another by: those of one meter and one quantity."""
    named = dict.fromkeys(cell_name(column) for channel in mapping.channels for column, _ in channel.when)
    return ["meter_id", *named]


def located(wall: str, zone: str, ambiguous: str) -> pl.Expr:
    # replace_time_zone takes "earliest" and "latest" as literals only in its type
    mode = pl.lit(ambiguous)
    local = pl.col(wall).dt.replace_time_zone(zone, ambiguous=mode, non_existent="null")
    return local.dt.convert_time_zone("UTC").alias(ambiguous)


def _second_pass(both: pl.DataFrame, keys: list[str]) -> pl.Series:
    """Of doubled hours: true from where a series' stamps go back; in a file that runs backwards, until there."""
    doubled = (pl.col("earliest") != pl.col("latest")).fill_null(False)
    backwards = (pl.col("wall").drop_nulls().last() < pl.col("wall").drop_nulls().first()).over(keys)
    order = pl.int_range(pl.len())
    return (
        both.with_row_index("at")
        .with_columns(
            doubled.alias("doubled"), pl.when(backwards).then(-order).otherwise(order).alias("order").cast(pl.Int64)
        )
        .sort("order")
        .with_columns(
            (pl.col("wall").diff() <= pl.duration())
            .fill_null(False)
            .cum_sum()
            .over(*keys, pl.col("wall").dt.date(), "doubled")
            .alias("passes")
        )
        .sort("at")
        .select((pl.col("doubled") & (pl.col("passes") > 0)).alias("second"))
        .to_series()
    )
