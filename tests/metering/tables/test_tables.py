"""What a table's declaration does with frames."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from metering.tables.schema import Column, Table

TABLE = Table("t", "", ("a", "b"), (Column("a", pl.String, ""), Column("b", pl.Int32, "")))


@given(st.lists(st.tuples(st.sampled_from(["x", "y", None]), st.integers(0, 3)), max_size=8))
def test_ordered_is_sorted_by_the_key(rows: list[tuple[str | None, int]]) -> None:
    frame = pl.DataFrame(rows, schema=TABLE.schema, orient="row")
    ordered = TABLE.ordered(frame)
    assert ordered.equals(frame.sort(TABLE.key))
    assert TABLE.ordered(ordered).equals(ordered)
