"""Slots due and received; what a gap may be filled with, and what it says about it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.settings import MeteringSettings
from metering.vee.intervals import STATUS_BY_RANK, estimate, expected_intervals, meters_on

Builder = Callable[..., pl.DataFrame]
DAY = date(2026, 7, 1)


def points(p_kw: list[float | None], meter: int = 0, n: int = 1, n_expected: int = 1) -> pl.DataFrame:
    known = pl.col("p_kw").is_not_null()
    return pl.DataFrame(
        {
            "meter": [meter] * len(p_kw),
            "point": pl.Series(range(1, len(p_kw) + 1), dtype=pl.Int32),
            "p_kw": pl.Series(p_kw, dtype=pl.Float64),
        }
    ).with_columns(
        pl.when(known).then(n).alias("n"),
        pl.when(known).then(n_expected).alias("n_expected"),
        (pl.col("p_kw") / 2).alias("q_kvar"),
        (pl.col("p_kw") / 4).alias("energy_kwh"),
    )


def judged(frame: pl.DataFrame, gap_min: int = 120) -> pl.DataFrame:
    return estimate(frame, gap_min).sort("meter", "point")


def statuses(frame: pl.DataFrame) -> list[str]:
    return [STATUS_BY_RANK[rank] for rank in frame["rank"]]


def test_a_short_gap_is_drawn_straight_and_says_so() -> None:
    rows = judged(points([10.0, None, None, None, 50.0]))
    assert rows["p_kw"].to_list() == pytest.approx([10, 20, 30, 40, 50])
    assert rows["q_kvar"].to_list() == pytest.approx([5, 10, 15, 20, 25])
    assert rows["energy_kwh"].to_list() == pytest.approx([2.5, 5, 7.5, 10, 12.5])
    assert statuses(rows) == ["raw", "estimated", "estimated", "estimated", "raw"]
    assert rows["reason"].to_list() == [None, *["no power for 45 min: straight line between the neighbours"] * 3, None]


def test_long_gaps_and_gaps_at_the_edge_stay_missing() -> None:
    rows = judged(points([None, 10.0, None, None, None, 10.0, None]), gap_min=30)
    assert rows["p_kw"].to_list() == [None, 10.0, None, None, None, 10.0, None]
    assert rows.filter(pl.col("rank") == 3)["q_kvar"].null_count() == 5
    assert rows["reason"][0] == rows["reason"][6] == "no power for 15 min, up to the edge of the day"
    assert rows["reason"][2] == "no power for 45 min"


def test_a_gap_is_never_bridged_from_one_meter_to_the_next() -> None:
    rows = judged(pl.concat([points([1.0, None], meter=0), points([None, 9.0], meter=1)]))
    assert rows["p_kw"].to_list() == [1.0, None, None, 9.0]


def test_partial_windows_are_validated() -> None:
    rows = judged(points([10.0, 10.0], n=12, n_expected=15))
    assert statuses(rows) == ["validated"] * 2
    assert rows["reason"].to_list() == ["12 of 15 readings"] * 2


@given(
    p_kw=st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=40),
    gap_min=st.sampled_from([0, 15, 60, 120, 10_000]),
)
def test_nothing_is_estimated_silently_and_nothing_known_is_changed(p_kw: list[float | None], gap_min: int) -> None:
    rows = judged(points(p_kw), gap_min)
    known = [p for p in p_kw if p is not None]
    assert rows["point"].to_list() == list(range(1, len(p_kw) + 1))
    for before, row in zip(p_kw, rows.iter_rows(named=True), strict=True):
        status = STATUS_BY_RANK[row["rank"]]
        assert (row["reason"] is None) == (status == "raw")
        assert (row["p_kw"] is None) == (status == "missing")
        if before is not None:
            assert row["p_kw"] == before
        elif status == "estimated":
            assert min(known) - 1e-6 <= row["p_kw"] <= max(known) + 1e-6


@pytest.fixture(scope="module")
def meter_versions(make_customers: Builder, make_meter_versions: Builder) -> pl.DataFrame:
    return make_meter_versions(
        make_customers({"A": {}}),
        {
            "m15": {"customer_no": "A", "interval_s": 900},
            "m1": {"customer_no": "A", "interval_s": 60},
            "old": {"customer_no": "A", "valid_to": date(2026, 6, 30)},
            "new": {"customer_no": "A", "valid_from": date(2026, 7, 2)},
        },
    )


def test_meters_are_valid_by_whole_local_days(
    metering_settings: MeteringSettings, meter_versions: pl.DataFrame
) -> None:
    def on(day: date) -> list[str]:
        return meters_on(meter_versions, day, metering_settings)["meter_id"].to_list()

    assert on(date(2026, 6, 30)) == ["m1", "m15", "old"]
    assert on(DAY) == ["m1", "m15"]
    assert on(date(2026, 7, 2)) == ["m1", "m15", "new"]


def test_slots_of_silent_complete_and_overfull_meters(
    metering_settings: MeteringSettings, meter_versions: pl.DataFrame, make_windows: Builder
) -> None:
    windows = pl.concat(
        [
            make_windows("m15", "A", DAY, [1.0] * 90 + [None] * 6),
            make_windows("m1", "A", DAY, [1.0] * 96, n=20, n_expected=15),
            make_windows("m15", "A", date(2026, 7, 2), [1.0] * 96),
        ]
    )
    columns = ["meter_id", "expected", "received"]
    rows = expected_intervals(windows, meter_versions, DAY, metering_settings).select(columns).rows()
    assert rows == [("m1", 1440, 1440), ("m15", 96, 90)]
    silent = expected_intervals(windows.clear(), meter_versions, DAY, metering_settings).select(columns).rows()
    assert silent == [("m1", 1440, 0), ("m15", 96, 0)]


def test_too_many_readings_in_one_window_hide_no_gap_in_another(
    metering_settings: MeteringSettings, make_customers: Builder, make_meter_versions: Builder, make_windows: Builder
) -> None:
    """A meter that came twice as often in the morning, and not at all in the afternoon, was there half of the day."""
    customers = make_customers({"A": {}})
    meter_versions = make_meter_versions(customers, {"a1": {"customer_no": "A", "interval_s": 60}})
    day = date(2026, 7, 1)
    twice = make_windows("a1", "A", day, [1.0] * 48 + [None] * 48, n=30, n_expected=15)
    slots = expected_intervals(twice, meter_versions, day, metering_settings)
    assert slots.select("expected", "received").rows() == [(1440, 720)]
