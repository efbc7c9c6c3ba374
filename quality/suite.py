"""Expectation suites, generated from the tables' declarations, and their verdict on a frame.

Here: what a declaration expects and how Great Expectations is asked. Not here: what happens after a failure. Great
Expectations costs seconds to import, so it is imported when a frame is checked, never before.
"""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from metering.tables import Column, Table

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite
    from great_expectations.expectations import Expectation

EXAMPLES = 5
_UNIQUE = "expect_column_values_to_be_unique"


@dataclass(frozen=True, slots=True)
class Failure:
    """One expectation that did not hold: what was expected of which columns, how often not, and some values.

    `rows` are the numbers of the rows for which it does not hold; one that is `blocking` is not of single rows.
    """

    expectation: str
    columns: tuple[str, ...]
    count: int
    examples: tuple[str, ...]
    blocking: bool = False
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        if not self.columns:
            return self.expectation
        shown = f", such as {', '.join(self.examples)}" if self.examples else ""
        return f"{'+'.join(self.columns)}: {self.expectation} fails for {self.count} rows{shown}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a suite said about a frame."""

    table: str
    rows: int
    expectations: int
    failures: tuple[Failure, ...] = field(default=())
    names: tuple[str, ...] = ()
    """Of the expectations: of which columns, and what."""

    @property
    def success(self) -> bool:
        return not self.failures


def suite(table: Table) -> ExpectationSuite:
    """The suite of a table: its column set, nullability, bounds, allowed values and unique key."""
    from great_expectations.core import ExpectationSuite

    expectations = [*_of_table(table), *(e for column in table.columns for e in _of_column(column))]
    return ExpectationSuite(name=table.name, expectations=expectations)


def validate(table: Table, frame: pl.DataFrame) -> Verdict:
    """The verdict of the table's suite on every row of `frame`; NaN and infinity count as out of bounds."""
    context = _context()
    batch = (
        context.data_sources.add_pandas("frame")
        .add_dataframe_asset(table.name)
        .add_batch_definition_whole_dataframe("whole")
        .get_batch({"dataframe": _pandas(frame)})
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Great Expectations on its own use of pandas
        outcome = batch.validate(suite(table), result_format="COMPLETE")
    failures = tuple(_failure(result) for result in outcome.results if not result.success)
    names = tuple(_named(result.expectation_config) for result in outcome.results)
    return Verdict(table.name, frame.height, len(outcome.results), failures, names)


def _of_table(table: Table) -> list[Expectation]:
    from great_expectations import expectations as gxe

    unique = (
        gxe.ExpectColumnValuesToBeUnique(column=table.key[0])
        if len(table.key) == 1
        else gxe.ExpectCompoundColumnsToBeUnique(column_list=list(table.key))
    )
    return [gxe.ExpectTableColumnsToMatchSet(column_set=list(table.names), exact_match=True), unique]


def _of_column(column: Column) -> list[Expectation]:
    from great_expectations import expectations as gxe

    expected: list[Expectation] = []
    if not column.nullable:
        expected.append(gxe.ExpectColumnValuesToNotBeNull(column=column.name))
    if column.allowed:
        expected.append(gxe.ExpectColumnValuesToBeInSet(column=column.name, value_set=list(column.allowed)))
    finite = sys.float_info.max if column.dtype == pl.Float64 else None
    low, high = _or(column.minimum, finite and -finite), _or(column.maximum, finite)
    if low is not None or high is not None:
        expected.append(gxe.ExpectColumnValuesToBeBetween(column=column.name, min_value=low, max_value=high))
    return expected


def _or(bound: float | None, otherwise: float | None) -> float | None:
    return otherwise if bound is None else bound


def _context() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read while Great Expectations is imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, not ours
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = _no_progress_bars()
    return context


def _no_progress_bars() -> Any:
    from great_expectations.data_context.types.base import ProgressBarsConfig

    return ProgressBarsConfig(globally=False)


def _pandas(frame: pl.DataFrame) -> Any:
    # pandas takes NaN for null; infinity is what the bounds catch
    return frame.with_columns(pl.col(pl.Float64).fill_nan(float("inf"))).to_pandas()


def _named(config: Any) -> str:
    """Such as "p_kw expect_column_values_to_be_between min_value 0"."""
    kwargs = config.kwargs
    columns = kwargs.get("column_list") or ([kwargs["column"]] if "column" in kwargs else ["columns"])
    return f"{'+'.join(columns)} {config.type}"


def _failure(result: Any) -> Failure:
    config, found = result.expectation_config, result.result
    kwargs = config.kwargs
    columns = kwargs.get("column_list") or ([kwargs["column"]] if "column" in kwargs else ["columns"])
    raised = [str(e["exception_message"]) for e in _exceptions(result.exception_info)]
    examples = raised or [str(value) for value in found.get("partial_unexpected_list", [])[:EXAMPLES]]
    count = int(found.get("unexpected_count") or len(_column_set_faults(found)) or 1)
    numbers = tuple(int(n) for n in found.get("unexpected_index_list") or ())
    blocking = "column" not in kwargs or config.type == _UNIQUE or bool(raised) or not numbers
    return Failure(config.type, tuple(columns), count, tuple(examples or _column_set_faults(found)), blocking, numbers)


def _exceptions(info: Any) -> list[dict[str, Any]]:
    entries = info.values() if info and "raised_exception" not in info else [info or {}]
    return [entry for entry in entries if entry.get("raised_exception")]


def _column_set_faults(found: Any) -> list[str]:
    mismatched = (found.get("details") or {}).get("mismatched") or {}
    return [f"{kind} {name}" for kind, names in sorted(mismatched.items()) for name in names]
