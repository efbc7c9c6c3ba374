"""Delimited text (CSV) to cells with physical line numbers, whatever the text looks like.

Here: cutting text into records and cells, by RFC 4180 with any one-character delimiter. A record keeps the number of
the line it starts on, so that an error can be found in an editor. Not here: what the cells mean (`registry`,
`mapping`), reading files.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import polars as pl

RECORDS = pl.Schema({"line": pl.Int64(), "text": pl.String(), "cells": pl.List(pl.String), "problem": pl.String()})


@dataclass(frozen=True, slots=True, eq=False)
class Delimited:
    """A cut text. `header` are the first record's cells, stripped; `header_line` is where it stands (0: no record).

    `records` are the others, schema RECORDS: `line` (first physical line, from 1), `text` as it stands, `cells`, and
    `problem` where the quoting is broken (the record is then one line, cut at every delimiter). Blank lines are no
    records.
    """

    header: tuple[str, ...]
    header_line: int
    records: pl.DataFrame


def all_records(text: str, delimiter: str) -> pl.DataFrame:
    """All records of `text`, the header's too: schema RECORDS. Never raises on what the text holds."""
    return _cut_quoted(text, delimiter) if '"' in text else _cut_plain(text, delimiter)


def cut(text: str, delimiter: str = ",") -> Delimited:
    """Cut `text` into its header and its other records. Never raises on what the text holds."""
    rows = all_records(text, delimiter)
    if rows.is_empty():
        return Delimited((), 0, rows)
    header = tuple(name.strip() for name in rows["cells"][0])
    return Delimited(header, int(rows["line"][0]), rows.slice(1))


def _cut_plain(text: str, delimiter: str) -> pl.DataFrame:
    lines = pl.Series("text", [text.replace("\r\n", "\n").replace("\r", "\n")]).str.split("\n").explode()
    return (
        pl.LazyFrame(lines)
        .with_row_index("line", offset=1)
        .filter(pl.col("text").str.strip_chars() != "")
        .select(
            pl.col("line").cast(pl.Int64),
            "text",
            pl.col("text").str.split(delimiter).alias("cells"),
            pl.lit(None, pl.String).alias("problem"),
        )
        .collect()
    )


def _cut_quoted(text: str, delimiter: str) -> pl.DataFrame:
    lines = list(io.StringIO(text, newline=""))
    records: list[tuple[int, str, list[str], str | None]] = []
    start = 0
    while start < len(lines):
        start = _cut_from(lines, start, delimiter, records)
    return pl.DataFrame(records, schema=RECORDS, orient="row")


def _cut_from(
    lines: list[str], start: int, delimiter: str, records: list[tuple[int, str, list[str], str | None]]
) -> int:
    """Append records from line index `start` on, up to the end or just past one broken line; returns where to go on."""
    reader = csv.reader((lines[i] for i in range(start, len(lines))), delimiter=delimiter, strict=True)
    at = start
    try:
        for cells in reader:
            end = start + reader.line_num
            whole = "".join(lines[at:end]).rstrip("\r\n")
            if whole.strip():
                records.append((at + 1, whole, cells, None))
            at = end
    except csv.Error as error:
        # a stray quote must not swallow what follows: give up this line alone
        broken = lines[at].rstrip("\r\n")
        records.append((at + 1, broken, broken.split(delimiter), f"broken quoting: {error}"))
        return at + 1
    return at
