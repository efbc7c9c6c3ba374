"""Arrow IPC messages to frames, whatever their bytes are: a message that lies is refused, and nobody else notices.

Here: opening streams, checking them, and bringing their columns into types that Polars takes over safely. Polars' own
reader is not used: it believes what a corrupt stream says of its lengths, and the process ends. Not here: which
columns and rows are readings (`metering.readings.columnar`), how large a stream says it is (`arrow_size`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from metering.readings.payloads import FIELDS, Columnar, Columns
from pipelines.sources.arrow_size import check_size

MOST_BYTES = 64 * 1024 * 1024
"""What one message may unpack to; a compressed or a dictionary column can hold a thousand times its own bytes."""
MOST_ROWS = 250_000
MOST_TEXT_BYTES = 65_536
"""What a text of a reading may take: a thousand times the longest meter_id."""

_OPTIONS = {"use_threads": False, "ensure_alignment": pa.ipc.Alignment.DataTypeSpecific}


class _RefusedError(Exception):
    """A message that cannot be read: its `args` are reason and detail."""


def columnar(values: Mapping[int, bytes]) -> Columnar:
    """What Arrow IPC streams hold, by the index of their message. No bytes raise."""
    alike: defaultdict[pa.Schema, list[tuple[int, pa.RecordBatch]]] = defaultdict(list)
    broken: dict[int, tuple[str, str]] = {}
    for number, value in values.items():
        try:
            batches = _read(value)
        except _RefusedError as refused:
            broken[number] = refused.args
        except Exception as error:  # whatever it is, these bytes are its cause
            broken[number] = ("unparsable", f"not an Arrow IPC stream: {_said(error)}")
        else:
            alike[batches[0].schema] += [(number, batch) for batch in batches]
    return Columnar([columns for batches in alike.values() for columns in _together(batches, broken)], broken)


def _together(batches: Sequence[tuple[int, pa.RecordBatch]], broken: dict[int, tuple[str, str]]) -> list[Columns]:
    """Messages of like columns in one frame; where that cannot be done, each apart, and the culprit is broken."""
    try:
        return [_columns(batches)]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # Polars may also panic, which is no Exception
        numbers = dict.fromkeys(number for number, _ in batches)
        if len(numbers) == 1:
            broken[batches[0][0]] = ("unparsable", f"not an Arrow IPC stream: {_said(error)}")
            return []
        apart = [[pair for pair in batches if pair[0] == number] for number in numbers]
        return [columns for own in apart for columns in _together(own, broken)]


def _said(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _read(value: bytes) -> list[pa.RecordBatch]:
    """The stream's batches that have rows, at least one. Raises _RefusedError, and what pyarrow raises."""
    too_large = check_size(value, MOST_BYTES, MOST_ROWS)
    if too_large:
        raise _RefusedError("unparsable", too_large)
    reader = pa.ipc.open_stream(value, options=pa.ipc.IpcReadOptions(**_OPTIONS))
    if not len(reader.schema):
        raise _RefusedError("unparsable", "the Arrow IPC stream has no columns")
    wanted = _readable(reader.schema)
    if wanted and len(wanted) < len(reader.schema):
        reader = pa.ipc.open_stream(value, options=pa.ipc.IpcReadOptions(included_fields=wanted, **_OPTIONS))
    batches = [_sound(batch if wanted else batch.select([])) for batch in reader if batch.num_rows]
    if not batches:
        raise _RefusedError("unparsable", "the Arrow IPC stream has no rows")
    return batches


def _sound(batch: pa.RecordBatch) -> pa.RecordBatch:
    batch.validate(full=True)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        _refuse_long_texts(name, column)
    return batch


def _refuse_long_texts(name: str, column: pa.Array) -> None:
    """A rejected row is told in full; and a few long texts may stand in very many rows."""
    values = column.dictionary if pa.types.is_dictionary(column.type) else column
    shared = values is not column or pa.types.is_string_view(column.type)
    if not _is_text(values.type) or (column.nbytes <= MOST_TEXT_BYTES and not shared):
        return
    longest = pl.Series(values).str.len_bytes().max()
    if isinstance(longest, int) and longest > MOST_TEXT_BYTES:
        raise _RefusedError("unparsable", f"column {name} holds a text of {longest} bytes, more than {MOST_TEXT_BYTES}")
    if shared and isinstance(longest, int) and longest * len(column) > MOST_BYTES:
        raise _RefusedError("unparsable", f"column {name} may hold more than {MOST_BYTES} bytes of text")


def frame_of(batch: pa.RecordBatch) -> pl.DataFrame:
    """The reading's fields of a Parquet file's batch. Text that is none (not UTF-8) stays bytes, a wrong type."""
    own = batch.select(_wanted(batch.schema)) if batch.num_columns else batch
    try:
        own.validate(full=True)
    except pa.ArrowInvalid:
        own = pa.record_batch({n: _bytes(column) for n, column in zip(own.schema.names, own.columns, strict=True)})
    return _frame(pa.Table.from_batches([own]))


def _bytes(column: pa.Array) -> pa.Array:
    return column.cast(pa.large_binary()) if _is_text(column.type) else column


def _wanted(schema: pa.Schema) -> list[int]:
    """The reading's fields; of doubled names the first counts."""
    names = schema.names
    return sorted(names.index(name) for name in FIELDS if name in names)


@lru_cache(maxsize=64)
def _readable(schema: pa.Schema) -> list[int]:
    """The reading's fields. Raises _RefusedError when one is of a type that no reading has."""
    wanted = _wanted(schema)
    for field in map(schema.field, wanted):
        dtype = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not (_is_text(dtype) or _is_number(dtype) or pa.types.is_timestamp(dtype) or pa.types.is_null(dtype)):
            raise _RefusedError("wrong_type", f"column {field.name} has type {field.type}")
    return wanted


def _is_text(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype))


def _is_number(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype))


def _frame(table: pa.Table) -> pl.DataFrame:
    if not table.num_columns:  # none of the reading's fields, and rows all the same
        return pl.DataFrame({"": pl.repeat(None, table.num_rows, dtype=pl.Null, eager=True)})
    frame = pl.from_arrow(pa.table({name: _plain(table[name]) for name in table.column_names}))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values in a type that Polars takes over as they are."""
    dtype = column.type
    if pa.types.is_dictionary(dtype):
        return _plain(column.cast(dtype.value_type))
    if pa.types.is_timestamp(dtype) and dtype.tz:
        return _instants(column)
    if pa.types.is_decimal(dtype):
        return column.cast(pa.string()).cast(pa.float64())  # the nearest double; the direct way may miss it by one
    return column


def _instants(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whatever the zone is called, a time with one is an instant. Seconds, which Polars would multiply past the end
    of an integer, become epoch milliseconds.
    """
    if column.type.unit == "s":
        return pc.multiply(column.cast(pa.int64()).cast(pa.float64(), safe=False), 1000.0)
    return column.cast(pa.timestamp(column.type.unit, "UTC"))


def _columns(batches: Sequence[tuple[int, pa.RecordBatch]]) -> Columns:
    frame = _frame(pa.Table.from_batches([batch for _, batch in batches]))
    runs = pl.DataFrame(
        [
            (number, first, first + batch.num_rows)
            for (number, batch), first in zip(batches, _firsts(batches), strict=True)
        ],
        schema={"message": pl.Int64, "first": pl.Int32, "end": pl.Int32},
        orient="row",
    )
    rows = runs.select("message", row=pl.int_ranges("first", "end", dtype=pl.Int32)).explode("row")
    return Columns(frame, rows["message"], rows["row"])


def _firsts(batches: Iterable[tuple[int, pa.RecordBatch]]) -> Iterator[int]:
    """The number of each batch's first row within its message."""
    seen: defaultdict[int, int] = defaultdict(int)
    for number, batch in batches:
        yield seen[number]
        seen[number] += batch.num_rows
