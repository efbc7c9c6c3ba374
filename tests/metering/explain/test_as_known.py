"""What was known then: restatements taken back, and what was not over left out."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metering.explain.as_known import as_known
from metering.explain.reach import ends, over_sql
from metering.tables.restate import restated, together
from metering.tables.warehouse import DAILY_CURVE, POWER_FACTOR_MONTHLY, VOLTAGE_DAILY

ZONE = "Asia/Shanghai"
DAY = date(2026, 3, 2)
LATER = datetime(2026, 3, 4, 1, tzinfo=UTC)


def _curve(values: dict[int, float | None]) -> pl.DataFrame:
    rows = pl.DataFrame(
        {"point": list(values), "p_kw": list(values.values())}, schema={"point": pl.Int32, "p_kw": pl.Float64}
    )
    ends_at = datetime(2026, 3, 1, 16, tzinfo=UTC) + pl.duration(minutes=15 * pl.col("point"))
    frame = rows.with_columns(window_end=ends_at, energy_kwh=pl.col("p_kw") / 4)
    status = pl.when(pl.col("p_kw").is_null()).then(pl.lit("missing")).otherwise(pl.lit("validated"))
    return DAILY_CURVE.conform(frame.with_columns(status=status), customer_no="330100000001", date=DAY)


@given(st.lists(st.dictionaries(st.integers(1, 6), st.none() | st.floats(0, 1e6), max_size=6), min_size=2, max_size=4))
def test_every_state_that_there_was_comes_back(states: list[dict[int, float | None]]) -> None:
    """Through any number of restatements, with rows that come and go; texts beside status are as they are now."""
    curves = [_curve(values) for values in states]
    times = [LATER + timedelta(hours=number) for number in range(len(curves))]
    changes = together(
        [
            restated(DAILY_CURVE, before, after, at, "a correction")
            for before, after, at in zip(curves, curves[1:], times[1:], strict=False)
        ]
    )
    for then, at in zip(curves, times, strict=True):
        found = as_known(DAILY_CURVE, curves[-1], changes, at, ZONE).drop("rule", "reason").sort("point")
        known = then.drop("rule", "reason").sort("point")
        assert_frame_equal(found, known)


def test_what_was_not_over_is_left_out() -> None:
    rows = _curve(dict.fromkeys(range(1, 97), 1.0))
    nothing = restated(DAILY_CURVE, rows, rows, LATER, "")
    assert as_known(DAILY_CURVE, rows, nothing, datetime(2026, 3, 1, 18, tzinfo=UTC), ZONE).height == 8


def test_days_and_months_are_over_at_local_midnight_also_as_the_clock_changes() -> None:
    table = POWER_FACTOR_MONTHLY
    rows = table.conform(pl.DataFrame({"month": [date(2026, 3, 1)]}), customer_no="330100000001", pf_standard=0.9)
    over = ends(table, "Europe/Berlin")
    assert over is not None
    assert rows.select(over).item() == datetime(2026, 3, 31, 22, tzinfo=UTC)
    day = VOLTAGE_DAILY.conform(
        pl.DataFrame({"date": [date(2026, 3, 29)]}), meter_id="m", customer_no="c", phase="a", monitored_min=1380.0,
        over_min=0.0, under_min=0.0,
    )  # fmt: skip
    over = ends(VOLTAGE_DAILY, "Europe/Berlin")
    assert over is not None
    assert day.select(over).item() == datetime(2026, 3, 29, 22, tzinfo=UTC)


def test_sql_says_the_same() -> None:
    at = datetime(2026, 3, 2, 15, 59, tzinfo=UTC)
    assert over_sql(VOLTAGE_DAILY, ZONE, at) == (
        "((\"date\" + INTERVAL 1 DAY)::TIMESTAMP AT TIME ZONE 'Asia/Shanghai') <= "
        "TIMESTAMPTZ '2026-03-02T15:59:00+00:00'"
    )
