"""Files of others: what they are is seen from their content, not from their names.

Here: gzip, zip, bzip2 and xz unpacked, workbooks, Parquet and text told apart and read, encodings by their byte order
mark. Not here: what the cells mean (`metering.tabular`), readings out (`telemetry_files`).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

import polars as pl
import pyarrow as pa
from pyarrow import parquet
from python_calamine import CalamineError, CalamineWorkbook, PasswordError

from metering.errors import MappingError, UserError
from metering.tabular.convert import Replayed, replay
from metering.tabular.delimited import RECORDS
from metering.tabular.encodings import encoding_of
from metering.tabular.formats import READERS, recognised, unreadable
from metering.tabular.layout import Cells, from_frame, from_records, from_text, has_columns
from metering.tabular.shape import Mapping
from metering.text import printable

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
_LIKELY = ("utf-8-sig", "utf-16-le", "utf-16-be", "gb18030", "cp1252", "big5", "shift_jis", "euc-kr", "cp1251")
"""Encodings that exports come in, the strict ones first."""
_NO_TABLE = {
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
    b"%PDF": "a PDF document",
    b"SQLite format 3": "an SQLite database",
    b"MZ\x90\x00": "a program for Windows",
    b"\x7fELF": "a program",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"GIF8": "a picture (GIF)",
    b"{\\rtf": "a text of a word processor (RTF)",
}
_MARKS = tuple(mark for mark, _ in _BOMS)
_CONTROL = [bytes([code]) for code in range(32) if code not in b"\t\n\r\f\x1a\x1b"]
_LOOKED_AT, _MOST_ODD, _FEW_ODD = 4096, 0.02, 8
"""So much of a text's beginning, and at most such a share of control characters in it; but for a few."""
_LEVELS = 4
"""How deep archives may lie in archives."""


def read_readings(path: Path, mapping: Mapping) -> Replayed:
    """The readings and rejects of a file, whatever its format and container.

    Raises UserError when the file cannot be read, MappingError when the mapping does not fit it.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    content = _unpacked(path.read_bytes(), mapping, str(path))
    if mapping.format in READERS:
        _refuse_no_table(content, str(path))
        return READERS[mapping.format](content, mapping)
    return replay(_cells(content, mapping, str(path)), mapping)


def read_table(path: Path, mapping: Mapping) -> Cells:
    """The cells of a table that `mapping` reads. Raises as `read_readings` does."""
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    return _cells(_unpacked(path.read_bytes(), mapping, str(path)), mapping, str(path))


def looked_into(path: Path, mapping: Mapping) -> bytes | pl.DataFrame | tuple[pl.DataFrame]:
    """What a file holds that nobody has said anything of: a text's bytes, unpacked; a Parquet file's frame; the one
    frame of a workbook's records (`delimited.RECORDS`). `mapping` counts for `member` and `sheet`. Raises as
    `read_readings` does."""
    content = _unpacked(path.read_bytes(), mapping, str(path))
    if content.startswith(b"PAR1"):
        return _parquet(content, str(path))
    if _is_workbook(content):
        return (_sheet(content, mapping, str(path)),)
    _refuse_no_table(content, str(path))
    return content


def decoded(content: bytes, encoding: str) -> str:
    """A text by its byte order mark, else by `encoding`. Bytes that are none in it are marked with U+FFFD, so that
    their rows can be reported."""
    told = next((name for mark, name in _BOMS if content.startswith(mark)), encoding)
    return content.decode(told, errors="replace")


def _refuse_no_table(content: bytes, name: str) -> None:
    """Raises UserError for what is no text for all to see."""
    if not content.strip(b" \t\r\n\xef\xbb\xbf\xff\xfe\x00"):
        raise UserError(f"{name} is empty: export it again")
    for mark, kind in _NO_TABLE.items():
        if content.startswith(mark):
            raise UserError(f"{name} is {kind}, which is not read: unpack it, or export its values as CSV")
    head = content[:_LOOKED_AT]
    if not head.startswith(_MARKS) and not encoding_of(head).startswith("utf-16"):
        odd = sum(head.count(byte) for byte in _CONTROL)
        if odd > max(_FEW_ODD, _MOST_ODD * len(head)):
            raise UserError(f"{name} is binary data, and of no kind that is read: export its values as CSV")


def _cells(content: bytes, mapping: Mapping, name: str) -> Cells:
    if content.startswith(b"PAR1") or mapping.format == "parquet":
        return from_frame(_parquet(content, name), mapping)
    if _is_workbook(content):
        return from_records(_sheet(content, mapping, name), mapping, workbook=True)
    _refuse_no_table(content, name)
    if content[257:262] == b"ustar":
        raise UserError(f"{name} is a tar archive: unpack it, and replay its files one by one")
    seen = recognised(content)
    if seen and content.lstrip().startswith(b"<"):
        raise MappingError(f'format: {name} is {seen[1]}: format = "{seen[0]}" reads it')
    if content.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html", b"<?xml", b"<table")):
        raise UserError(f"{name} is a page of HTML or XML, whatever it is called: save it as CSV or as a workbook")
    try:
        return from_text(decoded(content, mapping.encoding), mapping)
    except MappingError as error:
        if seen:
            raise MappingError(f'{error}; the file is {seen[1]}: format = "{seen[0]}" reads it') from None
        if what := unreadable(content):
            raise UserError(f"{name} is {what}") from None
        better = _better_encoding(content, mapping)
        if better is None:
            raise
        raise MappingError(f'{error}; they are there with encoding = "{better}"') from None


# --- containers ------------------------------------------------------------------------------------------------------


def _unpacked(content: bytes, mapping: Mapping, name: str) -> bytes:
    for _ in range(_LEVELS):
        if content.startswith(b"\x1f\x8b"):
            content = _expanded(gzip.decompress, content, f"{name} (gzip)")
        elif content.startswith(b"BZh"):
            content = _expanded(bz2.decompress, content, f"{name} (bzip2)")
        elif content.startswith(b"\xfd7zXZ\x00"):
            content = _expanded(lzma.decompress, content, f"{name} (xz)")
        elif content.startswith(b"PK") and not _is_workbook(content):
            content = _member(content, mapping, name)
        else:
            return content
    raise UserError(f"{name} holds archives in archives: unpack it")


def _expanded(expand: Callable[[bytes], bytes], content: bytes, name: str) -> bytes:
    try:
        return expand(content)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise UserError(f"{name} cannot be unpacked, for it is damaged or cut off: {printable(str(error))}") from error


def _member(content: bytes, mapping: Mapping, name: str) -> bytes:
    """The file in an archive that `member` names; without one the only file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = [info for info in archive.infolist() if not info.is_dir() and not _is_extra(info.filename)]
            wanted = [info for info in files if mapping.member is None or fnmatchcase(info.filename, mapping.member)]
            exact = [info for info in files if info.filename == mapping.member]
            wanted = exact or wanted
            if len(wanted) != 1:
                listed = ", ".join(printable(info.filename) for info in files[:10]) or "none"
                said = "holds no file" if not files else f"holds {len(files)} files"
                more = "" if mapping.member is None else f", of which {len(wanted)} are '{printable(mapping.member)}'"
                raise MappingError(f"member: {name} {said}{more}; name one: {listed}")
            if wanted[0].flag_bits & 0x1:
                raise UserError(f"{name} is a zip archive with a password: unpack it")
            return archive.read(wanted[0])
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
        NotImplementedError,
        ValueError,
    ) as error:
        why = printable(str(error))
        raise UserError(f"{name} (zip) cannot be unpacked, for it is damaged or cut off: {why}") from error


def _is_extra(name: str) -> bool:
    """What archivers add beside the files."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2] in (".DS_Store", "Thumbs.db")


# --- workbooks, Parquet ----------------------------------------------------------------------------------------------


def _is_workbook(content: bytes) -> bool:
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        return True
    if not content.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return "[Content_Types].xml" in names or {"content.xml", "mimetype"} <= names


def _sheet(content: bytes, mapping: Mapping, name: str) -> pl.DataFrame:
    """A sheet's rows as records: numbers as the mapping writes them, times by ISO 8601. Raises UserError."""
    if kind := _of_office(content):
        raise UserError(f"{name} is {kind}, which is not read: export its values as CSV or as a workbook")
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(content))
        names = book.sheet_names
        if mapping.sheet is None and len(names) != 1:
            listed = ", ".join(printable(sheet) for sheet in names[:10]) or "none"
            raise MappingError(f"sheet: {name} is a workbook of {len(names)} sheets; name one: {listed}")
        if mapping.sheet is not None and mapping.sheet not in names:
            listed = ", ".join(printable(sheet) for sheet in names[:10])
            raise MappingError(f"sheet: '{printable(mapping.sheet)}' is not in {name}, whose sheets are {listed}")
        rows = book.get_sheet_by_name(mapping.sheet or names[0]).to_python(skip_empty_area=False)
    except PasswordError as error:
        raise UserError(f"{name} is a workbook with a password: save it without one") from error
    except (CalamineError, OSError, ValueError) as error:
        why = printable(str(error).splitlines()[0] if str(error) else "")
        raise UserError(f"{name} is a workbook that cannot be read ({why}): save it as CSV") from error
    return pl.DataFrame(list(_records(rows, mapping)), schema=RECORDS, orient="row")


def _of_office(content: bytes) -> str | None:
    """What an office's document is that is no workbook."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
        if any(name.startswith("word/") for name in names):
            return "a Word document"
        if any(name.startswith("ppt/") for name in names):
            return "a presentation"
    return "an old Word document" if "WordDocument".encode("utf-16-le") in content else None


_Cell = int | float | str | bool | time | date | datetime | timedelta


def _records(rows: list[list[_Cell]], mapping: Mapping) -> Iterator[tuple[int, str, list[str], None]]:
    for line, row in enumerate(rows, 1):
        cells = [_written(cell, mapping.decimal) for cell in row]
        if any(cells):
            yield line, mapping.delimiter.join(cells), cells, None


def _written(cell: _Cell, decimal: str) -> str:
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        # a spreadsheet has no whole numbers: 202601010001.0 is a meter
        text = str(int(cell)) if cell.is_integer() and abs(cell) < 2**63 else repr(cell)
        return text.replace(".", decimal)
    if isinstance(cell, datetime):
        # days are fractions there: 00:14:59.999997 is 00:15
        return (cell + timedelta(microseconds=500_000)).replace(microsecond=0).isoformat(" ")
    if isinstance(cell, time):
        return _clock(round((datetime.combine(date.min, cell) - datetime.min).total_seconds()))
    if isinstance(cell, timedelta):
        return _clock(round(cell.total_seconds()))
    if isinstance(cell, date):
        return cell.isoformat()
    return str(cell)


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _parquet(content: bytes, name: str) -> pl.DataFrame:
    """By Arrow: a damaged file is an error to it, while it can end the process in Polars (2.1). Raises UserError."""
    try:
        table = parquet.read_table(io.BytesIO(content))
        table.validate(full=True)
        # Polars takes decimals of 38 figures; and what writers add about themselves may be damaged, too
        columns = [
            column.cast(pa.float64()) if pa.types.is_decimal256(column.type) else column for column in table.columns
        ]
        frame = pl.from_arrow(pa.Table.from_arrays(columns, names=table.column_names))
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError, TypeError) as error:
        why = printable(str(error).splitlines()[0] if str(error) else "")
        raise UserError(f"{name} is not a Parquet file that can be read: {why}") from error
    return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()


# --- encodings -------------------------------------------------------------------------------------------------------


def _better_encoding(content: bytes, mapping: Mapping) -> str | None:
    """The encoding in which the mapping finds its columns, when it does not in its own."""
    head = content[: 1 << 16]
    if has_columns(decoded(head, mapping.encoding), mapping):
        return None
    for encoding in _LIKELY:
        text = head.decode(encoding, errors="replace")
        # one character may be cut through
        if text.count("\ufffd") <= 1 and has_columns(text, mapping):
            return encoding
    return None
