"""What should become of a line, by the standard library alone: nothing of `metering` is used.

Rules: a line is one JSON object in UTF-8, nested 1024 deep at most; of doubled names the first counts; `meter_id` is
a string in the registry, `ts` RFC 3339 with an offset (a space for the T, an offset without colon, single digits and
blanks before a number are let pass) or epoch milliseconds, in years 2000 to 2100
and not more than five minutes ahead; measured values are numbers, finite as doubles; `status` is a 64-bit integer.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

MEASURED = (
    "ua_v", "ub_v", "uc_v", "uab_v", "ubc_v", "uca_v", "ia_a", "ib_a", "ic_a", "p_kw", "q_kvar", "import_kwh",
    "export_kwh", "import_kvarh", "export_kvarh",
)  # fmt: skip
_RFC3339 = re.compile(
    r"\s*\+?(\d{1,4})-\s*(\d{1,2})-\s*(\d{1,2})[Tt ]\s*(\d{1,2}):\s*(\d{1,2}):\s*(\d{1,2})(\.\d+)?"
    r"\s*([Zz]|[+-]\d\d:?\d\d)",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_US, _LATEST_US = 946_684_800_000_000, 4_133_980_799_999_999
_MOST_US = 300_000_000

Row = dict[str, Any]


def is_blank(line: bytes) -> bool:
    return not line.strip()


def reading(line: bytes, meters: Collection[str], logged_ms: int) -> Row | None:
    """The reading that the line is (`ts` in epoch microseconds); None: a reject."""
    value = _object(line)
    return None if value is None else columnar(value, meters, logged_ms)


class Instant(int):
    """Epoch microseconds, of a column that holds instants."""


def columnar(value: Row, meters: Collection[str], logged_ms: int) -> Row | None:
    """The reading that these fields are."""
    meter_id, at_us = value.get("meter_id"), _time(value.get("ts"))
    if not isinstance(meter_id, str) or meter_id not in meters or at_us is None:
        return None
    if at_us > logged_ms * 1000 + _MOST_US:
        return None
    numbers = {name: value.get(name) for name in MEASURED}
    if not all(number is None or _is_finite(number) for number in numbers.values()):
        return None
    status = value.get("status")
    if status is not None and not (type(status) is int and -(2**63) <= status < 2**63):
        return None
    floats = {name: None if number is None else float(number) for name, number in numbers.items()}
    return {"meter_id": meter_id, "ts": at_us, **floats, "status": status}


def _object(line: bytes) -> Row | None:
    if line.count(b"{") + line.count(b"[") > 1024 and _depth(line) > 1024:
        return None
    try:
        value = json.loads(line.decode(), object_pairs_hook=lambda pairs: dict(reversed(pairs)), parse_int=_int)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _int(text: str) -> int | float:
    return int(text) if len(text) < 1000 else float(text)  # of more digits Python makes no integer


def _depth(line: bytes) -> int:
    """Brackets open at once, those within strings left aside; of no meaning where the line is no JSON."""
    depth = deepest = 0
    within = escaped = False
    for char in line:
        if within:
            within, escaped = escaped or char != 0x22, not escaped and char == 0x5C
        elif char == 0x22:
            within = True
        elif char in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif char in b"}]":
            depth -= 1
    return deepest


def _time(value: object) -> int | None:
    if isinstance(value, Instant):
        micros = int(value)
    elif isinstance(value, str):
        micros = _instant(value)
    elif _is_finite(value):
        micros = round(float(value) * 1000) if abs(value) < 1e15 else None
    else:
        return None
    return micros if micros is not None and _EARLIEST_US <= micros <= _LATEST_US else None


def _instant(text: str) -> int | None:
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    *numbers, fraction, offset = found.groups()
    micros = int((fraction or ".")[1:7].ljust(6, "0"))
    try:
        zone = datetime.strptime("+0000" if offset in "Zz" else offset, "%z").tzinfo
        at = datetime(*map(int, numbers), tzinfo=zone)
        return (at - _EPOCH) // timedelta(microseconds=1) + micros
    except (ValueError, OverflowError):
        return None


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def deep_enough() -> None:
    """Let the standard library read what is nested as deep as it may be."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 5000))
