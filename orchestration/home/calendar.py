"""Holidays and make-up workdays of a country, from the `holidays` package, with a home's own in their place.

Here: which local dates are days off by decree, and which weekend days are worked instead. Not here: what a tariff or a
forecast makes of them (`metering`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

FIRST_YEAR = 2000
DEFAULT_COUNTRY = "CN"
_JOINED_WEEKEND, _OWN_HOLIDAY, _OWN_WORKDAY, _WORKDAY = "公休日", "自定义节假日", "自定义调休上班", "调休上班"


@dataclass(frozen=True, slots=True)
class SpecialDays:
    """Days off by decree, and weekend days that are worked instead, with their names, ascending."""

    holidays: Mapping[date, str]
    workdays: Mapping[date, str]


def known_country(code: str) -> bool:
    """Whether there is a calendar of an ISO 3166 country (`CN`) or subdivision (`DE-BY`)."""
    if code == DEFAULT_COUNTRY:
        return True
    import holidays  # takes a while, and the product's own country needs no look

    country, _, part = code.partition("-")
    known = holidays.list_supported_countries(include_aliases=False)
    return country in known and (not part or part in known[country])


def special_days(country: str, holidays: Iterable[date], workdays: Iterable[date], last_year: int) -> SpecialDays:
    """Those of `country` ("": none) from FIRST_YEAR to `last_year`.

    Own `holidays` are all there are in every year that they name a day of; own `workdays` likewise. An own day is what
    it is said to be, whatever the country says of it.
    """
    theirs = _of_country(country, last_year) if country else SpecialDays({}, {})
    own_off, own_worked = dict.fromkeys(holidays, _OWN_HOLIDAY), dict.fromkeys(workdays, _OWN_WORKDAY)
    off, worked = _instead(theirs.holidays, own_off), _instead(theirs.workdays, own_worked)
    return SpecialDays(
        {day: name for day, name in off.items() if day not in own_worked},
        {day: name for day, name in worked.items() if day not in own_off},
    )


def _instead(theirs: Mapping[date, str], own: Mapping[date, str]) -> dict[date, str]:
    years = {day.year for day in own}
    kept = {day: name for day, name in theirs.items() if day.year not in years}
    return dict(sorted((kept | dict(own)).items()))


@lru_cache(maxsize=8)
def _of_country(code: str, last_year: int) -> SpecialDays:
    import holidays

    country, _, part = code.partition("-")
    own_language = holidays.country_holidays(country).default_language  # else it would be that of the machine
    calendar = holidays.country_holidays(
        country, subdiv=part or None, years=range(FIRST_YEAR, last_year + 1), language=own_language
    )
    off = dict(calendar.items())
    worked = dict.fromkeys(sorted(calendar.weekend_workdays), _WORKDAY)
    if worked:
        # Where workdays are moved, a holiday is decreed as a run of days, together with the weekends that it joins.
        for day in [*off]:
            for step in (-1, 1):
                near = day + timedelta(days=step)
                while near not in off and near.year <= last_year and not calendar.is_working_day(near):
                    off[near] = _JOINED_WEEKEND
                    near += timedelta(days=step)
    return SpecialDays(dict(sorted(off.items())), worked)
