"""Frames that already are columnar: Arrow IPC messages and Parquet files.

Here: strict column types, and the rows that fail them. Not here: JSON (`json_lines`), registry and time (`admission`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial

import polars as pl

from metering.readings.admission import as_told, instant, judge, origin_of, rejects, with_times
from metering.readings.json_lines import PROBLEM_SCHEMA
from metering.readings.payloads import (
    ACCEPTED_SCHEMA,
    ARROW,
    FIELDS,
    JSON,
    REJECTED_SCHEMA,
    Columnar,
    Decoded,
    Messages,
)
from metering.registry.index import MeterIndex
from metering.tables.lake import MEASURED, READINGS


def decode_arrow_messages(
    messages: Messages, arrow: Columnar, index: MeterIndex, tolerance_s: int, now: datetime
) -> list[Decoded]:
    """Rows of like columns are decoded together; a message whose columns are of wrong types is rejected whole."""
    decoded = [_whole_message(messages, number, *why) for number, why in arrow.broken.items()]
    offsets = pl.Series(messages.offsets, dtype=pl.Int64)
    logged_ms = pl.Series(messages.logged_ms, dtype=pl.Int64)
    for columns in arrow.columns:
        typed = _typed(columns.frame)
        if isinstance(typed, str):
            numbers = columns.message.unique(maintain_order=True)
            decoded += [_whole_message(messages, number, "wrong_type", typed) for number in numbers]
            continue
        at = columns.message
        origin = origin_of(at, offsets.gather(at), columns.row, logged_ms.gather(at))
        keys = partial(_keys_of, messages, at)
        decoded.append(_decode_typed(typed, origin, keys, index, tolerance_s, now))
    return decoded


def _keys_of(messages: Messages, message: pl.Series, rows: pl.Series) -> list[bytes | None]:
    return [messages.keys[number] for number in message.gather(rows)]


def _whole_message(messages: Messages, number: int, reason: str, detail: str) -> Decoded:
    problem = pl.DataFrame([(0, reason, detail, None, None)], schema=PROBLEM_SCHEMA, orient="row")
    offset, logged_ms = messages.offsets[number], messages.logged_ms[number]
    origin = origin_of(pl.Series([number]), pl.Series([offset]), None, pl.Series([logged_ms]))
    refused = rejects(with_times(problem), origin, [messages.values[number] or b""], ARROW, [messages.keys[number]])
    return Decoded(pl.DataFrame(schema=ACCEPTED_SCHEMA), refused)


def decode_frame(
    frame: pl.DataFrame, origin: pl.DataFrame, index: MeterIndex, tolerance_s: int, now: datetime
) -> Decoded:
    if frame.is_empty():
        return Decoded(pl.DataFrame(schema=ACCEPTED_SCHEMA), pl.DataFrame(schema=REJECTED_SCHEMA))
    typed = _typed(frame)
    if isinstance(typed, pl.DataFrame):
        return _decode_typed(typed, origin, None, index, tolerance_s, now)
    problems = pl.DataFrame({"row": pl.int_range(frame.height, eager=True)}).select(
        pl.col("row").cast(pl.UInt32),
        reason=pl.lit("wrong_type"),
        detail=pl.lit(typed),
        meter_id=pl.lit(None, pl.String),
        ts_text=pl.lit(None, pl.String),
    )
    payload = _rows_as_json(frame)
    return Decoded(pl.DataFrame(schema=ACCEPTED_SCHEMA), rejects(with_times(problems), origin, payload, JSON, None))


def _typed(frame: pl.DataFrame) -> pl.DataFrame | str:
    """The reading's fields in their declared types; or what column has which wrong type.

    As with JSON, `ts` is the text of a time and `ts_ms` epoch milliseconds. `misfit`: a status of over 64 bits.
    """
    columns: list[pl.Expr] = []
    for name in FIELDS:
        dtype = frame.schema.get(name, pl.Null())
        if name == "ts":
            columns.extend(_time(dtype))
            good = _is_text(dtype) or dtype.is_numeric() or (isinstance(dtype, pl.Datetime) and bool(dtype.time_zone))
        elif name == "meter_id":
            columns.append(_cast(name, dtype, pl.String()))
            good = _is_text(dtype)
        else:
            columns.append(_cast(name, dtype, READINGS.schema[name]))
            good = dtype.is_integer() if name == "status" else dtype.is_numeric()
        if not good and dtype != pl.Null:
            return f"column {name} has type {dtype}"
    misfit = pl.lit(None, pl.Int128)
    if "status" in frame.columns:
        misfit = pl.when(columns[-1].is_null()).then(pl.col("status").cast(pl.Int128))
    # Not select, which makes one row of literals alone.
    typed = frame.with_columns(*(column.name.prefix("typed ") for column in columns), misfit=misfit)
    return typed.select(pl.col(r"^typed .*$").name.map(lambda name: name.removeprefix("typed ")), "misfit")


def _is_text(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _cast(name: str, dtype: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    return (pl.lit(None, wanted) if dtype == pl.Null else pl.col(name).cast(wanted, strict=False)).alias(name)


def _time(dtype: pl.DataType) -> list[pl.Expr]:
    ts = pl.col("ts")
    text, milliseconds = pl.lit(None, pl.String), pl.lit(None, pl.Float64)
    if _is_text(dtype):
        text = ts.cast(pl.String)
    elif dtype.is_numeric():
        milliseconds = ts.cast(pl.Float64, strict=False)
    elif isinstance(dtype, pl.Datetime):
        per_millisecond = {"ms": 1, "us": 1_000, "ns": 1_000_000}[dtype.time_unit]
        physical = ts.to_physical() if dtype.time_unit != "ns" else ts.to_physical() // 1_000 * 1_000
        milliseconds = physical.cast(pl.Float64) / per_millisecond
    return [text.alias("ts"), milliseconds.alias("ts_ms")]


def _decode_typed(
    typed: pl.DataFrame,
    origin: pl.DataFrame,
    keys: Callable[[pl.Series], list[bytes | None]] | None,
    index: MeterIndex,
    tolerance_s: int,
    now: datetime,
) -> Decoded:
    rows = typed.with_columns(index.code(typed["meter_id"])).with_row_index("row")
    infinite = pl.any_horizontal((~pl.col(name).is_finite()).fill_null(False) for name in (*MEASURED, "ts_ms"))
    bad = rows.select(pl.col("misfit").is_not_null() | infinite).to_series()
    fit, fit_origin = (rows.filter(~bad), origin.filter(~bad)) if bad.any() else (rows, origin)
    accepted, refused = judge(fit, fit_origin, index, tolerance_s, now)
    misfit = pl.col("misfit").is_not_null()
    unfit = rows.filter(bad).select(
        "row",
        reason=pl.when(misfit).then(pl.lit("wrong_type")).otherwise(pl.lit("non_finite")),
        detail=pl.when(misfit)
        .then(pl.lit("status is not an integer of 64 bits"))
        .otherwise(pl.lit("ts or a measured value is not finite")),
        meter_id="meter_id",
        ts=instant(rows.filter(bad)),
    )
    problems = pl.concat([unfit, refused]).sort("row")
    at = problems["row"]
    payload = _rows_as_json(_told(typed[at]))
    return Decoded(accepted, rejects(problems, origin[at], payload, JSON, keys(at) if keys else None))


def _told(typed: pl.DataFrame) -> pl.DataFrame:
    """Rows under the names they came by, so that they can be read again once what was wrong with them is mended."""
    time = pl.coalesce("ts", as_told(typed).dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ"), pl.col("ts_ms").cast(pl.String))
    status = pl.coalesce(pl.col("status").cast(pl.Int128), "misfit")
    return typed.with_columns(ts=time, status=status).drop("ts_ms", "misfit")


def _rows_as_json(frame: pl.DataFrame) -> list[bytes]:
    try:
        rows = frame.rows(named=True)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # times that Python has no years for; some of them panic, which is no Exception
        rows = frame.select(pl.all().to_physical()).rows(named=True)
    return [json.dumps(row, default=str, ensure_ascii=False).encode() for row in rows]
