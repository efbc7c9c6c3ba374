"""What a meter owes: slots and quarter-hours, on running days, over exchanges, on days of 23 and 25 hours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.settings import MeteringSettings
from metering.vee.expected import adding_up, due_points, due_until, expected_intervals, meters_on

Builder = Callable[..., pl.DataFrame]
DAY = date(2026, 7, 1)
START = datetime(2026, 6, 30, 16, tzinfo=UTC)


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


def test_meters_of_a_day_are_those_valid_at_any_moment_of_it(
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
    twice = make_windows("a1", "A", DAY, [1.0] * 48 + [None] * 48, n=30, n_expected=15)
    slots = expected_intervals(twice, meter_versions, DAY, metering_settings)
    assert slots.select("expected", "received").rows() == [(1440, 720)]


@pytest.mark.parametrize(("minutes", "expected"), [(-300, 0), (0, 0), (14, 0), (127, 8), (1440, 96), (9999, 96)])
def test_a_running_day_owes_what_has_come_due(
    metering_settings: MeteringSettings, meter_versions: pl.DataFrame, minutes: int, expected: int
) -> None:
    """At 02:07 eight quarter-hours are due, and one that did not come is missing; the rest of the day is neither."""
    until = START + timedelta(minutes=minutes)
    slots = expected_intervals(
        pl.DataFrame(schema={"meter_id": pl.String, "window_end": pl.Datetime("us", "UTC"), "n": pl.Int32,
                             "n_expected": pl.Int32}),
        meter_versions, DAY, metering_settings, until,
    )  # fmt: skip
    assert dict(slots.select("meter_id", "expected").iter_rows()) == {"m1": expected * 15, "m15": expected}
    points = due_points(meter_versions, DAY, metering_settings, until)
    assert points.group_by("meter_id").len().rows() == [] or set(points.group_by("meter_id").len()["len"]) == {expected}
    assert due_until(DAY, metering_settings, until) == START + timedelta(minutes=15 * expected)


@given(
    first_s=st.integers(0, 86_400), length_s=st.integers(1, 86_400), interval_s=st.sampled_from([60, 600, 900, 3600])
)
def test_a_meter_owes_only_while_it_is_valid(
    metering_settings: MeteringSettings,
    make_customers: Builder,
    make_meter_versions: Builder,
    first_s: int,
    length_s: int,
    interval_s: int,
) -> None:
    """Against a plain count of the slots, and of the minutes, that lie within the validity of an exchanged meter."""
    versions = make_meter_versions(make_customers({"A": {}}), {"a": {"customer_no": "A", "interval_s": interval_s}})
    begin, end = START + timedelta(seconds=first_s), START + timedelta(seconds=min(first_s + length_s, 86_400 * 2))
    versions = versions.with_columns(
        pl.lit(begin, versions.schema["valid_from"]).alias("valid_from"),
        pl.lit(end, versions.schema["valid_to"]).alias("valid_to"),
    )
    slots = [START + timedelta(seconds=n * interval_s) for n in range(1, 86_400 // interval_s + 1)]
    owed = sum(begin < slot <= end for slot in slots)
    nothing = pl.DataFrame(schema={"meter_id": pl.String, "window_end": versions.schema["valid_to"], "n": pl.Int32,
                                   "n_expected": pl.Int32})  # fmt: skip
    found = expected_intervals(nothing, versions, DAY, metering_settings)
    assert found["expected"].sum() == owed
    points = due_points(versions, DAY, metering_settings)
    quarters = [START + timedelta(minutes=15 * n) for n in range(1, 97)]
    minutes = {
        n + 1: (min(end, quarter) - max(begin, quarter - timedelta(minutes=15))).total_seconds() / 60
        for n, quarter in enumerate(quarters)
    }
    owed_min = {n: m for n, m in minutes.items() if m > 0}
    assert dict(points.select("point", "due_min").iter_rows()) == pytest.approx(owed_min)


@pytest.mark.parametrize(("day", "points"), [(date(2016, 3, 27), 92), (date(2016, 10, 30), 100)])
def test_days_with_23_and_25_hours(
    metering_settings: MeteringSettings,
    make_customers: Builder,
    make_meter_versions: Builder,
    day: date,
    points: int,
) -> None:
    settings = replace(metering_settings, timezone="Europe/Berlin")
    versions = make_meter_versions(make_customers({"A": {}}), {"a1": {"customer_no": "A"}}, settings)
    assert due_points(versions, day, settings)["point"].to_list() == list(range(1, points + 1))


def test_check_and_sub_meters_do_not_add_up_to_their_customer(
    metering_settings: MeteringSettings, make_customers: Builder, make_meter_versions: Builder
) -> None:
    of_a = {"customer_no": "A"}
    versions = make_meter_versions(
        make_customers({"A": {}}), {"m": of_a, "check": {**of_a, "role": "check"}, "sub": {**of_a, "role": "sub"}}
    )
    rows = pl.DataFrame({"meter_id": ["m", "check", "sub", "m"], "date": [DAY, DAY, DAY, DAY + timedelta(days=1)]})
    days = [DAY, DAY + timedelta(days=1)]
    assert adding_up(rows, versions, days, metering_settings).rows() == [("m", day) for day in days]
    assert adding_up(rows, versions, days[:1], metering_settings).rows() == [("m", DAY)]
    assert adding_up(rows, versions, [], metering_settings).is_empty()


@given(
    intervals=st.lists(st.sampled_from([60, 900, 1200, 1800, 3600, 5400, 21_600, 86_400]), min_size=1, max_size=3),
    minutes=st.integers(-20, 1500),
)
def test_a_running_day_owes_what_the_slots_of_all_of_a_customers_meters_are_over_for(
    metering_settings: MeteringSettings, make_customers: Builder, make_meter_versions: Builder, intervals: list[int],
    minutes: int,
) -> None:  # fmt: skip
    kinds: dict[str, dict[str, object]] = {
        f"37150204881{n}": {"customer_no": "A", "interval_s": s} for n, s in enumerate(intervals)
    }
    kinds["check"] = {"customer_no": "A", "interval_s": 86_400}
    versions = make_meter_versions(make_customers({"A": {}}), kinds).with_columns(
        pl.when(pl.col("meter_id") == "check").then(pl.lit("check")).otherwise("role").alias("role")
    )
    until = START + timedelta(minutes=minutes)
    due = due_points(versions, DAY, metering_settings, until)
    quarter = max(0, min(minutes // 15 * 15, 1440))

    def over(interval_s: int, point: int) -> bool:
        return -(-point * 900 // interval_s) * interval_s <= quarter * 60

    wanted = [point for point in range(1, 97) if all(over(s, point) for s in intervals)]
    for n in range(len(intervals)):
        assert due.filter(pl.col("meter_id") == f"37150204881{n}")["point"].to_list() == wanted
    alone = [point for point in range(1, 97) if over(86_400, point)]
    assert due.filter(pl.col("meter_id") == "check")["point"].to_list() == alone
