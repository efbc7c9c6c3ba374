"""Time-of-use periods: clock, months, holidays, versions, later entries."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from metering.charges.time_of_use import period_of, periods_of_day
from metering.errors import SettingsError
from metering.settings import MeteringSettings, Tariff, TariffHours
from metering.tables.schema import TIMESTAMP


def periods(settings: MeteringSettings, tariff: str, day: date) -> list[str]:
    of_day = periods_of_day(day, settings).filter(pl.col("tariff") == tariff)
    return of_day.sort("window_end")["period"].to_list()


def with_tariffs(settings: MeteringSettings, *tariffs: Tariff) -> MeteringSettings:
    return replace(settings, tariffs=tariffs)


def test_default_tariff_on_a_summer_day(metering_settings: MeteringSettings) -> None:
    day = periods(metering_settings, "large_industry", date(2026, 7, 1))
    expected = (
        ["valley"] * 28 + ["flat"] * 4 + ["peak"] * 12 + ["flat"] * 28
        + ["peak"] * 4 + ["sharp"] * 8 + ["peak"] * 8 + ["valley"] * 4
    )  # fmt: skip
    assert day == expected


def test_months_and_holidays_bring_their_own_hours(metering_settings: MeteringSettings) -> None:
    ordinary, holiday = date(2026, 5, 11), date(2026, 5, 1)
    assert "deep_valley" not in periods(metering_settings, "large_industry", ordinary)
    assert periods(metering_settings, "large_industry", holiday)[48:56] == ["deep_valley"] * 8
    assert "sharp" not in periods(metering_settings, "large_industry", ordinary)


@pytest.mark.parametrize(
    ("day", "is_holiday"),
    [
        (date(2026, 5, 3), True),  # the Sunday inside
        (date(2026, 5, 5), True),  # a Tuesday, made up for on the 9th
        (date(2026, 5, 6), False),
        (date(2026, 5, 9), False),  # a Saturday that is worked
        (date(2026, 5, 16), False),  # a plain Saturday
        (date(2025, 10, 8), True),
        (date(2025, 10, 11), False),
    ],
)
def test_hours_of_holidays_follow_the_days_that_are_moved(
    metering_settings: MeteringSettings, day: date, is_holiday: bool
) -> None:
    assert ("deep_valley" in periods(metering_settings, "large_industry", day)) == is_holiday


def test_the_version_in_force_counts_and_the_oldest_before_any(metering_settings: MeteringSettings) -> None:
    old = Tariff(name="t", effective_from=date(2020, 1, 1), default_period="old")
    new = Tariff(name="t", effective_from=date(2026, 7, 1), default_period="new")
    settings = with_tariffs(metering_settings, new, old)
    assert set(periods(settings, "t", date(2019, 1, 1))) == {"old"}
    assert set(periods(settings, "t", date(2026, 6, 30))) == {"old"}
    assert set(periods(settings, "t", date(2026, 7, 1))) == {"new"}


def test_hours_may_run_over_midnight(metering_settings: MeteringSettings) -> None:
    night = TariffHours(period="night", start="23:00", end="07:00")
    tariff = Tariff(name="t", effective_from=date(2020, 1, 1), default_period="day", hours=(night,))
    day = periods(with_tariffs(metering_settings, tariff), "t", date(2026, 7, 1))
    assert day == ["night"] * 28 + ["day"] * 64 + ["night"] * 4


def test_later_entries_win(metering_settings: MeteringSettings) -> None:
    hours = (TariffHours(period="a", start="08:00", end="12:00"), TariffHours(period="b", start="10:00", end="11:00"))
    tariff = Tariff(name="t", effective_from=date(2020, 1, 1), default_period="c", hours=hours)
    day = periods(with_tariffs(metering_settings, tariff), "t", date(2026, 7, 1))
    assert day[32:48] == ["a"] * 8 + ["b"] * 4 + ["a"] * 4


def test_days_with_23_and_25_hours_keep_the_clock(metering_settings: MeteringSettings) -> None:
    settings = replace(metering_settings, timezone="Europe/Berlin")
    short = periods(settings, "general_industry", date(2016, 3, 27))
    long = periods(settings, "general_industry", date(2016, 10, 30))
    assert (len(short), len(long)) == (92, 100)
    assert (short.count("valley"), long.count("valley")) == (28, 36)  # 00:00-07:00 and 23:00-24:00 by the clock
    assert short.count("peak") == long.count("peak") == 32


def test_a_period_is_that_of_the_start_and_null_stays_null(metering_settings: MeteringSettings) -> None:
    eight = datetime(2026, 7, 1, 0, tzinfo=UTC)  # 08:00 in Shanghai
    ends = pl.DataFrame({"end": pl.Series([eight, eight + timedelta(minutes=15), None], dtype=TIMESTAMP)})
    found = ends.select(period_of(pl.col("end"), "large_industry", metering_settings)).to_series()
    assert found.to_list() == ["flat", "peak", None]


def test_a_user_is_told_what_is_wrong(metering_settings: MeteringSettings) -> None:
    with pytest.raises(SettingsError, match="tariff 'none' is not in the settings"):
        period_of(pl.col("end"), "none", metering_settings)
    hours = (TariffHours(period="a", start="8 o'clock", end="12:00"),)
    tariff = Tariff(name="t", effective_from=date(2020, 1, 1), default_period="c", hours=hours)
    with pytest.raises(SettingsError, match="HH:MM"):
        period_of(pl.col("end"), "t", with_tariffs(metering_settings, tariff))
