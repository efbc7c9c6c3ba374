"""Contacts: what a valid contacts.csv is, whom an event concerns, quiet hours."""

from __future__ import annotations

from datetime import UTC, datetime, time

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import RegistryError
from metering.notices.contacts import parse_contacts
from tests.metering.notices.events import COLD, CUSTOMERS, STEEL, ZONE, contact

HEAD = "contact,role,scope,event_class,severity,quiet,quiet_passes,language,channels,level,after_min\n"
KNOWN = pl.DataFrame(
    [[c.customer_no, c.segment, c.feeder, c.voltage_level_kv, c.manager or None] for c in CUSTOMERS.values()],
    schema={"customer_no": pl.String, "segment": pl.String, "feeder": pl.String, "voltage_level_kv": pl.Float64,
            "manager": pl.String},
    orient="row",
)  # fmt: skip


def test_a_row_in_full_and_one_with_the_least() -> None:
    text = (
        HEAD
        + 'duty,值班台,feeder:10kV-01,"outage limit_warning",warning,22:00-07:00,none,en,'
        + "mailto://h/a@b.example json://${HOOK}/x ${ALL},2,7.5\n"
        + "all,调度,,,,,,,json://h,,\n"
    )
    first, second = parse_contacts(text, KNOWN)
    assert first.channels == ("mailto://h/a@b.example", "json://${HOOK}/x", "${ALL}")
    assert (first.scope, first.classes, first.severity) == ("feeder:10kV-01", ("outage", "limit_warning"), "warning")
    assert (first.quiet, first.quiet_passes, first.language) == ((time(22), time(7)), "none", "en")
    assert (first.level, first.after_min, first.line) == (2, 7.5, 2)
    assert (second.scope, second.classes, second.severity, second.quiet) == ("*", ("*",), "info", None)
    assert (second.quiet_passes, second.language, second.level) == ("critical", "zh", 0)


def test_optional_columns_may_be_absent() -> None:
    (only,) = parse_contacts("contact,role,channels\nduty,值班台,json://h\n", KNOWN)
    assert only.scope == "*"
    assert parse_contacts("contact,role,channels\n", KNOWN) == ()


@pytest.mark.parametrize(
    ("row", "column", "said"),
    [
        ("d,,*,*,,,,,json://h,,", "role", "is empty"),
        ("d,r,feeder:x,*,,,,,json://h,,", "scope", "feeder:x"),
        ("d,r,123,*,,,,,json://h,,", "scope", "'123' is no customer"),
        ("d,r,*,outage warnings,,,,,json://h,,", "event_class", "'warnings' is no class"),
        ("d,r,*,*,bad,,,,json://h,,", "severity", "'bad'"),
        ("d,r,*,*,,22-7,,,json://h,,", "quiet", "'22-7'"),
        ("d,r,*,*,,24:00-07:00,,,json://h,,", "quiet", "'24:00-07:00'"),
        ("d,r,*,*,,07:00-07:00,,,json://h,,", "quiet", "'07:00-07:00'"),
        ("d,r,*,*,,,sometimes,,json://h,,", "quiet_passes", "'sometimes'"),
        ("d,r,*,*,,,,fr,json://h,,", "language", "'fr'"),
        ("d,r,*,*,,,,,,,", "channels", "is empty"),
        ("d,r,*,*,,,,,json://h password,,", "channels", "URL 2"),
        ("d,r,*,*,,,,,json://h,one,", "level", "'one'"),
        ("d,r,*,*,,,,,json://h,1,", "after_min", "is empty"),
        ("d,r,*,*,,,,,json://h,0,5", "after_min", "levels from 1"),
        ("d,r,*,*,,,,,json://h,1,0", "after_min", "0"),
    ],
)
def test_what_is_wrong_is_named_with_line_and_column(row: str, column: str, said: str) -> None:
    with pytest.raises(RegistryError) as error:
        parse_contacts(f"{HEAD}ok,r,*,*,,,,,json://h,,\n{row}\n", KNOWN)
    assert (error.value.file, error.value.line, error.value.column) == ("contacts.csv", 3, column)
    assert said in error.value.problem


def test_a_secret_in_a_url_is_not_shown() -> None:
    with pytest.raises(RegistryError) as error:
        parse_contacts(f"{HEAD}d,r,*,*,,,,,hunter2,,\n", KNOWN)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("scope", "whom"),
    [
        ("*", set(CUSTOMERS)),
        (STEEL, {STEEL}),
        ("feeder:35kV-02", {COLD}),
        ("segment:large", {STEEL, COLD}),
        ("voltage_level_kv:10", {STEEL}),
        ("manager:城东供电所", {STEEL}),
    ],
)
def test_scopes(scope: str, whom: set[str]) -> None:
    one = contact(scope=scope)
    assert {number for number, customer in CUSTOMERS.items() if one.concerns(customer)} == whom


@given(
    begin=st.times(timezones=st.none()),
    end=st.times(timezones=st.none()),
    at=st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)),
)
def test_quiet_hours_end_at_the_first_minute_that_is_not_quiet(begin: time, end: time, at: datetime) -> None:
    """Against a walk, minute by minute, through the local day."""
    begin, end = (t.replace(second=0, microsecond=0) for t in (begin, end))
    if begin == end:
        return
    at = at.replace(second=0, microsecond=0, tzinfo=UTC)
    one = contact(quiet=(begin, end), quiet_passes="critical")
    from datetime import timedelta
    from zoneinfo import ZoneInfo

    minute, walked = at, 0
    while walked < 1500:
        clock = minute.astimezone(ZoneInfo(ZONE)).time()
        quiet = begin <= clock < end if begin < end else not end <= clock < begin
        if not quiet:
            break
        minute += timedelta(minutes=1)
        walked += 1
    assert one.not_before(at, "warning", ZONE) == minute
    assert one.not_before(at, "critical", ZONE) == at


def test_quiet_hours_over_the_change_of_clocks() -> None:
    """In Vienna 02:30 does not exist on 29 March 2026: quiet hours until then end when clocks show 03:30."""
    one = contact(quiet=(time(22), time(2, 30)))
    at = datetime(2026, 3, 28, 23, 0, tzinfo=UTC)
    end = one.not_before(at, "info", "Europe/Vienna")
    assert end == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
