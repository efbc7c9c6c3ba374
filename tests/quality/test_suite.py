"""The generated suites: every kind of declaration is enforced, and healthy frames pass."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime

import polars as pl
import pytest

from metering.tables import LAKE, TIMESTAMP, Column, Table, warehouse
from quality import validate

TABLE = Table(
    "sample",
    "A table with one column of each kind.",
    ("meter", "date"),
    (
        Column("meter", pl.String, "Meter", nullable=False),
        Column("date", pl.Date, "Local date", nullable=False),
        Column("at", TIMESTAMP, "Instant", "UTC", nullable=False),
        Column("kw", pl.Float64, "Power", "kW"),
        Column("share", pl.Float64, "Share", minimum=0, maximum=1),
        Column("count", pl.Int32, "Count", minimum=0),
        Column("state", pl.String, "State", allowed=("good", "bad")),
        Column("flag", pl.Boolean, "Flag"),
    ),
)


def healthy() -> pl.DataFrame:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    row = {"date": date(2026, 1, 1), "at": at, "kw": -3.5, "share": 1.0, "count": 0, "state": "good", "flag": True}
    empty = {"date": date(2026, 1, 2), "at": at, "kw": None, "share": None, "count": None, "state": None, "flag": None}
    return pl.DataFrame([{"meter": "M1", **row}, {"meter": "M1", **empty}, {"meter": "M2", **row}], schema=TABLE.schema)


def test_a_healthy_frame_passes() -> None:
    verdict = validate(TABLE, healthy())
    assert verdict.success, verdict.failures
    assert (verdict.rows, verdict.table) == (3, "sample")
    assert verdict.expectations == 2 + 3 + 1 + 3  # columns and key; nulls; allowed; bounds


@pytest.mark.parametrize(
    ("broken", "columns", "expectation", "count"),
    [
        ({"at": pl.lit(None, TIMESTAMP)}, ("at",), "expect_column_values_to_not_be_null", 3),
        ({"share": pl.lit(1.001)}, ("share",), "expect_column_values_to_be_between", 3),
        ({"count": pl.lit(-1, pl.Int32)}, ("count",), "expect_column_values_to_be_between", 3),
        ({"kw": pl.lit(float("inf"))}, ("kw",), "expect_column_values_to_be_between", 3),
        ({"kw": pl.lit(float("nan"))}, ("kw",), "expect_column_values_to_be_between", 3),
        ({"state": pl.lit("ugly")}, ("state",), "expect_column_values_to_be_in_set", 3),
        ({"meter": pl.lit("M1")}, ("meter", "date"), "expect_compound_columns_to_be_unique", 2),
        ({"extra": pl.lit(1)}, ("columns",), "expect_table_columns_to_match_set", 1),
    ],
    ids=lambda value: "" if isinstance(value, int) else None,
)
def test_each_kind_of_fault_is_found(
    broken: dict[str, pl.Expr], columns: tuple[str, ...], expectation: str, count: int
) -> None:
    verdict = validate(TABLE, healthy().with_columns(**broken))
    assert not verdict.success
    assert [(f.columns, f.expectation, f.count) for f in verdict.failures] == [(columns, expectation, count)]
    assert verdict.failures[0].examples or expectation.endswith("null")
    assert "\n" not in str(verdict.failures[0])


def test_a_single_key_column_must_be_unique() -> None:
    table = Table("one", "One key.", ("id",), (Column("id", pl.String, "Id", nullable=False),))
    verdict = validate(table, pl.DataFrame({"id": ["a", "a", "b"]}))
    assert [(f.columns, f.count) for f in verdict.failures] == [(("id",), 2)]


def test_empty_frames_of_every_declared_table_pass() -> None:
    for table in (*warehouse(("peak", "flat")).values(), LAKE["windows"]):
        verdict = validate(table, table.empty())
        assert verdict.success, verdict.failures
        assert verdict.expectations > 2


def test_great_expectations_is_imported_only_by_a_check() -> None:
    code = "import sys, quality; assert 'great_expectations' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
