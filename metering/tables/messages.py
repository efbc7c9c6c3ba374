"""What is published to other systems: rows of the lake's tables as JSON messages, and the schemas of these messages.

Here: keys, bytes, JSON Schemas (draft 2020-12). Not here: sending them (`sinks.kafka.topics`), what the columns mean
(`metering.tables.lake`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import polars as pl

from metering.tables.control import ALARM_RULES, LOAD_CONTROL
from metering.tables.lake import COMPLIANCE, MEASURED, READINGS, REJECTS, VIOLATIONS, WINDOWS
from metering.tables.notices import NOTICES
from metering.tables.records import FIGURES, KINDS, LINES, MONEY, NAMES, Field, RecordKind
from metering.tables.schema import TIMESTAMP, Column, Table

RFC3339_UTC = "%Y-%m-%dT%H:%M:%S%.fZ"  # a fraction only where there is one
_DATE = "%Y-%m-%d"
_DATE_TIME_PATTERN = r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?"
_WITH_OFFSET = _DATE_TIME_PATTERN + r"([Zz]|[+-]\d{2}:\d{2})$"
_SHORTEST_CUT = 64
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Outbound(NamedTuple):
    """Messages ready to be sent; the three lists have one entry a message.

    `partition_keys` decide the partition (the meter); None where the sender may choose.
    """

    keys: list[str | None] | list[bytes | None]
    partition_keys: list[str | bytes | None]
    values: list[bytes]


@dataclass(frozen=True, slots=True)
class MessageType:
    """A kind of message: its schema's name and version, and the table whose rows it carries."""

    name: str
    version: int
    table: Table
    key: str

    @property
    def file(self) -> str:
        """Name of its JSON Schema file."""
        return f"{self.name}.v{self.version}.schema.json"


WINDOW = MessageType("load.windows", 1, WINDOWS, "meter_id/window_end")
VIOLATION = MessageType("limit.violations", 1, VIOLATIONS, "violation_id")
SUPPLY = MessageType("supply.compliance", 1, COMPLIANCE, "meter_id/date")
CONTROL = MessageType("load.control", 1, LOAD_CONTROL, "plan_id/customer_no/window_end")
REJECTED = MessageType("readings.rejected", 1, REJECTS, "the original key")
NOTICE = MessageType("notices.sent", 1, NOTICES, "notice_id")
MESSAGE_TYPES = (WINDOW, VIOLATION, SUPPLY, CONTROL, REJECTED, NOTICE)


def window_messages(frame: pl.DataFrame) -> Outbound:
    """Messages of `windows` rows, in their order, keyed `meter_id/window_end`."""
    return _keyed(frame, WINDOW, _slashed("meter_id", _time("window_end")))


def violation_messages(frame: pl.DataFrame) -> Outbound:
    """Messages of `violations` rows, in their order, keyed `violation_id`."""
    return _keyed(frame, VIOLATION, pl.col("violation_id"))


def compliance_messages(frame: pl.DataFrame) -> Outbound:
    """Messages of `compliance` rows, in their order, keyed `meter_id/date`."""
    return _keyed(frame, SUPPLY, _slashed("meter_id", pl.col("date").dt.strftime(_DATE)))


def control_messages(frame: pl.DataFrame) -> Outbound:
    """Messages of `load_control` rows, in their order, keyed `plan_id/customer_no/window_end`; the partition follows the
    customer.
    """
    key = _slashed("plan_id", _slashed("customer_no", _time("window_end")))
    return _keyed(frame, CONTROL, key, "customer_no")


def reject_messages(frame: pl.DataFrame) -> Outbound:
    """Messages of `rejects` rows, in their order, keyed by the original key (None where there was none).

    The partition follows the meter where it could be read, else the original key. The original bytes are in
    `payload_base64`, the original key in `message_key_base64`.
    """
    keys: list[bytes | None] = frame["message_key"].to_list()
    meters: list[str | None] = frame["meter_id"].to_list()
    partition_keys = [key if meter is None else meter for meter, key in zip(meters, keys, strict=True)]
    return Outbound(keys, partition_keys, _encoded(frame, REJECTED))


def notice_messages(frame: pl.DataFrame) -> Outbound:
    """Messages of `notices` rows, in their order, keyed `notice_id`; by customer where they are about one."""
    return Outbound(frame["notice_id"].to_list(), frame["customer_no"].to_list(), _encoded(frame, NOTICE))


def shortened(value: bytes, most: int) -> bytes | None:
    """A result message of at most `most` bytes: its longest texts cut to their beginnings, and named in `truncated`.

    Base64 is cut where it can still be decoded. None for what is no result message, and where there is too little to cut.
    """
    try:
        message = json.loads(value)
    except ValueError:
        return None
    if not isinstance(message, dict) or "schema" not in message:
        return None
    message["truncated"] = []
    while len(encoded := json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()) > most:
        texts = {name: len(text.encode()) for name, text in message.items() if isinstance(text, str)}
        name = max(texts, key=texts.__getitem__)
        if texts[name] <= _SHORTEST_CUT:
            return None
        message["truncated"] = sorted({*message["truncated"], name})
        keep = max(texts[name] - (len(encoded) - most) - _SHORTEST_CUT, texts[name] // 2)
        message[name] = message[name].encode()[: keep - keep % 4].decode(errors="ignore")
    return encoded


def _keyed(frame: pl.DataFrame, kind: MessageType, key: pl.Expr, by: str = "meter_id") -> Outbound:
    keys: list[str | None] = frame.select(key).to_series().to_list()
    return Outbound(keys, frame[by].to_list(), _encoded(frame, kind))


def _slashed(first: str, second: pl.Expr) -> pl.Expr:
    return pl.concat_str(pl.col(first), second, separator="/")


def _encoded(frame: pl.DataFrame, kind: MessageType) -> list[bytes]:
    """One JSON object a row: `schema`, then the table's columns in declared order; a value that is absent is null."""
    schema = pl.struct(name=pl.lit(kind.name), version=pl.lit(kind.version)).alias("schema")
    fields = [_field(column) for column in kind.table.columns]
    rows = frame.select(pl.struct(schema, *fields).struct.json_encode().cast(pl.Binary))
    values: list[bytes] = rows.to_series().to_list()
    return values


def _field(column: Column) -> pl.Expr:
    value = pl.col(column.name)
    if column.dtype.is_float():
        return pl.when(value.is_finite()).then(value)  # JSON has no NaN and no infinity
    if column.dtype.is_(pl.Date):
        return value.dt.strftime(_DATE)
    if isinstance(column.dtype, pl.Datetime):
        return _time(column.name)
    if column.dtype.is_(pl.Binary):
        return value.bin.encode("base64").alias(_field_name(column))
    return value


def _time(name: str) -> pl.Expr:
    return pl.col(name).dt.strftime(RFC3339_UTC)


def _field_name(column: Column) -> str:
    return f"{column.name}_base64" if column.dtype.is_(pl.Binary) else column.name


def json_schemas(rules: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """JSON Schema of every kind of message, in and out, by file name. Within a version fields are only added.

    `rules`: ids of the limit rules that violations may name, besides those of load control; none: any.
    """
    names = tuple(rules)
    named = VIOLATIONS.allowing(rule=(*names, *ALARM_RULES) if names else ())
    return {
        "meter.readings.v1.schema.json": _reading_schema(),
        **{kind.file: _record_schema(kind) for kind in KINDS.values()},
        **{kind.file: _message_schema(kind, named if kind is VIOLATION else kind.table) for kind in MESSAGE_TYPES},
    }


def _message_schema(kind: MessageType, table: Table) -> dict[str, Any]:
    tag = {
        "type": "object",
        "description": "Name and version of this schema",
        "properties": {"name": {"const": kind.name}, "version": {"const": kind.version}},
        "required": ["name", "version"],
    }
    columns = {_field_name(column): _property(column) for column in table.columns}
    truncated = {
        "type": "array",
        "items": {"type": "string"},
        "description": "Fields cut to their beginnings, for the message was above what Kafka takes; the lake has the whole",
    }
    properties = {"schema": tag, **columns, "truncated": truncated}
    return {
        "$schema": _DIALECT,
        "title": f"{kind.name}.v{kind.version}",
        "description": f"{kind.table.meaning} Message key: {kind.key}.",
        "type": "object",
        "properties": properties,
        "required": ["schema", *columns],
    }


def _reading_schema() -> dict[str, Any]:
    meter: dict[str, Any] = {
        "type": "string",
        "minLength": 1,
        "maxLength": 64,
        "description": READINGS.column("meter_id").comment,
    }
    time = {
        "description": f"{READINGS.column('ts').meaning}: RFC 3339 with offset, or epoch milliseconds",
        "anyOf": [
            {"type": "string", "pattern": _WITH_OFFSET},
            {"type": "integer"},
        ],
    }
    measured = {name: _property(READINGS.column(name)) for name in (*MEASURED, "status")}
    return {
        "$schema": _DIALECT,
        "title": "meter.readings.v1",
        "description": "One reading: the interval that ends at ts. A message carries one, or several by newlines; "
        "unknown fields are ignored. Message key: meter_id, or whatever keeps a meter's readings together.",
        "type": "object",
        "properties": {"meter_id": meter, "ts": time, **measured},
        "required": ["meter_id", "ts"],
    }


def _record_schema(kind: RecordKind) -> dict[str, Any]:
    """What is accepted as a record of the kind. Of variants, what each must have."""
    said: dict[str, Any] = {
        "$schema": _DIALECT,
        "title": kind.topic,
        "description": f"{kind.table.meaning} A message carries one, or several by newlines; unknown fields are ignored. "
        f"Message key: {'/'.join(kind.key)}.",
        "type": "object",
        "properties": {field.name: _record_property(field) for field in kind.fields},
        "required": [field.name for field in kind.fields if field.required],
    }
    must = {value: [name for name, needed in own.items() if needed] for value, own in kind.variants.items()}
    conditions = [
        {"if": {"properties": {kind.variant: {"const": value}}}, "then": {"required": names}}
        for value, names in must.items()
        if names
    ]
    return {**said, "allOf": conditions} if conditions else said


_MONEY = r"^[+-]?\d{1,14}(\.\d{1,4})?$"


def _record_property(field: Field) -> dict[str, Any]:
    column, number = field.column, {"type": "number"}
    optional = [] if field.required else [{"type": "null"}]
    names = {"type": "array", "items": {"type": "string"}}
    figures = {
        "type": "object",
        "additionalProperties": {"anyOf": [number, {"type": "object", "additionalProperties": number}]},
    }
    shapes: dict[Any, list[dict[str, Any]]] = {
        TIMESTAMP: [{"type": "string", "pattern": _WITH_OFFSET}, {"type": "integer"}],
        NAMES: [names],
        FIGURES: [number, figures],
        MONEY: [{"type": "string", "pattern": _MONEY}],
        LINES: [
            {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "item": {"type": "string"},
                        "quantity": {"type": ["string", "null"], "pattern": _MONEY},
                        "price": {"type": ["string", "null"], "pattern": r"^[+-]?\d{1,10}(\.\d{1,8})?$"},
                        "amount": {"type": "string", "pattern": _MONEY},
                    },
                    "required": ["item", "amount"],
                },
            }
        ],
    }
    if field.month:
        shapes[pl.Date()] = [{"type": "string", "pattern": r"^\d{4}-\d{2}$"}]
    if column.dtype in shapes:
        return {"anyOf": [*shapes[column.dtype], *optional], "description": column.comment}
    return _property(replace(column, nullable=not field.required))


def _property(column: Column) -> dict[str, Any]:
    kind, extra = _json_type(column)
    said: dict[str, Any] = {"type": [kind, "null"] if column.nullable else kind, **extra}
    if column.allowed:
        said["enum"] = [*column.allowed, *([None] if column.nullable else [])]
    if column.minimum is not None:
        said["minimum"] = column.minimum
    if column.maximum is not None:
        said["maximum"] = column.maximum
    return {**said, "description": column.comment}


def _json_type(column: Column) -> tuple[str, dict[str, Any]]:
    if column.dtype.is_float():
        return "number", {}
    if column.dtype.is_integer():
        return "integer", {}
    if column.dtype.is_(pl.Boolean):
        return "boolean", {}
    if column.dtype.is_(pl.Date):
        return "string", {"format": "date", "pattern": r"^\d{4}-\d{2}-\d{2}$"}
    if isinstance(column.dtype, pl.Datetime):
        return "string", {"format": "date-time", "pattern": _DATE_TIME_PATTERN + "Z$"}
    if column.dtype.is_(pl.Binary):
        return "string", {"contentEncoding": "base64"}
    return "string", {}
