"""NEM12 and NEM13 against a plain account of the same file, and against files as they come."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.errors import MappingError
from metering.tables.lake import ESTIMATED
from metering.tabular.convert import REASONS, Replayed
from metering.tabular.formats import READERS
from metering.tabular.mapping import parse_mapping

HEAD = "100,NEM12,202603020101,MDA1,RET1"
FIELDS = {"E": "import_kwh", "B": "export_kwh", "Q": "import_kvarh", "K": "export_kvarh"}
FACTORS = {"kWh": 1.0, "KWH": 1.0, "Wh": 0.001, "MWh": 1000.0, "kVArh": 1.0, "varh": 0.001, "MVARH": 1000.0}


def read(text: str, mapping: str = "") -> Replayed:
    return READERS["nem12"](text.encode(), parse_mapping(f'format = "nem12"\n{mapping}', "Asia/Shanghai"))


def day_of(values: list[str], quality: str = "A", on: str = "20260301") -> str:
    return f"300,{on},{','.join(values)},{quality},,,20260302010101,"


def file_of(*records: str) -> str:
    return "\r\n".join([HEAD, *records, "900"]) + "\r\n"


def reasons(replayed: Replayed) -> list[tuple[int, str]]:
    return list(replayed.rejects.select("line", "reason").iter_rows())


# --- a plain account -------------------------------------------------------------------------------------------------


@dataclass
class Channel:
    suffix: str
    unit: str
    days: list[tuple[list[str], str, list[tuple[int, int, str]]]] = field(default_factory=list)


@dataclass
class Meter:
    nmi: str
    length_min: int
    channels: list[Channel]


def records_of(meter: Meter, first: date) -> list[str]:
    lines = []
    for channel in meter.channels:
        lines.append(
            f"200,{meter.nmi},E1B1Q1K1,1,{channel.suffix},N1,METSER1,{channel.unit},{meter.length_min},20260501"
        )
        for number, (values, quality, events) in enumerate(channel.days):
            lines.append(day_of(values, quality, f"{first + timedelta(days=number):%Y%m%d}"))
            lines += [f"400,{start},{end},{mark},76," for start, end, mark in events]
        lines.append("500,O,S01009,20260302120000,001123.5")
    return lines


def account(meters: list[Meter], first: date) -> dict[tuple[str, datetime], dict[str, float | None]]:
    """By MDFF: days begin at UTC+10, values are energies of intervals, the market's export is the customer's import."""
    rows: dict[tuple[str, datetime], dict[str, float | None]] = {}
    for meter in meters:
        per_day = 1440 // meter.length_min
        totals = dict.fromkeys(FIELDS.values(), 0.0)
        has = {FIELDS[channel.suffix[0]] for channel in meter.channels}
        for number in range(len(meter.channels[0].days)):
            for interval in range(per_day):
                end = datetime(first.year, first.month, first.day, tzinfo=UTC) - timedelta(hours=10)
                end += timedelta(days=number, minutes=meter.length_min * (interval + 1))
                energies: dict[str, float | None] = {}
                for channel in meter.channels:
                    name = FIELDS[channel.suffix[0]]
                    values, quality, events = channel.days[number]
                    marks = [mark for start, last, mark in events if start <= interval + 1 <= last] or [quality]
                    known = values[interval] != "" and marks[-1][0] not in "NV"
                    value = float(values[interval]) * FACTORS[channel.unit] if known else None
                    before = energies.get(name, 0.0)
                    energies[name] = None if value is None or before is None else before + value
                if all(value is None for value in energies.values()):
                    continue
                row: dict[str, float | None] = {}
                for name, value in energies.items():
                    totals[name] += value or 0.0
                    row[name] = None if value is None else totals[name]
                for power, into, out in (
                    ("p_kw", "import_kwh", "export_kwh"),
                    ("q_kvar", "import_kvarh", "export_kvarh"),
                ):
                    if {into, out} & has:
                        drawn, fed = (energies[name] if name in has else 0.0 for name in (into, out))
                        known_both = drawn is not None and fed is not None
                        row[power] = (drawn - fed) * 60 / meter.length_min if known_both else None
                rows[meter.nmi, end] = row
    return rows


def values_of(per_day: int) -> st.SearchStrategy[list[str]]:
    value = st.one_of(st.integers(0, 50_000).map(lambda n: f"{n / 1000:.3f}"), st.just(""), st.just("0"))
    few = st.lists(value, min_size=1, max_size=6)
    return few.map(lambda some: [some[i % len(some)] for i in range(per_day)])


@st.composite
def marked_days(draw: st.DrawFn, per_day: int) -> tuple[list[str], str, list[tuple[int, int, str]]]:
    values = draw(values_of(per_day))
    quality = draw(st.sampled_from(["A", "A", "S14", "F76", "N", "V"]))
    if quality != "V":
        return values, quality, []
    cuts = sorted(draw(st.sets(st.integers(1, per_day - 1), max_size=3)))
    bounds = list(zip([0, *cuts], [*cuts, per_day], strict=True))
    marks = [draw(st.sampled_from(["A", "S14", "F", "N"])) for _ in bounds]
    events = [(start + 1, end, mark) for (start, end), mark in zip(bounds, marks, strict=True)]
    return values, quality, events[: draw(st.integers(0, len(events)))]


@st.composite
def meters_of(draw: st.DrawFn) -> list[Meter]:
    meters = []
    days = draw(st.integers(1, 2))
    for nmi in draw(
        st.lists(st.sampled_from(["NEM1201001", "NEM1201002", "6305123456"]), min_size=1, max_size=2, unique=True)
    ):
        length = draw(st.sampled_from([5, 15, 30, 60]))
        suffixes = draw(st.lists(st.sampled_from(["E1", "E2", "B1", "Q1", "K1"]), min_size=1, max_size=4, unique=True))
        channels = []
        for suffix in suffixes:
            units = ["kWh", "KWH", "Wh", "MWh"] if suffix[0] in "EB" else ["kVArh", "varh", "MVARH"]
            marked = draw(st.lists(marked_days(1440 // length), min_size=days, max_size=days))
            channels.append(Channel(suffix, draw(st.sampled_from(units)), marked))
        meters.append(Meter(nmi, length, channels))
    return meters


@settings(max_examples=60, deadline=None)
@given(meters=meters_of())
def test_a_file_is_read_as_the_specification_says(meters: list[Meter]) -> None:
    first = date(2026, 4, 4)  # the day before clocks are put back in Sydney: the market's are not
    replayed = read(file_of(*(line for meter in meters for line in records_of(meter, first))))
    wanted = account(meters, first)
    found = {(row["meter_id"], row["ts"]): row for row in replayed.readings.iter_rows(named=True)}
    assert found.keys() == wanted.keys()
    for key, row in wanted.items():
        for name, value in row.items():
            got = found[key].get(name)
            assert (got is None) == (value is None), (key, name)
            assert value is None or math.isclose(got, value, rel_tol=1e-9, abs_tol=1e-6), (key, name)
    assert replayed.readings["ts"].is_sorted()


# --- what is wrong with a file ---------------------------------------------------------------------------------------

E1 = "200,NEM1201001,E1,1,E1,N1,MET1,kWh,30,"
DAY = day_of(["1.5"] * 48)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([DAY], [(2, "bad_record")]),
        ([E1, day_of(["1.5"] * 47)], [(3, "bad_record")]),
        ([E1, day_of(["1.5"] * 96)], [(3, "bad_record")]),
        ([E1.replace(",30,", ",7,"), DAY], [(3, "bad_record")]),
        ([E1.replace(",30,", ",,"), DAY], [(3, "bad_record")]),
        ([E1.replace("NEM1201001", ""), DAY], [(3, "bad_record")]),
        ([E1, DAY.replace("20260301", "20261301")], [(3, "bad_time")]),
        ([E1, DAY.replace("20260301", "19260301")], [(3, "implausible_time")]),
        ([E1, DAY.replace("1.5", "-1.5", 1)], [(3, "negative_energy")]),
        ([E1, DAY.replace("1.5", "1,5", 1)], [(3, "bad_record")]),
        ([E1, DAY.replace("1.5", "inf", 1)], [(3, "not_a_number")]),
        ([E1, DAY.replace("1.5", "?", 2)], [(3, "not_a_number")]),
        ([E1, DAY, "400,1,49,A,,"], [(4, "bad_record")]),
        ([E1, DAY, "400,9,8,A,,"], [(4, "bad_record")]),
        (["400,1,48,A,,", E1, DAY], [(2, "bad_record")]),
        ([E1, DAY, "600,what,is,this"], [(4, "bad_record")]),
        ([E1, DAY, "2O0" + E1[3:], DAY], [(4, "bad_record"), (5, "bad_record")]),
        ([E1, DAY, '"' + E1, DAY], [(4, "broken_quoting"), (5, "bad_record")]),
        ([E1, DAY.replace(",A,", ",X,")], [(3, "bad_record")]),
        ([E1.replace("kWh", "kVAh"), DAY], [(3, "other_quantity")]),
        ([E1.replace("kWh", "kVArh"), DAY], [(3, "other_quantity")]),
        ([E1.replace(",E1,N1", ",C1,N1"), DAY], [(3, "other_quantity")]),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(records: list[str], told: list[tuple[int, str]]) -> None:
    replayed = read(file_of(*records))
    assert reasons(replayed) == told
    assert {reason for _, reason in told} <= set(REASONS)
    assert replayed.rejects["detail"].null_count() == 0


def test_intervals_without_data_are_named() -> None:
    values = ["1.5"] * 10 + [""] * 3 + ["2"] + ["?"] + ["1"] * 33
    replayed = read(file_of(E1, day_of(values, "V"), "400,1,40,A,,", "400,41,42,N,,"))
    assert replayed.rejects.select("line", "reason", "detail").rows() == [
        (3, "no_data", "intervals 11 to 13: the cell is empty"),
        (3, "not_a_number", "intervals 15: '?'"),
        (3, "no_data", "intervals 41 to 42: quality N"),
        (3, "no_quality", "intervals 43 to 48: quality V, yet no 400 record names them"),
    ]
    assert replayed.readings.height == 48 - 3 - 1 - 2 - 6
    assert (replayed.gaps, replayed.missing) == (2, 4)


def test_a_file_that_is_cut_off_is_told() -> None:
    cut = file_of(E1, DAY).removesuffix("900\r\n")
    assert reasons(read(cut)) == [(3, "cut_off")]
    assert read(cut).readings.height == 48
    assert reasons(read(cut[:-10])) == [(3, "cut_off")]
    assert reasons(read(cut[:100])) == [(3, "cut_off"), (3, "bad_record")]


def test_files_put_together_and_without_a_header_are_read() -> None:
    next_day = DAY.replace("20260301", "20260302")
    both = read(file_of(E1, DAY) + file_of(E1, next_day))
    assert both.readings.height == 96
    assert both.rejects.is_empty()
    bare = read("\n".join([E1, DAY, next_day, "900"]))
    assert bare.readings.equals(both.readings)


def test_a_day_sent_again_counts_as_sent_last() -> None:
    replayed = read(file_of(E1, DAY, DAY.replace("1.5", "2")))
    assert replayed.readings["p_kw"].to_list() == [4.0] * 47 + [4.0]
    assert replayed.doubled == 48


def test_intervals_that_become_shorter_are_read() -> None:
    later = [E1.replace(",30,", ",5,"), day_of(["0.25"] * 288, on="20260302")]
    replayed = read(file_of(E1, DAY, *later))
    assert replayed.readings.height == 48 + 288
    assert replayed.readings["p_kw"].unique().to_list() == [3.0]
    assert replayed.readings["import_kwh"][-1] == pytest.approx(48 * 1.5 + 288 * 0.25)
    assert (replayed.gaps, replayed.missing) == (0, 0)


def test_the_mapping_names_meters_zones_suffixes_and_quality() -> None:
    records = file_of(E1, DAY.replace(",A,", ",F14,"), E1.replace(",E1,N1", ",C1,N1"), DAY)
    plain = read(records)
    assert plain.readings["meter_id"].unique().to_list() == ["NEM1201001"]
    assert plain.readings["ts"][0] == datetime(2026, 2, 28, 14, 30, tzinfo=UTC)
    perth = read(records, 'timezone = "Australia/Perth"\nmeters = { NEM1201001 = "310105200001" }')
    assert perth.readings["meter_id"].unique().to_list() == ["310105200001"]
    assert perth.readings["ts"][0] == datetime(2026, 2, 28, 16, 30, tzinfo=UTC)
    sydney = read(records, 'timezone = "Australia/Sydney"')  # in summer time on that day
    assert sydney.readings.equals(plain.readings)
    chosen = read(records, 'suffixes = { E1 = "ignore", C = "export_kwh" }')
    assert chosen.readings.columns == ["meter_id", "ts", "p_kw", "export_kwh", "register_chain"]
    assert plain.readings["status"].to_list() == [ESTIMATED] * 48
    assert reasons(chosen) == [(3, "other_quantity")]
    strict = read(records, 'quality = { F = "reject" }')
    assert reasons(strict) == [(3, "no_data"), (5, "other_quantity")]
    assert strict.readings.is_empty()
    one = read(records, 'meter_id = "M1"')
    assert one.readings["meter_id"].unique().to_list() == ["M1"]


def test_mean_powers_become_energies() -> None:
    replayed = read(file_of(E1.replace("kWh", "MW"), DAY))
    assert replayed.readings["p_kw"].unique().to_list() == [1500.0]
    assert replayed.readings["import_kwh"][-1] == pytest.approx(24 * 1500.0)


@pytest.mark.parametrize(
    ("text", "mapping", "said"),
    [
        ("", "", "neither NEM12 nor NEM13"),
        ("stamp,kW\n2026-03-01,5\n", "", "neither NEM12 nor NEM13"),
        (file_of(E1, DAY, E1.replace("1001", "1002"), DAY), 'meter_id = "M1"', "the file has 2 meters"),
    ],
)
def test_what_is_no_nem12_is_refused(text: str, mapping: str, said: str) -> None:
    with pytest.raises(MappingError, match=said):
        read(text, mapping)


# --- NEM13 -----------------------------------------------------------------------------------------------------------

READ = (
    "250,NEM1301001,11,1,11,11,MET1,E,006342.8,20251005093055,A,,,007654.9,20260107100333,{mark},,,{quantity},kWh,"
    "20260407,20260108100333,20260108091133"
)


@pytest.mark.parametrize(
    ("current", "quantity", "registers"),
    [
        ("007654.9", "1312.1", [6342.8, 7654.9]),
        ("007654.9", "52484", [6342.8 * 40, 7654.9 * 40]),
        ("000010.0", "993667.2", [6342.8, 10.0]),
        ("006342.8", "0", [6342.8, 6342.8]),
    ],
)
def test_register_reads_are_registers(current: str, quantity: str, registers: list[float]) -> None:
    record = READ.format(mark="A", quantity=quantity).replace("007654.9", current)
    replayed = read(file_of(record).replace("NEM12", "NEM13"))
    assert replayed.readings.select("ts", "import_kwh").rows() == [
        (datetime(2025, 10, 4, 23, 30, 55, tzinfo=UTC), pytest.approx(registers[0])),
        (datetime(2026, 1, 7, 0, 3, 33, tzinfo=UTC), pytest.approx(registers[1])),
    ]
    assert replayed.rejects.is_empty()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("1312.1", "2000", "bad_record"),
        ("1312.1", "", "bad_record"),
        ("NEM1301001", "", "bad_record"),
        ("20260107100333", "20250107100333", "bad_time"),
        ("20260107100333", "2026", "bad_time"),
        ("kWh", "kVAh", "other_quantity"),
        ("kWh", "kW", "other_quantity"),
        (",E,", ",X,", "other_quantity"),
        (",A,,,,", ",N,,,,", "no_data"),
    ],
)
def test_a_register_read_that_cannot_be_used_is_told(old: str, new: str, told: str) -> None:
    record = READ.format(mark="A", quantity="1312.1")
    changed = record.replace(old, new) if told != "no_data" else record.replace("333,A,", "333,N,")
    assert changed != record
    replayed = read(file_of(changed).replace("NEM12", "NEM13"))
    assert reasons(replayed) == [(2, told)]
    assert replayed.readings.height == (1 if told == "no_data" else 0)


def test_reactive_and_solar_registers_and_several_rates() -> None:
    record = READ.format(mark="A", quantity="1312.1")
    reactive = record.replace("kWh", "kVArh").replace(",11,11,", ",71,71,")
    solar = record.replace(",E,", ",I,").replace(",11,11,", ",41,41,")
    other_rate = record.replace(",1,11,11,", ",2,12,12,")
    replayed = read(file_of(record, reactive, solar, other_rate).replace("NEM12", "NEM13"))
    assert replayed.rejects.is_empty()
    last = replayed.readings.row(-1, named=True)
    assert last["import_kwh"] == pytest.approx(2 * 7654.9)
    assert (last["export_kwh"], last["import_kvarh"]) == (pytest.approx(7654.9), pytest.approx(7654.9))
    apart = read(file_of(record, other_rate.replace("20260107", "20260108")).replace("NEM12", "NEM13"))
    assert apart.readings.height == 1
    assert reasons(apart) == [(2, "other_series"), (3, "other_series")]


# --- any file --------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    meters=meters_of(),
    harm=st.lists(st.tuples(st.sampled_from("dcrx"), st.integers(0, 10**6), st.text(max_size=6)), max_size=4),
)
def test_each_record_of_a_harmed_file_is_read_or_told(meters: list[Meter], harm: list[tuple[str, int, str]]) -> None:
    lines = file_of(*(line for meter in meters for line in records_of(meter, date(2026, 3, 1)))).split("\r\n")[:-1]
    for kind, where, text in harm:
        at = where % len(lines)
        cells = lines[at].split(",")
        clean = text.replace("\n", "").replace("\r", "")
        if kind == "d":
            lines[at] = lines[at][: where % (len(lines[at]) + 1)]
        elif kind == "c":
            cells[where % len(cells)] = clean
            lines[at] = ",".join(cells)
        elif kind == "r":
            lines[at], lines[where % 7 % len(lines)] = lines[where % 7 % len(lines)], lines[at]
        else:
            lines.insert(at, clean)
    try:
        replayed = read("\n".join(lines) + "\n")
    except MappingError:
        return
    if replayed.doubled:  # what comes again later counts as that
        return
    told = set(replayed.rejects["line"])
    ends = set(replayed.readings["ts"])
    for number, line in enumerate(lines, 1):
        if line.strip() == "" or number in told or line.split(",")[0].strip() not in {"300", "250"}:
            continue
        cells = [cell.strip() for cell in line.split(",")]
        midnight = datetime.strptime(cells[1], "%Y%m%d").replace(tzinfo=UTC) - timedelta(hours=10)
        assert midnight + timedelta(days=1) in ends, (number, line)
    assert set(replayed.rejects["reason"]) <= set(REASONS)
