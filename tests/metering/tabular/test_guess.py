"""A guessed mapping reads its file once what it asks is known, and a guess never fails with anything but a sentence."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.errors import MappingError
from metering.tabular.convert import Replayed, from_frame, replay
from metering.tabular.encodings import encoding_of
from metering.tabular.formats import READERS
from metering.tabular.guess import guess_frame, guess_text
from metering.tabular.guess_draft import Guess
from metering.tabular.layout import from_text
from metering.tabular.mapping import parse_mapping
from tests.metering.tabular.feeds import Point, Series, entries_of, feed_of, run_of

SHARED = Path(__file__).parents[4] / "shared"
ZONE = "Asia/Shanghai"


def guess_of(content: bytes | str, **answers: str) -> Guess:
    given = {key.replace("unit_", "unit:"): answer for key, answer in answers.items()}
    return guess_text(content.encode() if isinstance(content, str) else content, "load.csv", ZONE, given)


def filled_in(guess: Guess) -> str:
    """As its reader would: every `# ?` line taken as it is."""
    return guess.text.replace("\n# ? ", "\n")


def read(content: bytes, mapping_text: str) -> Replayed:
    mapping = parse_mapping(mapping_text, ZONE)
    if mapping.format in READERS:
        return READERS[mapping.format](content, mapping)
    return replay(from_text(content.decode(mapping.encoding), mapping), mapping)


def keys(guess: Guess) -> list[str]:
    return [question.key for question in guess.questions]


# --- cases from the field, and real data -----------------------------------------------------------------------------


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "asked", "readings", "first"),
    [
        ("01-wide96-gbk.csv", ["timezone"], 192, {}),
        ("02-preamble-latin1.csv", ["meter_id", "timezone", "label"], 12, {"p_kw": 10.0, "import_kwh": 2.5}),
        ("02-sep-line.csv", ["meter_id", "timezone"], 8, {"p_kw": 10.0, "import_kwh": 2.5}),
        ("03-utf16-tab.txt", ["meter_id", "timezone", "label"], 3, {}),
        ("06-excel-serial.csv", ["meter_id", "timezone", "label"], 6, {"p_kw": 101.0}),
        ("07-two-digit-year.csv", ["meter_id", "timezone", "label"], 3, {"p_kw": 115.0}),
        ("08-epoch-mixed.csv", ["meter_id", "label"], 6, {"p_kw": 101.0}),
        ("09-hour-1-25.csv", ["meter_id", "timezone"], None, {"p_kw": 31.5}),
        ("09-period-1-96.csv", ["meter_id", "timezone"], 96, {"p_kw": 101.0}),
        ("15-mixed-resolution.csv", ["meter_id", "label", "unit:Valeur"], 8, {"p_kw": 400000.0}),
        ("16-null-words.csv", ["meter_id", "timezone", "label"], None, {}),
        ("16-thousands-eu.csv", ["meter_id", "timezone", "label"], 4, {"p_kw": 1234.5}),
        ("16-thousands.csv", ["meter_id", "timezone", "label"], 3, {"p_kw": 1234.5}),
        (
            "17-net-energy.csv",
            ["meter_id", "timezone", "label"],
            6,
            {"p_kw": 50.0, "import_kwh": 12.5, "export_kwh": 0.0},
        ),
        ("20-two-meters-autumn.csv", ["timezone", "label"], 28, {}),
        ("21-sum-in-header.csv", ["meter_id", "timezone", "label"], None, {}),
        ("22-am-pm.csv", ["meter_id", "timezone", "date_order"], None, {"p_kw": 80.0}),
        ("33-first.csv", ["meter_id", "timezone"], 96, {"p_kw": 400.0, "import_kwh": 100.0}),
    ],
)
def test_cases_are_read_once_the_questions_are_answered(
    name: str, asked: list[str], readings: int | None, first: dict[str, float]
) -> None:
    content = (SHARED / "cases" / name).read_bytes()
    guess = guess_of(content)
    assert keys(guess) == asked
    answers = {question.key: question.assumed for question in guess.questions}
    answered = guess_text(content, "load.csv", ZONE, answers)
    assert answered.questions == ()
    replayed = read(content, answered.text)
    assert replayed.readings.height == (readings or replayed.readings.height) > 0
    row = replayed.readings.row(0, named=True)
    assert {field: row[field] for field in first} == pytest.approx(first)
    if "date_order" not in asked:
        assert read(content, filled_in(guess)).readings.equals(replayed.readings)


@pytest.mark.shared_data
def test_real_data() -> None:
    data = SHARED / "data"
    steel = (data / "steel_2018_jan_aug.csv").read_bytes()
    guess = guess_of(steel)
    assert keys(guess) == ["meter_id", "timezone"]
    replayed = read(steel, filled_in(guess))
    assert replayed.readings.height == 23_328
    assert replayed.rejects.is_empty()
    assert replayed.corrected > 200
    assert replayed.readings.columns == [
        "meter_id",
        "ts",
        "p_kw",
        "q_kvar",
        "import_kwh",
        "import_kvarh",
        "export_kvarh",
        "register_chain",
    ]
    household = (data / "household_1min_28d.txt").read_bytes()
    answers = {"unit_Global_active_power": "kW", "unit_Global_reactive_power": "kW"}
    guess = guess_of(household, meter_id="H1", timezone="Europe/Paris", label="end", **answers)
    assert guess.questions == ()
    replayed = read(household, guess.text)
    assert replayed.readings.height == 40_959
    assert {"ua_v", "ia_a", "p_kw", "q_kvar"} <= set(replayed.readings.columns)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["simbench_profiles_2016_15min", "openstef_pid287_307_15min"])
def test_parquet(name: str) -> None:
    frame = pl.read_parquet(SHARED / "data" / f"{name}.parquet")
    guess = guess_frame(frame, name, ZONE, {})
    answers = {question.key: question.assumed for question in guess.questions}
    text = guess_frame(frame, name, "Europe/Berlin", answers).text
    mapping = parse_mapping(text, ZONE)
    replayed = replay(from_frame(frame, mapping), mapping)
    assert replayed.readings.height + replayed.rejects.height == frame.height
    assert replayed.readings.height > 0.95 * frame.height


# --- tables made up --------------------------------------------------------------------------------------------------

DATES = ["%Y-%m-%d %H:%M", "%d.%m.%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%Y/%m/%d %H:%M", "%d.%m.%y %H:%M",
         "%Y%m%d%H%M", "%Y-%m-%dT%H:%M:%S%z"]  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    decimal = draw(st.sampled_from(".,"))
    return {
        "delimiter": draw(st.sampled_from(";\t|" if decimal == "," else ";\t|,")),
        "decimal": decimal,
        "format": draw(st.sampled_from(DATES)),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"])),
        "above": draw(st.lists(st.sampled_from(["Lastgang", "Zählpunkt: AT001", "", "Einheit;kWh"]), max_size=4)),
        "meter": draw(st.sampled_from([None, "meter_id", "Zählpunkt"])),
        "value": draw(
            st.sampled_from(["kWh", "Verbrauch (kWh)", "P [kW]", "Wirkleistung kW", "Energy Wh", "Leistung (MW)"])
        ),
        "step": draw(st.sampled_from([60, 300, 900, 1800, 3600])),
        "start": datetime(2026, 3, draw(st.integers(13, 20)), tzinfo=UTC) + timedelta(hours=draw(st.integers(0, 23))),
        "values": draw(st.lists(st.integers(1, 900_000), min_size=30, max_size=60)),
    }


FACTORS = {"kWh": 1, "Verbrauch (kWh)": 1, "P [kW]": 1, "Wirkleistung kW": 1, "Energy Wh": 0.001, "Leistung (MW)": 1000}


@settings(max_examples=120, deadline=None)
@given(table=tables())
def test_a_guessed_mapping_reads_the_file_that_it_was_guessed_from(table: dict[str, Any]) -> None:
    mark = table["delimiter"]
    header = ["Zeitstempel", *([table["meter"]] if table["meter"] else []), table["value"]]
    lines = [*table["above"], mark.join(header)]
    ends = []
    for number, value in enumerate(table["values"]):
        at = table["start"].astimezone(ZoneInfo(ZONE)) + timedelta(seconds=number * table["step"])
        ends.append(at.astimezone(UTC))
        cell = f"{value / 1000:.3f}".replace(".", table["decimal"])
        lines.append(mark.join([at.strftime(table["format"]), *(["310105200001"] if table["meter"] else []), cell]))
    content = "\r\n".join([*lines, ""]).encode(table["encoding"])
    guess = guess_of(content, meter_id="310105200001", label="end", timezone=ZONE)
    assert keys(guess) == [], guess.text
    replayed = read(content, guess.text)
    assert replayed.rejects.is_empty(), (guess.text, replayed.rejects)
    if guess.text.count('label = "end"  #') or 'label = "start"' not in guess.text:
        assert replayed.readings["ts"].to_list() == ends
    assert replayed.readings["meter_id"].unique().to_list() == ["310105200001"]
    hours = 1.0 if "W" in table["value"] and "Wh" not in table["value"] else table["step"] / 3600
    powers = [value / 1000 * FACTORS[table["value"]] / hours for value in table["values"]]
    if "p_kw" in replayed.readings.columns:
        assert replayed.readings["p_kw"].to_list() == pytest.approx(powers)
    else:  # it only rises, from high up: a register
        assert table["values"] == sorted(table["values"])


@settings(max_examples=40, deadline=None)
@given(
    count=st.sampled_from([24, 48, 96]),
    names=st.sampled_from(["clock", "clock from 0", "number"]),
    days=st.integers(1, 3),
    decimal=st.sampled_from(".,"),
)
def test_a_row_a_day_is_seen(count: int, names: str, days: int, decimal: str) -> None:
    step = 1440 // count
    starts = [number * step for number in range(count)]
    header = {
        "clock": [f"{(m + step) // 60:02}:{(m + step) % 60:02}" for m in starts],
        "clock from 0": [f"{m // 60:02}:{m % 60:02}" for m in starts],
        "number": [str(number + 1) for number in range(count)],
    }[names]
    lines = [";".join(["Zählpunkt", "Datum", "Einheit", *header])]
    for day in range(days):
        cells = [f"{day * 1000 + number + 0.5}".replace(".", decimal) for number in range(count)]
        lines.append(";".join(["AT001", f"{10 + day}.03.2026", "kWh", *cells]))
    content = "\n".join(lines).encode()
    guess = guess_of(content, timezone=ZONE)
    assert keys(guess) == [], guess.text
    replayed = read(content, guess.text)
    assert replayed.rejects.is_empty()
    assert replayed.readings.height == days * count
    assert replayed.readings["ts"][0] == datetime(2026, 3, 9, 16, tzinfo=UTC) + timedelta(minutes=step)
    assert replayed.readings["p_kw"][0] == pytest.approx(0.5 * 60 / step)


def test_rows_of_other_kinds_and_headers_of_other_widths_are_seen() -> None:
    clock = [f"{(m + 30) // 60 % 24}:{(m + 30) % 60:02}" for m in range(0, 1440, 30)]
    rows = [f"300,{kind},{day}-Jul-26,{','.join(['0.25'] * 48)}" for day in (1, 2, 3) for kind in ("GC", "GG")]
    content = "\n".join([f"Customer,Consumption Category,date,{','.join(clock)}", *rows])
    guess = guess_of(content, timezone=ZONE, unit_value="kWh")
    assert keys(guess) == ["rows"]
    answered = guess_of(content, timezone=ZONE, unit_value="kWh", rows="GG")
    assert answered.questions == ()
    replayed = read(content.encode(), answered.text)
    assert (replayed.readings.height, replayed.left_out) == (144, 3)
    stamps = [f"2026-03-0{day}T{hour:02}:00:00+01:00;{hour}" for day in (1, 2) for hour in range(24)]
    content = "\n".join(
        ["Identifiant;Début;Fin;Grandeur;Unité", "12;01/03/2026;05/03/2026;Energie;W", "Horodate;Valeur", *stamps]
    )
    guess = guess_of(content, meter_id="M1", label="end", unit_Valeur="W")
    assert guess.questions == ()
    assert tomllib.loads(guess.text)["header"] == {"line": 3}
    assert read(content.encode(), guess.text).readings["p_kw"].to_list()[:3] == [0.0, 0.001, 0.002]


# --- formats of the field, and what is none --------------------------------------------------------------------------


def test_formats_of_the_field_are_told_by_their_content() -> None:
    day = f"300,20260301,{','.join(['1.5'] * 48)},A,,,20260302010101,"
    nem12 = "\r\n".join(["100,NEM12,202603020101,A,B", "200,NEM1201001,E1,1,E1,N1,M1,kWh,30,", day, "900", ""])
    guess = guess_of(nem12)
    assert tomllib.loads(guess.text) == {"format": "nem12"}
    assert '"NEM1201001"' in guess.text
    assert read(nem12.encode(), guess.text).readings.height == 48
    feed = feed_of(entries_of([Point("01", [Series([run_of(["1000"])])])]))
    guess = guess_of(feed)
    assert tomllib.loads(guess.text) == {"format": "espi"}
    assert read(feed.encode(), guess.text).readings.height == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file is empty"),
        ("stamp,kW\n", "no row"),
        ("a,b\nx,y\n", "no rows below it"),
        ("a,b\n1,2\n", "no column looks like a time"),
        ("UNA:+.? 'UNB+UNOC:3+99:500+88:500+260301:1200+1'UNH+1+MSCONS:D:04B:UN:2.4c'", "MSCONS"),
        ("UNB+UNOC:3+99:500'", "EDIFACT"),
        ("<!DOCTYPE html><html>", "a web page"),
        ("<?xml version='1.0'?><Report/>", "XML but no Green Button"),
        ('{"meter_id": "M1", "ts": 1}', "JSON"),
    ],
)
def test_what_no_mapping_can_read_is_told_as_what_it_is(content: str, said: str) -> None:
    with pytest.raises(MappingError, match=said) as raised:
        guess_of(content)
    assert "\n" not in str(raised.value)


def _never_fails(look: Callable[[], Guess]) -> None:
    with suppress(MappingError):
        _is_whole(look())


def _is_whole(guess: Guess) -> None:
    tomllib.loads(guess.text)
    if "date_order" not in keys(guess):
        tomllib.loads(filled_in(guess))
    assert all(question.reason and question.assumed for question in guess.questions)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_any_bytes_are_a_guess_or_a_sentence(content: bytes) -> None:
    content.decode(encoding_of(content), errors="replace")
    _never_fails(lambda: guess_of(content))


CELL = st.one_of(
    st.sampled_from(
        ["2026-03-01 00:15", "1.5", "1,5", "?", "", "kWh", "24:00", "1772324100", "M1", '"', "\x00", "00:15"]
    ),
    st.text(max_size=5),
)


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(st.lists(CELL, min_size=1, max_size=30), max_size=8), mark=st.sampled_from(";,\t|"))
def test_any_table_is_a_guess_or_a_sentence(rows: list[list[str]], mark: str) -> None:
    _never_fails(lambda: guess_of("\n".join(mark.join(row) for row in rows)))


def test_few_rows_that_rise_from_high_up_are_asked_about() -> None:
    def file_of(first: int, step: int) -> bytes:
        rows = "".join(f"2026-03-02 0{hour}:00,{first + step * hour}\n" for hour in range(4))
        return f"time,kWh\n{rows}".encode()

    content = file_of(48_113_250, 75)
    asked = {question.key: question for question in guess_text(content, "few.csv", ZONE, {}).questions}
    assert asked["kind:kWh"].options == ("register", "interval")
    assert asked["kind:kWh"].needed
    texts = {a: guess_text(content, "few.csv", ZONE, {"kind:kWh": a}).text for a in ("register", "interval")}
    assert "interval_energy" not in texts["register"]
    assert 'kind = "interval_energy"' in texts["interval"]
    assert "kind:kWh" not in keys(guess_of(file_of(20, 1)))
