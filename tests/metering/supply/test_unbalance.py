"""Negative sequence from line-to-line voltages, against phasors taken apart with complex numbers."""

from __future__ import annotations

import cmath
import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.supply.unbalance import negative_sequence

A = cmath.exp(2j * math.pi / 3)
phasor = st.builds(cmath.rect, st.floats(1.0, 400.0), st.floats(-math.pi, math.pi))


def _of(*sides: float | None) -> float | None:
    frame = pl.DataFrame([sides], schema=dict.fromkeys("abc", pl.Float64), orient="row")
    found: float | None = frame.select(negative_sequence(*map(pl.col, "abc"))).item()
    return found


@given(phasor, phasor, phasor)
def test_as_the_phasors_say(ua: complex, ub: complex, uc: complex) -> None:
    """Magnitudes do not tell which way the phases turn: of the two sequences the smaller is the negative one."""
    ab, bc, ca = ua - ub, ub - uc, uc - ua
    one, other = sorted((abs(ab + A * bc + A * A * ca), abs(ab + A * A * bc + A * ca)))
    if other < 1.0:
        return
    found = _of(abs(ab), abs(bc), abs(ca))
    if found is None:  # a flat triangle, within what rounding does
        assert one / other > 1 - 1e-3
    else:
        assert found == pytest.approx(one / other, abs=1e-5)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((380.0, 380.0, 380.0), 0.0), ((0.1, 0.1, 0.1), 0.0), ((380.0, 380.0, 0.0), 1.0),
        ((380.0, 370.0, 360.0), 0.031224), ((380.0, None, 380.0), None), ((0.0, 0.0, 0.0), None),
        ((380.0, 100.0, 100.0), None),
    ],
)  # fmt: skip
def test_known_values(sides: tuple[float | None, ...], expected: float | None) -> None:
    found = _of(*sides)
    assert found is expected if expected is None else found == pytest.approx(expected, abs=1e-5)
