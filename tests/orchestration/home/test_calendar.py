"""Holidays and make-up workdays: as decreed, of other countries, and a home's own in their place."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path

import pytest

from metering.errors import SettingsError
from orchestration.home.calendar import special_days
from orchestration.home.settings import Settings, load_settings

# State Council General Office, notices on holidays of 2025 (12 November 2024) and 2026 (4 November 2025)
DECREED = {
    2025: (("01-01", "01-01"), ("01-28", "02-04"), ("04-04", "04-06"), ("05-01", "05-05"), ("05-31", "06-02"),
           ("10-01", "10-08")),
    2026: (("01-01", "01-03"), ("02-15", "02-23"), ("04-04", "04-06"), ("05-01", "05-05"), ("06-19", "06-21"),
           ("09-25", "09-27"), ("10-01", "10-07")),
}  # fmt: skip
WORKED = {
    2025: ("01-26", "02-08", "04-27", "09-28", "10-11"),
    2026: ("01-04", "02-14", "02-28", "05-09", "09-20", "10-10"),
}


def run_of(first: date, last: date) -> Iterable[date]:
    return (first + timedelta(days=n) for n in range((last - first).days + 1))


@pytest.mark.parametrize("year", [2025, 2026])
def test_chinas_days_off_and_make_up_workdays_are_those_decreed(year: int) -> None:
    days = special_days("CN", (), (), 2027)
    decreed = [day for run in DECREED[year] for day in run_of(*(date.fromisoformat(f"{year}-{text}") for text in run))]
    assert [day for day in days.holidays if day.year == year] == decreed
    worked = [date.fromisoformat(f"{year}-{text}") for text in WORKED[year]]
    assert [day for day in days.workdays if day.year == year] == worked
    assert all(days.holidays.values())
    assert days.holidays[date(2026, 2, 17)] == "春节"


def test_what_happens_at_the_ends_of_the_years() -> None:
    days = special_days("CN", (), (), 2027)
    assert min(days.holidays).year == 2000
    assert max(days.holidays).year == 2027
    assert not days.holidays.keys() & days.workdays.keys()


def test_a_weekend_beside_a_holiday_is_an_ordinary_one_where_no_workdays_are_moved() -> None:
    """1 May 2026 is a Friday."""
    germany = special_days("DE", (), (), 2026)
    assert date(2026, 5, 1) in germany.holidays
    assert date(2026, 5, 2) not in germany.holidays
    assert germany.workdays == {}
    epiphany = date(2026, 1, 6)
    assert epiphany in special_days("DE-BY", (), (), 2026).holidays
    assert epiphany not in germany.holidays


def test_own_days_take_the_place_of_the_countrys_in_their_years() -> None:
    own_off, own_worked = date(2026, 7, 1), date(2025, 12, 27)
    theirs, days = special_days("CN", (), (), 2027), special_days("CN", (own_off,), (own_worked,), 2027)
    assert [day for day in days.holidays if day.year == 2026] == [own_off]
    assert [day for day in days.workdays if day.year == 2025] == [own_worked]
    for year, mine, other in ((2025, days.holidays, theirs.holidays), (2026, days.workdays, theirs.workdays)):
        assert [d for d in mine if d.year == year] == [d for d in other if d.year == year] != []


def test_an_own_day_is_what_it_is_said_to_be() -> None:
    holiday, worked = date(2026, 5, 1), date(2026, 5, 9)
    days = special_days("CN", (worked,), (holiday,), 2026)
    assert worked in days.holidays
    assert worked not in days.workdays
    assert holiday in days.workdays
    assert holiday not in days.holidays


def test_without_a_country_own_lists_are_all_there_is() -> None:
    day = date(2026, 7, 1)
    assert [*special_days("", (day,), (), 2027).holidays] == [day]
    assert special_days("", (), (), 2027).holidays == special_days("", (), (), 2027).workdays == {}


def test_settings_hand_them_down_with_their_names(default_settings: Settings, tmp_path: Path) -> None:
    figures = default_settings.metering
    assert figures.holidays[date(2026, 10, 1)] == "国庆节"
    assert date(2026, 10, 10) in figures.workdays
    (tmp_path / "kilowatch.toml").write_text('[calendar]\ncountry = ""\nholidays = [2026-07-01]\n', "utf-8")
    own = load_settings(tmp_path).metering
    assert ([*own.holidays], [*own.workdays]) == ([date(2026, 7, 1)], [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("country = 'XX'", "calendar.country: Value error, there is no calendar of 'XX'"),
        ("country = 'DE-XX'", "'DE-XX'"),
        ("holidays = ['someday']", "calendar.holidays"),
        ("holidays = [2026-07-01]\nworkdays = [2026-07-01]", "2026-07-01 is in holidays and in workdays"),
        ("nix = 1", "calendar.nix"),
    ],
)
def test_a_calendar_that_cannot_be_used_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "kilowatch.toml").write_text(f"[calendar]\n{text}\n", "utf-8")
    with pytest.raises(SettingsError) as raised:
        load_settings(tmp_path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
