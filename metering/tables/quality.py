"""Rows of `quality_results`: how often what checks found, with samples that name meter (or key), time and value.

Not here: the checks (`metering.vee.validation`, and the suites that `quality` makes of the tables' declarations).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Protocol

import polars as pl

from metering.tables.evidence import QUALITY_RESULTS
from metering.tables.schema import Table

SAMPLES = 5


class RowFailure(Protocol):
    """An expectation that does not hold for some rows: which, of which columns, and where (numbers of rows)."""

    @property
    def expectation(self) -> str: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> tuple[int, ...]: ...


def of_failures(
    table: Table, failures: Iterable[RowFailure], rows: pl.DataFrame, here: range, day: date, kept: bool
) -> pl.DataFrame:
    """QUALITY_RESULTS of row expectations that fail within the rows `here`; `kept`: whether such rows are published."""
    found = []
    for failure in failures:
        numbers = [n for n in failure.rows if n in here]
        if numbers:
            said = [_row_said(table, rows.row(n, named=True), failure.columns) for n in numbers[:SAMPLES]]
            rule = f"{'+'.join(failure.columns)}: {failure.expectation}"
            found.append((day, table.name, rule, "warning" if kept else "error", len(numbers), "; ".join(said)))
    return _rows(found)


def of_findings(findings: pl.DataFrame, table: str, day: date, timezone: str) -> pl.DataFrame:
    """QUALITY_RESULTS of FINDINGS of validations; times are said in `timezone`."""
    at = pl.col("window_end").dt.convert_time_zone(timezone).dt.strftime("%Y-%m-%d %H:%M")
    said = pl.concat_str(
        pl.coalesce(pl.lit("meter ") + pl.col("meter_id"), pl.lit("no meter")),
        pl.when(at.is_not_null()).then(pl.lit(" at ") + at).otherwise(pl.lit("")), pl.lit(": "), "detail",
    )  # fmt: skip
    counted = (
        findings.sort("meter_id", "window_end")
        .group_by("rule", "severity", maintain_order=True)
        .agg(pl.len().alias("failing_rows"), said.head(SAMPLES).str.join("; ").alias("sample"))
    )
    return QUALITY_RESULTS.conform(counted, date=day, table_name=table)


def summed(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """QUALITY_RESULTS of several parts: one row for each day, table and rule."""
    rows = pl.concat([QUALITY_RESULTS.empty(), *frames])
    return QUALITY_RESULTS.conform(
        rows.group_by(QUALITY_RESULTS.key, maintain_order=True).agg(
            pl.col("severity").first(), pl.col("failing_rows").sum(), pl.col("sample").drop_nulls().str.join("; ")
        )
    )


def _row_said(table: Table, row: dict[str, object], columns: Iterable[str]) -> str:
    named = (*table.key, *(c for c in ("meter_id", *columns) if c in table.names and c not in table.key))
    return ", ".join(f"{name} {row[name]}" for name in named)


def _rows(found: Sequence[tuple[date, str, str, str, int, str]]) -> pl.DataFrame:
    return pl.DataFrame(list(found), schema=QUALITY_RESULTS.schema, orient="row")
