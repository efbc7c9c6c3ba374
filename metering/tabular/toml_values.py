"""Values out of a TOML table, of the kind that they have to be.

Here: one function a kind; each raises MappingError naming the key, after `where` it stands. Not here: which keys there
are (`mapping`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Dict
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from metering.errors import MappingError
from metering.text import printable


def known(given: Dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in keys:
            raise MappingError(f"{where}{printable(key)}: there is no such key; known are {', '.join(keys)}")


def text(given: Dict[str, Any], key: str, default: str | None, where: str = "") -> str:
    value = given.get(key, default)
    if value is None:
        raise MappingError(f"{where}{key}: is missing")
    if not isinstance(value, str) or not value:
        raise MappingError(f"{where}{key}: {value!r} is not a text")
    return value


def optional(given: Dict[str, Any], key: str, where: str = "") -> str | None:
    return text(given, key, None, where) if key in given else None


def whole(given: Dict[str, Any], key: str, default: int | None, least: int, most: int, where: str) -> int:
    value = given.get(key, default)
    if value is None:
        raise MappingError(f"{where}{key}: is missing; it is {least} or {most}")
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise MappingError(f"{where}{key}: {value!r} is not a whole number from {least} to {most}")
    return value


def one_of(given: Dict[str, Any], key: str, allowed: tuple[str, ...], default: str, where: str = "") -> str:
    value = text(given, key, default, where)
    if value not in allowed:
        raise MappingError(f"{where}{key}: '{printable(value)}' is not one of {', '.join(allowed)}")
    return value


def strings(given: Dict[str, Any], key: str, default: tuple[str, ...] | None, where: str = "") -> tuple[str, ...]:
    value = given.get(key, default)
    if value is None:
        raise MappingError(f"{where}{key}: is missing")
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise MappingError(f"{where}{key}: {value!r} is not a list of texts")
    return tuple(value)


def names(given: Dict[str, Any], key: str, where: str = "") -> tuple[str, ...]:
    """One text, or a list of texts; none of them empty."""
    value = given.get(key)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise MappingError(f"{where}{key}: {value!r} is neither a text nor a list of texts")
    return tuple(names)


def tables(given: Dict[str, Any], key: str, where: str = "") -> list[Dict[str, Any]]:
    """A table or a list of tables; without the key none."""
    value = given.get(key, [])
    tables = [value] if isinstance(value, dict) else value
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise MappingError(f"{where}{key}: {value!r} is not a table")
    return tables


def table(given: Dict[str, Any], key: str, keys: tuple[str, ...], where: str = "") -> Dict[str, Any] | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise MappingError(f"{where}{key}: {value!r} is not a table with {', '.join(keys)}")
    known(value, keys, f"{where}{key}.")
    return value


def character(given: Dict[str, Any], key: str, default: str) -> str:
    value = text(given, key, default)
    if len(value) != 1 or value in '"\r\n\0':
        raise MappingError(f"{key}: {value!r} is not one character")
    return value


def time_of_day_s(given: Dict[str, Any], key: str, where: str) -> int:
    value = text(given, key, None, where)
    matched = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)", value, re.ASCII)
    if matched is None:
        raise MappingError(f"{where}{key}: '{printable(value)}' is not a time of day such as 00:15")
    return int(matched[1]) * 3600 + int(matched[2]) * 60


def encoding(given: Dict[str, Any]) -> str:
    value = text(given, "encoding", "utf-8-sig")
    try:
        b"".decode(value)
        "".encode(value)
    except (LookupError, ValueError):
        raise MappingError(
            f"encoding: '{printable(value)}' is not a text encoding such as utf-8-sig or gb18030"
        ) from None
    return value


def zone(given: Dict[str, Any], default: str) -> str:
    value = text(given, "timezone", default)
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise MappingError(
            f"timezone: '{printable(value)}' is not a time zone name such as Asia/Shanghai "
            "(Etc/GMT-1 is one hour ahead of UTC all year)"
        ) from None
    return value
