"""Where a table's cells stand: headers, names, rows that count, rows of several quantities, quality marks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import MappingError
from metering.tables.lake import ESTIMATED
from metering.tabular.convert import Replayed, from_frame, from_text, replay
from metering.tabular.mapping import parse_mapping

HEAD = 'interval = "15m"\nmeter_id = "202601010001"\n'
STAMP = '[timestamp]\ncolumn = "t"\n'
START = datetime(2026, 3, 1, tzinfo=UTC)


def channel(columns: str, field: str = "p_kw", more: str = "") -> str:
    return f'[[channel]]\nfield = "{field}"\ncolumns = {{ {columns} }}\n{more}\n'


def run(table: str | pl.DataFrame, mapping: str) -> Replayed:
    parsed = parse_mapping(mapping, "UTC")
    cells = from_text(table, parsed) if isinstance(table, str) else from_frame(table, parsed)
    done = replay(cells, parsed)
    assert done.rows == done.readings.height + done.rejects.height + done.left_out + done.joined + done.absent
    return done


TWICE = "t,kWh,kWh,Sum (1.5 kWh)\n2026-03-01 00:15,1,2,3\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [("kWh#1", 1.0), ("kWh#2", 2.0), ("#3", 2.0), ("Sum*", 3.0), ("*kWh)", 3.0), ("S*(*)", 3.0), ("k*#2", 2.0)],
)
def test_columns_by_position_by_number_and_by_part_of_a_name(name: str, value: float) -> None:
    assert run(TWICE, HEAD + STAMP + channel(f'"{name}" = 1')).readings["p_kw"].to_list() == [value]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kWh", "stands twice in the file: 'kWh#1' is the first"),
        ("k*", "stands twice"),
        ("kWh#3", "not in"),
        ("#9", "not in"),
    ],
)
def test_a_name_that_fits_none_or_several_is_told(name: str, said: str) -> None:
    with pytest.raises(MappingError, match=said):
        run(TWICE, HEAD + STAMP + channel(f'"{name}" = 1'))


def test_a_column_of_exactly_the_name_comes_first() -> None:
    table = "t,a*,ab,#2\n2026-03-01 00:15,1,2,3\n"
    done = run(table, HEAD + STAMP + channel('"a*" = 1') + channel('"#2" = 1', "q_kvar"))
    assert done.readings.select("p_kw", "q_kvar").rows() == [(1.0, 3.0)]


def test_names_over_several_lines_and_none_at_all() -> None:
    table = 'Report of "March"\n\nt,Import,Import\n,kW,kvar\n2026-03-01 00:15,1,2\n'
    header = "header = { line = 3, lines = 2 }\n"
    done = run(table, HEAD + header + STAMP + channel('"Import kW" = 1') + channel('"Import kvar" = 1', "q_kvar"))
    assert done.readings.select("p_kw", "q_kvar").rows() == [(1.0, 2.0)]
    assert done.before_header == 1
    mapping = HEAD + 'header = { lines = 0 }\n[timestamp]\ncolumn = "#1"\n' + channel('"#2" = 1')
    bare = run("2026-03-01 00:15,1\n2026-03-01 00:30,2\n", mapping)
    assert bare.readings["p_kw"].to_list() == [1.0, 2.0]


@pytest.mark.parametrize(("mark", "told"), [(";", '";"'), ("\t", r'"\\t"'), ("|", '"\\|"')])
def test_another_delimiter_is_told(mark: str, told: str) -> None:
    with pytest.raises(MappingError, match=f"'t' is not in the file.*delimiter = {told}"):
        run(mark.join("tpq") + "\n", HEAD + STAMP + channel("p = 1"))


@pytest.mark.parametrize("header", ["{ line = 2 }", "{ line = 99 }", '{ contains = "zz" }'])
def test_a_header_that_is_not_there_is_told(header: str) -> None:
    with pytest.raises(MappingError, match=r"header\.|is not in the file"):
        run("t,p\n\n2026-03-01 00:15,1\n", HEAD + f"header = {header}\n" + STAMP + channel("p = 1"))


def test_rows_that_count_and_rows_that_are_left_out() -> None:
    rows = [("A", "", 1), ("A", "Summe März", 2), ("B", "", 3), ("AB", "*", 4), ("A", "x", 5)]
    table = "t,m,k,p\n" + "".join(f"2026-03-01 0{i}:00,{m},{k},{p}\n" for i, (m, k, p) in enumerate(rows)) + "Total\n"
    rules = '[[rows]]\ncolumn = "m"\nkeep = ["A*"]\n[[rows]]\ncolumn = "k"\ndrop = ["Summe*", "\\\\*"]\n'
    done = run(table, HEAD + rules + STAMP + channel("p = 1"))
    assert done.readings["p_kw"].to_list() == [1.0, 5.0]
    assert (done.left_out, done.rejects["reason"].to_list()) == (3, ["too_few_cells"])
    total = run(table, HEAD + '[[rows]]\ncolumn = "t"\ndrop = ["Total"]\n' + STAMP + channel("p = 1"))
    assert (total.left_out, total.rejects.height) == (1, 0)


QUANTITIES = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["kW", "kvar", "kWh", "MWh", "V"]), st.integers(0, 99)), max_size=30
)


@given(rows=QUANTITIES)
def test_one_row_for_each_quantity_against_a_plain_dictionary(rows: list[tuple[int, str, int]]) -> None:
    table = "t,unit,value\n" + "".join(
        f"{START + i * timedelta(minutes=15):%Y-%m-%d %H:%M},{u},{v}\n" for i, u, v in rows
    )
    mapping = HEAD + STAMP
    for unit, field, factor in (
        ("kW", "p_kw", 1),
        ("kvar", "q_kvar", 1),
        ("kWh", "import_kwh", 1),
        ("MWh", "import_kwh", 1000),
    ):
        kind = 'kind = "interval_energy"\n' if field == "import_kwh" else ""
        mapping += channel(f"value = {factor}", field, f'{kind}when = {{ unit = "{unit}" }}')
    done = run(table, mapping)
    expected: dict[int, dict[str, float]] = {}
    for i, unit, value in rows:
        if unit != "V":
            field = {"kW": "p_kw", "kvar": "q_kvar"}.get(unit, "import_kwh")
            expected.setdefault(i, {})[field] = value * (1000.0 if unit == "MWh" else 1.0)
    register = 0.0
    for i in sorted(expected):
        if "import_kwh" in expected[i]:
            register += expected[i]["import_kwh"]
            expected[i]["import_kwh"] = register
    assert done.rejects["reason"].to_list() == ["no_channel"] * sum(unit == "V" for _, unit, _ in rows)
    assert [row["ts"] for row in done.readings.iter_rows(named=True)] == [
        START + i * timedelta(minutes=15) for i in sorted(expected)
    ]
    for row, i in zip(done.readings.iter_rows(named=True), sorted(expected), strict=True):
        assert {
            name: value
            for name, value in row.items()
            if name not in ("meter_id", "ts", "register_chain") and value is not None
        } == expected[i]


def test_a_row_that_two_channels_take_for_one_field_is_a_reject() -> None:
    mapping = (
        HEAD
        + STAMP
        + channel("v = 1", more='when = { u = "k*" }')
        + channel("v = 9", more='when = { u = ["kW", "W"] }')
    )
    done = run("t,u,v\n2026-03-01 00:15,kW,1\n2026-03-01 00:30,kVA,2\n2026-03-01 00:45,W,3\n", mapping)
    assert done.rejects.select("line", "reason").rows() == [(2, "no_channel")]
    assert done.readings["p_kw"].to_list() == [2.0, 27.0]


def test_spaces_of_any_kind_in_a_name_are_spaces() -> None:
    table = 't,"Active\u00a0 power\n(kW)"\n2026-03-01 00:15,1\n'
    assert run(table, HEAD + STAMP + channel('"Active power (kW)" = 1')).readings.height == 1


def test_doubled_hours_of_several_quantities_follow_each_by_itself() -> None:
    instants = [datetime(2026, 10, 24, 23, tzinfo=UTC) + i * timedelta(minutes=15) for i in range(16)]
    local = pl.Series(instants).dt.convert_time_zone("Europe/Vienna").dt.to_string("%Y-%m-%d %H:%M").to_list()
    by_time = [f"{t},{unit},{i}" for i, t in enumerate(local) for unit in ("kW", "kvar")]
    by_unit = [f"{t},{unit},{i}" for unit in ("kW", "kvar") for i, t in enumerate(local)]
    mapping = 'timezone = "Europe/Vienna"\n' + HEAD + STAMP
    mapping += "".join(channel("v = 1", f, f'when = {{ u = "{u}" }}') for f, u in (("p_kw", "kW"), ("q_kvar", "kvar")))
    for rows in (by_time, by_unit):
        done = run("t,u,v\n" + "\n".join(rows), mapping)
        assert done.readings["ts"].to_list() == instants
        assert done.readings["p_kw"].to_list() == done.readings["q_kvar"].to_list() == list(range(16))
        assert (done.doubled, done.unsure, done.joined) == (0, 0, 16)


def test_quality_marks_become_status_estimates_or_rejects() -> None:
    marks = ["ok", "E1", "bad", "clock", "new", ""]
    table = "t,s,q,p\n" + "".join(f"2026-03-01 0{i}:00,{i},{mark},{i}\n" for i, mark in enumerate(marks))
    quality = '[quality]\ncolumn = "q"\nestimated = ["E*"]\nreject = ["bad"]\nstatus = { clock = 8 }\n'
    done = run(table, HEAD + quality + STAMP + channel("p = 1"))
    assert done.readings["status"].to_list() == [None, ESTIMATED, 8, None, None]
    assert done.rejects.select("reason", "detail").rows() == [("bad_quality", "the mark is 'bad'")]
    strict = run(table, HEAD + quality + 'good = ["ok", ""]\n' + STAMP + channel("p = 1") + channel("s = 1", "status"))
    assert strict.readings["status"].to_list() == [0, 1 | ESTIMATED, 3 | 8, 5]
    assert strict.rejects["detail"].to_list() == ["the mark is 'bad'", "the mark is 'new'"]


BIG = 2**63 - 1


def test_whole_numbers_of_64_bits_are_exact() -> None:
    cells = [(BIG, BIG), (BIG - 1, BIG - 2), (1, BIG + 1), (1, 2.5)]
    table = "t,m,s\n" + "".join(f"2026-03-01 0{i}:00,{m},{status}\n" for i, (m, status) in enumerate(cells))
    mapping = HEAD.replace('"202601010001"', '{ column = "m" }') + STAMP + channel("s = 1", "status")
    done = run(table, mapping)
    assert done.readings.select("meter_id", "status").rows() == [(str(BIG), BIG), (str(BIG - 1), BIG - 2)]
    assert done.rejects["reason"].to_list() == ["not_a_number"] * 2
    frame = pl.DataFrame({"t": [START, START], "m": [BIG, BIG - 1], "s": pl.Series([BIG, BIG - 2], dtype=pl.UInt64)})
    assert (
        run(frame, mapping).readings.select("meter_id", "status").rows()
        == done.readings.select("meter_id", "status").rows()
    )


@given(
    whole=st.integers(0, 10**12),
    decimals=st.integers(0, 999),
    mark=st.sampled_from([",", ".", " ", "\u00a0", "\u202f", "'", "’"]),
    sign=st.sampled_from(["", "-", "+", "\u2212", "after"]),
)
def test_thousands_signs_of_every_country(whole: int, decimals: int, mark: str, sign: str) -> None:
    decimal = "," if mark == "." else "."
    written = f"{whole:,}".replace(",", mark) + f"{decimal}{decimals:03}"
    written = f"{written}-" if sign == "after" else f"{sign}{written}"
    key = {"\u00a0": " ", "\u202f": " ", "’": "'"}.get(mark, mark)
    mapping = f'delimiter = ";"\ndecimal = "{decimal}"\nthousands = "{key}"\n' + HEAD + STAMP + channel("p = 1")
    done = run(f"t;p\n2026-03-01 00:15;{written}\n", mapping)
    value = float(f"{whole}.{decimals:03}")
    assert done.readings["p_kw"].to_list() == [-value if sign in ("-", "\u2212", "after") else value]


@pytest.mark.parametrize("text", ["1,5", "12,34", "1,2345", ",123", "1,,234", "1,234,", "1.234,5", "1 234", "1e3,000"])
def test_a_thousands_sign_in_another_place_is_a_reject(text: str) -> None:
    done = run(
        f"t;p\n2026-03-01 00:15;{text}\n", 'delimiter = ";"\nthousands = ","\n' + HEAD + STAMP + channel("p = 1")
    )
    assert done.rejects["reason"].to_list() == ["not_a_number"]


def test_lakhs_are_read_too() -> None:
    done = run(
        "t;p\n2026-03-01 00:15;12,34,567.8\n", 'delimiter = ";"\nthousands = ","\n' + HEAD + STAMP + channel("p = 1")
    )
    assert done.readings["p_kw"].to_list() == [1234567.8]


def test_a_sum_beyond_any_number_is_a_reject() -> None:
    done = run("t,p\n2026-03-01 00:15,1e308\n2026-03-01 00:30,1\n", HEAD + STAMP + channel("p = 1000"))
    assert done.readings["p_kw"].to_list() == [1000.0]
    assert done.rejects["reason"].to_list() == ["not_a_number"]


@given(energies=st.lists(st.integers(-500, 500), min_size=1, max_size=30))
def test_a_net_column_splits_into_two_registers(energies: list[int]) -> None:
    table = "t,net\n" + "".join(
        f"{START + i * timedelta(minutes=15):%Y-%m-%d %H:%M},{e}\n" for i, e in enumerate(energies)
    )
    kind = 'kind = "interval_energy"\npart = "{}"'
    mapping = (
        HEAD
        + STAMP
        + channel("net = 0.5", "import_kwh", kind.format("positive"))
        + channel("net = 0.5", "export_kwh", kind.format("negative"))
    )
    done = run(table, mapping)
    imported = exported = 0.0
    for row, energy in zip(done.readings.iter_rows(named=True), energies, strict=True):
        imported, exported = imported + max(energy, 0) * 0.5, exported + max(-energy, 0) * 0.5
        assert (row["import_kwh"], row["export_kwh"]) == (imported, exported)
