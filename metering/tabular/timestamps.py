"""Stamps to the ends of the intervals that they name: numbered intervals, how long a row's interval is, stamps that the
file's order proves wrong.

Here: `interval_ends`, which `convert` calls, and its steps. Not here: what a stamp says (`stamps`), what a row holds
besides.
"""

from __future__ import annotations

import re
from datetime import time, timedelta

import polars as pl

from metering.errors import MappingError
from metering.tables.schema import TIMESTAMP
from metering.tabular.layout import cell_name
from metering.tabular.shape import Mapping
from metering.tabular.stamps import EARLIEST, LATEST, located, placed, series, with_stamp
from metering.text import filled

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
    timed = with_stamp(rows, stamp.columns, mapping, workbook)
    if stamp.periods or mapping.wide:
        return _numbered(timed, mapping)
    if stamp.label == "wall_end":
        timed = _with_length(timed, mapping)
        timed = timed.with_columns(pl.col("wall") - pl.duration(seconds="length_s"))
    timed = placed(timed, mapping)
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
        there = placed(days.with_columns(wall.alias("wall"), pl.lit(None, TIMESTAMP).alias("instant")), mapping)
        if stamp.periods:
            late = located("wall", zone, "latest")
            there = there.with_columns(pl.when("second").then(late).otherwise("ts").alias("ts"))
        done = there.with_columns((pl.col("ts") + pl.duration(seconds="length_s")).alias("ts"))
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
    at, keys, choices = pl.col("ts"), series(mapping), list(mapping.interval.seconds)
    away = at.shift(-1) - at if start else at - at.shift(1)
    towards = away.dt.total_seconds()
    fits = pl.when(towards.is_in(choices)).then(towards)
    decided = pl.when((fits == fits.shift(1)) | (fits == fits.shift(-1))).then(fits)
    lengths = (
        timed.filter(pl.col("ts").is_not_null() & pl.col("meter_id").is_not_null())
        .select(*keys, "ts")
        .unique()
        .sort("ts")
        .with_columns(decided.over(keys).alias("length_s"))
        .with_columns(pl.col("length_s").forward_fill().backward_fill().fill_null(choices[0]).over(keys))
    )
    return timed.join(lengths, on=[*keys, "ts"], how="left", nulls_equal=True, maintain_order="left").with_columns(
        pl.col("length_s").fill_null(choices[0])
    )


def _to_end(timed: pl.DataFrame, mapping: Mapping, workbook: bool) -> pl.DataFrame:
    """`timed` with `length_s` from the stamp of the interval's other end."""
    ends = with_stamp(
        timed.drop("wall", "instant", "time_problem", "time_detail", "ts"), mapping.timestamp.end, mapping, workbook
    )
    end = ends.select(
        pl.col("wall").alias("end"), pl.col("instant").alias("end_instant"), pl.col("time_problem").alias("end_problem")
    )
    both = pl.concat([timed, end], how="horizontal")
    # an end of 00:00 printed with the date of its start
    overnight = pl.col("wall") - pl.col("end") >= _HALF_DAY
    both = both.with_columns(pl.when(overnight).then(pl.col("end").dt.offset_by("1d")).otherwise("end").alias("end"))
    both = both.with_columns(located("end", mapping.timezone, "earliest"), located("end", mapping.timezone, "latest"))
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
