"""Differences of cumulative registers: rollover, restart, unknown edges."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.load.registers import difference

MODULUS = 10_000.0


def _difference(start: float | None, end: float | None, modulus: float = MODULUS) -> float | None:
    frame = pl.DataFrame(
        {"start": [start], "end": [end], "modulus": [modulus]},
        schema=dict.fromkeys(("start", "end", "modulus"), pl.Float64),
    )
    return frame.select(difference(pl.col("start"), pl.col("end"), pl.col("modulus"))).item()


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (100.0, 103.5, 3.5),
        (100.0, 100.0, 0.0),
        (9_990.0, 5.0, 15.0),
        (9_999.0, 0.0, 1.0),
        (9_000.0, 0.0, 1_000.0),  # a tenth of the modulus across it
        (8_999.0, 0.0, None),
        (5_000.0, 12.0, None),  # exchanged
        (100.0, 99.9, None),  # a step back near the start is no rollover
        (20_000.0, 1.0, None),  # beyond its digits
        (None, 1.0, None),
        (1.0, None, None),
        (None, None, None),
    ],
)
def test_difference(start: float | None, end: float | None, expected: float | None) -> None:
    assert _difference(start, end) == expected


@given(start=st.integers(0, 9_999), used=st.integers(0, 999))
def test_what_was_used_is_found_across_a_rollover(start: int, used: int) -> None:
    assert _difference(float(start), float((start + used) % 10_000)) == used


@given(start=st.floats(0, 9_999), end=st.floats(0, 9_999))
def test_a_difference_is_never_negative_and_a_rollover_small(start: float, end: float) -> None:
    found = _difference(start, end)
    assert found is None or (found >= 0 and (end >= start or found <= MODULUS / 10))
