"""Payload bytes to accepted readings and rejects: nothing that came in is in neither.

Here: JSON and NDJSON payloads and rows that came in columns, a whole batch at a time, and where each row stood in its
source; rejects that are read again.
Not here: how JSON is read (`json_lines`), which rows are readings (`admission`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import cast

import polars as pl

from metering.readings.admission import judge, origin_of, rejects, with_times
from metering.readings.columnar import decode_arrow_messages, decode_frame
from metering.readings.json_lines import PROBLEM_SCHEMA, Text, parse
from metering.readings.payloads import JSON, NO_REJECTS, Columnar, Decoded, line_count
from metering.readings.payloads import Lines as Lines
from metering.readings.payloads import Messages as Messages
from metering.readings.payloads import Refused as Refused
from metering.registry.index import MeterIndex


def decode(
    content: Messages | Lines | Refused | pl.DataFrame, index: MeterIndex, tolerance_s: int, now: datetime
) -> Decoded:
    """Decode what has been polled. A reading more than `tolerance_s` ahead of its message's own timestamp (without one,
    of `now`) is rejected.
    """
    if isinstance(content, Lines):
        return _decode_lines(content, index, tolerance_s, now)
    if isinstance(content, Refused):
        return _decode_again(content.rows, index, tolerance_s, now)
    if isinstance(content, pl.DataFrame):
        rows = pl.int_range(content.height, dtype=pl.UInt32, eager=True)
        return decode_frame(content, origin_of(rows, None, None, None), index, tolerance_s, now)
    if content.arrow is None:
        return _decode_json_messages(content, index, tolerance_s, now)
    parts = [
        _decode_json_among_arrow(content, content.arrow, index, tolerance_s, now),
        *decode_arrow_messages(content, content.arrow, index, tolerance_s, now),
    ]
    return Decoded(_in_order([part.accepted for part in parts]), _in_order([part.rejects for part in parts]))


def _in_order(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The rows of all, each of which is in order."""
    filled = [frame for frame in frames if frame.height] or frames[:1]
    return filled[0] if len(filled) == 1 else pl.concat(filled).sort("item", "source_row")


def _decode_again(refused: pl.DataFrame, index: MeterIndex, tolerance_s: int, now: datetime) -> Decoded:
    """As if each were a message of its own, but under its old position and log time."""
    logged_ms = refused["logged_at"].dt.epoch("ms").to_list()
    places = range(refused.height)
    messages = Messages(refused["payload"].to_list(), places, logged_ms, refused["message_key"].to_list())
    again = _decode_json_messages(messages, index, tolerance_s, now)
    origin = refused.select("source_offset", "source_row")
    return Decoded(*(rows.with_columns(*origin[rows["source_offset"]]) for rows in (again.accepted, again.rejects)))


def _decode_json_among_arrow(
    messages: Messages, arrow: Columnar, index: MeterIndex, tolerance_s: int, now: datetime
) -> Decoded:
    columnar = set(arrow.broken).union(*(columns.message.unique() for columns in arrow.columns))
    at = [i for i in range(len(messages.values)) if i not in columnar]
    rest = Messages(
        [messages.values[i] for i in at],
        [messages.offsets[i] for i in at],
        [messages.logged_ms[i] for i in at],
        [messages.keys[i] for i in at],
    )
    decoded = _decode_json_messages(rest, index, tolerance_s, now)
    item = pl.Series("item", at, dtype=pl.UInt32)
    return Decoded(*(rows.with_columns(item.gather(rows["item"])) for rows in (decoded.accepted, decoded.rejects)))


def _decode_lines(lines: Lines, index: MeterIndex, tolerance_s: int, now: datetime) -> Decoded:
    text = Text(lines.data, lines.count)
    parsed = parse(text, index)

    def origin(rows: pl.Series) -> pl.DataFrame:
        return origin_of(rows, None, None, None)

    accepted, refused = judge(parsed.rows, origin(parsed.rows["row"]), index, tolerance_s, now)
    if parsed.problems.is_empty() and refused.is_empty():
        return Decoded(accepted, NO_REJECTS)
    problems = pl.concat([with_times(parsed.problems), refused]).sort("row")
    payload = [text.lines[row] for row in problems["row"]]
    return Decoded(accepted, rejects(problems, origin(problems["row"]), payload, JSON, None))


def _decode_json_messages(messages: Messages, index: MeterIndex, tolerance_s: int, now: datetime) -> Decoded:
    values, data = _joined(messages.values)
    offsets = pl.Series(messages.offsets, dtype=pl.Int64)
    logged = pl.Series(messages.logged_ms, dtype=pl.Int64)
    count = line_count(data)
    single = count == len(values) and not data.endswith(b"\n")
    text = Text(data, count, values if single else None)
    parsed = parse(text, index)
    owner, line_of = _owners(values, single)

    def origin(rows: pl.Series) -> pl.DataFrame:
        at = rows if owner is None else owner.gather(rows)
        return origin_of(at, offsets.gather(at), None if line_of is None else line_of.gather(rows), logged.gather(at))

    accepted, refused = judge(parsed.rows, origin(parsed.rows["row"]), index, tolerance_s, now)
    told = [with_times(parsed.problems), refused]
    if not single or parsed.rows.height + parsed.problems.height < count:  # there are blank lines
        told.append(_empty_messages(values, owner))
    problems = pl.concat(told).sort("row")
    if problems.is_empty():  # what nearly every batch is
        return Decoded(accepted, NO_REJECTS)
    payload = [text.lines[row] for row in problems["row"]]
    at = problems["row"] if owner is None else owner.gather(problems["row"])
    keys = [messages.keys[i] for i in at]
    return Decoded(accepted, rejects(problems, origin(problems["row"]), payload, JSON, keys))


def _joined(values: Sequence[bytes | None]) -> tuple[Sequence[bytes], bytes]:
    """The values, a tombstone as an empty one, and all of them joined by newlines."""
    try:
        whole = cast("Sequence[bytes]", values)
        return whole, b"\n".join(whole)
    except TypeError:  # there are tombstones
        filled = [value or b"" for value in values]
        return filled, b"\n".join(filled)


def _owners(values: Sequence[bytes], single: bool) -> tuple[pl.Series | None, pl.Series | None]:
    """For each line of the joined batch its message and its number in it; None, None when every message is one line."""
    if single:
        return None, None
    count = pl.Series("count", [value.count(b"\n") + 1 for value in values], dtype=pl.Int64)
    number = pl.int_ranges(0, "count", dtype=pl.Int32).alias("line")
    spread = count.to_frame().with_row_index("message").with_columns(number).explode("line")
    return spread["message"], spread["line"]


def _empty_messages(values: Sequence[bytes], owner: pl.Series | None) -> pl.DataFrame:
    """A message without any line of text is a reject too: it was received."""
    empty = [i for i, value in enumerate(values) if not value.strip()]
    first_line = empty if owner is None or not empty else [owner.search_sorted(i) for i in empty]
    problems = pl.DataFrame(
        [(row, "unparsable", "empty message", None, None) for row in first_line], schema=PROBLEM_SCHEMA, orient="row"
    )
    return with_times(problems)
