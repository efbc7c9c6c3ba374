"""Negative sequence from line-to-line voltages, against phasors taken apart with complex numbers."""

from __future__ import annotations

import cmath
import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.settings import MeteringSettings
from metering.supply.unbalance import MEASURED, negative_sequence, unbalance_daily
from metering.tables.supply import UNBALANCE_DAILY

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


DAY = date(2026, 7, 1)
START = datetime(2026, 6, 30, 16, tzinfo=UTC)
LINES = ("uab_v", "ubc_v", "uca_v")


def readings(wiring: str = "3p4w", **values: list[float | None]) -> pl.DataFrame:
    """Readings of one meter, a minute apart from START on."""
    count = len(next(iter(values.values())))
    every = {name: values.get(name, [None] * count) for name in MEASURED}
    ends = [START + timedelta(minutes=n + 1) for n in range(count)]
    frame = pl.DataFrame(every, schema=dict.fromkeys(MEASURED, pl.Float64))
    return frame.with_columns(
        pl.Series("slot_end", ends, dtype=pl.Datetime("us", "UTC")),
        slot_s=pl.lit(60.0),
        meter_id=pl.lit("330100000001"),
        customer_no=pl.lit("A"),
        wiring=pl.lit(wiring),
        nominal_v=pl.lit(220.0 if wiring != "3p3w" else 100.0),
        rated_a=pl.lit(5.0),
    )


def day_of(frame: pl.DataFrame, settings: MeteringSettings) -> dict[str, Any]:
    table = unbalance_daily(frame, DAY, settings)
    assert table.schema == UNBALANCE_DAILY.schema
    return table.row(0, named=True)


@given(st.lists(st.tuples(st.floats(340, 420), st.floats(340, 420), st.floats(340, 420)), min_size=1, max_size=45))
def test_the_day_is_that_of_plain_python(metering_settings: MeteringSettings, sides: list[tuple[float, ...]]) -> None:
    """The 95 % value: sorted downwards, 5 % of them put aside, the first that is left."""
    row = day_of(readings(**{n: [s[i] for s in sides] for i, n in enumerate(LINES)}), metering_settings)
    values = []
    for a, b, c in sides:
        level = (a**4 + b**4 + c**4) / (a * a + b * b + c * c) ** 2
        root = math.sqrt(max(0.0, 3 - 6 * level))
        values.append(100 * math.sqrt((1 - min(root, 1.0)) / (1 + min(root, 1.0))))
    values.sort(reverse=True)
    wanted = (values[len(values) * 5 // 100], values[0])
    assert (row["negative_sequence_p95_pct"], row["negative_sequence_max_pct"]) == pytest.approx(wanted, abs=1e-4)
    assert row["negative_sequence_values"] == len(sides)
    assert row["p95_verdict"] == ("pass" if row["negative_sequence_p95_pct"] <= 2 else "fail")
    assert row["max_verdict"] == ("pass" if row["negative_sequence_max_pct"] <= 4 else "fail")
    assert row["reason"] is None


def test_magnitudes_of_phases_do_not_do(metering_settings: MeteringSettings) -> None:
    row = day_of(readings(ua_v=[220.0, 230.0], ub_v=[220.0, 207.0], uc_v=[220.0, 220.0]), metering_settings)
    assert (row["negative_sequence_p95_pct"], row["negative_sequence_max_pct"], row["p95_verdict"]) == (None,) * 3
    assert "three line-to-line voltages" in row["reason"]
    assert row["meter_formula_max_pct"] == pytest.approx((230 - 207) / 230 * 100)


def test_three_wires_have_two_of_each(metering_settings: MeteringSettings) -> None:
    frame = readings("3p3w", ua_v=[100.0], ub_v=[3.0], uc_v=[98.0], ia_a=[2.0], ib_a=[0.0], ic_a=[1.5], uab_v=[100.0])
    row = day_of(frame, metering_settings)
    assert row["reason"] is not None
    assert (row["meter_formula_max_pct"], row["current_max_pct"]) == pytest.approx((2.0, 25.0))


def test_currents_that_tell_nothing_and_days_without_power_are_left_out(metering_settings: MeteringSettings) -> None:
    i = [0.24, 2.0]  # of 5 A: below and above 5 %
    frame = readings(ia_a=i, ib_a=[0.0, 1.0], ic_a=i, ua_v=[1.0] * 2, ub_v=[0.0] * 2, uc_v=[1.0] * 2)
    row = day_of(frame.with_columns(pl.lit(0.5).alias(n) for n in LINES), metering_settings)
    assert row["current_max_pct"] == 50.0
    assert (row["meter_formula_max_pct"], row["negative_sequence_max_pct"]) == (None, None)
    assert "no power" in row["reason"]


def test_extremes_see_all_readings_of_a_slot_and_the_95_percent_value_one(metering_settings: MeteringSettings) -> None:
    frame = readings(uab_v=[380.0, 380.0], ubc_v=[380.0, 360.0], uca_v=[380.0, 370.0])
    row = day_of(frame.with_columns(slot_s=pl.Series([60.0, 0.0])), metering_settings)
    assert row["negative_sequence_p95_pct"] == pytest.approx(0, abs=1e-6)
    assert row["negative_sequence_max_pct"] == pytest.approx(3.1224, abs=1e-3)
    assert row["negative_sequence_values"] == 1


def test_single_phase_has_none_and_only_the_day_counts(metering_settings: MeteringSettings) -> None:
    assert unbalance_daily(readings("1p", ua_v=[220.0]), DAY, metering_settings).is_empty()
    late = readings(ua_v=[220.0], ub_v=[220.0], uc_v=[220.0]).with_columns(pl.col("slot_end").dt.offset_by("1d"))
    assert unbalance_daily(late, DAY, metering_settings).is_empty()
