"""The mapping file of `kilowatch replay`: how someone's table becomes readings.

Here: reading the file, its keys and their checks. Not here: the mapping's shape (`shape`), applying it (`layout`,
`stamps`, `timestamps`, `convert`), reading tables.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping as Dict
from typing import Any

from metering.errors import MappingError
from metering.tables.lake import MEASURED, REGISTERS
from metering.tabular.field_options import FIELD_KEYS, NO_OPTIONS, parse_options
from metering.tabular.shape import (
    CLOCKS,
    FIELD_FORMATS,
    KINDS,
    LABELS,
    NUMERIC_FORMATS,
    PARTS,
    TABLE_FORMATS,
    Channel,
    Header,
    Interval,
    Marker,
    Period,
    Quality,
    RowRule,
    Stamp,
    Wide,
)
from metering.tabular.shape import Mapping as Mapping
from metering.tabular.toml_values import (
    character,
    encoding,
    known,
    names,
    one_of,
    optional,
    strings,
    table,
    tables,
    text,
    time_of_day_s,
    whole,
    zone,
)
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
_EDIFACT = "(EDIFACT) is not read: have its values exported as CSV, and map that"
_WORKBOOK = f"is not one of {', '.join((*TABLE_FORMATS, *FIELD_FORMATS))}: a workbook is told by its content"
_NO_FORMATS = {"mscons": _EDIFACT, "edifact": _EDIFACT, "xlsx": _WORKBOOK, "xls": _WORKBOOK, "excel": _WORKBOOK}
CHANNEL_KEYS = ("field", "columns", "kind", "part", "when")


def parse_mapping(text: str, timezone: str) -> Mapping:
    """The mapping from TOML; `timezone` is the zone where it names none. Raises MappingError naming the key."""
    try:
        given = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise MappingError(f"the mapping is not valid TOML: {printable(str(error))}") from error
    if (named := str(given.get("format")).lower()) in _NO_FORMATS:
        raise MappingError(f"format: '{named}' {_NO_FORMATS[named]}")
    format = one_of(given, "format", (*TABLE_FORMATS, *FIELD_FORMATS), "csv")
    told = format in FIELD_FORMATS
    options = parse_options(given) if told else NO_OPTIONS
    given = {key: value for key, value in given.items() if key not in FIELD_KEYS} if told else given
    known(given, KEYS, "")
    meter_id, meter_column = (None, None) if told and "meter_id" not in given else _meter(given)
    mapping = Mapping(
        format=format,
        member=optional(given, "member"),
        sheet=optional(given, "sheet"),
        delimiter=character(given, "delimiter", ","),
        decimal=one_of(given, "decimal", (".", ","), "."),
        thousands=_thousands(given),
        encoding=encoding(given),
        null_values=strings(given, "null_values", ("",)),
        timezone=zone(given, timezone),
        interval=_interval(given, told),
        meter_id=meter_id,
        meter_column=meter_column,
        header=_header(given),
        rows=tuple(_row_rule(rule, f"rows {number} ") for number, rule in enumerate(tables(given, "rows"), 1)),
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


def _thousands(given: Dict[str, Any]) -> tuple[str, ...]:
    value = names(given, "thousands") if "thousands" in given else ()
    for mark in value:
        if len(mark) != 1 or mark.isalnum() or mark in '+-"':
            raise MappingError(f"thousands: {mark!r} is not one mark such as ',', '.', ' ' or \"'\"")
        if mark == given.get("decimal", "."):
            raise MappingError(f"thousands: {mark!r} is the decimal sign; see decimal")
    return value


def _seconds(text: str, where: str) -> int:
    try:
        return interval_seconds(text)
    except ValueError as error:
        raise MappingError(f"{where}: {error}") from None


def _interval(given: Dict[str, Any], told: bool) -> Interval:
    value = given.get("interval")
    if isinstance(value, dict):
        known(value, ("column", "unit"), "interval.")
        unit = one_of(value, "unit", tuple(_UNIT_S), "", "interval.") if "unit" in value else None
        return Interval(column=text(value, "column", None, "interval."), unit_s=_UNIT_S[unit] if unit else None)
    stamp = given.get("timestamp")
    both_ends = isinstance(stamp, dict) and "end" in stamp
    if value is None and (told or both_ends):
        return Interval()
    if value is None:
        raise MappingError("interval: is missing")
    texts = names(given, "interval") if isinstance(value, list) else (text(given, "interval", None),)
    seconds = {_seconds(text, "interval") for text in texts}
    return Interval(seconds=tuple(sorted(seconds)))


def _meter(given: Dict[str, Any]) -> tuple[str | None, str | None]:
    value = given.get("meter_id")
    if isinstance(value, dict):
        known(value, ("column",), "meter_id.")
        return None, text(value, "column", None, "meter_id.")
    constant = text(given, "meter_id", None)
    if len(constant) > 64:
        raise MappingError(f"meter_id: '{printable(constant)}' is longer than 64")
    return constant, None


def _header(given: Dict[str, Any]) -> Header:
    value = table(given, "header", ("line", "contains", "lines"))
    if value is None:
        return Header()
    if "line" in value and "contains" in value:
        raise MappingError("header: line and contains both say where it is; leave one out")
    return Header(
        line=whole(value, "line", 1, 1, 1_000_000, "header.") if "line" in value else None,
        contains=names(value, "contains", "header.") if "contains" in value else (),
        lines=whole(value, "lines", 1, 0, 20, "header."),
    )


def _row_rule(given: Dict[str, Any], where: str) -> RowRule:
    known(given, ("column", "keep", "drop"), where)
    if "keep" not in given and "drop" not in given:
        raise MappingError(f"{where}keep: is missing, and so is drop")
    return RowRule(
        column=text(given, "column", None, where),
        keep=strings(given, "keep", None, where) if "keep" in given else None,
        drop=strings(given, "drop", (), where),
    )


def _wide(given: Dict[str, Any]) -> Wide | None:
    value = table(given, "wide", ("first", "last", "value"))
    if value is None:
        return None
    return Wide(
        first=text(value, "first", None, "wide."),
        last=optional(value, "last", "wide."),
        value=text(value, "value", "value", "wide."),
    )


def _quality(given: Dict[str, Any]) -> Quality | None:
    value = table(given, "quality", ("column", "good", "estimated", "reject", "status"))
    if value is None:
        return None
    bits = value.get("status", {})
    if not isinstance(bits, dict) or not all(type(bit) is int and -(2**63) <= bit < 2**63 for bit in bits.values()):
        raise MappingError("quality.status: give marks their numbers, such as { clock = 2 }")
    quality = Quality(
        column=text(value, "column", None, "quality."),
        good=strings(value, "good", None, "quality.") if "good" in value else None,
        estimated=strings(value, "estimated", (), "quality."),
        reject=strings(value, "reject", (), "quality."),
        status=tuple(bits.items()),
    )
    if not (quality.good or quality.estimated or quality.reject or quality.status):
        raise MappingError("quality: say which marks are good, estimated, reject, or a status")
    return quality


def _stamp(given: Dict[str, Any]) -> Stamp:
    value = table(given, "timestamp", TIMESTAMP_KEYS)
    if value is None:
        raise MappingError("timestamp: the table [timestamp] is missing")
    where = "timestamp."
    if not value.get("column") or not isinstance(value["column"], str | list):
        raise MappingError("timestamp.column: name a column, or a list of columns that are joined by a space")
    second = table(value, "second_pass", ("column", "values"), where)
    stamp = Stamp(
        columns=names(value, "column", where),
        format=text(value, "format", None, where) if "format" in value else None,
        label=one_of(value, "label", LABELS, "end", where),
        end=names(value, "end", where) if "end" in value else (),
        periods=_periods(given, value),
        first_ends_s=time_of_day_s(value, "first_ends", where) if "first_ends" in value else None,
        clock=one_of(value, "clock", CLOCKS, "", where) if "clock" in value else None,
        order=one_of(value, "order", ("column", "file"), "column", where),
        ambiguous=one_of(value, "ambiguous", ("infer", "earliest", "latest"), "infer", where),
        second_pass=None if second is None else _marker(second, "timestamp.second_pass."),
    )
    if "ambiguous" in value and second is not None:
        raise MappingError("timestamp.ambiguous: timestamp.second_pass decides; leave one out")
    _check_format(stamp)
    return stamp


def _marker(given: Dict[str, Any], where: str) -> Marker:
    return Marker(column=text(given, "column", None, where), values=strings(given, "values", None, where))


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
    for number, value in enumerate(tables(stamp, "period", "timestamp."), 1):
        where = f"timestamp.period {number} "
        known(value, ("column", "first", "length"), where)
        length = value.get("length", given.get("interval"))
        if not isinstance(length, str):
            raise MappingError(f"{where}length: {length!r} is not an interval such as 15m or 1h")
        periods.append(
            Period(
                column=text(value, "column", None, where),
                first=whole(value, "first", None, 0, 1, where),
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
    known(given, CHANNEL_KEYS, where)
    field = one_of(given, "field", (*MEASURED, "status"), "", where) if given.get("field") else None
    if field is None:
        raise MappingError(f"{where}field: is missing")
    kind = one_of(given, "kind", KINDS, "value", where)
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
        part=one_of(given, "part", PARTS, "net", where),
        when=tuple((column, _marks(when, column, f"{where}when.")) for column in when),
    )


def _marks(given: Dict[str, Any], column: str, where: str) -> tuple[str, ...]:
    value = given[column]
    return (value,) if isinstance(value, str) else strings(given, column, None, where)
