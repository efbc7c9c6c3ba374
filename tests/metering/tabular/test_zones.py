"""Zones, offsets, epochs and serial days: read as they say, or refused; never ignored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import MappingError
from metering.tabular.convert import Replayed, from_frame, from_text, replay
from metering.tabular.mapping import parse_mapping

ZONE = "Europe/Vienna"
INSTANTS = st.datetimes(datetime(2000, 1, 2), datetime(2099, 12, 30)).map(
    lambda t: t.replace(second=0, microsecond=0, tzinfo=UTC)
)


def run(stamps: list[str] | pl.Series, format: str | None = None, zone: str = ZONE, column: str = '"t"') -> Replayed:
    text = f'delimiter = ";"\ninterval = "1m"\nmeter_id = "M"\ntimezone = "{zone}"\n[timestamp]\ncolumn = {column}\n'
    text += f'format = "{format}"\n' if format else ""
    mapping = parse_mapping(text + '[[channel]]\nfield = "p_kw"\ncolumns = { p = 1 }\n', "UTC")
    if isinstance(stamps, pl.Series):
        return replay(from_frame(pl.DataFrame({"t": stamps, "p": 1.0}), mapping), mapping)
    return replay(from_text("t;p\n" + "".join(f"{stamp};1\n" for stamp in stamps), mapping), mapping)


def times(stamps: list[str] | pl.Series, format: str | None = None, zone: str = ZONE) -> list[datetime]:
    done = run(stamps, format, zone)
    assert done.rejects.height == 0, done.rejects.rows()
    return done.readings["ts"].to_list()


@given(
    instant=INSTANTS.filter(lambda t: t.year < 2037),
    zone=st.sampled_from([ZONE, "America/New_York", "Asia/Shanghai", "Europe/London"]),
    form=st.sampled_from(["name", "offset", "colon", "iso", "iso short", "iso name", "literal"]),
)
def test_what_a_stamp_says_of_its_zone_is_read(instant: datetime, zone: str, form: str) -> None:
    local = instant.astimezone(ZoneInfo(zone))
    written, format = {
        "name": (f"{local:%d.%m.%Y %H:%M %Z}", "%d.%m.%Y %H:%M %Z"),
        "offset": (f"{local:%d.%m.%Y %H:%M%z}", "%d.%m.%Y %H:%M%z"),
        "colon": (local.isoformat()[:-9] + local.isoformat()[-6:], "%Y-%m-%dT%H:%M%:z"),
        "iso": (local.isoformat(), None),
        "iso short": (local.isoformat()[:-9] + local.isoformat()[-6:], None),
        "iso name": (f"{local:%Y-%m-%d %H:%M %Z}", None),
        "literal": (f"{instant:%Y-%m-%dT%H:%M:%SZ}", "%Y-%m-%dT%H:%M:%SZ"),
    }[form]
    assert times([written], format, zone) == [instant]


@pytest.mark.parametrize(
    ("written", "format", "utc"),
    [
        ("2026-10-25 02:30 MESZ", "%Y-%m-%d %H:%M %Z", "2026-10-25T00:30"),
        ("2026-10-25 02:30 MEZ", "%Y-%m-%d %H:%M %Z", "2026-10-25T01:30"),
        ("2026-07-01 02:30 CET", None, "2026-07-01T01:30"),  # a clock that stays on winter time
        ("2026-03-29 02:30 CET", None, "2026-03-29T01:30"),
        ("2026-07-01 02:30 UTC", None, "2026-07-01T02:30"),
        ("2026-07-01 02:30 GMT", "%Y-%m-%d %H:%M GMT", "2026-07-01T02:30"),
        ("2026-07-01T02:30Z", "%Y-%m-%dT%H:%M%z", "2026-07-01T02:30"),
        ("2026-07-01T02:30+02", "%Y-%m-%dT%H:%M%z", "2026-07-01T00:30"),
        ("2026-07-01 02", "%Y-%m-%d %H", "2026-07-01T00:00"),
        ("2026-06-30 24", "%Y-%m-%d %H", "2026-06-30T22:00"),
        ("202606302400", "%Y%m%d%H%M", "2026-06-30T22:00"),
        ("7/1/26 2 AM", "%m/%d/%y %I %p", "2026-07-01T00:00"),
        ("1.7.26 2:15", "%d.%m.%Y %H:%M", "2026-07-01T00:15"),
    ],
)
def test_forms_that_are_read(written: str, format: str | None, utc: str) -> None:
    assert times([written], format) == [datetime.fromisoformat(utc).replace(tzinfo=UTC)]


def test_a_name_that_the_zone_does_not_have_is_a_reject() -> None:
    done = run(["2026-07-01 02:30 PST", "2026-07-01 02:30 CEST"], "%Y-%m-%d %H:%M %Z")
    assert done.rejects["reason"].to_list() == ["bad_time"]
    assert "'PST' is no name of the time in Europe/Vienna" in done.rejects["detail"][0]


@pytest.mark.parametrize(
    ("format", "said"),
    [
        ("%Y-%m-%d %H:%M+01:00", "would be ignored; write %z"),
        ("%Y-%m-%d %H:%M CET", "would be ignored"),
        ("%Z %Y-%m-%d %H:%M", "at the end of a stamp only"),
        ("%s", "epoch_s"),
        ("soon", "is neither a strftime format"),
        ("%Q", "reads none of the stamps"),
        ("%H:%M", "reads none of the stamps"),
    ],
)
def test_formats_that_would_be_read_wrong_are_refused(format: str, said: str) -> None:
    with pytest.raises(MappingError, match=said):
        run(["2026-03-01 00:15"], format)


@pytest.mark.parametrize("format", ["%d/%m/%Y %H", "%Y-%m-%d %k"])
def test_an_hour_in_a_column_of_its_own_is_a_number(format: str) -> None:
    with pytest.raises(MappingError, match=r"timestamp\.period = \{ column = \"p\""):
        run(["2026-03-01"], format, column='["t", "p"]')


@given(instant=INSTANTS, unit=st.sampled_from(["s", "ms", "us", "ns"]), own=st.booleans(), typed=st.booleans())
def test_epochs_of_every_unit(instant: datetime, unit: str, own: bool, typed: bool) -> None:
    whole = round(instant.timestamp()) * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    given = pl.Series([whole], dtype=pl.Int64) if typed else [str(whole)]
    assert times(given, f"epoch_{unit}" if own else "epoch") == [instant]


@given(instant=INSTANTS, digits=st.integers(8, 12), mode=st.sampled_from(["excel", "excel_1904"]), typed=st.booleans())
def test_serial_days_are_rounded_to_the_second(instant: datetime, digits: int, mode: str, typed: bool) -> None:
    wall = instant.replace(tzinfo=None)
    zero = datetime(1899, 12, 30) if mode == "excel" else datetime(1904, 1, 1)
    serial = f"{(wall - zero) / timedelta(days=1):.{digits}f}"
    given = pl.Series([float(serial)]) if typed else [serial]
    assert times(given, mode, "UTC") == [instant]


@pytest.mark.parametrize(
    ("stamp", "format"),
    [
        ("0026-03-01 00:15", None),
        ("0026-03-01 00:15", "%Y-%m-%d %H:%M"),
        ("26-03-01 00:15", None),  # or the 26th of March 2001
        ("1999-12-31 23:59", None),
        ("2100-01-01 02:00", None),
        ("01.03.85 00:15", "%d.%m.%y %H:%M"),
        ("9999-12-31 23:59", "%Y-%m-%d %H:%M"),
        ("99999999", "excel"),
        ("36525.9", "excel"),
        ("0", "epoch_s"),
        ("-5", "epoch_ms"),
        ("1e300", "epoch"),
        ("1772326800000", "epoch_s"),
    ],
)
def test_times_that_no_meter_can_mean_are_rejects(stamp: str, format: str | None) -> None:
    done = run([stamp], format)
    assert done.rejects.select("line", "reason").rows() == [(2, "implausible_time")]
    assert done.readings.height == 0


@pytest.mark.parametrize(
    "dtype", [pl.Datetime("ns"), pl.Datetime("us"), pl.Datetime("ms"), pl.Datetime("us", "Asia/Tokyo")]
)
def test_typed_times_outside_the_years_are_rejects_too(dtype: pl.Datetime) -> None:
    walls = [datetime(1970, 1, 1), datetime(2026, 3, 1), datetime(2150, 1, 1)]
    series = pl.Series("t", walls).cast(pl.Datetime(dtype.time_unit))
    given = series.dt.replace_time_zone(dtype.time_zone) if dtype.time_zone else series
    done = run(given)
    assert done.rejects.select("line", "reason").rows() == [(1, "implausible_time"), (3, "implausible_time")]


def test_a_marker_tells_the_second_pass_whatever_the_order() -> None:
    rows = [
        "2026-10-25 02:15;B",
        "2026-10-25 02:15;A",
        "2026-10-25 02:30;A",
        "2026-10-25 02:30;B",
        "2026-10-25 03:00;B",
    ]
    text = f'delimiter = ";"\ninterval = "15m"\nmeter_id = "M"\ntimezone = "{ZONE}"\n[timestamp]\ncolumn = "t"\n'
    text += 'second_pass = { column = "z", values = ["B", "b*"] }\n[[channel]]\nfield = "p_kw"\ncolumns = { p = 1 }\n'
    mapping = parse_mapping(text, "UTC")
    table = "t;z;p\n" + "".join(f"{row};{i}\n" for i, row in enumerate(rows))
    done = replay(from_text(table, mapping), mapping)
    minutes = (done.readings["ts"] - datetime(2026, 10, 25, tzinfo=UTC)).dt.total_minutes().to_list()
    assert list(zip(minutes, done.readings["p_kw"], strict=True)) == [(15, 1), (30, 2), (75, 0), (90, 3), (120, 4)]
