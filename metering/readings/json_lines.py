"""Strict JSON lines, a whole batch at a time.

Here: text to typed columns, with the lines that are not readings told apart. A batch is read by Polars in one go; what
Polars cannot read, or would silently turn into text, is looked at line by line by `exact`. Both ways give the same
answer for the same line, so that the answer never depends on what else was in the batch.
Not here: registry, time limits, where a line came from (`decode`).
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from metering.registry.index import MeterIndex
from metering.tables.lake import MEASURED

RAW_SCHEMA = pl.Schema(
    {"meter_id": pl.String, "ts": pl.String, **dict.fromkeys(MEASURED, pl.Float64), "status": pl.Int64}
)
PROBLEM_SCHEMA = pl.Schema(
    {"row": pl.UInt32, "reason": pl.String, "detail": pl.String, "meter_id": pl.String, "ts_text": pl.String}
)
_ROW_SCHEMA = pl.Schema([("row", pl.UInt32()), *RAW_SCHEMA.items(), ("ts_ms", pl.Float64())])
_NO_PROBLEMS = pl.DataFrame(schema=PROBLEM_SCHEMA)
_EXACT_BELOW = 32
_SPLIT = 8
_LONGEST_INT = 400
_DEEPEST = 1024  # what Polars reads
_PLAIN = (b"{", b" ", b"\t", b"\r", b"\n")
"""How data may begin that Polars is given: some other beginnings it takes for compressed data, and unpacks it."""
_EPOCH_SCHEMA = pl.Schema((name, pl.Float64() if name == "ts" else dtype) for name, dtype in RAW_SCHEMA.items())
"""Polars reads only JSON numbers as numbers: a batch that it reads so has no time that is anything else."""
_EPOCH = re.compile(rb'"ts"\s*:\s*[0-9]')
_FIRST_LINE = 1024
_BARE_ID = r'"meter_id"\s*:\s*[^"\s]'
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = re.compile(rb"[^][{}]+")


@dataclass(frozen=True, slots=True)
class Parsed:
    """`rows`: RAW_SCHEMA plus `row` (line number in the batch, from 0), `meter` (code) and `ts_ms` (epoch milliseconds
    where the time was a number; `ts` is its text otherwise). `problems`: PROBLEM_SCHEMA, one for each bad line.
    """

    rows: pl.DataFrame
    problems: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Problem:
    reason: str
    detail: str
    meter_id: str | None = None
    ts_text: str | None = None


class Text:
    """`count` JSON lines joined by newlines, and each of them where it is asked for."""

    def __init__(self, data: bytes, count: int, lines: Sequence[bytes] | None = None) -> None:
        self.data, self.count, self._lines = data, count, lines

    @property
    def lines(self) -> Sequence[bytes]:
        """All of them; cut apart when first asked for, since nearly no batch needs it."""
        if self._lines is None:
            self._lines = self.data.split(b"\n")
        return self._lines


def parse(text: Text, index: MeterIndex) -> Parsed:
    """Read a batch of JSON lines. Blank ones are none; every other is a row or a problem."""
    if text.count <= _EXACT_BELOW:
        looked_at, problems = _exactly(_numbered(text))
        return Parsed(looked_at.with_columns(index.code(looked_at["meter_id"])), problems)
    frame, leftover = _read(text)
    frame = frame.with_columns(index.code(frame["meter_id"]))
    frame, doubtful = _settle(frame, text, index)
    if not leftover and not doubtful:
        return Parsed(frame, _NO_PROBLEMS)
    looked_at, problems = _exactly((row, text.lines[row]) for row in sorted({*leftover, *doubtful}))
    looked_at = looked_at.with_columns(index.code(looked_at["meter_id"]))
    return Parsed(pl.concat([frame, looked_at.select(frame.columns)]).sort("row"), problems)


def _read(text: Text) -> tuple[pl.DataFrame, list[int]]:
    """Rows that Polars reads, numbered, and the numbers of the lines that it does not."""
    data, count = text.data, text.count
    frame = _polars(data, _EPOCH_SCHEMA) if _EPOCH.search(data, 0, _FIRST_LINE) else None
    if frame is None or frame.height != count:
        frame = _polars(data, RAW_SCHEMA)
    if frame is not None and frame.height == count:
        return frame.with_row_index("row"), []
    pieces: list[pl.DataFrame] = []
    leftover: list[int] = []
    _salvage(_numbered(text), pieces, leftover)
    return pl.concat([pl.DataFrame(schema=_ROW_SCHEMA), *pieces]), leftover


def _numbered(text: Text) -> list[tuple[int, bytes]]:
    return [(row, line) for row, line in enumerate(text.lines) if line.strip()]


def _salvage(numbered: Sequence[tuple[int, bytes]], pieces: list[pl.DataFrame], leftover: list[int]) -> None:
    """Halve down to the bad lines, so that a few of them cost little and many of them no more than `exact` does."""
    if len(numbered) <= _EXACT_BELOW:
        leftover.extend(row for row, _ in numbered)
        return
    frame = _polars(b"\n".join(line for _, line in numbered), RAW_SCHEMA)
    if frame is not None and frame.height == len(numbered):
        rows = pl.Series("row", [row for row, _ in numbered], dtype=pl.UInt32)
        pieces.append(frame.insert_column(0, rows))
        return
    step = -(-len(numbered) // _SPLIT)
    for start in range(0, len(numbered), step):
        _salvage(numbered[start : start + step], pieces, leftover)


def _polars(data: bytes, schema: pl.Schema) -> pl.DataFrame | None:
    """RAW_SCHEMA and `ts_ms`; None where a line is no JSON object, or has a value that is not what the schema says."""
    if not data.startswith(_PLAIN):
        return None
    try:
        frame = pl.read_ndjson(data, schema=schema)
    except pl.exceptions.PolarsError:
        return None
    numeric = schema["ts"] == pl.Float64
    ts_ms = frame["ts"] if numeric else pl.Series([None], dtype=pl.Float64).new_from_index(0, frame.height)
    ts = pl.Series([None], dtype=pl.String).new_from_index(0, frame.height) if numeric else frame["ts"]
    return frame.with_columns(ts.alias("ts"), ts_ms.alias("ts_ms")).rechunk()


def _settle(frame: pl.DataFrame, text: Text, index: MeterIndex) -> tuple[pl.DataFrame, list[int]]:
    """Tell apart text that was text from numbers and the like that Polars turned into text.

    An id that the registry knows and that looks like no JSON scalar can only have been a string, and so can an RFC 3339
    time. Others are checked against their own line; ids need it only where any of the batch's stands without quotes.
    """
    named = frame["meter"].is_not_null()
    scalar_like = index.scalar_like.gather(frame["meter"].fill_null(0)) if len(index.scalar_like) else ~named
    odd_meter = frame["meter_id"].is_not_null() & (~named | scalar_like)
    odd_time = frame["ts"].is_not_null() & ~frame["ts"].str.contains(r"^[0-9]{4}-")
    if odd_meter.any() and _all_ids_quoted(text.data):
        odd_meter &= False
    odd = odd_meter | odd_time
    if not odd.any():
        return frame, []
    checked = frame.filter(odd).select("row", "ts", odd_time.filter(odd).alias("odd_time"))
    lines = text.lines
    # What is no UTF-8 no check here mistakes for anything.
    line = pl.Series("line", [lines[row].decode("utf-8", "replace") for row in checked["row"]], dtype=pl.String)
    number = checked["ts"].cast(pl.Float64, strict=False)
    quoted_time = line.str.contains(r'"ts"\s*:\s*"')
    suspicious = (
        line.str.contains("\\", literal=True)  # may spell a key otherwise
        | line.str.contains(_BARE_ID)
        | (checked["odd_time"] & (number.is_null() | quoted_time))
    )
    epoch = pl.DataFrame([checked["row"], number.alias("epoch")]).filter(checked["odd_time"] & ~suspicious)
    doubtful = checked.filter(suspicious)["row"]
    kept = frame.filter(~pl.col("row").is_in(doubtful.implode())) if len(doubtful) else frame
    if epoch.height:
        kept = kept.join(epoch, on="row", how="left", maintain_order="left").with_columns(
            ts_ms=pl.col("epoch"), ts=pl.when(pl.col("epoch").is_null()).then("ts")
        )
    return kept.drop("epoch", strict=False), doubtful.to_list()


def _all_ids_quoted(data: bytes) -> bool:
    """Whether a string follows wherever the key stands, as writers commonly put it; and no key is spelled otherwise."""
    if b"\\" in data:
        return False
    keys = data.count(b'"meter_id"')
    return keys in (data.count(b'"meter_id":"'), data.count(b'"meter_id": "'))


def _exactly(numbered: Iterable[tuple[int, bytes]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows: list[dict[str, Any]] = []
    problems: list[tuple[Any, ...]] = []
    for row, line in numbered:
        answer = exact(line)
        if isinstance(answer, Problem):
            problems.append((row, answer.reason, answer.detail, answer.meter_id, answer.ts_text))
        else:
            rows.append({"row": row, **answer})
    bad = pl.DataFrame(problems, schema=PROBLEM_SCHEMA, orient="row") if problems else _NO_PROBLEMS
    return pl.DataFrame(rows, schema=_ROW_SCHEMA), bad


def exact(line: bytes) -> dict[str, Any] | Problem:
    """One line by the book: the reading's fields, or what is wrong with it."""
    value = json_object(line)
    return value if isinstance(value, Problem) else _fields(value)


def json_object(line: bytes) -> dict[str, Any] | Problem:
    """The object that a line is; of doubled keys the first counts."""
    if _too_deep(line):
        return Problem("unparsable", f"nested more than {_DEEPEST} levels deep")
    try:
        value = _loads(line)
    except UnicodeDecodeError as error:
        return Problem("unparsable", f"not UTF-8: byte {error.start}")
    except ValueError as error:
        return Problem("unparsable", f"not JSON: {error}")
    return value if isinstance(value, dict) else Problem("unparsable", "not a JSON object")


def _too_deep(line: bytes) -> bool:
    if line.count(b"{") + line.count(b"[") <= _DEEPEST:
        return False
    level, brackets = 0, _NO_BRACKETS.sub(b"", _STRINGS.sub(b"", line))
    return any((level := level + (1 if bracket in b"{[" else -1)) > _DEEPEST for bracket in brackets)


def _loads(line: bytes) -> Any:
    """As deep as any line may be, however deep the caller's stack is already."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 2 * _DEEPEST)
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_first_wins, parse_int=_int)
    finally:
        sys.setrecursionlimit(limit)


def _fields(value: dict[str, Any]) -> dict[str, Any] | Problem:
    meter_id, ts = value.get("meter_id"), value.get("ts")
    known_meter = meter_id if isinstance(meter_id, str) and is_text(meter_id) else None
    known_ts = ts if isinstance(ts, str) and is_text(ts) else None
    ts_ms = _float(ts) if is_number(ts) else None
    numbers = {name: value.get(name) for name in MEASURED}
    problem = (
        _wrong("meter_id is not a string", meter_id is not None and known_meter is None)
        or _wrong("ts is neither a string nor a number", ts is not None and known_ts is None and ts_ms is None)
        or _wrong("status is not an integer of 64 bits", not _is_status(value.get("status")))
        or next((f"{n} is not a number" for n, v in numbers.items() if v is not None and not is_number(v)), None)
    )
    if problem:
        return Problem("wrong_type", problem, known_meter, known_ts)
    floats = {name: None if number is None else _float(number) for name, number in numbers.items()}
    for name, number in {"ts": ts_ms, **floats}.items():
        if number is not None and not math.isfinite(number):
            return Problem("non_finite", f"{name} is not finite", known_meter, known_ts)
    return {"meter_id": known_meter, "ts": known_ts, "ts_ms": ts_ms, **floats, "status": value.get("status")}


def _wrong(text: str, condition: bool) -> str | None:
    return text if condition else None


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_status(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_text(value: str) -> bool:
    """False for lone surrogates, which JSON can spell but no UTF-8 text can hold."""
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of doubled keys the first counts, as Polars has it."""
    return dict(reversed(pairs))


def _int(text: str) -> int | float:
    return int(text) if len(text) <= _LONGEST_INT else float(text)


def _float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf
