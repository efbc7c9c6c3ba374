"""Printed times to instants: formats, zones, doubled and absent local hours, numbered intervals, how long a row's
interval is, stamps that the file's order proves wrong.

Here: `interval_ends`, which `convert` calls, and its steps. Not here: what a row holds besides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from metering.errors import MappingError
from metering.tables.schema import TIMESTAMP
from metering.tabular.layout import cell_name, matches
from metering.tabular.mapping import EPOCHS, NUMERIC_FORMATS, SERIALS, Mapping
from metering.text import filled, printable

_WALL = pl.Datetime("us")
_OFFSET = re.compile(r"%([:#]?z|\+)")
_HOUR, _MINUTE = re.compile("%[-_0]?[HkIl]"), re.compile("%[-_0]?[MRTXcr+]")
_ISO_WALL = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_ISO_INSTANT = ("%+", "%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""Times that a meter can mean: from the first, before the second (contract, rejects: `implausible_time`)."""
_ALIASES = {"MEZ": "CET", "MESZ": "CEST", "Z": "UTC", "GMT": "UTC"}
_HALF_DAY = timedelta(hours=12)


def interval_ends(rows: pl.DataFrame, mapping: Mapping, workbook: bool = False) -> pl.DataFrame:
    """`rows` with `ts`, the end of its interval (UTC), and `length_s`; both null where `time_problem` says why not.

    `rows` has `line`, `meter_id` and the mapped cells in file order, and may have `index`, the number of a day's value,
    from 0. Added besides: `time_detail` (null: the stamp itself says enough), `corrected` (by the file's order),
    `inferred` (one of two local hours, by the file's order), `absent` (a time that its day does not have). With
    `workbook` numbers may be spreadsheets' serial days. Raises MappingError when the mapping reads no stamp at all, or
    does not say how to read a day of 23 or 25 hours.
    """
    stamp = mapping.timestamp
    timed = _with_stamp(rows, stamp.columns, mapping, workbook)
    if stamp.periods or mapping.wide:
        return _numbered(timed, mapping)
    if stamp.label == "wall_end":
        timed = _with_length(timed, mapping)
        timed = timed.with_columns(pl.col("wall") - pl.duration(seconds="length_s"))
    timed = _placed(timed, mapping)
    if stamp.order == "file":
        timed = in_file_order(timed, mapping.interval.seconds[0], mapping.timezone)
    if stamp.end:
        timed = _to_end(timed, mapping, workbook)
    elif stamp.label != "wall_end":
        timed = _with_length(timed, mapping)
    shift = pl.duration(seconds="length_s") if stamp.label in ("start", "wall_end") or stamp.end else pl.duration()
    return _finished(timed.with_columns((pl.col("ts") + shift).cast(TIMESTAMP)))


def _finished(timed: pl.DataFrame) -> pl.DataFrame:
    """Ends that no meter can mean are none."""
    wild = ~pl.col("ts").is_between(EARLIEST, LATEST, closed="left")
    problem = (
        pl.when(pl.col("time_problem").is_not_null())
        .then("time_problem")
        .when(wild)
        .then(pl.lit("implausible_time"))
        .when(pl.col("ts").is_null())
        .then(pl.lit("bad_time"))
    )
    missing = [name for name in ("absent", "corrected", "inferred") if name not in timed.columns]
    timed = timed.with_columns(pl.lit(False).alias(name) for name in missing)
    return timed.with_columns(problem.alias("time_problem")).with_columns(
        pl.when(pl.col("time_problem").is_null()).then(pl.col("ts", "length_s"))
    )


# --- one stamp -------------------------------------------------------------------------------------------------------


def read_stamps(rows: pl.DataFrame, mapping: Mapping, workbook: bool = False) -> pl.DataFrame:
    """`rows` with `ts`, the instant that `stamp` names (UTC), or null and why in `time_problem`.

    `rows` has `line`, `meter_id` and `stamp` (String, or as typed in the file), in file order. `time_problem` is
    bad_time, implausible_time or absent_local_time. Raises MappingError when the format reads no stamp at all.
    """
    return _placed(_parsed(rows, mapping, workbook), mapping).drop("wall", "instant")


def _with_stamp(rows: pl.DataFrame, columns: tuple[str, ...], mapping: Mapping, workbook: bool) -> pl.DataFrame:
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


def _placed(timed: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    """`timed` with `ts` of its `wall` or `instant`, null where that is no time, and why in `time_problem`."""
    zone, stamp = mapping.timezone, mapping.timestamp
    located = timed.with_columns(_located("wall", zone, "earliest"), _located("wall", zone, "latest"))
    choice: pl.Expr | pl.Series
    inferred: pl.Expr = pl.lit(False)
    if stamp.second_pass is not None:
        choice = matches(pl.col(cell_name(stamp.second_pass.column)), stamp.second_pass.values)
    elif stamp.ambiguous == "infer" and not mapping.wide and (located["earliest"] != located["latest"]).any():
        choice = _second_pass(located, _series(mapping))
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
    return located.with_columns(
        pl.when(~wild).then(ts).alias("ts"), problem.alias("time_problem"), inferred.alias("inferred")
    ).drop("earliest", "latest")


def _series(mapping: Mapping) -> list[str]:
    """What rows follow one another by: those of one meter and one quantity."""
    named = dict.fromkeys(cell_name(column) for channel in mapping.channels for column, _ in channel.when)
    return ["meter_id", *named]


def _located(wall: str, zone: str, ambiguous: str) -> pl.Expr:
    # replace_time_zone takes "earliest" and "latest" as literals only in its type
    mode = pl.lit(ambiguous)
    local = pl.col(wall).dt.replace_time_zone(zone, ambiguous=mode, non_existent="null")
    return local.dt.convert_time_zone("UTC").alias(ambiguous)


def _second_pass(located: pl.DataFrame, series: list[str]) -> pl.Series:
    """Of doubled hours: true from where a series' stamps go back; in a file that runs backwards, until there."""
    doubled = (pl.col("earliest") != pl.col("latest")).fill_null(False)
    backwards = (pl.col("wall").drop_nulls().last() < pl.col("wall").drop_nulls().first()).over(series)
    order = pl.int_range(pl.len())
    return (
        located.with_row_index("at")
        .with_columns(
            doubled.alias("doubled"), pl.when(backwards).then(-order).otherwise(order).alias("order").cast(pl.Int64)
        )
        .sort("order")
        .with_columns(
            (pl.col("wall").diff() <= pl.duration())
            .fill_null(False)
            .cum_sum()
            .over(*series, pl.col("wall").dt.date(), "doubled")
            .alias("passes")
        )
        .sort("at")
        .select((pl.col("doubled") & (pl.col("passes") > 0)).alias("second"))
        .to_series()
    )


# --- numbered intervals ----------------------------------------------------------------------------------------------


def _numbered(timed: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    """Days and numbers to the ends of the intervals that they name."""
    stamp, zone = mapping.timestamp, mapping.timezone
    number, offset_s, second, length_s = _numbers(mapping)
    local = pl.coalesce("wall", pl.col("instant").dt.convert_time_zone(zone).dt.replace_time_zone(None))
    day = local.dt.truncate("1d")
    days = timed.with_columns(
        local.alias("local"), day.alias("day"), day.dt.offset_by("1d").alias("next_day"), number, offset_s, second
    ).with_columns(_midnight("day", zone), _midnight("next_day", zone), pl.lit(length_s, pl.Int64).alias("length_s"))
    hours = (pl.col("next_day_start") - pl.col("day_start")).dt.total_seconds()
    if stamp.clock is None:
        uneven = days.filter((hours != 86_400) & pl.col("number").is_not_null()).select("day", hours.alias("s")).head(1)
        for first, seconds in uneven.iter_rows():
            raise MappingError(
                f"timestamp.clock: is missing, and {first:%Y-%m-%d} has {seconds / 3600:g} hours in {zone}: 'elapsed' "
                "where numbers or columns go on through the day (23, 24 or 25 hours), 'wall' where they name its clock"
            )
    odd = pl.col("local") != pl.col("day")
    begins = pl.col("day_start") + pl.duration(seconds="offset_s")
    ends = begins + pl.duration(seconds="length_s")
    if stamp.clock == "wall":
        wall = pl.col("day") + pl.duration(seconds=pl.when(pl.col("offset_s") < 86_400).then("offset_s"))
        placed = _placed(days.with_columns(wall.alias("wall"), pl.lit(None, TIMESTAMP).alias("instant")), mapping)
        if stamp.periods:
            late = _located("wall", zone, "latest")
            placed = placed.with_columns(pl.when("second").then(late).otherwise("ts").alias("ts"))
        done = placed.with_columns((pl.col("ts") + pl.duration(seconds="length_s")).alias("ts"))
    else:
        done = days.with_columns(pl.when((ends <= pl.col("next_day_start")) & ~pl.col("second")).then(ends).alias("ts"))
    # beyond the wall clock's day there is no local time to be absent
    late = pl.col("offset_s") >= 86_400 if stamp.clock == "wall" else pl.lit(False)
    many = (pl.lit(86_400) if stamp.clock == "wall" else hours) // pl.lit(length_s)
    beyond = filled("the day has {} intervals of {} s, and this is number {}", many, pl.lit(length_s), "number")
    none = pl.col("number").is_null()
    given = pl.col("time_detail").is_not_null() | pl.col("day").is_null()
    detail = (
        pl.when(given)
        .then("time_detail")
        .when(odd)
        .then(filled("'{}' is a time of day, where a date belongs", "local"))
        .when(none)
        .then(pl.lit("the number of its interval cannot be read"))
        .when(late | (pl.col("ts").is_null() & pl.col("time_problem").is_null()))
        .then(beyond)
    )
    problem = pl.when(odd | none | late).then(pl.lit("bad_time")).otherwise("time_problem")
    absent = pl.col("ts").is_null() & ~none & ~odd & pl.col("day_start").is_not_null()
    return _finished(
        done.with_columns(
            detail.alias("time_detail"),
            problem.alias("time_problem"),
            absent.fill_null(False).alias("absent"),
            pl.when(~(odd | none)).then(pl.col("ts").cast(TIMESTAMP)).alias("ts"),
        )
    )


def _midnight(day: str, zone: str) -> pl.Expr:
    """The first moment of a local day, which in some zones is 01:00."""
    midnight = pl.col(day).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    later = pl.col(day).dt.offset_by("1h").dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return pl.coalesce(midnight, later).dt.convert_time_zone("UTC").alias(f"{day}_start")


def _numbers(mapping: Mapping) -> tuple[pl.Expr, pl.Expr, pl.Expr, int]:
    """`number` as shown to a person, `offset_s` from midnight, `second` pass (3B), and the length of an interval."""
    periods, ends_s = mapping.timestamp.periods, mapping.timestamp.first_ends_s
    length_s = periods[-1].length_s if periods else mapping.interval.seconds[0]
    # midnight is where the first interval starts, or ends where first_ends says so
    offset, second = pl.lit(0 if ends_s is None else ends_s - length_s, pl.Int64), pl.lit(False)
    if mapping.wide is not None:
        index = pl.col("index").cast(pl.Int64)
        return (
            (index + 1).alias("number"),
            (offset + index * length_s).alias("offset_s"),
            second.alias("second"),
            length_s,
        )
    number = pl.lit(None, pl.Int64)
    for period in periods:
        text = pl.col(cell_name(period.column)).cast(pl.String).str.strip_chars()
        number = text.str.extract(r"^0*(\d{1,5})(?:\.0+)?[AaBb]?$", 1).cast(pl.Int64)
        # below the first there is no interval
        number = pl.when(number >= period.first).then(number)
        offset = offset + (number - period.first) * period.length_s
        second = second | text.str.contains("[Bb]$").fill_null(False)
    known = pl.when(offset.is_not_null()).then(number)
    return known.alias("number"), offset.alias("offset_s"), second.alias("second"), length_s


# --- how long an interval is -----------------------------------------------------------------------------------------


def _with_length(timed: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    """`timed` with `length_s`, in seconds; where it cannot be told the row has no time."""
    interval = mapping.interval
    if interval.column is not None:
        cell = cell_name(interval.column)
        text = timed[cell].cast(pl.String).str.strip_chars()
        known = {given: _length_s(given, interval.unit_s) for given in text.drop_nulls().unique()}
        length = text.replace_strict(known, default=None, return_dtype=pl.Int64)
        unknown = filled("'{}' is not the length of an interval", pl.col(cell).cast(pl.String).fill_null(""))
        lost = pl.col("length_s").is_null() & pl.col("time_problem").is_null()
        return timed.with_columns(length.alias("length_s")).with_columns(
            pl.when(lost).then(unknown).otherwise("time_detail").alias("time_detail"),
            pl.when(lost).then(pl.lit("bad_time")).otherwise("time_problem").alias("time_problem"),
        )
    if len(interval.seconds) == 1:
        return timed.with_columns(pl.lit(interval.seconds[0], pl.Int64).alias("length_s"))
    return _by_distance(timed, mapping)


def _length_s(text: str, unit_s: int | None) -> int | None:
    """15 (of a unit), 15m, 15 min, 1h, PT15M, 00:15, 00:15:00."""
    seconds: float | None = None
    if unit_s is not None and re.fullmatch(r"\d{1,6}(\.\d{1,9})?", text, re.ASCII):
        seconds = float(text) * unit_s
    elif unit_s is None and (named := re.fullmatch(r"(?i)(?:PT)?(\d{1,5})\s*(s|sec|m|min|h)", text, re.ASCII)):
        seconds = int(named[1]) * {"s": 1, "m": 60, "h": 3600}[named[2][0].lower()]
    elif unit_s is None and (clock := re.fullmatch(r"(\d{1,2}):(\d\d)(?::(\d\d))?", text, re.ASCII)):
        seconds = int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3] or 0)
    whole = seconds is not None and seconds == round(seconds) and 1 <= seconds <= 86_400
    return round(seconds) if seconds is not None and whole else None


def _by_distance(timed: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    """Lengths from how far the neighbouring row is, in the direction that the label looks away from.

    A distance counts when it is one of the mapping's, and the next or the previous one is the same: a single longer one
    is a gap. Other rows are as long as the row before them.
    """
    start = mapping.timestamp.label == "start"
    at, series, choices = pl.col("ts"), _series(mapping), list(mapping.interval.seconds)
    away = at.shift(-1) - at if start else at - at.shift(1)
    towards = away.dt.total_seconds()
    fits = pl.when(towards.is_in(choices)).then(towards)
    decided = pl.when((fits == fits.shift(1)) | (fits == fits.shift(-1))).then(fits)
    lengths = (
        timed.filter(pl.col("ts").is_not_null() & pl.col("meter_id").is_not_null())
        .select(*series, "ts")
        .unique()
        .sort("ts")
        .with_columns(decided.over(series).alias("length_s"))
        .with_columns(pl.col("length_s").forward_fill().backward_fill().fill_null(choices[0]).over(series))
    )
    return timed.join(lengths, on=[*series, "ts"], how="left", nulls_equal=True, maintain_order="left").with_columns(
        pl.col("length_s").fill_null(choices[0])
    )


def _to_end(timed: pl.DataFrame, mapping: Mapping, workbook: bool) -> pl.DataFrame:
    """`timed` with `length_s` from the stamp of the interval's other end."""
    ends = _with_stamp(
        timed.drop("wall", "instant", "time_problem", "time_detail", "ts"), mapping.timestamp.end, mapping, workbook
    )
    end = ends.select(
        pl.col("wall").alias("end"), pl.col("instant").alias("end_instant"), pl.col("time_problem").alias("end_problem")
    )
    both = pl.concat([timed, end], how="horizontal")
    # an end of 00:00 printed with the date of its start
    overnight = pl.col("wall") - pl.col("end") >= _HALF_DAY
    both = both.with_columns(pl.when(overnight).then(pl.col("end").dt.offset_by("1d")).otherwise("end").alias("end"))
    both = both.with_columns(_located("end", mapping.timezone, "earliest"), _located("end", mapping.timezone, "latest"))
    by_wall = (pl.col("end") - pl.col("wall")).dt.total_seconds()
    first, last = ((pl.col(name) - pl.col("ts")).dt.total_seconds() for name in ("earliest", "latest"))
    passed = (pl.col("latest") - pl.col("earliest")).dt.total_seconds()
    doubled = pl.col("wall").dt.replace_time_zone(mapping.timezone, ambiguous="null", non_existent="null").is_null()
    length = (
        pl.when(pl.col("end_instant").is_not_null())
        .then((pl.col("end_instant") - pl.col("ts")).dt.total_seconds())
        .when(pl.col("earliest").is_null() | (doubled & (by_wall > 0)))
        .then(by_wall)
        .when(first > 0)
        .then(first)
        .when(passed > 0)
        .then(last)
    )
    allowed = list(mapping.interval.seconds)
    sound = length.is_between(1, 86_400 + 7_200) & (length.is_in(allowed) if allowed else pl.lit(True))
    lost = ~sound.fill_null(False) & pl.col("time_problem").is_null()
    names = [pl.col(cell_name(name)).cast(pl.String).fill_null("") for name in mapping.timestamp.end]
    stamp = pl.concat_str(names, separator=" ")
    why = pl.coalesce(filled("the end '{}' is {} s after the start", stamp, length), filled("the end is '{}'", stamp))
    return both.with_columns(
        pl.when(~lost).then(length).alias("length_s"),
        pl.when(lost).then(why).otherwise("time_detail").alias("time_detail"),
        pl.when(lost)
        .then(pl.coalesce("end_problem", pl.lit("bad_time")))
        .otherwise("time_problem")
        .alias("time_problem"),
    ).drop("end", "end_instant", "end_problem", "earliest", "latest")


# --- the order of the file -------------------------------------------------------------------------------------------


def in_file_order(rows: pl.DataFrame, interval_s: int, timezone: str) -> pl.DataFrame:
    """`rows` with `ts` corrected where the order of the file proves it wrong, and `corrected` saying where.

    `rows` has `meter_id` and `ts`, in file order; rows of one meter are one interval apart. A stamp is wrong when its
    neighbours are two intervals apart and it is not the one between; or when it lies outside its neighbours, which
    themselves go forward. It is replaced by the first of these that fits between them: the same local time on the
    next day (a day's last interval printed with the same date), one interval after the row before, one interval before
    the row after. A file's first and last stamps are judged by their two neighbours; a last one moves to the next
    day only if it is midnight. Other jumps stay: they are gaps.
    """
    step = pl.duration(seconds=interval_s)
    before, ts, after = pl.col("ts").shift(1), pl.col("ts"), pl.col("ts").shift(-1)
    second_before, second_after = pl.col("ts").shift(2), pl.col("ts").shift(-2)
    between = (after - before == 2 * step) & (ts != before + step)
    outside = (before < after) & ~((before < ts) & (ts < after))
    last = after.is_null() & (ts <= before) & (second_before.is_null() | (ts <= second_before))
    first = before.is_null() & (ts >= after) & (second_after <= ts) & (after < second_after)
    next_day, midnight = _next_day(ts, timezone), ts.dt.convert_time_zone(timezone).dt.time() == time()

    def fits(candidate: pl.Expr) -> pl.Expr:
        return (candidate > before) & ((candidate < after) | after.is_null())

    corrected = (
        pl.when(between)
        .then(before + step)
        .when(first)
        .then(after - step)
        .when((outside | (last & midnight)) & fits(next_day))
        .then(next_day)
        .when((outside | last) & fits(before + step))
        .then(before + step)
        .when(outside & fits(after - step))
        .then(after - step)
    )
    timed = rows.filter(ts.is_not_null()).with_columns(corrected.over("meter_id").alias("better"))
    better = rows.join(timed.select("line", "better"), on="line", how="left", maintain_order="left")
    return better.with_columns(
        pl.coalesce("better", "ts").alias("ts"), (pl.col("better") != ts).fill_null(False).alias("corrected")
    ).drop("better")


def _next_day(ts: pl.Expr, timezone: str) -> pl.Expr:
    wall = ts.dt.convert_time_zone(timezone).dt.replace_time_zone(None).dt.offset_by("1d")
    return wall.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")
