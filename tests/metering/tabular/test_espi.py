"""Green Button feeds against a plain account of them, and feeds that mean harm."""

from __future__ import annotations

import math
import random
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.errors import MappingError
from metering.tables.lake import ESTIMATED
from metering.tabular.convert import REASONS, Replayed
from metering.tabular.espi import looks_like
from metering.tabular.formats import READERS
from metering.tabular.mapping import parse_mapping
from tests.metering.tabular.feeds import START_S, Point, Reading, Series, entries_of, feed_of, run_of

WH, VARH, W, VOLT = {"uom": 72}, {"uom": 73}, {"uom": 38}, {"uom": 29}
EXPORT, NET = {"flowDirection": 19}, {"flowDirection": 4}


def read(text: str | bytes, mapping: str = "") -> Replayed:
    content = text.encode() if isinstance(text, str) else text
    return READERS["espi"](content, parse_mapping(f'format = "espi"\n{mapping}', "Asia/Shanghai"))


def one(*series: Series, name: str = "01") -> str:
    return feed_of(entries_of([Point(name, list(series))]))


def reasons(replayed: Replayed) -> list[str]:
    return replayed.rejects["reason"].to_list()


def at(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


# --- a plain account -------------------------------------------------------------------------------------------------

KINDS = {
    "import_kwh": {**WH},
    "export_kwh": {**WH, **EXPORT},
    "import_kvarh": {**VARH},
    "export_kvarh": {**VARH, **EXPORT},
}
POWERS = {"p_kw": ("import_kwh", "export_kwh"), "q_kvar": ("import_kvarh", "export_kvarh")}


@st.composite
def points_of(draw: st.DrawFn) -> list[Point]:
    points = []
    for name in draw(
        st.lists(st.sampled_from(["01", "02", "9b6c7063", "310105200001"]), min_size=1, max_size=2, unique=True)
    ):
        length = draw(st.sampled_from([300, 900, 3600]))
        series = []
        for kind in draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=4, unique=True)):
            power = draw(st.integers(-3, 3))
            count = draw(st.integers(1, 6))
            skipped = draw(st.integers(0, 2))
            readings = [
                Reading(
                    str(draw(st.integers(0, 99_999))),
                    START_S + (skipped + n) * length,
                    length,
                    draw(st.sampled_from([None, "0", "8", "17", "12"])),
                )
                for n in range(count)
            ]
            cut = draw(st.integers(0, count))
            blocks = [block for block in (readings[:cut], readings[cut:]) if block]
            series.append(Series(blocks, {**KINDS[kind], "powerOfTenMultiplier": power, "intervalLength": length}))
        points.append(Point(name, series))
    return points


def account(points: list[Point]) -> dict[tuple[str, datetime], dict[str, float | None]]:
    """Wh x 10^power, the end of [start, start + duration); projected readings (quality 12) are no readings."""
    rows: dict[tuple[str, datetime], dict[str, float | None]] = {}
    for point in points:
        energies: dict[str, dict[datetime, tuple[float, int]]] = {}
        for series in point.series:
            quantity = (series.type["uom"], series.type.get("flowDirection", 1))
            name = next(n for n, kind in KINDS.items() if (kind["uom"], kind.get("flowDirection", 1)) == quantity)
            for reading in series.all_of():
                assert reading.start_s is not None
                assert reading.duration_s is not None
                if reading.quality != "12":
                    energy = int(reading.value) * 10.0 ** series.type["powerOfTenMultiplier"] / 1000
                    energies.setdefault(name, {})[at(reading.start_s + reading.duration_s)] = energy, reading.duration_s
        totals = dict.fromkeys(energies, 0.0)
        for time in sorted({time for of_name in energies.values() for time in of_name}):
            row = rows.setdefault((point.name, time), {})
            for name, of_name in energies.items():
                if time in of_name:
                    totals[name] += of_name[time][0]
                    row[name] = totals[name]
            for power, ways in POWERS.items():
                have = [way for way in ways if way in energies]
                if have and all(time in energies[way] for way in have):
                    signed = sum(energies[way][time][0] * (1 if way.startswith("import") else -1) for way in have)
                    row[power] = signed * 3600 / energies[have[0]][time][1]
    return rows


@settings(max_examples=80, deadline=None)
@given(
    points=points_of(),
    prefix=st.sampled_from(["", "espi", "ns1"]),
    base=st.sampled_from(["", "https://example.org/DataCustodian/espi/1_1/resource/"]),
    seed=st.integers(0, 99),
)
def test_a_feed_is_read_as_it_says(points: list[Point], prefix: str, base: str, seed: int) -> None:
    entries = entries_of(points, prefix, base)
    random.Random(seed).shuffle(entries)
    replayed = read(feed_of(entries))
    wanted = account(points)
    found = {(row["meter_id"], row["ts"]): row for row in replayed.readings.iter_rows(named=True)}
    assert found.keys() == wanted.keys()
    for key, row in wanted.items():
        for name in replayed.readings.drop("status", "register_chain", strict=False).columns[2:]:
            got, value = found[key][name], row.get(name)
            assert (got is None) == (value is None), (key, name)
            assert value is None or math.isclose(got, value, rel_tol=1e-9, abs_tol=1e-6), (key, name)
    projected = sum(reading.quality == "12" for point in points for s in point.series for reading in s.all_of())
    assert reasons(replayed) == ["no_data"] * projected


def test_readings_without_times_follow_each_other() -> None:
    block = [Reading("1000"), Reading("2000"), Reading("3000", START_S + 7200), Reading("4000")]
    ends = [START_S + 900 * n for n in (1, 2)] + [START_S + 7200 + 900 * n for n in (1, 2)]
    # the block's own start counts for the first: that of its first reading with a time
    text = one(Series([block])).replace(
        f"<start>{START_S + 7200}</start></interval>", f"<start>{START_S}</start></interval>"
    )
    replayed = read(text)
    assert replayed.readings["ts"].to_list() == [at(end) for end in ends]
    assert replayed.readings["p_kw"].to_list() == [4.0, 8.0, 12.0, 16.0]


def test_net_energy_goes_to_both_registers() -> None:
    replayed = read(one(Series([run_of(["12500", "3000", "-4000", "-9500", "-1000", "6000"])], NET)))
    last = replayed.readings.row(-1, named=True)
    assert (last["import_kwh"], last["export_kwh"]) == (21.5, 14.5)
    assert replayed.readings["p_kw"].to_list() == [50.0, 12.0, -16.0, -38.0, -4.0, 24.0]
    assert replayed.rejects.is_empty()


def test_powers_voltages_and_registers() -> None:
    replayed = read(
        one(
            Series([run_of(["400", "500"])], {**W, "powerOfTenMultiplier": 3}),
            Series([run_of(["2301", "2302"])], {**VOLT, "powerOfTenMultiplier": -1, "phase": 128}),
            Series([run_of(["1000000", "1100000"])], {**WH, "accumulationBehaviour": 3}),
            Series([run_of(["60", "70"])], {"uom": 63, "powerOfTenMultiplier": 3, **EXPORT}),
        )
    )
    assert replayed.readings.drop("ts").rows() == [
        ("01", 230.1, 400.0, -60.0, 1000.0),
        ("01", 230.2, 500.0, -70.0, 1100.0),
    ]
    assert replayed.readings.columns == ["meter_id", "ts", "ua_v", "p_kw", "q_kvar", "import_kwh"]


def test_of_the_same_in_hours_and_days_the_finer_counts() -> None:
    quarters = run_of(["1000"] * 4)
    hours = run_of(["4000", "8000"], length_s=3600)
    replayed = read(one(Series([hours], {"intervalLength": 3600}), Series([quarters])))
    assert replayed.readings["p_kw"].to_list() == [4.0] * 4 + [8.0]  # the second hour has no quarters
    assert reasons(replayed) == ["other_series"]
    assert replayed.readings["import_kwh"][-1] == 12.0


def test_rates_are_added_and_phases_are_when_nothing_tells_the_whole() -> None:
    peak, rest = ({**WH, "tou": rate} for rate in (1, 2))
    rates = read(one(Series([run_of(["1000", "0"])], peak), Series([run_of(["0", "3000"])], rest)))
    assert rates.readings["p_kw"].to_list() == [4.0, 12.0]
    phases = [Series([run_of(["1000", "2000"])], {**WH, "phase": phase}) for phase in (128, 64, 32)]
    assert read(one(*phases)).readings["p_kw"].to_list() == [12.0, 24.0]
    whole = Series([run_of(["4000", "5000"])], {**WH, "phase": 769})
    both = read(one(*phases, whole))
    assert both.readings["p_kw"].to_list() == [16.0, 20.0]
    assert reasons(both) == ["other_series"] * 6


@pytest.mark.parametrize(
    ("kind", "reason", "detail"),
    [
        ({"commodity": 7}, "other_quantity", "commodity 7 is not electricity"),
        ({"uom": 119}, "other_quantity", "unit ft3"),
        ({"uom": 71}, "other_quantity", "unit VAh"),
        ({"flowDirection": 20}, "other_quantity", "flow direction 20"),
        ({"accumulationBehaviour": 6}, "other_quantity", "accumulation behaviour 6"),
        ({"dataQualifier": 8}, "other_quantity", "data qualifier 8"),
        ({"powerOfTenMultiplier": 99}, "other_quantity", "power of ten 99"),
        ({"uom": 29, "phase": 224}, "other_quantity", "unit V"),
    ],
)
def test_what_is_no_field_of_a_reading_is_told(kind: dict[str, int], reason: str, detail: str) -> None:
    replayed = read(one(Series([run_of(["1", "2"])], kind)))
    assert replayed.readings.is_empty()
    assert reasons(replayed) == [reason] * 2
    assert detail in replayed.rejects["detail"][0]


@pytest.mark.parametrize(
    ("reading", "reason"),
    [
        (Reading("x", START_S), "not_a_number"),
        (Reading("", START_S), "no_data"),
        (Reading("nan", START_S), "not_a_number"),
        (Reading("-5", START_S), "negative_energy"),
        (Reading("5", START_S * 1000), "implausible_time"),
        (Reading("5", 5), "implausible_time"),
        (Reading("5", START_S, 0), "bad_time"),
        (Reading("5", START_S, -900), "bad_time"),
        (Reading("5", START_S, 10**12), "bad_time"),
        (Reading("5", START_S, 900, "12"), "no_data"),
    ],
)
def test_a_reading_that_cannot_be_used_is_told_with_its_line(reading: Reading, reason: str) -> None:
    text = one(Series([[reading]]))
    replayed = read(text)
    line = text[: text.index("<IntervalReading>")].count("\n") + 1
    assert replayed.rejects.select("line", "reason").rows() == [(line, reason)]
    assert replayed.readings.is_empty()
    assert replayed.rejects["detail"].null_count() == 0


def test_the_mapping_names_meters_and_quality() -> None:
    points = [
        Point("01", [Series([run_of(["1000"])])], title="Plant"),
        Point("02", [Series([run_of(["2000"], quality="8")])]),
    ]
    text = feed_of(entries_of(points))
    assert read(text).readings["meter_id"].to_list() == ["01", "02"]
    assert read(text).readings["status"].to_list() == [None, ESTIMATED]
    named = read(text, 'meters = { Plant = "310105200001", "02" = "310105200002" }')
    assert named.readings["meter_id"].to_list() == ["310105200001", "310105200002"]
    assert reasons(read(text, 'quality = { 8 = "reject" }')) == ["no_data"]
    with pytest.raises(MappingError, match="the file has 2 meters"):
        read(text, 'meter_id = "M1"')
    assert read(one(Series([run_of(["1"])])), 'meter_id = "M1"').readings["meter_id"].to_list() == ["M1"]


def test_usage_points_of_the_same_last_name_are_told_apart() -> None:
    first, second = (
        entries_of([Point("01", [Series([run_of([value])])])], base=base) for value, base in (("1", "a/"), ("2", "b/"))
    )
    ids = read(feed_of([*first, *second])).readings["meter_id"].to_list()
    assert ids == ["a/RetailCustomer/9b6c/UsagePoint/01", "b/RetailCustomer/9b6c/UsagePoint/01"]


def test_other_services_and_lost_links_are_told() -> None:
    gas = feed_of(entries_of([Point("01", [Series([run_of(["1"])])], service=1)]))
    assert reasons(read(gas)) == ["other_quantity"]
    points = [Point(name, [Series([run_of(["1"])])]) for name in ("01", "02")]
    entries = entries_of(points)
    lost = [re.sub(r"<link [^>]*>", "", text) if "IntervalBlock>" in text else text for text in entries]
    assert reasons(read(feed_of(lost))) == ["unlinked"] * 2
    untyped = [text for text in entries if "<ReadingType" not in text]
    assert reasons(read(feed_of(untyped))) == ["unlinked"] * 2
    alone = [re.sub(r"<link [^>]*>", "", text) for text in entries_of(points[:1])]
    assert read(feed_of(alone)).readings.height == 1  # there is nothing to mistake it for
    nobody = [text for text in entries_of(points[:1]) if "<UsagePoint" not in text]
    assert reasons(read(feed_of(nobody))) == ["missing_meter"]
    assert read(feed_of(nobody), 'meter_id = "M1"').readings["meter_id"].to_list() == ["M1"]


# --- what means harm -------------------------------------------------------------------------------------------------

GOOD = one(Series([run_of(["1000", "2000", "3000"])]))
LAUGHS = '<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
FILE = '<!DOCTYPE x [<!ENTITY secret SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("<feed", LAUGHS + "<feed", 1).replace("1000", "&b;", 1), "DOCTYPE"),
        (GOOD.replace("<feed", FILE + "<feed", 1).replace("1000", "&secret;", 1), "DOCTYPE"),
        (GOOD.replace("<feed", '<!DOCTYPE feed SYSTEM "http://example.org/x.dtd"><feed', 1), "DOCTYPE"),
        (GOOD.replace("1000", "&amp;&nosuch;", 1), "no well-formed XML"),
        (GOOD[:-40], "has it been cut off?"),
        (GOOD[: len(GOOD) // 2], "has it been cut off?"),
        ("", "no well-formed XML"),
        ("stamp,kW\n", "no well-formed XML"),
        ("<html><body>Sign in</body></html>", "XML with <html> outside"),
        (feed_of([]), "no Green Button"),
        ("<a>" * 100 + "</a>" * 100, "nested more than 64"),
        (
            feed_of(entries_of([Point("01", [Series([run_of(["1"])])])]), '<?xml version="1.0" encoding="klingon"?>'),
            "cannot be read|well-formed",
        ),
    ],
)
def test_what_is_no_feed_is_refused(text: str, said: str) -> None:
    with pytest.raises(MappingError, match=said):
        read(text)


def test_other_encodings_are_read_as_declared() -> None:
    for encoding in ("utf-16", "iso-8859-1"):
        declared = feed_of(
            entries_of([Point("01", [Series([run_of(["1"])])], title="Zähler")]),
            f'<?xml version="1.0" encoding="{encoding}"?>',
        )
        assert read(declared.encode(encoding), 'meters = { "Zähler" = "M1" }').readings["meter_id"].to_list() == ["M1"]


def test_a_feed_is_recognised() -> None:
    assert looks_like(GOOD)
    assert not looks_like("<html/>")
    assert not looks_like("stamp,naesb.org/espi\n")


@settings(max_examples=200, deadline=None)
@given(points=points_of(), seed=st.integers(0, 10**9), cuts=st.integers(1, 4))
def test_each_reading_of_a_harmed_feed_is_read_or_told(points: list[Point], seed: int, cuts: int) -> None:
    draw = random.Random(seed)
    text = feed_of(entries_of(points))
    tags = list(re.finditer(r">([^<>]*)<|href=\"([^\"]*)\"", text))
    for _ in range(cuts):
        where = draw.choice(tags)
        group = 1 if where.group(1) is not None else 2
        old = where.group(group)
        if old.strip():
            junk = draw.choice(
                ["", "x", "-1", "99999999999999999999", "1e400", "١", "nan", "0", "4", "/", "http://[", " 7 "]
            )
            text = text.replace(f">{old}<" if group == 1 else f'"{old}"', f">{junk}<" if group == 1 else f'"{junk}"', 1)
    if draw.random() < 0.3:
        at_byte = draw.randrange(len(text))
        text = text[:at_byte] + draw.choice(["<", "&", "\0", "</entry>", "é"]) + text[at_byte + 1 :]
    try:
        replayed = read(text)
    except MappingError:
        return
    assert set(reasons(replayed)) <= set(REASONS)
    values = replayed.readings.width * replayed.readings.height
    assert replayed.rejects.height + replayed.doubled + values >= text.count("<IntervalReading>")
