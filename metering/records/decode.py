"""JSON to records: strict types, and one bad line rejects that line alone.

Here: lines to typed columns as the kind declares them, and why a line is none. Not here: what is declared
(`metering.tables.records`), where a line came from (`pipelines`), which of several records counts (`current`).

Records are few beside readings, so each line is read by itself, exactly; from there on a batch is columns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from operator import itemgetter
from typing import Any

import polars as pl

from metering.readings.admission import as_told, instant, origin_of, rejects
from metering.readings.decode import Lines, Messages
from metering.readings.json_lines import Problem, is_number, is_text, json_object
from metering.readings.payloads import JSON, NO_REJECTS, Decoded
from metering.tables.records import EVERY, FIGURES, LINES, MONEY, NAMES, Field, RecordKind
from metering.tables.schema import TIMESTAMP
from metering.text import printable

_DECIMAL = re.compile(r"[+-]?\d{1,14}(\.\d{1,4})?")
_PRICE = re.compile(r"[+-]?\d{1,10}(\.\d{1,8})?")
_MONTH = re.compile(r"\d{4}-\d{2}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class _WrongError(Exception):
    """A value that a field cannot have: reason and detail."""

    def __init__(self, detail: str, reason: str = "wrong_type") -> None:
        super().__init__(reason, detail)


def decode_records(kind: RecordKind, content: Messages | Lines) -> Decoded:
    """What has been polled of a kind: `accepted` has the record's columns and its place in the content, `rejects` those
    of a reading's. A message's tombstone (no value) is a matter of its topic, and no record.
    """
    lines = list(_lines(content))
    objects: list[dict[str, Any]] = []
    kept: list[int] = []
    problems: dict[int, tuple[str, str]] = {}
    for number, (_, _, line) in enumerate(lines):
        value = json_object(line)
        if isinstance(value, Problem):
            problems[number] = (value.reason, value.detail)
        else:
            objects.append(value)
            kept.append(number)
    rows, wrong = _rows(kind, objects)
    problems |= {kept[row]: told for row, told in wrong.items()}
    good = [row for row in range(len(kept)) if row not in wrong]
    origin = _origin(content, lines)
    accepted = rows[good].hstack(origin[[kept[row] for row in good]])
    if not problems:
        return Decoded(accepted, NO_REJECTS)
    return Decoded(accepted, _rejects(kind, content, lines, origin, problems, rows, {n: i for i, n in enumerate(kept)}))


def _lines(content: Messages | Lines) -> list[tuple[int, int, bytes]]:
    """Item, row within it, and text of every line that is not blank; an empty message is one line."""
    if isinstance(content, Lines):
        return [(item, 0, line) for item, line in enumerate(content.data.split(b"\n")) if line.strip()]
    found: list[tuple[int, int, bytes]] = []
    for item, value in enumerate(content.values):
        if value is not None:
            own = [(item, row, line) for row, line in enumerate(value.split(b"\n")) if line.strip()]
            found += own or [(item, 0, b"")]
    return found


def _origin(content: Messages | Lines, lines: Sequence[tuple[int, int, bytes]]) -> pl.DataFrame:
    items = pl.Series([item for item, _, _ in lines], dtype=pl.UInt32)
    if isinstance(content, Lines):
        return origin_of(items, None, None, None)
    offsets = pl.Series([content.offsets[item] for item, _, _ in lines], dtype=pl.Int64)
    logged = pl.Series([content.logged_ms[item] for item, _, _ in lines], dtype=pl.Int64)
    rows = pl.Series([row for _, row, _ in lines], dtype=pl.Int32)
    return origin_of(items, offsets, rows, logged)


def _rejects(
    kind: RecordKind,
    content: Messages | Lines,
    lines: Sequence[tuple[int, int, bytes]],
    origin: pl.DataFrame,
    problems: Mapping[int, tuple[str, str]],
    rows: pl.DataFrame,
    row_of: Mapping[int, int],
) -> pl.DataFrame:
    numbers = sorted(problems)
    at = pl.Series([row_of.get(n) for n in numbers], dtype=pl.UInt32)
    meter = rows["meter_id"].gather(at) if "meter_id" in rows.columns else pl.Series([None] * len(at), dtype=pl.String)
    told = pl.DataFrame(
        {
            "row": pl.Series(numbers, dtype=pl.UInt32),
            "reason": [problems[n][0] for n in numbers],
            "detail": [f"{kind.name}: {problems[n][1]}" for n in numbers],
            "meter_id": meter,
            "ts": rows[kind.time].gather(at),
        }
    )
    keys = None if isinstance(content, Lines) else [content.keys[lines[n][0]] for n in numbers]
    return rejects(told, origin[numbers], [lines[n][2] for n in numbers], JSON, keys)


# --- fields ---------------------------------------------------------------------------------------------------------


def _rows(kind: RecordKind, objects: Sequence[Mapping[str, Any]]) -> tuple[pl.DataFrame, dict[int, tuple[str, str]]]:
    """The kind's columns, a row for each object, and what is wrong with some: the first thing, by the fields' order."""
    wrong: dict[int, tuple[str, str]] = {}
    columns: list[pl.Series] = []
    variants = [value.get(kind.variant) if kind.variant else None for value in objects]
    for field in kind.fields:
        has = _has(kind, field, variants)
        values = (
            [value.get(field.name) for value in objects]
            if all(has)
            else [value.get(field.name) if own else None for value, own in zip(objects, has, strict=True)]
        )
        columns.append(_column(kind, field, values, wrong, variants))
    frame = pl.DataFrame(columns, schema=kind.schema)
    for rule in kind.rules:
        holds = frame.select(rule.holds.fill_null(True)).to_series()
        for row in holds.not_().arg_true():
            wrong.setdefault(row, ("bad_value", rule.said))
    return frame, wrong


def _has(kind: RecordKind, field: Field, variants: Sequence[object]) -> list[bool]:
    """Which records have the field at all: what belongs to another variant is as unknown as any other field."""
    if not kind.variant or field.column.name in kind.common:
        return [True] * len(variants)
    with_it = {name for name, own in kind.variants.items() if field.name in own}
    return [isinstance(variant, str) and variant in with_it for variant in variants]


def _column(
    kind: RecordKind,
    field: Field,
    values: list[Any],
    wrong: dict[int, tuple[str, str]],
    variants: Sequence[object],
) -> pl.Series:
    column, read = field.column, _reader(field)
    for row, value in enumerate(values):
        if value is None:  # as most are, of a kind with many fields
            continue
        try:
            values[row] = read(field.name, value)
        except _WrongError as error:
            wrong.setdefault(row, error.args)
            values[row] = None
    if column.dtype == TIMESTAMP:
        series = _times(field, values, wrong)
    else:
        series = pl.Series(column.name, values, dtype=column.dtype, strict=True)
    if field.required or field.column.name not in kind.common:
        missing = series.is_null() if series.dtype != pl.String else (series.is_null() | (series == ""))
        for row in missing.arg_true():
            if field.required or _must(kind, field, variants[row]):
                wrong.setdefault(row, ("missing_field", f"no {field.name}"))
    if series.null_count() < len(series):
        _refuse_values(field, series, wrong)
    if column.default is not None:
        series = series.fill_null(pl.Series([column.default]).cast(column.dtype).item())
    return series.alias(column.name)


def _must(kind: RecordKind, field: Field, variant: object) -> bool:
    return isinstance(variant, str) and kind.variants.get(variant, {}).get(field.name, False)


def _refuse_values(field: Field, series: pl.Series, wrong: dict[int, tuple[str, str]]) -> None:
    column = field.column
    if column.allowed:
        reason = "unknown_type" if field.name == "type" else "bad_value"
        for row in (~series.is_in(column.allowed)).fill_null(False).arg_true():
            wrong.setdefault(
                row, (reason, f"{field.name} '{printable(series[row])}' is none of {', '.join(column.allowed)}")
            )
    for bound, said in ((column.minimum, "below"), (column.maximum, "above")):
        if bound is not None:
            outside = series < bound if said == "below" else series > bound
            for row in outside.fill_null(False).arg_true():
                wrong.setdefault(row, ("bad_value", f"{field.name} {series[row]} is {said} {bound:g}"))


def _times(field: Field, values: Sequence[Any], wrong: dict[int, tuple[str, str]]) -> pl.Series:
    rows = pl.DataFrame(
        {
            "ts": pl.Series([v if isinstance(v, str) else None for v in values], dtype=pl.String),
            "ts_ms": pl.Series([v if isinstance(v, float) else None for v in values], dtype=pl.Float64),
        }
    )
    found, told = instant(rows), as_told(rows)
    given = pl.Series([v is not None for v in values], dtype=pl.Boolean)
    for row in (given & found.is_null()).arg_true():
        shown = printable(str(values[row]))
        if told[row] is not None or isinstance(values[row], float):
            said = f"{field.name} '{shown}' is not in the years 2000 to 2100 (numbers: epoch milliseconds)"
            wrong.setdefault(row, ("implausible_time", said))
        else:
            said = f"{field.name} '{shown}' is no RFC 3339 time with an offset"
            wrong.setdefault(row, ("bad_value", said))
    return found.alias(field.column.name)


def _reader(field: Field) -> Callable[[str, Any], Any]:
    dtype = field.column.dtype
    if dtype == TIMESTAMP:
        return _time
    if dtype == pl.Date:
        return _month if field.month else _date
    readers: dict[Any, Callable[[str, Any], Any]] = {
        pl.String: _text, pl.Float64: _number, pl.Int32: _integer, pl.Boolean: _flag, NAMES: _names,
        FIGURES: _figures, MONEY: _money, LINES: _bill_lines,
    }  # fmt: skip
    return readers[dtype]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not is_text(value):
        raise _WrongError(f"{name} is not a string")
    return value


def _number(name: str, value: Any) -> float:
    if not is_number(value):
        raise _WrongError(f"{name} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _WrongError(f"{name} is not finite", "non_finite")
    return number


def _integer(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**31) <= value < 2**31:
        raise _WrongError(f"{name} is not an integer of 32 bits")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _WrongError(f"{name} is neither true nor false")
    return value


def _time(name: str, value: Any) -> str | float:
    if isinstance(value, str) and is_text(value):
        return value
    if not is_number(value):
        raise _WrongError(f"{name} is neither a string nor a number")
    return _number(name, value)


def _date(name: str, value: Any) -> Any:
    return _day(name, value, _text(name, value), "YYYY-MM-DD")


def _month(name: str, value: Any) -> Any:
    text = _text(name, value)
    return _day(name, value, f"{text}-01" if _MONTH.fullmatch(text) else "", "YYYY-MM")


def _day(name: str, value: Any, text: str, form: str) -> Any:
    try:
        if not _DAY.fullmatch(text):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise _WrongError(f"{name} '{printable(value)}' is no {form}", "bad_value") from None


def _money(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise _WrongError(f"{name} is not a decimal number in a string")
    if not _DECIMAL.fullmatch(value):
        raise _WrongError(f"{name} '{printable(value)}' is no decimal number of at most 4 decimals", "bad_value")
    return Decimal(value)


def _bill_lines(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(line, dict) for line in value):
        raise _WrongError(f"{name} is not an array of objects")
    return [_bill_line(f"{name}[{number}]", line) for number, line in enumerate(value)]


def _bill_line(name: str, line: Mapping[str, Any]) -> dict[str, Any]:
    for field in ("item", "amount"):
        if line.get(field) is None:
            raise _WrongError(f"{name} has no {field}", "missing_field")
    price = line.get("price")
    if price is not None and not (isinstance(price, str) and _PRICE.fullmatch(price)):
        raise _WrongError(f"{name}.price is no decimal number of at most 8 decimals in a string", "bad_value")
    quantity = line.get("quantity")
    return {
        "item": _text(f"{name}.item", line["item"]),
        "quantity": None if quantity is None else _money(f"{name}.quantity", quantity),
        "price": None if price is None else Decimal(price),
        "amount": _money(f"{name}.amount", line["amount"]),
    }


def _names(name: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        raise _WrongError(f"{name} is not an array of strings")
    return [_text(f"an entry of {name}", entry) for entry in value]


def _figures(name: str, value: Any) -> list[dict[str, Any]]:
    if is_number(value):
        return [{"name": EVERY, "value": _number(name, value)}]
    if not isinstance(value, dict):
        raise _WrongError(f"{name} is neither a number nor an object of numbers")
    found: list[dict[str, Any]] = []
    for key, figure in value.items():
        for inner, number in figure.items() if isinstance(figure, dict) else [("", figure)]:
            full = f"{key}.{inner}" if inner else key
            found.append({"name": _text(f"a name in {name}", full), "value": _number(f"{name}.{full}", number)})
    return sorted(found, key=itemgetter("name"))
