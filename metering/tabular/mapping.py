"""The mapping file of `kilowatch replay`: how someone's table becomes readings.

Here: the mapping's shape, its defaults and its checks. Not here: applying it (`convert`, `timestamps`), reading files.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from metering.errors import MappingError
from metering.tables.lake import MEASURED, REGISTERS, WINDOW_S
from metering.tabular.field_options import FIELD_KEYS, NO_OPTIONS, FieldOptions, parse_options

_UNIT_S = {"s": 1, "m": 60, "h": 3600}
_KEYS = (
    *("format", "delimiter", "decimal", "encoding", "null_values", "timezone", "interval", "meter_id"),
    *("timestamp", "channel"),
)
TABLE_FORMATS = ("csv", "parquet")
FIELD_FORMATS: tuple[str, ...] = ("nem12", "nem13", "espi")
"""Formats that say themselves what a table's mapping has to: `interval`, `meter_id`, [timestamp], [[channel]] are then
optional (`formats.READERS` reads them)."""
EPOCHS = ("epoch_s", "epoch_ms")
"""Values of `timestamp.format` that are no strftime format: whole seconds or milliseconds since 1970, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """How times are written. `format` is a strftime format, one of EPOCHS, or None: ISO 8601.

    `label` names the end of its interval that a stamp names. With `order` "file" rows are one interval apart in file
    order. `ambiguous` decides doubled local hours.
    """

    columns: tuple[str, ...]
    format: str | None
    label: str
    order: str
    ambiguous: str


_NO_STAMP = Stamp(columns=(), format=None, label="end", order="column", ambiguous="infer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One field of a reading: the weighted sum of columns. `kind` "interval_energy" is summed into the register."""

    field: str
    weights: tuple[tuple[str, float], ...]
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """A mapping that can be used. Either `meter_id` or `meter_column` is set (neither, and `interval_s` 0, only with
    FIELD_FORMATS)."""

    format: str
    delimiter: str
    decimal: str
    encoding: str
    null_values: tuple[str, ...]
    timezone: str
    interval_s: int
    meter_id: str | None
    meter_column: str | None
    timestamp: Stamp
    channels: tuple[Channel, ...]
    options: FieldOptions = NO_OPTIONS

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are read, each with the key that names it first."""
        named = dict.fromkeys(self.timestamp.columns, "timestamp.column")
        if self.meter_column is not None:
            named.setdefault(self.meter_column, "meter_id.column")
        for channel in self.channels:
            for column, _ in channel.weights:
                named.setdefault(column, f"channel '{channel.field}' columns")
        return named


def parse_mapping(text: str, timezone: str) -> Mapping:
    """A mapping from TOML. `timezone` is the zone where the mapping names none. Raises MappingError naming the key."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MappingError(f"the mapping is not valid TOML: {error}") from error
    format = _one_of(given, "format", (*TABLE_FORMATS, *FIELD_FORMATS), "csv")
    told = format in FIELD_FORMATS
    options = parse_options(given) if told else NO_OPTIONS
    given = {key: value for key, value in given.items() if key not in FIELD_KEYS} if told else given
    _known(given, _KEYS, "")
    meter_id, meter_column = (None, None) if told and "meter_id" not in given else _meter(given)
    return Mapping(
        format=format,
        delimiter=_character(given, "delimiter", ","),
        decimal=_one_of(given, "decimal", (".", ","), "."),
        encoding=_encoding(given),
        null_values=_strings(given, "null_values", [""]),
        timezone=_zone(given, timezone),
        interval_s=0 if told and "interval" not in given else _interval(given),
        meter_id=meter_id,
        meter_column=meter_column,
        timestamp=_NO_STAMP if told and "timestamp" not in given else _stamp(given),
        channels=() if told and "channel" not in given else _channels(given),
        options=options,
    )


def interval_seconds(text: str) -> int:
    """Seconds of an interval such as 15m, 60s or 1h. Raises ValueError when it does not fit quarter-hours."""
    matched = re.fullmatch(r"([1-9]\d{0,5})\s*([smh])", text.strip())
    seconds = int(matched[1]) * _UNIT_S[matched[2]] if matched else 0
    if not 1 <= seconds <= 86400 or (WINDOW_S % seconds and seconds % WINDOW_S):
        raise ValueError(f"'{text}' is not an interval such as 1m, 5m, 15m or 60s that fits quarter-hours")
    return seconds


def _known(given: Dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in keys:
            raise MappingError(f"{where}{key}: there is no such key; known are {', '.join(keys)}")


def _text(given: Dict[str, Any], key: str, default: str | None, where: str = "") -> str:
    value = given.get(key, default)
    if value is None:
        raise MappingError(f"{where}{key}: is missing")
    if not isinstance(value, str) or not value:
        raise MappingError(f"{where}{key}: {value!r} is not a text")
    return value


def _one_of(given: Dict[str, Any], key: str, allowed: tuple[str, ...], default: str, where: str = "") -> str:
    value = _text(given, key, default, where)
    if value not in allowed:
        raise MappingError(f"{where}{key}: '{value}' is not one of {', '.join(allowed)}")
    return value


def _character(given: Dict[str, Any], key: str, default: str) -> str:
    value = _text(given, key, default)
    if len(value) != 1 or value in '"\r\n':
        raise MappingError(f"{key}: {value!r} is not one character")
    return value


def _strings(given: Dict[str, Any], key: str, default: list[str]) -> tuple[str, ...]:
    value = given.get(key, default)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise MappingError(f"{key}: {value!r} is not a list of texts")
    return tuple(value)


def _encoding(given: Dict[str, Any]) -> str:
    value = _text(given, "encoding", "utf-8-sig")
    try:
        b"".decode(value)
        "".encode(value)
    except LookupError:
        raise MappingError(f"encoding: '{value}' is not a text encoding such as utf-8-sig or gb18030") from None
    return value


def _zone(given: Dict[str, Any], default: str) -> str:
    value = _text(given, "timezone", default)
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise MappingError(f"timezone: '{value}' is not a time zone name such as Asia/Shanghai") from None
    return value


def _interval(given: Dict[str, Any]) -> int:
    try:
        return interval_seconds(_text(given, "interval", None))
    except ValueError as error:
        raise MappingError(f"interval: {error}") from None


def _meter(given: Dict[str, Any]) -> tuple[str | None, str | None]:
    value = given.get("meter_id")
    if isinstance(value, dict):
        _known(value, ("column",), "meter_id.")
        return None, _text(value, "column", None, "meter_id.")
    constant = _text(given, "meter_id", None)
    if len(constant) > 64:
        raise MappingError(f"meter_id: '{constant}' is longer than 64")
    return constant, None


def _stamp(given: Dict[str, Any]) -> Stamp:
    value = given.get("timestamp")
    if not isinstance(value, dict):
        raise MappingError("timestamp: the table [timestamp] is missing")
    _known(value, ("column", "format", "label", "order", "ambiguous"), "timestamp.")
    column = value.get("column")
    columns = [column] if isinstance(column, str) else column
    if not isinstance(columns, list) or not columns or not all(isinstance(c, str) and c for c in columns):
        raise MappingError("timestamp.column: name a column, or a list of columns that are joined by a space")
    where = "timestamp."
    return Stamp(
        columns=tuple(columns),
        format=_text(value, "format", None, where) if "format" in value else None,
        label=_one_of(value, "label", ("end", "start"), "end", where),
        order=_one_of(value, "order", ("column", "file"), "column", where),
        ambiguous=_one_of(value, "ambiguous", ("infer", "earliest", "latest"), "infer", where),
    )


def _channels(given: Dict[str, Any]) -> tuple[Channel, ...]:
    value = given.get("channel")
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise MappingError("channel: at least one [[channel]] is needed")
    channels = tuple(_channel(item, f"channel {number} ") for number, item in enumerate(value, 1))
    fields = [channel.field for channel in channels]
    for field in fields:
        if fields.count(field) > 1:
            raise MappingError(f"channel: field '{field}' is mapped twice")
    return channels


def _channel(given: Dict[str, Any], where: str) -> Channel:
    _known(given, ("field", "columns", "kind"), where)
    field = _one_of(given, "field", (*MEASURED, "status"), "", where) if given.get("field") else None
    if field is None:
        raise MappingError(f"{where}field: is missing")
    kind = _one_of(given, "kind", ("value", "interval_energy"), "value", where)
    if kind == "interval_energy" and field not in REGISTERS:
        raise MappingError(
            f"{where}kind: interval_energy belongs to a register ({', '.join(REGISTERS)}), not to {field}"
        )
    weights = given.get("columns")
    if not isinstance(weights, dict) or not weights:
        raise MappingError(f"{where}columns: name at least one column and its factor, such as {{ Usage_kWh = 4.0 }}")
    for column, factor in weights.items():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not abs(factor) < float("inf"):
            raise MappingError(f"{where}columns: the factor of '{column}' is {factor!r}, not a number")
    return Channel(field=field, weights=tuple((c, float(f)) for c, f in weights.items()), kind=kind)
