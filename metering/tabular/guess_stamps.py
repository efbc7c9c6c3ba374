"""Which columns of an unknown table hold its times, and how they are written.

Here: `find_stamp`, over the first rows of a table. Not here: what else there is (`guess`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import polars as pl

_DATES = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y年%m月%d日", "%Y%m%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y"),
    *("%m-%d-%Y", "%d-%b-%Y", "%d %b %Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%b-%y", "%y-%m-%d"),
)
_TIMES = ("", "%H:%M", "%H:%M:%S", "%H:%M:%S%.f", "%H%M", "%H.%M", "%I:%M %p", "%I:%M:%S %p")
_JOINTS = (" ", "T", ", ")
_OFFSETS = ("", "%z", " %z")
_OTHER_WAY = {"%d/%m": "%m/%d", "%m/%d": "%d/%m", "%d-%m": "%m-%d", "%m-%d": "%d-%m"}
_EPOCHS = {"epoch_s": 1e6, "epoch_ms": 1e3, "epoch_us": 1.0, "epoch_ns": 1e-3}
_EARLIEST_US, _LATEST_US = 946_684_800_000_000, 4_133_980_799_999_999
_SERIAL_DAYS = (36526.0, 73415.0)
_ENOUGH = 0.8
"""Share of a column's first cells that a format must read: the others may be totals, or wrong."""

_START = re.compile(r"start|begin|\bfrom\b|\bvon\b|\bab\b|beginn|début|debut|inicio|开始|起", re.I)
_END = re.compile(r"\bend|\bto\b|\bbis\b|ende\b|until|\bfin\b|hasta|结束|止|截止", re.I)
_TIMELY = re.compile(
    r"date|time|datum|zeit|stamp|stunde|fecha|hora|heure|jour|period|日期|时间|时刻|数据时间|\bts\b", re.I
)
_NUMBERED = re.compile(r"hour|hora|heure|stunde|period|interval|slot|point|小时|点|序号|时段", re.I)


@dataclass(frozen=True, slots=True, eq=False)
class StampGuess:
    """Times of a table. `columns` and `format` (None: ISO 8601 or typed) as in a mapping; `walls` the stamps of the
    sample as they stand (null where not read), `with_offset` whether they say their offset from UTC.

    `label` is what the columns' names say: start, end, or nothing. `end` is the column of the other end. `period` is
    the column that numbers a day's intervals, from `period_first` on, up to `period_last`. `other_format` reads the
    stamps as well, with day and month exchanged.
    """

    columns: tuple[str, ...]
    format: str | None
    walls: pl.Series
    with_offset: bool = False
    label: str | None = None
    end: str | None = None
    period: str | None = None
    period_first: int = 1
    period_last: int = 0
    other_format: str | None = None


def find_stamp(sample: pl.DataFrame) -> StampGuess | None:
    """The likeliest times among the columns of `sample`, whose cells are texts without blanks around, or typed."""
    typed = [name for name, dtype in sample.schema.items() if isinstance(dtype, pl.Datetime)]
    if typed:
        return _of_typed(sample, typed)
    ordered = sorted(sample.columns, key=lambda name: not _TIMELY.search(name))
    for name in ordered:
        found = _of_texts(sample[name].cast(pl.String))
        if found is None:
            continue
        format, walls, _ = found
        if format is None or _has_time(format) or format in (*_EPOCHS, "epoch", "excel"):
            return _whole(sample, name, found)
        return _of_day(sample, ordered, name, format, walls)
    return None


def _of_typed(sample: pl.DataFrame, typed: list[str]) -> StampGuess:
    ranked = sorted(typed, key=lambda name: bool(_END.search(name)) and not _START.search(name))
    name = ranked[0]
    zone = sample.schema[name]
    with_offset = isinstance(zone, pl.Datetime) and zone.time_zone is not None
    walls = sample[name].dt.replace_time_zone(None).cast(pl.Datetime("us"))
    return StampGuess((name,), None, walls, with_offset, _label(name))


def _whole(sample: pl.DataFrame, name: str, found: tuple[str | None, pl.Series, bool]) -> StampGuess:
    """Stamps of date and time in one column; another column in the same format may be the other end."""
    format, walls, with_offset = found
    other = None
    for candidate in sample.columns:
        if candidate != name and not with_offset:
            again = _read(sample[candidate].cast(pl.String), format) if format not in (*_EPOCHS, "epoch") else None
            apart = None if again is None else (again - walls).drop_nulls().dt.total_seconds()
            if (
                apart is not None
                and len(apart) >= _ENOUGH * len(walls)
                and (apart > 0).all()
                and (apart <= 86400).all()
            ):
                other = candidate
    swapped = _swapped(sample[name].cast(pl.String), format, walls)
    return StampGuess((name,), format, walls, with_offset, _label(name), end=other, other_format=swapped)


def _of_day(sample: pl.DataFrame, ordered: list[str], name: str, format: str, days: pl.Series) -> StampGuess:
    """A date, and in another column the time, or the number of the interval; or a date alone."""
    for other in ordered:
        if other == name:
            continue
        clocks = sample[other].cast(pl.String)
        if not (_TIMELY.search(other) or clocks.str.contains(":").any()):
            continue
        joined = pl.Series([f"{a} {b}" for a, b in zip(sample[name], sample[other], strict=True)], dtype=pl.String)
        digits = clocks.str.contains(r"^(\d{4}|\d{2}\.\d{2})$").all()
        for clock in _TIMES[1:] if digits else (clock for clock in _TIMES[1:] if ":" in clock):
            if "%p" in clock and (first := _swapped_text(format)) and first.startswith("%m"):
                format = first if _read(joined, f"{first} {clock}") is not None else format
            walls = _read(joined, f"{format} {clock}")
            if walls is not None:
                swapped = _swapped(joined, f"{format} {clock}", walls)
                return StampGuess((name, other), f"{format} {clock}", walls, label=_label(other), other_format=swapped)
    numbered = _numbered(sample, name)
    swapped = _swapped(sample[name].cast(pl.String), format, days)
    if numbered is None:
        return StampGuess((name,), format, days, other_format=swapped)
    column, low, high = numbered
    return StampGuess((name,), format, days, period=column, period_first=low, period_last=high, other_format=swapped)


def _numbered(sample: pl.DataFrame, day: str) -> tuple[str, int, int] | None:
    """A column that counts a day's intervals: its name, its first number and its last."""
    for name in sample.columns:
        numbers = sample[name].cast(pl.String).cast(pl.Int64, strict=False)
        if name == day or not _NUMBERED.search(name) or numbers.null_count() > len(numbers) * (1 - _ENOUGH):
            continue
        first, last = numbers.min(), numbers.max()
        if isinstance(first, int) and isinstance(last, int) and 0 <= first <= 1 and last <= 1440:
            return name, first, last
    return None


def _of_texts(cells: pl.Series) -> tuple[str | None, pl.Series, bool] | None:
    """The format that reads most cells, what it reads, and whether it reads offsets."""
    known = cells.drop_nulls().filter(cells.drop_nulls() != "")
    if known.is_empty():
        return None
    numeric = _numeric(cells)
    if numeric is not None and (known.n_unique() > 1 or _TIMELY.search(cells.name)):
        return numeric
    if re.search(r"[Tt ]\d{2}:\d{2}.*([Zz]|[+-]\d{2}:?\d{2})$", known[0]):
        iso = cells.str.replace(" ", "T", literal=True)
        at = iso.str.to_datetime("%+", strict=False, time_unit="us", time_zone="UTC").dt.replace_time_zone(None)
        if at.count() >= _ENOUGH * len(known):
            return None, at, True
    american = bool(re.search(r"[AP]M", known[0], re.I))
    for format in sorted(_formats(known[0]), key=lambda one: american and not one.startswith("%m")):
        walls = _read(cells, format)
        if walls is not None:
            return (None if _is_iso(format) else format), walls, "%z" in format
    return None


def _formats(example: str) -> Iterator[str]:
    """Formats whose signs `example` has, dates and times before dates alone."""
    signs = re.sub(r"[\dA-Za-z]", "", example)
    for date, joint, clock, offset in product(_DATES, _JOINTS, _TIMES, _OFFSETS):
        if (not clock and (joint != " " or offset)) or (offset and not re.search(r"[+-]\d{2}:?\d{2}$", example)):
            continue
        format = f"{date}{joint}{clock}{offset}" if clock else date
        wanted = re.sub(r"%[A-Za-z]|%\.f|T(?=%)", "", format)
        if set(wanted) - {" "} <= set(signs) | {"年", "月", "日"} and bool(clock) == _has_clock(example, date):
            yield format


def _has_clock(example: str, date: str) -> bool:
    digits = len(re.sub(r"\D", "", example))
    return ":" in example or digits >= (11 if "%Y" in date else 9) or bool(re.search(r"\d[T ]\d{3,4}$", example))


def _numeric(cells: pl.Series) -> tuple[str, pl.Series, bool] | None:
    """Epoch times and spreadsheets' days, by their size."""
    numbers = cells.cast(pl.Float64, strict=False)
    if numbers.count() < _ENOUGH * len(cells) or numbers.count() == 0:
        return None
    for format, unit in _EPOCHS.items():
        us = numbers * unit
        if us.is_between(_EARLIEST_US, _LATEST_US).sum() >= _ENOUGH * numbers.count():
            return format, us.cast(pl.Int64, strict=False).cast(pl.Datetime("us")), True
    mixed = [(numbers * unit).is_between(_EARLIEST_US, _LATEST_US) for unit in _EPOCHS.values()]
    if pl.select(pl.any_horizontal(*mixed)).to_series().sum() >= _ENOUGH * numbers.count():
        scaled = [pl.when(here).then(numbers * unit) for here, unit in zip(mixed, _EPOCHS.values(), strict=True)]
        times = pl.coalesce(*scaled).cast(pl.Int64).cast(pl.Datetime("us"))
        return "epoch", pl.select(times).to_series(), True
    fraction = (numbers % 1 != 0).any()
    if numbers.is_between(*_SERIAL_DAYS).all() and fraction:
        us = ((numbers - 25569) * 86400).round() * 1e6
        return "excel", us.cast(pl.Int64, strict=False).cast(pl.Datetime("us")), False
    return None


def _read(cells: pl.Series, format: str | None) -> pl.Series | None:
    """The cells as wall times, where a format reads enough of them; 24:00 is the midnight that ends its date."""
    if format is None:
        cells, format = cells.str.replace(" ", "T", literal=True), _iso_of(cells)
    if format == "excel":
        found = _numeric(cells)
        return found[1] if found and found[0] == "excel" else None
    midnight = cells.str.contains(r"\b24:00").fill_null(False)
    plain = cells.str.replace("24:00", "00:00", literal=True)
    zone = "UTC" if "%z" in format else None
    try:
        walls = plain.str.to_datetime(format, strict=False, time_unit="us", time_zone=zone).dt.replace_time_zone(None)
    except pl.exceptions.PolarsError:
        return None
    walls = walls + pl.select(pl.when(midnight).then(pl.duration(days=1)).otherwise(pl.duration())).to_series()
    years = walls.dt.year()
    walls = walls.set(~years.is_between(2000, 2100).fill_null(False), None) if "%y" not in format else walls
    known = cells.filter(cells.is_not_null() & (cells != "")).len()
    return walls if walls.count() and walls.count() >= _ENOUGH * known else None


def _iso_of(cells: pl.Series) -> str:
    example = next((cell for cell in cells if cell), "")
    return "%Y-%m-%dT%H:%M:%S%.f" if example.count(":") > 1 else "%Y-%m-%dT%H:%M"


def _is_iso(format: str) -> bool:
    return format in ("%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")


def _has_time(format: str) -> bool:
    return "%H" in format or "%I" in format


def _swapped(cells: pl.Series, format: str | None, walls: pl.Series) -> str | None:
    """The same format with day and month exchanged, where it reads the cells just as well and as evenly."""
    for one, other in _OTHER_WAY.items():
        if format and format.startswith(one):
            changed = format.replace(one, other)
            again = _read(cells, changed)
            if again is not None and again.count() >= walls.count() and _unevenness(again) <= _unevenness(walls):
                return changed
    return None


def _swapped_text(format: str) -> str | None:
    return next((format.replace(a, b) for a, b in _OTHER_WAY.items() if format.startswith(a)), None)


def _unevenness(walls: pl.Series) -> int:
    """How many different steps there are from stamp to stamp."""
    return walls.drop_nulls().diff().n_unique()


def _label(name: str) -> str | None:
    if _START.search(name):
        return "start"
    return "end" if _END.search(name) else None
