"""What Dagster's pages show of a table: its checks, its columns and where they come from, rows as Markdown.

Here: making that from verdicts and declarations. Not here: the assets (`catalogue`), figures of their rows (`seen`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl

from assets.batch import Outcome
from assets.quality_report import report_path
from metering.tables import Table
from quality import Verdict

CHECK, ROWS_CHECK = "suite", "rows"
SHOWN = 50
MANY_TABLES = 8


def check_of(verdict: Verdict, days: Sequence[date]) -> dg.AssetCheckResult:
    failures = {f"{'+'.join(f.columns)} {f.expectation}".strip(): f for f in verdict.failures}
    told = [
        {
            "expectation": name,
            "failing_rows": failures[name].count if name in failures else 0,
            "such as": ", ".join(failures[name].examples) if name in failures else "",
        }
        for name in dict.fromkeys((*failures, *verdict.names))
    ]
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=verdict.success,
        description=None if verdict.success else refusal(verdict),
        metadata={
            "rows": verdict.rows,
            "expectations": verdict.expectations,
            "days": days_text(days),
            "expected": dg.MetadataValue.md(_lines(told)),
            **{name: str(failure) for name, failure in failures.items()},
        },
    )


def rows_check_of(home: Path, outcome: Outcome, days: Sequence[date]) -> dg.AssetCheckResult:
    """What was found in single rows; it holds nothing back."""
    found = outcome.quality.filter(pl.col("severity") != "info")
    metadata: dict[str, dg.MetadataValue | int | str] = {
        "failing_rows": int(found["failing_rows"].sum()),
        "days": days_text(days),
        "report": dg.MetadataValue.path(str(report_path(home, days[-1]))),
    }
    for row in found.head(SHOWN).to_dicts():
        metadata[f"{row['date']} {row['rule']} ({row['severity']})"] = f"{row['failing_rows']} rows: {row['sample']}"
    return dg.AssetCheckResult(
        check_name=ROWS_CHECK,
        passed=found.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description=None if found.is_empty() else _found(found),
        metadata=metadata,
    )


def _found(found: pl.DataFrame) -> str:
    """Such as "18 rows: missing 18 (2026-03-02 to 2026-03-05)"."""
    rules = found.group_by("rule").agg(pl.col("failing_rows").sum()).sort("failing_rows", "rule", descending=True)
    counts = ", ".join(f"{rule} {count}" for rule, count in rules.iter_rows())
    return f"{found['failing_rows'].sum()} rows: {counts} ({days_text(found['date'].unique().sort().to_list())})"


def days_text(days: Sequence[date]) -> str:
    return str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _lines(records: Sequence[Mapping[str, object]]) -> str:
    return markdown(pl.DataFrame(records, infer_schema_length=None)) if records else ""


def refusal(verdict: Verdict) -> str:
    more = f" (and {len(verdict.failures) - 1} more)" if len(verdict.failures) > 1 else ""
    return f"{verdict.table}: {verdict.failures[0]}{more}"


def promise_of(table: Table) -> str:
    return f"The columns are as declared, and the key ({', '.join(table.key)}) is unique."


def grain_of(table: Table) -> str:
    """How much of time a row is of, as far as the key tells."""
    return next((name for name in ("point", "date", "week", "month", "period") if name in table.key), "row")


def lineage_of(table: Table, made_from: Mapping[str, Table]) -> dg.TableColumnLineage:
    """Columns that go through by name, type and unit; of what counts rows of all tables, none."""
    if len(made_from) > MANY_TABLES:
        return dg.TableColumnLineage({})
    found = {
        column.name: [
            dg.TableColumnDep(dg.AssetKey(asset), column.name)
            for asset, other in made_from.items()
            if any((c.name, c.dtype, c.unit) == (column.name, column.dtype, column.unit) for c in other.columns)
        ]
        for column in table.columns
    }
    return dg.TableColumnLineage({name: deps for name, deps in found.items() if deps})


def column_schema(table: Table) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                type=str(column.dtype),
                description=column.comment,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in table.columns
        ]
    )


def shown(value: float | str) -> dg.MetadataValue:
    if isinstance(value, str):
        return dg.MetadataValue.md(value)
    return dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.float(value)


def markdown(frame: pl.DataFrame) -> str:
    lines = [frame.columns, ["---"] * frame.width, *frame.rows()]
    return "\n".join(
        f"| {' | '.join('' if cell is None else str(cell).replace('|', '/') for cell in line)} |" for line in lines
    )
