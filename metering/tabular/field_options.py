"""What a mapping says to a format of the field, which brings units, times and quantities along itself.

Here: the keys, their checks. Not here: the formats (`nem12`, `espi`), mappings of tables (`mapping`).
"""

from __future__ import annotations

from collections.abc import Mapping as Dict
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from metering.errors import MappingError
from metering.tables.lake import REGISTERS

FIELD_KEYS = ("meter_id", "meters", "suffixes", "quality")
KEYS = ("format", "member", "encoding", "timezone", *FIELD_KEYS)
IGNORED = "ignore"
MARKS = ("good", "estimated", "reject")
LONGEST_METER_ID = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldOptions:
    """Keys of a mapping for a format of the field; all of them may be empty.

    `timezone`: of days and stamps, where the format's own does not hold. `meter_id`: of a file with one meter.
    `meters`: meter ids by the file's own (a NMI, a usage point). `suffixes`: a register, or IGNORED, by NMI suffix or
    its first letter. `quality`: one of MARKS by quality mark.
    """

    timezone: str | None = None
    meter_id: str | None = None
    meters: tuple[tuple[str, str], ...] = ()
    suffixes: tuple[tuple[str, str], ...] = ()
    quality: tuple[tuple[str, str], ...] = ()


NO_OPTIONS = FieldOptions()


def parse_options(given: Dict[str, Any]) -> FieldOptions:
    """The options of a mapping's TOML. Raises MappingError naming the key."""
    for key in given:
        if key not in KEYS:
            raise MappingError(f"{key}: means nothing to format '{given['format']}'; known are {', '.join(KEYS)}")
    meters = _texts(given, "meters")
    for key, meter_id in (("meter_id", _text(given, "meter_id")), *((f"meters.{name}", to) for name, to in meters)):
        if meter_id is not None and not 1 <= len(meter_id) <= LONGEST_METER_ID:
            raise MappingError(f"{key}: '{meter_id}' is not 1 to {LONGEST_METER_ID} characters long")
    return FieldOptions(
        timezone=_zone(given),
        meter_id=_text(given, "meter_id"),
        meters=meters,
        suffixes=_among(_texts(given, "suffixes"), "suffixes", (*REGISTERS, IGNORED)),
        quality=_among(_texts(given, "quality"), "quality", MARKS),
    )


def meter_name(native: str, options: FieldOptions, natives: int) -> str:
    """The meter id that stands for the file's own `native`, of which there are `natives`.

    Raises MappingError where one meter_id would stand for several.
    """
    if options.meter_id is None:
        return dict(options.meters).get(native, native)
    if natives > 1:
        raise MappingError(f"meter_id: the file has {natives} meters, so name them in [meters]; one is '{native}'")
    return options.meter_id


def _text(given: Dict[str, Any], key: str) -> str | None:
    value = given.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise MappingError(f"{key}: {value!r} is not a text")
    return value


def _texts(given: Dict[str, Any], key: str) -> tuple[tuple[str, str], ...]:
    value = given.get(key, {})
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise MappingError(f"{key}: is not a table of texts")
    return tuple(value.items())


def _among(pairs: tuple[tuple[str, str], ...], key: str, allowed: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    for name, value in pairs:
        if value not in allowed:
            raise MappingError(f"{key}.{name}: '{value}' is not one of {', '.join(allowed)}")
    return pairs


def _zone(given: Dict[str, Any]) -> str | None:
    value = _text(given, "timezone")
    try:
        return value and ZoneInfo(value).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise MappingError(f"timezone: '{value}' is not a time zone name such as Australia/Perth") from None
