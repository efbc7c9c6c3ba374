"""Printed times become instants; the order of a file corrects stamps that it proves wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import MappingError
from metering.tabular.mapping import Mapping, parse_mapping
from metering.tabular.stamps import read_stamps
from metering.tabular.timestamps import in_file_order

STEP = timedelta(minutes=15)
START = datetime(2026, 3, 1, 0, 15, tzinfo=UTC)


def mapping(format: str | None = None, zone: str = "Europe/Paris", ambiguous: str = "infer") -> Mapping:
    text = 'interval = "15m"\nmeter_id = "M"\n[timestamp]\ncolumn = "t"\n[[channel]]\nfield = "p_kw"\ncolumns = {p = 1}'
    made = parse_mapping(text, zone)
    return replace(made, timestamp=replace(made.timestamp, format=format, ambiguous=ambiguous))


def rows(stamps: list[str | None] | pl.Series, meter_id: str = "M") -> pl.DataFrame:
    stamp = pl.Series("stamp", stamps)
    return pl.DataFrame({"line": range(len(stamp)), "meter_id": [meter_id] * len(stamp), "stamp": stamp})


def read(stamps: list[str | None] | pl.Series, given: Mapping) -> list[datetime | None]:
    return read_stamps(rows(stamps), given)["ts"].to_list()


@pytest.mark.parametrize(
    ("format", "stamp", "utc"),
    [
        ("%d-%m-%Y %H:%M", "01-07-2026 02:15", "2026-07-01T00:15"),
        ("%d/%m/%Y %H:%M:%S", "1/7/2026 02:15:00", "2026-07-01T00:15"),
        ("%d-%m-%Y %H:%M", "30-06-2026 24:00", "2026-06-30T22:00"),
        (None, "2026-07-01 02:15", "2026-07-01T00:15"),
        (None, "2026-07-01T02:15:00", "2026-07-01T00:15"),
        (None, "2026-07-01T02:15:00Z", "2026-07-01T02:15"),
        (None, "2026-07-01 02:15:00+08:00", "2026-06-30T18:15"),
        ("%Y%m%d%H%M%z", "202607010215+0800", "2026-06-30T18:15"),
        ("epoch_s", "1782864900", "2026-07-01T00:15"),
        ("epoch_ms", "1782864900000", "2026-07-01T00:15"),
    ],
)
def test_formats(format: str | None, stamp: str, utc: str) -> None:
    assert read([stamp], mapping(format)) == [datetime.fromisoformat(utc).replace(tzinfo=UTC)]


def test_typed_stamps_with_and_without_a_zone() -> None:
    naive = pl.Series([datetime(2026, 7, 1, 2, 15)]).cast(pl.Datetime("ns"))
    assert read(naive, mapping()) == [datetime(2026, 7, 1, 0, 15, tzinfo=UTC)]
    aware = naive.dt.replace_time_zone("Asia/Shanghai")
    assert read(aware, mapping()) == [datetime(2026, 6, 30, 18, 15, tzinfo=UTC)]


def test_a_stamp_that_is_no_time_is_told_from_an_absent_local_hour() -> None:
    done = read_stamps(rows(["2026-03-29 02:15", "soon", None, "2026-03-29 03:15"]), mapping())
    assert done["time_problem"].to_list() == ["absent_local_time", "bad_time", "bad_time", None]
    assert done["ts"].is_null().to_list() == [True, True, True, False]


def test_a_format_that_reads_no_stamp_is_the_mappings_mistake() -> None:
    with pytest.raises(MappingError, match=r"timestamp\.format: '%Y/%m/%d' reads none .* '01-07-2026 02:15'"):
        read(["01-07-2026 02:15", "x"], mapping("%Y/%m/%d"))


def _autumn(backwards: bool = False) -> tuple[list[str], list[datetime]]:
    """Local stamps and instants of the quarter-hours around the doubled hour of 2026-10-25."""
    instants = [datetime(2026, 10, 24, 23, 15, tzinfo=UTC) + i * STEP for i in range(16)]
    series = pl.Series(instants).dt.convert_time_zone("Europe/Paris").dt.to_string("%Y-%m-%d %H:%M")
    return (series.to_list()[::-1], instants[::-1]) if backwards else (series.to_list(), instants)


@pytest.mark.parametrize("backwards", [False, True])
def test_infer_follows_the_file_through_a_doubled_hour(backwards: bool) -> None:
    stamps, instants = _autumn(backwards)
    assert read(stamps, mapping()) == instants


def test_infer_follows_each_meter_by_itself() -> None:
    stamps, instants = _autumn()
    doubled = pl.concat([rows(stamps, "A"), rows(stamps, "B")]).sort("line", maintain_order=True)
    assert read_stamps(doubled, mapping())["ts"].to_list() == [t for t in instants for _ in "AB"]


@pytest.mark.parametrize(("ambiguous", "hours"), [("earliest", 0), ("latest", 1)])
def test_earliest_and_latest_take_one_of_the_two(ambiguous: str, hours: int) -> None:
    base = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    expected = [base + timedelta(hours=hours)] * 2
    assert read(["2026-10-25 02:30", "2026-10-25 02:30"], mapping(ambiguous=ambiguous)) == expected


# --- order of the file -----------------------------------------------------------------------------------------------


def ordered(stamps: list[datetime], zone: str = "UTC") -> tuple[list[datetime], int]:
    frame = pl.DataFrame({"line": range(len(stamps)), "meter_id": "M", "ts": stamps})
    done = in_file_order(frame.with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC"))), 900, zone)
    return done["ts"].to_list(), int(done["corrected"].sum())


def grid(*positions: int) -> list[datetime]:
    return [START + i * STEP for i in positions]


@pytest.mark.parametrize(
    ("printed", "meant"),
    [
        ((0, 1, 2, 3), (0, 1, 2, 3)),
        ((0, 1, 9, 3, 4), (0, 1, 2, 3, 4)),  # a jump ahead that the successor takes back
        ((0, 1, 1, 3, 4), (0, 1, 2, 3, 4)),  # a stamp printed twice
        ((5, 1, 2, 3), (0, 1, 2, 3)),  # the first row
        ((0, 1, 2, 1), (0, 1, 2, 3)),  # the last row
        ((0, 1, 5, 6), (0, 1, 5, 6)),  # a gap stays a gap
        ((0, 1, 1, 2, 3), (0, 1, 1, 2, 3)),  # a row that is there twice stays
    ],
)
def test_a_stamp_that_its_neighbours_prove_wrong(printed: tuple[int, ...], meant: tuple[int, ...]) -> None:
    corrected = sum(a != b for a, b in zip(printed, meant, strict=True))
    assert ordered(grid(*printed)) == (grid(*meant), corrected)


@given(
    first=st.integers(0, 95),
    days=st.integers(1, 4),
    missing=st.sets(st.integers(0, 400), max_size=6),
    zone=st.sampled_from(["Asia/Seoul", "Europe/Paris", "America/New_York"]),
)
def test_midnight_printed_with_the_date_it_ends_is_put_right(
    first: int, days: int, missing: set[int], zone: str
) -> None:
    """Whatever rows are missing, as long as the file has a row between two midnights."""
    start = datetime(2026, 3, 27, 0, 0, tzinfo=UTC)
    true = pl.Series("ts", [start + (first + i) * STEP for i in range(96 * days) if i not in missing])
    true = true.dt.replace_time_zone("UTC").cast(pl.Datetime("us", "UTC")) if true.dtype.time_zone is None else true
    local = true.dt.convert_time_zone(zone)
    midnight = (local.dt.hour() == 0) & (local.dt.minute() == 0)
    midnight[0] = False  # without a row before it, nothing is out of order
    printed = (
        pl.DataFrame({"wall": local.dt.replace_time_zone(None), "midnight": midnight})
        .select(pl.when("midnight").then(pl.col("wall").dt.offset_by("-1d")).otherwise("wall"))
        .to_series()
        .dt.replace_time_zone(zone, ambiguous="earliest")
        .dt.convert_time_zone("UTC")
    )
    unambiguous = (local.dt.replace_time_zone(None).dt.replace_time_zone(zone, ambiguous="earliest") == local).all()
    if not unambiguous:
        return
    assert ordered(printed.to_list(), zone) == (true.to_list(), int(midnight.sum()))
