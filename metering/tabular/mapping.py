"""The mapping file of `kilowatch replay`: how someone's table becomes readings.

Here: the mapping's shape, its defaults and its checks. Not here: applying it (`layout`, `convert`, `timestamps`),
reading files.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from metering.errors import MappingError
from metering.tables.lake import MEASURED, REGISTERS
from metering.tabular.field_options import FIELD_KEYS, NO_OPTIONS, FieldOptions, parse_options
from metering.text import printable

_UNIT_S = {"s": 1, "m": 60, "h": 3600}
_DAY_S = 86_400
KEYS = (
    *("format", "member", "sheet", "delimiter", "decimal", "thousands", "encoding", "null_values", "timezone"),
    *("interval", "meter_id", "header", "rows", "wide", "quality", "timestamp", "channel"),
)
TIMESTAMP_KEYS = (
    *("column", "format", "label", "end", "period", "first_ends", "clock", "order", "ambiguous", "second_pass"),
)
CHANNEL_KEYS = ("field", "columns", "kind", "part", "when")
TABLE_FORMATS = ("csv", "parquet")
FIELD_FORMATS: tuple[str, ...] = ("nem12", "nem13", "espi")
"""Formats that say themselves what a table's mapping has to: `interval`, `meter_id`, [timestamp], [[channel]] are then
optional (`formats.READERS` reads them)."""
_EDIFACT = "(EDIFACT) is not read: have its values exported as CSV, and map that"
_WORKBOOK = f"is not one of {', '.join((*TABLE_FORMATS, *FIELD_FORMATS))}: a workbook is told by its content"
_NO_FORMATS = {"mscons": _EDIFACT, "edifact": _EDIFACT, "xlsx": _WORKBOOK, "xls": _WORKBOOK, "excel": _WORKBOOK}
EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1, "epoch_ns": 0.001}
"""Values of `timestamp.format` for time since 1970 in UTC, and their microseconds."""
SERIALS = {"excel": (1899, 12, 30), "excel_1904": (1904, 1, 1)}
"""Values of `timestamp.format` for days as spreadsheets count them, and the date of day 0."""
NUMERIC_FORMATS = (*EPOCHS, "epoch", *SERIALS)
"""Values of `timestamp.format` that are no strftime format. With `epoch` each number tells its unit by its size."""
LABELS = ("end", "start", "wall_end")
KINDS = ("value", "interval_energy", "mean_power")
PARTS = ("net", "positive", "negative")
CLOCKS = ("elapsed", "wall")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Where the column names stand: on `line` (from 1), or where the first line has all cells of `contains`, else on
    the first line with text. `lines` is how many lines a name is spread over; 0: there are none."""

    line: int | None = None
    contains: tuple[str, ...] = ()
    lines: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRule:
    """Rows that are left out by a column's cell: those in `drop`, and with `keep` (None: all) those not in it."""

    column: str
    keep: tuple[str, ...] | None
    drop: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wide:
    """One row a day (or other span from a local midnight): a value for each interval, in columns `first` to `last`
    (None: to the row's end), read as one column named `value`."""

    first: str
    last: str | None
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A column that numbers the intervals of a day from `first` on, each `length_s` seconds long."""

    column: str
    first: int
    length_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """Rows whose cell in `column` is one of `values`."""

    column: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """How long a row's interval is: the one of `seconds`; of several, the one that the distance to the neighbouring row
    says; or what `column` says, as a text such as 15m or a number of `unit_s` seconds. With `timestamp.end` the stamps
    say it, and it must be among `seconds` where there are some."""

    seconds: tuple[int, ...] = ()
    column: str | None = None
    unit_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """How times are written. `format` is a strftime format, one of NUMERIC_FORMATS, or None: ISO 8601.

    `label` names the end of its interval that a stamp names; `end` the columns of the other end, where both are given.
    With `periods` the stamp is a day, and numbers name the interval in it: by the time `elapsed` since midnight, or by
    the `wall` clock (None: only days of 24 hours can be read). The first ends `first_ends_s` after midnight (None: one
    interval). With `order` "file" rows are one interval apart in file order. Doubled local hours: `second_pass` where
    it is given, else `ambiguous` decides.
    """

    columns: tuple[str, ...] = ()
    format: str | None = None
    label: str = "end"
    end: tuple[str, ...] = ()
    periods: tuple[Period, ...] = ()
    first_ends_s: int | None = None
    clock: str | None = None
    order: str = "column"
    ambiguous: str = "infer"
    second_pass: Marker | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One field of a reading: the weighted sum of columns, of which `part` may take what is above or below 0 (without
    sign). `kind` "interval_energy" is summed into the register; "mean_power" is an energy divided by its interval's
    hours. `when` limits it to rows whose cells are among those values; rows of one meter and time are then one reading.
    """

    field: str
    weights: tuple[tuple[str, float], ...]
    kind: str
    part: str = "net"
    when: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What the marks of `column` mean: fit for use (`good`; None: all others), `estimated`, not to be read (`reject`),
    or a number for the field `status`."""

    column: str
    good: tuple[str, ...] | None
    estimated: tuple[str, ...]
    reject: tuple[str, ...]
    status: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """A mapping that can be used. Either `meter_id` or `meter_column` is set (neither, and no interval, only with
    FIELD_FORMATS)."""

    format: str
    member: str | None
    sheet: str | None
    delimiter: str
    decimal: str
    thousands: tuple[str, ...]
    encoding: str
    null_values: tuple[str, ...]
    timezone: str
    interval: Interval
    meter_id: str | None
    meter_column: str | None
    header: Header
    rows: tuple[RowRule, ...]
    wide: Wide | None
    quality: Quality | None
    timestamp: Stamp
    channels: tuple[Channel, ...]
    options: FieldOptions = NO_OPTIONS

    @property
    def joined(self) -> bool:
        """Whether rows of one meter and time, each with a quantity of its own, are one reading."""
        return any(channel.when for channel in self.channels)

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are read, each with the key that names it first."""
        stamp = self.timestamp
        named = dict.fromkeys(stamp.columns, "timestamp.column")
        for column in stamp.end:
            named.setdefault(column, "timestamp.end")
        for period in stamp.periods:
            named.setdefault(period.column, "timestamp.period")
        if stamp.second_pass is not None:
            named.setdefault(stamp.second_pass.column, "timestamp.second_pass.column")
        if self.interval.column is not None:
            named.setdefault(self.interval.column, "interval.column")
        if self.meter_column is not None:
            named.setdefault(self.meter_column, "meter_id.column")
        for channel in self.channels:
            values = () if self.wide else (name for name, _ in channel.weights)
            for column in (*values, *(name for name, _ in channel.when)):
                named.setdefault(column, f"channel '{channel.field}' columns")
        for rule in self.rows:
            named.setdefault(rule.column, "rows.column")
        if self.quality is not None:
            named.setdefault(self.quality.column, "quality.column")
        return named


def parse_mapping(text: str, timezone: str) -> Mapping:
    """The mapping from TOML; `timezone` is the zone where it names none. Raises MappingError naming the key."""
    try:
        given = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise MappingError(f"the mapping is not valid TOML: {printable(str(error))}") from error
    if (named := str(given.get("format")).lower()) in _NO_FORMATS:
        raise MappingError(f"format: '{named}' {_NO_FORMATS[named]}")
    format = _one_of(given, "format", (*TABLE_FORMATS, *FIELD_FORMATS), "csv")
    told = format in FIELD_FORMATS
    options = parse_options(given) if told else NO_OPTIONS
    given = {key: value for key, value in given.items() if key not in FIELD_KEYS} if told else given
    _known(given, KEYS, "")
    meter_id, meter_column = (None, None) if told and "meter_id" not in given else _meter(given)
    mapping = Mapping(
        format=format,
        member=_optional(given, "member"),
        sheet=_optional(given, "sheet"),
        delimiter=_character(given, "delimiter", ","),
        decimal=_one_of(given, "decimal", (".", ","), "."),
        thousands=_thousands(given),
        encoding=_encoding(given),
        null_values=_strings(given, "null_values", ("",)),
        timezone=_zone(given, timezone),
        interval=_interval(given, told),
        meter_id=meter_id,
        meter_column=meter_column,
        header=_header(given),
        rows=tuple(_row_rule(rule, f"rows {number} ") for number, rule in enumerate(_tables(given, "rows"), 1)),
        wide=_wide(given),
        quality=_quality(given),
        timestamp=Stamp() if told and "timestamp" not in given else _stamp(given),
        channels=() if told and "channel" not in given else _channels(given),
        options=options,
    )
    _check_together(mapping, given)
    return mapping


def interval_seconds(text: str) -> int:
    """Seconds of an interval such as 15m, 60s or 1h. Raises ValueError when it is not a whole part of a day."""
    matched = re.fullmatch(r"([1-9]\d{0,5})\s*([smh])", text.strip(), re.ASCII)
    seconds = int(matched[1]) * _UNIT_S[matched[2]] if matched else 0
    if not 1 <= seconds <= _DAY_S or _DAY_S % seconds:
        raise ValueError(f"'{printable(text)}' is not an interval such as 1m, 15m, 60s or 1h that divides a day")
    return seconds


def _check_together(mapping: Mapping, given: Dict[str, Any]) -> None:
    """Keys that contradict each other, or need each other."""
    _check_times(mapping, given)
    _check_channels(mapping.channels)
    if mapping.wide is not None:
        _check_wide(mapping, mapping.wide)


def _check_times(mapping: Mapping, given: Dict[str, Any]) -> None:
    stamp, numbered = mapping.timestamp, bool(mapping.timestamp.periods or mapping.wide)
    if stamp.periods and mapping.wide:
        raise MappingError("timestamp.period: with [wide] the columns' order numbers the intervals; leave one out")
    if stamp.end and numbered:
        raise MappingError("timestamp.end: a numbered interval has both its ends; leave it out")
    if (stamp.clock or stamp.first_ends_s is not None) and not numbered:
        key = "clock" if stamp.clock else "first_ends"
        raise MappingError(f"timestamp.{key}: belongs to timestamp.period or [wide]")
    stamp_given = given.get("timestamp", {})
    if "label" in stamp_given and (numbered or stamp.end):
        why = (
            "a number names its whole interval, of which first_ends tells the end"
            if numbered
            else "timestamp.end gives the other end"
        )
        raise MappingError(f"timestamp.label: {why}; leave it out")
    single = len(mapping.interval.seconds) == 1
    if stamp.end and mapping.interval.column:
        raise MappingError("interval: timestamp.end says how long intervals are; leave one out")
    if stamp.label == "wall_end" and len(mapping.interval.seconds) > 1:
        raise MappingError("timestamp.label: 'wall_end' needs one interval, or one named by a column")
    if numbered and not single:
        raise MappingError("interval: numbered intervals of a day have one length, such as '15m'")
    if stamp.order == "file" and (numbered or stamp.end or mapping.joined or not single):
        raise MappingError("timestamp.order: 'file' is for one row a time, one stamp a row, and one interval")


def _check_channels(channels: tuple[Channel, ...]) -> None:
    fields = [channel.field for channel in channels]
    for channel in channels:
        if fields.count(channel.field) > 1 and not channel.when:
            raise MappingError(f"channel: field '{channel.field}' is mapped twice; give each of the two a `when`")
    kinds = {channel.field: channel.kind for channel in channels}
    for channel in channels:
        if channel.kind != kinds[channel.field]:
            raise MappingError(f"channel: field '{channel.field}' is mapped twice, with different kinds")


def _check_wide(mapping: Mapping, wide: Wide) -> None:
    if wide.value in mapping.columns:
        key = mapping.columns[wide.value]
        raise MappingError(f"wide.value: {key} names a column '{printable(wide.value)}'; give the values another name")
    for channel in mapping.channels:
        for column, _ in channel.weights:
            if column != wide.value:
                raise MappingError(
                    f"channel '{channel.field}' columns: with [wide] the one column of values is '{wide.value}', "
                    f"not '{printable(column)}'"
                )


def _known(given: Dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in keys:
            raise MappingError(f"{where}{printable(key)}: there is no such key; known are {', '.join(keys)}")


def _text(given: Dict[str, Any], key: str, default: str | None, where: str = "") -> str:
    value = given.get(key, default)
    if value is None:
        raise MappingError(f"{where}{key}: is missing")
    if not isinstance(value, str) or not value:
        raise MappingError(f"{where}{key}: {value!r} is not a text")
    return value


def _optional(given: Dict[str, Any], key: str, where: str = "") -> str | None:
    return _text(given, key, None, where) if key in given else None


def _whole(given: Dict[str, Any], key: str, default: int | None, least: int, most: int, where: str) -> int:
    value = given.get(key, default)
    if value is None:
        raise MappingError(f"{where}{key}: is missing; it is {least} or {most}")
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise MappingError(f"{where}{key}: {value!r} is not a whole number from {least} to {most}")
    return value


def _one_of(given: Dict[str, Any], key: str, allowed: tuple[str, ...], default: str, where: str = "") -> str:
    value = _text(given, key, default, where)
    if value not in allowed:
        raise MappingError(f"{where}{key}: '{printable(value)}' is not one of {', '.join(allowed)}")
    return value


def _character(given: Dict[str, Any], key: str, default: str) -> str:
    value = _text(given, key, default)
    if len(value) != 1 or value in '"\r\n\0':
        raise MappingError(f"{key}: {value!r} is not one character")
    return value


def _strings(given: Dict[str, Any], key: str, default: tuple[str, ...] | None, where: str = "") -> tuple[str, ...]:
    value = given.get(key, default)
    if value is None:
        raise MappingError(f"{where}{key}: is missing")
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise MappingError(f"{where}{key}: {value!r} is not a list of texts")
    return tuple(value)


def _names(given: Dict[str, Any], key: str, where: str = "") -> tuple[str, ...]:
    """One text, or a list of texts; none of them empty."""
    value = given.get(key)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise MappingError(f"{where}{key}: {value!r} is neither a text nor a list of texts")
    return tuple(names)


def _tables(given: Dict[str, Any], key: str, where: str = "") -> list[Dict[str, Any]]:
    """A table or a list of tables; without the key none."""
    value = given.get(key, [])
    tables = [value] if isinstance(value, dict) else value
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise MappingError(f"{where}{key}: {value!r} is not a table")
    return tables


def _table(given: Dict[str, Any], key: str, keys: tuple[str, ...], where: str = "") -> Dict[str, Any] | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise MappingError(f"{where}{key}: {value!r} is not a table with {', '.join(keys)}")
    _known(value, keys, f"{where}{key}.")
    return value


def _thousands(given: Dict[str, Any]) -> tuple[str, ...]:
    value = _names(given, "thousands") if "thousands" in given else ()
    for mark in value:
        if len(mark) != 1 or mark.isalnum() or mark in '+-"':
            raise MappingError(f"thousands: {mark!r} is not one mark such as ',', '.', ' ' or \"'\"")
        if mark == given.get("decimal", "."):
            raise MappingError(f"thousands: {mark!r} is the decimal sign; see decimal")
    return value


def _encoding(given: Dict[str, Any]) -> str:
    value = _text(given, "encoding", "utf-8-sig")
    try:
        b"".decode(value)
        "".encode(value)
    except (LookupError, ValueError):
        raise MappingError(
            f"encoding: '{printable(value)}' is not a text encoding such as utf-8-sig or gb18030"
        ) from None
    return value


def _zone(given: Dict[str, Any], default: str) -> str:
    value = _text(given, "timezone", default)
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise MappingError(
            f"timezone: '{printable(value)}' is not a time zone name such as Asia/Shanghai "
            "(Etc/GMT-1 is one hour ahead of UTC all year)"
        ) from None
    return value


def _seconds(text: str, where: str) -> int:
    try:
        return interval_seconds(text)
    except ValueError as error:
        raise MappingError(f"{where}: {error}") from None


def _interval(given: Dict[str, Any], told: bool) -> Interval:
    value = given.get("interval")
    if isinstance(value, dict):
        _known(value, ("column", "unit"), "interval.")
        unit = _one_of(value, "unit", tuple(_UNIT_S), "", "interval.") if "unit" in value else None
        return Interval(column=_text(value, "column", None, "interval."), unit_s=_UNIT_S[unit] if unit else None)
    stamp = given.get("timestamp")
    both_ends = isinstance(stamp, dict) and "end" in stamp
    if value is None and (told or both_ends):
        return Interval()
    if value is None:
        raise MappingError("interval: is missing")
    texts = _names(given, "interval") if isinstance(value, list) else (_text(given, "interval", None),)
    seconds = {_seconds(text, "interval") for text in texts}
    return Interval(seconds=tuple(sorted(seconds)))


def _meter(given: Dict[str, Any]) -> tuple[str | None, str | None]:
    value = given.get("meter_id")
    if isinstance(value, dict):
        _known(value, ("column",), "meter_id.")
        return None, _text(value, "column", None, "meter_id.")
    constant = _text(given, "meter_id", None)
    if len(constant) > 64:
        raise MappingError(f"meter_id: '{printable(constant)}' is longer than 64")
    return constant, None


def _header(given: Dict[str, Any]) -> Header:
    value = _table(given, "header", ("line", "contains", "lines"))
    if value is None:
        return Header()
    if "line" in value and "contains" in value:
        raise MappingError("header: line and contains both say where it is; leave one out")
    return Header(
        line=_whole(value, "line", 1, 1, 1_000_000, "header.") if "line" in value else None,
        contains=_names(value, "contains", "header.") if "contains" in value else (),
        lines=_whole(value, "lines", 1, 0, 20, "header."),
    )


def _row_rule(given: Dict[str, Any], where: str) -> RowRule:
    _known(given, ("column", "keep", "drop"), where)
    if "keep" not in given and "drop" not in given:
        raise MappingError(f"{where}keep: is missing, and so is drop")
    return RowRule(
        column=_text(given, "column", None, where),
        keep=_strings(given, "keep", None, where) if "keep" in given else None,
        drop=_strings(given, "drop", (), where),
    )


def _wide(given: Dict[str, Any]) -> Wide | None:
    value = _table(given, "wide", ("first", "last", "value"))
    if value is None:
        return None
    return Wide(
        first=_text(value, "first", None, "wide."),
        last=_optional(value, "last", "wide."),
        value=_text(value, "value", "value", "wide."),
    )


def _quality(given: Dict[str, Any]) -> Quality | None:
    value = _table(given, "quality", ("column", "good", "estimated", "reject", "status"))
    if value is None:
        return None
    bits = value.get("status", {})
    if not isinstance(bits, dict) or not all(type(bit) is int and -(2**63) <= bit < 2**63 for bit in bits.values()):
        raise MappingError("quality.status: give marks their numbers, such as { clock = 2 }")
    quality = Quality(
        column=_text(value, "column", None, "quality."),
        good=_strings(value, "good", None, "quality.") if "good" in value else None,
        estimated=_strings(value, "estimated", (), "quality."),
        reject=_strings(value, "reject", (), "quality."),
        status=tuple(bits.items()),
    )
    if not (quality.good or quality.estimated or quality.reject or quality.status):
        raise MappingError("quality: say which marks are good, estimated, reject, or a status")
    return quality


def _stamp(given: Dict[str, Any]) -> Stamp:
    value = _table(given, "timestamp", TIMESTAMP_KEYS)
    if value is None:
        raise MappingError("timestamp: the table [timestamp] is missing")
    where = "timestamp."
    if not value.get("column") or not isinstance(value["column"], str | list):
        raise MappingError("timestamp.column: name a column, or a list of columns that are joined by a space")
    second = _table(value, "second_pass", ("column", "values"), where)
    stamp = Stamp(
        columns=_names(value, "column", where),
        format=_text(value, "format", None, where) if "format" in value else None,
        label=_one_of(value, "label", LABELS, "end", where),
        end=_names(value, "end", where) if "end" in value else (),
        periods=_periods(given, value),
        first_ends_s=_time_of_day_s(value, "first_ends", where) if "first_ends" in value else None,
        clock=_one_of(value, "clock", CLOCKS, "", where) if "clock" in value else None,
        order=_one_of(value, "order", ("column", "file"), "column", where),
        ambiguous=_one_of(value, "ambiguous", ("infer", "earliest", "latest"), "infer", where),
        second_pass=None if second is None else _marker(second, "timestamp.second_pass."),
    )
    if "ambiguous" in value and second is not None:
        raise MappingError("timestamp.ambiguous: timestamp.second_pass decides; leave one out")
    _check_format(stamp)
    return stamp


def _time_of_day_s(given: Dict[str, Any], key: str, where: str) -> int:
    value = _text(given, key, None, where)
    matched = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)", value, re.ASCII)
    if matched is None:
        raise MappingError(f"{where}{key}: '{printable(value)}' is not a time of day such as 00:15")
    return int(matched[1]) * 3600 + int(matched[2]) * 60


def _marker(given: Dict[str, Any], where: str) -> Marker:
    return Marker(column=_text(given, "column", None, where), values=_strings(given, "values", None, where))


def _check_format(stamp: Stamp) -> None:
    """What Polars would ignore, or not understand, is refused before it reads a stamp wrong."""
    if stamp.format is None or stamp.format in NUMERIC_FORMATS:
        return
    named, where = printable(stamp.format), "timestamp.format"
    codes = re.findall(r"%[-_0]?([:#.0-9]*[A-Za-z+%])", stamp.format)
    if not codes:
        raise MappingError(
            f"{where}: '{named}' is neither a strftime format such as %Y-%m-%d %H:%M nor one of "
            + ", ".join(NUMERIC_FORMATS)
        )
    if "s" in codes:
        raise MappingError(f"{where}: seconds since 1970 are read with 'epoch_s', not with %s")
    if "Z" in codes and (not stamp.format.endswith("%Z") or stamp.format.count("%Z") > 1):
        raise MappingError(f"{where}: %Z, the name of a zone, is read at the end of a stamp only")
    literal = re.sub(r"%[-_0]?[:#.0-9]*[A-Za-z+%]", " ", stamp.format)
    zone = re.search(r"[+-]\d\d:?\d\d|(?<![A-Za-z])(?!AM|PM)[A-Z]{2,5}$", literal)
    if zone and not literal.endswith(("UTC", "GMT")):
        raise MappingError(f"{where}: '{zone[0]}' there would be ignored; write %z for an offset, %Z for a zone's name")
    if stamp.format.split()[-1] in ("%H", "%k") and len(stamp.columns) > 1:
        raise MappingError(
            f"{where}: hours in a column of their own are numbers: timestamp.period = "
            f'{{ column = "{printable(stamp.columns[-1])}", first = 0 }} (or 1, when the day\'s first hour is 1)'
        )


def _periods(given: Dict[str, Any], stamp: Dict[str, Any]) -> tuple[Period, ...]:
    periods = []
    for number, value in enumerate(_tables(stamp, "period", "timestamp."), 1):
        where = f"timestamp.period {number} "
        _known(value, ("column", "first", "length"), where)
        length = value.get("length", given.get("interval"))
        if not isinstance(length, str):
            raise MappingError(f"{where}length: {length!r} is not an interval such as 15m or 1h")
        periods.append(
            Period(
                column=_text(value, "column", None, where),
                first=_whole(value, "first", None, 0, 1, where),
                length_s=_seconds(length, f"{where}length"),
            )
        )
    return tuple(periods)


def _channels(given: Dict[str, Any]) -> tuple[Channel, ...]:
    value = given.get("channel")
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise MappingError("channel: at least one [[channel]] is needed")
    return tuple(_channel(item, f"channel {number} ") for number, item in enumerate(value, 1))


def _channel(given: Dict[str, Any], where: str) -> Channel:
    _known(given, CHANNEL_KEYS, where)
    field = _one_of(given, "field", (*MEASURED, "status"), "", where) if given.get("field") else None
    if field is None:
        raise MappingError(f"{where}field: is missing")
    kind = _one_of(given, "kind", KINDS, "value", where)
    if kind == "interval_energy" and field not in REGISTERS:
        raise MappingError(
            f"{where}kind: interval_energy belongs to a register ({', '.join(REGISTERS)}), not to {field}"
        )
    if kind == "mean_power" and field not in ("p_kw", "q_kvar"):
        raise MappingError(f"{where}kind: mean_power belongs to p_kw or q_kvar, not to {field}")
    weights = given.get("columns")
    if not isinstance(weights, dict) or not weights:
        raise MappingError(f"{where}columns: name at least one column and its factor, such as {{ Usage_kWh = 4.0 }}")
    for column, factor in weights.items():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not abs(factor) < 1e300:
            raise MappingError(f"{where}columns: the factor of '{printable(column)}' is {factor!r}, not a number")
        if field == "status" and (factor != int(factor) or abs(factor) >= 2**63):
            raise MappingError(f"{where}columns: the factor of '{printable(column)}' is not whole, as a status needs")
    when = given.get("when", {})
    if not isinstance(when, dict):
        raise MappingError(f'{where}when: name columns and their cells, such as {{ Unit = "kWh" }}')
    return Channel(
        field=field,
        weights=tuple((column, float(factor)) for column, factor in weights.items()),
        kind=kind,
        part=_one_of(given, "part", PARTS, "net", where),
        when=tuple((column, _marks(when, column, f"{where}when.")) for column in when),
    )


def _marks(given: Dict[str, Any], column: str, where: str) -> tuple[str, ...]:
    value = given[column]
    return (value,) if isinstance(value, str) else _strings(given, column, None, where)
