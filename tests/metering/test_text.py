"""Sentences with values in them."""

from __future__ import annotations

import polars as pl
import pytest

from metering.text import filled


def test_values_take_the_places_in_order() -> None:
    frame = pl.DataFrame({"n": [3, None], "of": [15, 15]})
    said = frame.select(filled("{} of {} readings", "n", pl.col("of") * 2)).to_series()
    assert said.to_list() == ["3 of 30 readings", None]


def test_a_column_with_an_empty_chunk_is_no_panic() -> None:
    column = pl.Series("a", ["x"]).append(pl.Series("a", [], dtype=pl.String))
    assert pl.DataFrame({"a": column}).select(filled("<{}>", "a")).item() == "<x>"


def test_places_and_values_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2 values"):
        filled("{}", "a", "b")
