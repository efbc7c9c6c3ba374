"""Days in rows, numbered intervals and both ends of an interval, against a plain walk through the day with zoneinfo."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import MappingError
from metering.tabular.convert import Replayed, from_text, replay
from metering.tabular.mapping import parse_mapping

ZONES = [
    "Europe/Vienna",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Shanghai",
    "America/Asuncion",
    "Africa/Cairo",
]
DAYS = st.one_of(
    st.dates(date(2020, 1, 1), date(2026, 12, 31)),
    st.sampled_from([date(2026, 3, 29), date(2026, 10, 25), date(2026, 3, 8), date(2026, 11, 1), date(2026, 4, 5)]),
)
POWER = '[[channel]]\nfield = "p_kw"\ncolumns = { value = 1.0 }\n'


def run(text: str, mapping: str) -> Replayed:
    parsed = parse_mapping(mapping, "UTC")
    done = replay(from_text(text, parsed), parsed)
    assert done.rows == done.readings.height + done.rejects.height + done.left_out + done.joined + done.absent
    return done


def walk(day: date, zone: str, step: timedelta) -> list[datetime]:
    """The ends of a local day's real intervals, in UTC: from its first moment to the next day's."""

    def first(of: date) -> datetime:
        start = datetime(of.year, of.month, of.day, tzinfo=UTC) - timedelta(hours=16)
        while start.astimezone(ZoneInfo(zone)).date() < of:
            start += timedelta(minutes=15)
        return start

    start, end = first(day), first(day + timedelta(days=1))
    return [start + (i + 1) * step for i in range((end - start) // step)]


def head(zone: str, interval: str = "15m") -> str:
    return f'timezone = "{zone}"\ninterval = "{interval}"\nmeter_id = "202601010001"\n'


@given(day=DAYS, zone=st.sampled_from(ZONES), hours=st.sampled_from([(15, "15m"), (30, "30m"), (60, "1h")]))
def test_numbers_that_go_on_through_the_day(day: date, zone: str, hours: tuple[int, str]) -> None:
    minutes, interval = hours
    ends = walk(day, zone, timedelta(minutes=minutes))
    rows = "\n".join(f"{day},{i + 1},{i}" for i in range(len(ends)))
    stamp = '[timestamp]\ncolumn = "d"\nperiod = { column = "n", first = 1 }\nclock = "elapsed"\n'
    if zone == "Australia/Lord_Howe" and minutes == 60:
        return  # its clocks go half an hour: such a day has no whole number of hours
    done = run(f"d,n,value\n{rows}\n{day},{len(ends) + 1},9\n{day},0,9\n", head(zone, interval) + stamp + POWER)
    assert done.readings["ts"].to_list() == ends
    assert done.readings["p_kw"].to_list() == [float(i) for i in range(len(ends))]
    assert done.rejects["reason"].to_list() == ["bad_time", "bad_time"]


@given(day=DAYS, zone=st.sampled_from(ZONES), columns=st.sampled_from([92, 96, 100]), ragged=st.booleans())
def test_a_day_in_a_row_with_elapsed_columns(day: date, zone: str, columns: int, ragged: bool) -> None:
    ends = walk(day, zone, timedelta(minutes=15))
    values = [str(i) for i in range(min(columns, len(ends)))]
    cells = values if ragged else values + [""] * (columns - len(values))
    names = [] if ragged else [f"P{i + 1}" for i in range(columns)]
    wide = '[wide]\nfirst = "#2"\n' + ("" if ragged else f'last = "P{columns}"\n')
    table = ",".join(["d", *(names or ["P1"])]) + "\n" + ",".join([str(day), *cells]) + "\n"
    done = run(table, head(zone) + wide + '[timestamp]\ncolumn = "d"\nclock = "elapsed"\n' + POWER)
    assert done.readings["ts"].to_list() == ends[: len(values)]
    assert done.readings["p_kw"].to_list() == [float(value) for value in values]
    if not ragged:
        assert (done.absent, done.rejects.height) == (columns - len(values), 0)


@given(day=DAYS, zone=st.sampled_from(ZONES), filled=st.booleans())
def test_a_day_in_a_row_named_by_the_wall_clock(day: date, zone: str, filled: bool) -> None:
    """Of a doubled hour the first pass; a time that clocks skip is told if there is a value for it."""
    expected, absent = [], 0
    for i in range(96):
        wall = datetime(day.year, day.month, day.day) + timedelta(minutes=15 * i)
        instant = wall.replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(UTC)
        if instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == wall:
            expected.append(instant + timedelta(minutes=15))
        else:
            absent += 1
    kept = set(expected)
    cells = []
    for i in range(96):
        wall = datetime(day.year, day.month, day.day) + timedelta(minutes=15 * i)
        instant = wall.replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(UTC)
        there = instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == wall
        cells.append("1" if there or filled else "")
    names = [f"{(i + 1) // 4:02}:{(i + 1) % 4 * 15:02}" for i in range(96)]
    wide = '[wide]\nfirst = "00:15"\nlast = "24:00"\n[timestamp]\ncolumn = "d"\nclock = "wall"\n'
    done = run(",".join(["d", *names]) + "\n" + ",".join([str(day), *cells]) + "\n", head(zone) + wide + POWER)
    assert set(done.readings["ts"].to_list()) == kept
    assert done.readings.height == len(expected)
    assert done.rejects["reason"].to_list() == ["absent_local_time"] * (absent if filled else 0)
    assert done.absent == (0 if filled else absent)


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_a_day_of_other_than_24_hours_needs_to_know_the_clock(day: str) -> None:
    mapping = head("Europe/Vienna", "1h") + '[timestamp]\ncolumn = "d"\nperiod = { column = "n", first = 1 }\n' + POWER
    assert run("d,n,value\n2026-03-28,1,5\n2026-03-28,24,6\n", mapping).readings.height == 2
    with pytest.raises(MappingError, match=rf"timestamp\.clock: is missing, and {day} has 2[35] hours"):
        run(f"d,n,value\n{day},1,5\n", mapping)


def test_hours_of_the_wall_clock_with_a_doubled_one() -> None:
    """By order, and as 3A and 3B."""
    stamp = '[timestamp]\ncolumn = "d"\nperiod = { column = "n", first = 1 }\nclock = "wall"\n'
    ends = walk(date(2026, 10, 25), "Europe/Vienna", timedelta(hours=1))
    by_order = [*range(1, 4), *range(3, 25)]
    for numbers in (list(map(str, by_order)), ["1", "2", "3A", "3B", *map(str, range(4, 25))]):
        rows = "\n".join(f"2026-10-25,{number},{i}" for i, number in enumerate(numbers))
        done = run(f"d,n,value\n{rows}\n", head("Europe/Vienna", "1h") + stamp + POWER)
        assert done.readings["ts"].to_list() == ends


def test_an_hour_and_a_quarter_of_it_from_0() -> None:
    period = 'period = [{ column = "h", first = 0, length = "1h" }, { column = "q", first = 1 }]\n'
    rows = "\n".join(f"2026-03-01,{i // 4},{i % 4 + 1},{i}" for i in range(96))
    mapping = head("Europe/Vienna") + f'[timestamp]\ncolumn = "d"\n{period}' + POWER
    done = run(f"d,h,q,value\n{rows}\n", mapping)
    assert done.readings["ts"].to_list() == walk(date(2026, 3, 1), "Europe/Vienna", timedelta(minutes=15))


@given(day=DAYS, zone=st.sampled_from(ZONES), wide=st.booleans())
def test_a_first_interval_that_ends_at_midnight(day: date, zone: str, wide: bool) -> None:
    """Hours 0 to 23 as ends, or a column 00:00 for the value of 00:00."""
    step = timedelta(minutes=15)
    ends = [end - step for end in walk(day, zone, step)]
    stamp = '[timestamp]\ncolumn = "d"\nclock = "elapsed"\nfirst_ends = "00:00"\n'
    if wide:
        names, values = ",".join(f"P{i}" for i in range(len(ends))), ",".join("1" for _ in ends)
        done = run(f"d,{names}\n{day},{values}\n", head(zone) + '[wide]\nfirst = "P0"\n' + stamp + POWER)
    else:
        rows = "\n".join(f"{day},{i},1" for i in range(len(ends)))
        done = run(f"d,n,value\n{rows}\n", head(zone) + stamp + 'period = { column = "n", first = 0 }\n' + POWER)
    assert done.readings["ts"].to_list() == ends


@given(day=DAYS, zone=st.sampled_from(ZONES))
def test_ends_that_are_the_start_of_the_wall_clock_and_the_interval(day: date, zone: str) -> None:
    starts = [end - timedelta(minutes=15) for end in walk(day, zone, timedelta(minutes=15))]
    rows = []
    for start in starts:
        wall = start.astimezone(ZoneInfo(zone)).replace(tzinfo=None) + timedelta(minutes=15)
        rows.append(f"{wall:%Y-%m-%d %H:%M},1")
    mapping = head(zone) + '[timestamp]\ncolumn = "t"\nlabel = "wall_end"\n' + POWER
    done = run("t,value\n" + "\n".join(rows) + "\n", mapping)
    assert done.readings["ts"].to_list() == [start + timedelta(minutes=15) for start in starts]


@given(day=DAYS, zone=st.sampled_from(ZONES), minutes=st.sampled_from([15, 30]), date_apart=st.booleans())
def test_both_ends_of_each_interval(day: date, zone: str, minutes: int, date_apart: bool) -> None:
    step = timedelta(minutes=minutes)
    ends = walk(day, zone, step)
    rows = []
    for end in ends:
        start, stop = ((t).astimezone(ZoneInfo(zone)) for t in (end - step, end))
        if date_apart:
            rows.append(f"{start:%Y-%m-%d},{start:%H:%M},{stop:%H:%M},1")
        else:
            rows.append(f",{start:%Y-%m-%d %H:%M},{stop:%Y-%m-%d %H:%M},1")
    columns = 'column = ["d", "a"]\nend = ["d", "b"]' if date_apart else 'column = "a"\nend = "b"'
    mapping = f'timezone = "{zone}"\nmeter_id = "M"\n[timestamp]\n{columns}\n' + POWER
    done = run("d,a,b,value\n" + "\n".join(rows) + "\n", mapping)
    assert done.readings["ts"].to_list() == ends
    assert (done.gaps, done.rejects.height) == (0, 0)


def test_lengths_that_are_not_allowed_or_no_lengths_are_rejects() -> None:
    stamp = '[timestamp]\ncolumn = "a"\nend = "b"\n'
    rows = "\n".join(
        f"2026-03-01 0{a},2026-03-01 0{b},1" for a, b in [("0:00", "0:15"), ("0:15", "1:15"), ("3:00", "2:00")]
    )
    mapping = 'interval = ["15m", "30m"]\nmeter_id = "M"\n' + stamp + POWER
    done = run(f"a,b,value\n{rows}\n2026-03-01 04:00,soon,1\n", mapping)
    assert done.readings.height == 1
    assert done.rejects["reason"].to_list() == ["bad_time"] * 3
    assert "3600 s after the start" in done.rejects["detail"][0]


@given(
    lengths=st.lists(st.sampled_from([15, 30, 60]).flatmap(lambda m: st.just([m] * 4)), min_size=1, max_size=6),
    label=st.sampled_from(["start", "end"]),
    by=st.sampled_from(["distance", "column", "text"]),
)
def test_a_resolution_that_changes(lengths: list[list[int]], label: str, by: str) -> None:
    """Runs of one length, each at least four rows long."""
    at, rows, ends = datetime(2026, 3, 1, tzinfo=UTC), [], []
    for minutes in (m for run_of in lengths for m in run_of):
        end = at + timedelta(minutes=minutes)
        length = f"PT{minutes}M" if by == "text" else minutes
        rows.append(f"{(at if label == 'start' else end):%Y-%m-%d %H:%M},{length},{minutes}")
        ends.append(end)
        at = end
    interval = {
        "distance": '["15m", "30m", "1h"]',
        "column": '{ column = "len", unit = "m" }',
        "text": '{ column = "len" }',
    }[by]
    channel = '[[channel]]\nfield = "p_kw"\ncolumns = { value = 1.0 }\nkind = "mean_power"\n'
    stamp = f'[timestamp]\ncolumn = "t"\nlabel = "{label}"\n'
    done = run("t,len,value\n" + "\n".join(rows), f'interval = {interval}\nmeter_id = "M"\n' + stamp + channel)
    assert done.readings["ts"].to_list() == ends
    # as many kWh as minutes: 60 kW whatever the length
    assert set(done.readings["p_kw"]) == {60.0}
    assert done.gaps == 0


def test_a_missing_half_hour_is_a_gap_and_no_hour() -> None:
    rows = "\n".join(f"2026-03-01 {h},1" for h in ("00:00", "00:30", "01:00", "02:00", "02:30", "03:00"))
    stamp = '[timestamp]\ncolumn = "t"\nlabel = "start"\n'
    done = run(f"t,value\n{rows}\n", 'interval = ["30m", "1h"]\nmeter_id = "M"\n' + stamp + POWER)
    assert (done.gaps, done.missing) == (1, 1)
    assert {ts.minute for ts in done.readings["ts"]} == {0, 30}
