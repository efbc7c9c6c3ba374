"""The registry's files from text to typed columns, with line and column of the first cell that is wrong.

Here: encoding, header, cells and their types, and how a check refuses a line. Not here: rules between columns and rows,
which are each file's own (`parse`, `metering.notices.contacts`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import polars as pl

from metering.errors import RegistryError
from metering.tables.schema import Column, Table
from metering.tabular.delimited import Delimited, cut
from metering.tabular.encodings import container, encoding_of
from metering.text import filled

_MOMENT = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2})?$"

_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}
_SCIENTIFIC = r"^[+-]?\d+([.,]\d+)?[eE][+-]\d+$"
"""How spreadsheets write a long number that they were not told is text."""
_SPREADSHEET_EPOCH = date(1899, 12, 30)
_SERIAL_DAYS = (36526, 73415)  # 2000 to 2100

_POSITIVE = frozenset(
    {
        *("voltage_level_kv", "contract_capacity_kva", "contract_demand_kw"),
        *("nominal_v", "pt_ratio", "ct_ratio", "rated_a", "max_a"),
    }
)


_IDS = ("meter_id", "customer_no")


@dataclass(frozen=True, slots=True)
class Check:
    """`bad` marks rows that break it; `problem` is an expression that says how."""

    column: str
    bad: pl.Expr
    problem: pl.Expr


def refuse(file: str, rows: pl.DataFrame, checks: list[Check]) -> None:
    """Raise RegistryError for the first line that breaks a check; of several on that line, the first check."""
    marked = rows.select("line", *(check.bad.fill_null(False).alias(str(i)) for i, check in enumerate(checks)))
    first = marked.filter(pl.any_horizontal(pl.exclude("line"))).head(1)
    if first.is_empty():
        return
    broken = next(check for i, check in enumerate(checks) if first[str(i)][0])
    line = int(first["line"][0])
    # the problem is worded over all rows, so that expressions over neighbours still see them
    worded = rows.with_columns(broken.problem.cast(pl.String).alias("problem")).filter(pl.col("line") == line)
    raise RegistryError(file, line, broken.column, str(worded["problem"][0]))


def typed(file: str, table: Table, content: bytes | str) -> pl.DataFrame:
    """The table's columns, typed, and `line`."""
    text = _text(file, table, content)
    parsed = cut(text)
    _check_header(file, table, parsed, text.lstrip())
    refuse(file, parsed.records, list(_shape_checks(parsed)))
    where = {name: index for index, name in enumerate(parsed.header)}
    cells = parsed.records.select(
        "line", *(_cell(where.get(column.name), column).alias(column.name) for column in table.columns)
    )
    refuse(file, cells, [check for column in table.columns for check in _cell_checks(column)])
    moments = [_moment(column.name).alias(f"{column.name}_at") for column in table.columns if column.dtype == pl.Date]
    return cells.select("line", *moments, *(_value(column).alias(column.name) for column in table.columns))


def _moment(name: str) -> pl.Expr:
    """A date's cell as the local time that it names; null where it is a date alone."""
    cell = pl.when(pl.col(name).str.contains(_MOMENT)).then(pl.col(name).str.replace("T", " ").str.slice(0, 16))
    seconds = pl.col(name).str.slice(17, 2).cast(pl.Int64, strict=False).fill_null(0)
    return cell.str.to_datetime("%Y-%m-%d %H:%M", time_unit="us", strict=False) + pl.duration(seconds=seconds)


def _cell(index: int | None, column: Column) -> pl.Expr:
    """A column's cells without blanks around; null, or the column's default, where they or the column are not there."""
    default = pl.lit(column.default, pl.String)
    if index is None:
        return default
    cell = pl.col("cells").list.get(index).str.strip_chars().replace("", None)
    return pl.coalesce(cell, default) if column.default else cell


def _text(file: str, table: Table, content: bytes | str) -> str:
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    if kind := _no_text(content):
        raise RegistryError(file, 1, table.names[0], f"{kind}; save it as CSV in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", errors="replace")
        line = before.count("\n") + 1
        header = cut(before).header if line > 1 else table.names
        cell = cut(before.rpartition("\n")[2] + "x").header
        column = header[min(len(cell), len(header)) - 1]
        guess = (
            " but seems to be GB18030, as Excel's plain CSV is in Chinese" if encoding_of(content) == "gb18030" else ""
        )
        raise RegistryError(file, line, column, f"is not UTF-8{guess}; save the file as UTF-8") from None


def _no_text(content: bytes) -> str | None:
    """What a file is that is no text of single bytes for all to see."""
    if kind := container(content):
        return f"the file is {kind}, not CSV"
    if encoding_of(content).startswith("utf-16"):
        return "the file is UTF-16, as Excel's 'Unicode text' is"
    return None


def _check_header(file: str, table: Table, parsed: Delimited, text: str) -> None:
    line = max(parsed.header_line, 1)
    needed = [column.name for column in table.columns if not column.optional]
    for column in table.columns:
        count = parsed.header.count(column.name)
        if count > 1 or (not count and not column.optional):
            problem = "stands twice in the header" if count else "is missing from the header"
            for separator, name in _SEPARATORS.items():
                if not count and set(needed) <= set(cut(text.partition("\n")[0], separator).header):
                    problem = f"is in the header, but cells are separated by {name}; separate them by commas"
            raise RegistryError(file, line, column.name, f"{problem}; expected {','.join(table.names)}")


def _shape_checks(parsed: Delimited) -> Iterator[Check]:
    count = pl.col("cells").list.len()
    width = len(parsed.header)
    yield Check(parsed.header[0], pl.col("problem").is_not_null(), pl.col("problem"))
    said = filled("the line has {} cells, the header {}", count, pl.lit(width))
    extra = pl.col("cells").list.slice(width).list.join("") != ""
    yield Check(parsed.header[-1], (count < width) | extra, said)


def _cell_checks(column: Column) -> Iterator[Check]:
    cell = pl.col(column.name)
    if not column.nullable:
        yield Check(column.name, cell.is_null(), pl.lit("is empty"))
    value = _value(column)
    if column.name in _IDS:
        said = "'{}' is a number as spreadsheets shorten it, its digits are lost: format the column as text there"
        yield Check(column.name, cell.str.contains(_SCIENTIFIC), filled(said, cell))
    yield Check(column.name, cell.is_not_null() & value.is_null(), _no_value(column))
    if column.dtype == pl.Float64:
        yield Check(column.name, ~value.is_finite(), filled("'{}' is not a finite number", cell))
    if column.name in _POSITIVE:
        yield Check(column.name, value <= 0, filled("'{}' is not above 0", cell))
    if column.minimum is not None and column.maximum is not None:
        span = f"is not between {column.minimum:g} and {column.maximum:g}"
        yield Check(
            column.name, ~value.is_between(column.minimum, column.maximum), filled("'{}' {}", cell, pl.lit(span))
        )
    if column.allowed:
        yield Check(
            column.name,
            ~cell.is_in(column.allowed),
            filled("'{}' is not one of {}", cell, pl.lit(", ".join(column.allowed))),
        )


def _no_value(column: Column) -> pl.Expr:
    """How a cell is not what its column wants."""
    cell = pl.col(column.name)
    plain = filled("'{}' is not {}", cell, pl.lit(_kind(column)))
    if column.dtype != pl.Date:
        return plain
    serial = cell.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False)
    day = pl.when(serial.is_between(*_SERIAL_DAYS)).then(pl.lit(_SPREADSHEET_EPOCH) + pl.duration(days=serial))
    counted = filled("'{}' is a date as spreadsheets count days: write it as {}", cell, day.cast(pl.Date))
    parts = cell.str.extract_groups(r"^(\d{4})[/.](\d{1,2})[/.](\d{1,2})$").struct
    year, month, of_month = (parts.field(str(part)).str.zfill(2) for part in (1, 2, 3))
    turned = filled("{}: write it as {}-{}-{}", plain, year, month, of_month)
    return pl.coalesce(counted, turned, plain)


def _kind(column: Column) -> str:
    if column.dtype == pl.Float64:
        return "a number"
    if column.dtype == pl.Int32:
        return "a whole number"
    return "true or false" if column.dtype == pl.Boolean else "a date such as 2026-01-31, or a time 2026-01-31T12:00"


def _value(column: Column) -> pl.Expr:
    """A column's cells as its type; null where they are not."""
    cell = pl.col(column.name)
    if column.dtype == pl.Boolean:
        lower = cell.str.to_lowercase()
        return pl.when(lower == "true").then(True).when(lower == "false").then(False)
    if column.dtype == pl.Date:
        # four-digit years only: 26-01-31 would be a date in the first century
        day = cell.str.contains(r"^\d{4}-\d{2}-\d{2}$") | _moment(column.name).is_not_null()
        return pl.when(day).then(cell.str.slice(0, 10)).str.to_date("%Y-%m-%d", strict=False)
    return cell.cast(column.dtype, strict=False)
