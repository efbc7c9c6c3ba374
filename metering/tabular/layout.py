"""From a table as it lies in a file to one row of cells for each value of a quantity.

Here: where the header stands, which columns a mapping names, which rows are left out, one row a day to one row an
interval. Not here: cutting text (`delimited`), what cells mean (`convert`, `timestamps`), opening files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from metering.errors import MappingError
from metering.tabular.delimited import all_records
from metering.tabular.shape import Header, Mapping, Wide
from metering.text import filled, printable

_SEP_LINE = re.compile(r'\ufeff?"?sep=(.)"?[ \t]*(\r\n|\r|\n|$)', re.IGNORECASE)
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d\d(:00)?", re.ASCII)
_SPREAD = 23
"""So many columns named by times are a day of hours, though it be a short one."""
_DELIMITERS = (";", "\t", ",", "|")
_SHOWN = 12
"""Columns of a file that an error lists."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """What a mapping reads of a table.

    `frame` has `line`, `text`, `reason` and `detail` (null where the row is sound), and the mapped cells, in columns
    named by `cell_name`; they are String, or as typed in the file. With [wide] each row of the file is as many rows as
    it has values, numbered from 0 by `index`. `workbook`: numbers may be spreadsheets' serial days. `before_header`
    counts lines with text above the header, `left_out` rows that the mapping's [[rows]] leave out.
    """

    frame: pl.DataFrame
    workbook: bool = False
    before_header: int = 0
    left_out: int = 0


def cell_name(column: str) -> str:
    return f"cell:{column}"


def matches(cell: pl.Expr, wanted: tuple[str, ...]) -> pl.Expr:
    """Whether a text is one of `wanted`, in which `*` stands for anything and `\\*` for itself; null counts as ''."""
    text = cell.cast(pl.String).str.strip_chars().fill_null("")
    either = "|".join(_pattern(mark, pl.escape_regex) for mark in wanted)
    return text.str.contains(f"^(?s:{either})$") if wanted else pl.lit(False)


def from_text(text: str, mapping: Mapping) -> Cells:
    """Cells of delimited text. `line` is the physical line a row starts on, the header's line included.

    A first line `sep=;`, as spreadsheets write it, says the delimiter. Raises MappingError naming the key of a column
    that the header does not have, or has twice.
    """
    return from_records(_records(text, mapping), mapping)


def has_columns(text: str, mapping: Mapping) -> bool:
    """Whether a delimited text has the columns that the mapping names."""
    records = _records(text, mapping)
    try:
        at = _header_at(records, mapping)
        _places(_header(records.slice(at, max(mapping.header.lines, 1)), mapping.header.lines), mapping, None, 0)
    except MappingError:
        return False
    return True


def _records(text: str, mapping: Mapping) -> pl.DataFrame:
    text = text.removeprefix("\ufeff")
    sep = _SEP_LINE.match(text)
    records = all_records(text, sep[1] if sep else mapping.delimiter)
    return records.slice(1) if sep else records


def from_records(records: pl.DataFrame, mapping: Mapping, workbook: bool = False) -> Cells:
    """Cells of a table's records (schema `delimited.RECORDS`), the header's and the lines before it included."""
    at = _header_at(records, mapping)
    lines = mapping.header.lines
    header = _header(records.slice(at, max(lines, 1)), lines)
    rows = records.slice(at + lines)
    where = _places(header, mapping, records, at)
    _check_spread(header, mapping)
    width, count = len(header), pl.col("cells").list.len()
    wide = _span(header, mapping.wide) if mapping.wide else None
    ragged = mapping.wide is not None and mapping.wide.last is None
    least = wide[0] + 1 if wide and ragged else width
    extra = (pl.col("cells").list.slice(width).list.join("").str.strip_chars() != "") & pl.lit(not ragged)
    reason = (
        pl.when(pl.col("problem").is_not_null())
        .then(pl.lit("broken_quoting"))
        .when(count < least)
        .then(pl.lit("too_few_cells"))
        .when(extra)
        .then(pl.lit("too_many_cells"))
    )
    detail = pl.when(reason.is_not_null()).then(pl.coalesce("problem", filled("{} cells of {}", count, pl.lit(width))))
    cells = [pl.col("cells").list.get(place, null_on_oob=True).alias(cell_name(name)) for name, place in where.items()]
    end = None if ragged or not wide else wide[1] - wide[0]
    values = [pl.col("cells").list.slice(wide[0], end).alias("values")] if wide else []
    frame = rows.select("line", "text", reason.alias("reason"), detail.alias("detail"), *cells, *values)
    return _arranged(frame, mapping, header[wide[0] :] if wide else (), workbook, before_header=at)


def from_frame(frame: pl.DataFrame, mapping: Mapping) -> Cells:
    """Cells of a typed table. `line` is the row's number, from 1. Raises MappingError as `from_text`."""
    header = tuple(frame.columns)
    frame = frame.with_columns(_plain(column) for column in frame)
    where = {name: header[place] for name, place in _places(header, mapping, None, 0).items()}
    wide = _span(header, mapping.wide) if mapping.wide else None
    spread = header[wide[0] : wide[1]] if wide else ()
    numeric = all(frame.schema[name].is_numeric() for name in spread)
    values = [pl.col(name).cast(pl.Float64 if numeric else pl.String, strict=False) for name in spread]
    shown = list(dict.fromkeys(where.values()))
    none = pl.lit(None, pl.String)
    text = pl.struct(shown).struct.json_encode() if shown else none
    arranged = frame.select(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("line"),
        text.alias("text"),
        none.alias("reason"),
        none.alias("detail"),
        *(pl.col(column).alias(cell_name(name)) for name, column in where.items()),
        *([pl.concat_list(values).alias("values")] if wide else []),
    )
    return _arranged(arranged, mapping, spread, workbook=False, before_header=0)


def _plain(column: pl.Series) -> pl.Series:
    """A column as a number, a time, a truth value or a text: what else there is is shown, and read as a text."""
    dtype = column.dtype
    if dtype.is_nested():
        return column.to_frame().select(pl.struct(pl.all()).struct.json_encode().alias(column.name)).to_series()
    if dtype == pl.Duration:
        return column.dt.to_string("iso")
    if dtype == pl.Binary:
        # texts, as some writers of Parquet mark them
        texts = [None if value is None else value.decode("utf-8", errors="replace") for value in column]
        return pl.Series(column.name, texts, pl.String)
    known = dtype.is_numeric() or dtype.is_temporal() or dtype in (pl.String, pl.Boolean)
    return column if known else column.cast(pl.String, strict=False)


def _arranged(
    frame: pl.DataFrame, mapping: Mapping, spread: tuple[str, ...], workbook: bool, before_header: int
) -> Cells:
    """Rows chosen, and one row for each value of a row that has many."""
    kept = frame
    if mapping.rows:
        out = pl.lit(False)
        for rule in mapping.rows:
            cell = pl.col(cell_name(rule.column))
            out = out | matches(cell, rule.drop)
            if rule.keep is not None:
                # a row that was cut off before the cell is told as such
                out = out | (~matches(cell, rule.keep) & (cell.is_not_null() | pl.col("reason").is_null()))
        kept = frame.filter(~out | (pl.col("reason") == "broken_quoting").fill_null(False))
    return Cells(
        frame=_long(kept, mapping.wide, spread) if mapping.wide else kept,
        workbook=workbook,
        before_header=before_header,
        left_out=frame.height - kept.height,
    )


def _long(frame: pl.DataFrame, wide: Wide, spread: tuple[str, ...]) -> pl.DataFrame:
    """Broken rows stay one row. The text of a value is its column and its cell: the row can be found by its line."""
    value = cell_name(wide.value)
    index = pl.int_ranges(0, pl.col("values").list.len()).alias("index")
    sound = frame.filter(pl.col("reason").is_null()).with_columns(index).explode("values", "index")
    names = pl.DataFrame({"index": range(len(spread)), "name": spread}, schema={"index": pl.Int64, "name": pl.String})
    named = sound.join(names, on="index", how="left", maintain_order="left")
    position = filled("column {}", pl.col("index") + 1)
    name = pl.when(pl.col("name") != "").then("name").otherwise(position)
    text = filled("{}: {}", name.fill_null(position), pl.col("values").cast(pl.String).fill_null(""))
    broken = (
        frame.filter(pl.col("reason").is_not_null())
        .drop("values")
        .with_columns(pl.lit(None, pl.Int64).alias("index"), pl.lit(None, sound.schema["values"]).alias(value))
    )
    rows = named.with_columns(text.alias("text"), pl.col("values").alias(value)).drop("values", "name")
    return pl.concat([rows, broken.select(rows.columns)])


def _header_at(records: pl.DataFrame, mapping: Mapping) -> int:
    """Which record the header is. Raises MappingError when there is none as `header` says."""
    header = mapping.header
    if header.line is not None:
        at = int((records["line"] < header.line).sum())
        if at >= records.height or records["line"][at] != header.line:
            raise MappingError(f"header.line: there is no text on line {header.line}")
        return at
    if header.contains:
        found = _having(records, header.contains)
        if found is None:
            raise MappingError(f"header.contains: no line has the cells {_listed(header.contains)}")
        return found
    return 0


def _having(records: pl.DataFrame, names: tuple[str, ...]) -> int | None:
    """The first record in which each of `names` is a cell, or fits one as `matches` says."""
    cells = pl.col("cells").list.eval(pl.element().str.strip_chars())
    fits = pl.all_horizontal(
        cells.list.eval(matches(pl.element(), (name,))).list.any().fill_null(False) for name in names
    )
    found = records.head(10_000).select(fits.arg_true().first())
    at: int | None = found.item()
    return at


def _header(records: pl.DataFrame, lines: int) -> tuple[str, ...]:
    rows = [[cell.strip() for cell in cells] for cells in records["cells"].to_list()]
    width = max(map(len, rows), default=0)
    if lines == 0:
        return ("",) * width
    padded = [row + [""] * (width - len(row)) for row in rows]
    return tuple(" ".join(filter(None, parts)) for parts in zip(*padded, strict=True))


def _places(header: tuple[str, ...], mapping: Mapping, records: pl.DataFrame | None, at: int) -> dict[str, int]:
    """Where each column that the mapping names stands, from 0."""
    try:
        return {column: _place(header, column, key) for column, key in mapping.columns.items()}
    except MappingError as error:
        hint = "" if records is None else _hint(records, mapping, at, header)
        raise MappingError(f"{error}{hint}") from None


def _place(header: tuple[str, ...], name: str, key: str) -> int:
    """`kWh`: the column of that name; `kWh*`: whose name begins so; `kWh#2`: the second such; `#3`: the third of all.

    A column of exactly that name comes before any other reading of it.
    """
    exact = [place for place, column in enumerate(header) if column == name]
    if len(exact) == 1:
        return exact[0]
    numbered = re.fullmatch(r"(?s)(.*)#([1-9]\d{0,4})", name, re.ASCII)
    wanted, number = (numbered[1], int(numbered[2])) if numbered and not exact else (name, None)
    # whatever kinds of space and line break a header has
    pattern = re.compile(f"(?s:{_pattern(' '.join(wanted.split()) or '*', re.escape)})")
    fits = [place for place, column in enumerate(header) if pattern.fullmatch(" ".join(column.split()))]
    if number is not None and number <= len(fits):
        return fits[number - 1]
    if number is None and len(fits) == 1:
        return fits[0]
    if number is None and len(fits) > 1:
        twice = "stands twice" if len(fits) == 2 else f"stands {len(fits)} times"
        which = f": '{printable(name)}#1' is the first, '{printable(name)}#2' the second"
        raise MappingError(f"{key}: '{printable(name)}' {twice} in the file{which}")
    raise MappingError(f"{key}: '{printable(name)}' is not in the file, whose columns are {_listed(header)}")


def _span(header: tuple[str, ...], wide: Wide) -> tuple[int, int]:
    first = _place(header, wide.first, "wide.first")
    last = _place(header, wide.last, "wide.last") if wide.last is not None else len(header) - 1
    if last < first:
        raise MappingError(f"wide.last: '{printable(wide.last or '')}' stands before wide.first")
    return first, last + 1


def _check_spread(header: tuple[str, ...], mapping: Mapping) -> None:
    """One of many columns named by times of day is not a quantity: that is a day in a row."""
    times = {name for name in header if _TIME_OF_DAY.fullmatch(name)}
    named = [name for channel in mapping.channels for name, _ in channel.weights if name in times]
    if named and mapping.wide is None and len(times) >= _SPREAD:
        raise MappingError(
            f"channel columns: '{named[0]}' is one of {len(times)} columns named by times of day; a day in each row is "
            "read by [wide] with first and last"
        )


def _hint(records: pl.DataFrame, mapping: Mapping, at: int, header: tuple[str, ...]) -> str:
    """What else may be wrong where a column is not found: another delimiter, or the header on another line."""
    whole = "".join(header)
    mark = max(_DELIMITERS, key=whole.count)
    if len(header) == 1 and mark in whole:
        return f"; cells seem to be separated by {mark!r}: delimiter = {json.dumps(mark)}"
    names = tuple(column for column in mapping.columns if "#" not in column)
    found = _having(records.slice(at + 1), names) if names and mapping.header == Header() else None
    if found is None:
        return ""
    return f"; the header seems to be on another line: header = {{ line = {records['line'][at + 1 + found]} }}"


def _listed(names: tuple[str, ...]) -> str:
    few = ", ".join(printable(name, 40) for name in names[:_SHOWN]) or "none"
    return few if len(names) <= _SHOWN else f"{few}, and {len(names) - _SHOWN:,} more"


def _pattern(wanted: str, escape: Callable[[str], str]) -> str:
    parts = re.split(r"(\\\*|\*)", wanted)
    return "".join({"*": ".*", "\\*": r"\*"}.get(part, escape(part)) for part in parts)
