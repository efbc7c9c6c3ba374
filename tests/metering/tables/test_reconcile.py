"""Stream against batch: keys on one side, values that differ, tolerance, nulls."""

from __future__ import annotations

from datetime import date

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.tables.reconcile import reconcile
from metering.tables.warehouse import RECONCILIATION

DAY = date(2026, 7, 1)
SCHEMA = {"meter_id": pl.String, "slot": pl.Int32, "p_kw": pl.Float64, "n": pl.Int32}


def side(*rows: tuple[str, int, float | None, int | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def counts(stream: pl.DataFrame, batch: pl.DataFrame, tolerance: float = 1e-9) -> tuple[int, int, int]:
    row = reconcile("windows", stream, batch, ("meter_id", "slot"), ("p_kw", "n"), DAY, tolerance)
    assert row.schema == RECONCILIATION.schema
    assert row.select("date", "table_name").rows() == [(DAY, "windows")]
    return row.select("stream_rows", "batch_rows", "differing_rows").rows()[0]


def test_equal_sides_agree() -> None:
    rows = side(("a", 1, 1.0, 1), ("a", 2, None, None), ("b", 1, 0.0, 1))
    assert counts(rows, rows.reverse()) == (3, 3, 0)


def test_keys_on_one_side_only_differ() -> None:
    assert counts(side(("a", 1, 1.0, 1), ("b", 1, 1.0, 1)), side(("a", 1, 1.0, 1), ("c", 1, None, None))) == (2, 2, 2)


@pytest.mark.parametrize(
    ("stream", "batch", "differing"),
    [
        ((1.0, 1), (1.0 + 1e-12, 1), 0), ((1.0, 1), (1.0 + 1e-6, 1), 1), ((1e9, 1), (1e9 + 0.5, 1), 0),
        ((0.0, 1), (1e-30, 1), 1), ((0.0, 1), (-0.0, 1), 0), ((None, 1), (0.0, 1), 1), ((1.0, 1), (1.0, 2), 1),
        ((1.0, None), (1.0, None), 0), ((1.0, None), (1.0, 1), 1),
    ],
)  # fmt: skip
def test_values(
    stream: tuple[float | None, int | None], batch: tuple[float | None, int | None], differing: int
) -> None:
    assert counts(side(("a", 1, *stream)), side(("a", 1, *batch))) == (1, 1, differing)


def test_a_key_is_counted_once() -> None:
    assert counts(side(("a", 1, 1.0, 1), ("a", 1, 2.0, 1)), side(("a", 1, 1.0, 1))) == (1, 1, 1)


def test_empty_sides() -> None:
    assert counts(side(), side()) == (0, 0, 0)
    assert counts(side(), side(("a", 1, 1.0, 1))) == (0, 1, 1)


ROWS = st.dictionaries(st.integers(0, 20), st.none() | st.integers(0, 3), max_size=20)


@given(left=ROWS, right=ROWS)
def test_counts_are_those_of_the_two_mappings(left: dict[int, int | None], right: dict[int, int | None]) -> None:
    both = [side(*(("a", k, None if v is None else float(v), 1) for k, v in m.items())) for m in (left, right)]
    absent = object()
    differing = sum(left.get(k, absent) != right.get(k, absent) for k in left.keys() | right.keys())
    assert counts(*both) == (len(left), len(right), differing)
