"""Rows of `quality_results`: how often what checks found, with samples that name meter (or key), time and value.

Not here: the checks (`metering.vee.validation`, and the suites that `quality` makes of the tables' declarations).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Protocol

import polars as pl

from metering.tables.evidence import QUALITY_RESULTS
from metering.tables.schema import Table
from metering.text import filled

SAMPLES = 20
"""Meters (or keys) that are named, each once."""
_QUARTER = timedelta(minutes=15)


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
            said = _each_said(table, rows, numbers, failure.columns)
            rule = f"{'+'.join(failure.columns)}: {failure.expectation}"
            found.append((day, table.name, rule, "warning" if kept else "error", len(numbers), "; ".join(said)))
    return _rows(found)


def of_findings(findings: pl.DataFrame, table: str, day: date, timezone: str) -> pl.DataFrame:
    """QUALITY_RESULTS of FINDINGS of validations; times are said in `timezone`.

    Each meter (what is of none: each thing said) is named once, with the first time that something was found, up to when the same was found one
    quarter-hour after the other, and how often in all.
    """
    kept = ["rule", "severity", "whose"]
    rows = findings.with_columns(whose=pl.coalesce("meter_id", "detail")).sort(*kept, "window_end")
    goes_on = pl.all_horizontal(pl.col(name) == pl.col(name).shift() for name in (*kept, "detail"))
    goes_on &= pl.col("window_end") - pl.col("window_end").shift() == _QUARTER
    times = rows.with_columns((~goes_on.fill_null(False)).cum_sum().alias("run"))
    firsts = (
        times.group_by("run", *kept, "meter_id", "detail", maintain_order=True)
        .agg(pl.col("window_end").min().alias("since"), pl.col("window_end").max().alias("until"), pl.len().alias("n"))
        .group_by(kept, maintain_order=True)
        .agg(pl.col("since", "until", "detail", "meter_id").first(), pl.col("n").sum())
    )
    since, until = _said(pl.col("since"), timezone), _said(pl.col("until"), timezone)
    said = pl.concat_str(
        pl.coalesce(pl.lit("meter ") + pl.col("meter_id"), pl.lit("no meter")),
        pl.when(since.is_not_null()).then(pl.lit(" at ") + since).otherwise(pl.lit("")),
        pl.when(pl.col("until") > pl.col("since")).then(pl.lit(" to ") + until).otherwise(pl.lit("")),
        pl.lit(": "), "detail",
        pl.when(pl.col("n") > 1).then(filled(" ({} in all)", "n")).otherwise(pl.lit("")),
    )  # fmt: skip
    more = pl.when(pl.len() > SAMPLES).then(filled("; and {} more meters", pl.len() - SAMPLES)).otherwise(pl.lit(""))
    counted = firsts.group_by("rule", "severity", maintain_order=True).agg(
        pl.col("n").sum().cast(pl.Int64).alias("failing_rows"),
        (said.head(SAMPLES).str.join("; ") + more).alias("sample"),
    )
    return QUALITY_RESULTS.conform(counted, date=day, table_name=table)


def _said(time: pl.Expr, timezone: str) -> pl.Expr:
    """To the minute, or as exactly as it is."""
    local = time.dt.convert_time_zone(timezone)
    return local.dt.strftime("%Y-%m-%d %H:%M:%S%.f").str.replace(":00$", "")


def summed(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """QUALITY_RESULTS of several parts: one row for each day, table and rule."""
    rows = pl.concat([QUALITY_RESULTS.empty(), *frames])
    return QUALITY_RESULTS.conform(
        rows.group_by(QUALITY_RESULTS.key, maintain_order=True).agg(
            pl.col("severity").first(), pl.col("failing_rows").sum(), pl.col("sample").drop_nulls().str.join("; ")
        )
    )


def _each_said(table: Table, rows: pl.DataFrame, numbers: Sequence[int], columns: Iterable[str]) -> list[str]:
    """The first failing row of each meter (without meters: of each row), and how often it failed."""
    whose = next((name for name in ("meter_id", "customer_no") if name in table.names), None)
    first: dict[object, list[int]] = {}
    for n in numbers:
        first.setdefault(n if whose is None else rows[whose][n], []).append(n)
    said = []
    for found in [*first.values()][:SAMPLES]:
        times = f" ({len(found)} in all)" if len(found) > 1 else ""
        said.append(_row_said(table, rows.row(found[0], named=True), columns) + times)
    return [*said, *([f"and {len(first) - SAMPLES} more"] if len(first) > SAMPLES else [])]


def _row_said(table: Table, row: dict[str, object], columns: Iterable[str]) -> str:
    named = (*table.key, *(c for c in ("meter_id", *columns) if c in table.names and c not in table.key))
    return ", ".join(f"{name} {row[name]}" for name in named)


def _rows(found: Sequence[tuple[date, str, str, str, int, str]]) -> pl.DataFrame:
    return pl.DataFrame(list(found), schema=QUALITY_RESULTS.schema, orient="row")
