"""Every row of a table becomes a reading or a reject that says why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import MappingError
from metering.tabular.convert import REASONS, REJECTS, Replayed, from_frame, from_text, replay
from metering.tabular.mapping import parse_mapping

HEAD = 'interval = "15m"\nmeter_id = "M1"\ntimezone = "UTC"\n'
STAMP = '[timestamp]\ncolumn = "t"\nformat = "%Y-%m-%d %H:%M"\n'
POWER = '[[channel]]\nfield = "p_kw"\ncolumns = { p = 1.0 }\n'
ENERGY = '[[channel]]\nfield = "import_kwh"\ncolumns = { e = 1.0 }\nkind = "interval_energy"\n'


def run(table: str | pl.DataFrame, mapping: str) -> Replayed:
    given = parse_mapping(mapping, "Asia/Shanghai")
    return replay(from_text(table, given) if isinstance(table, str) else from_frame(table, given), given)


def at(*clock: str) -> list[datetime]:
    return [datetime.fromisoformat(f"2026-01-01T{c}:00+00:00").astimezone(UTC) for c in clock]


def lines(header: str, *rows: str) -> str:
    return "\n".join([header, *rows]) + "\n"


def test_columns_are_weighted_and_summed() -> None:
    mapping = HEAD + STAMP + '[[channel]]\nfield = "q_kvar"\ncolumns = { lag = 4.0, lead = -4.0 }\n'
    done = run(lines("t,lag,lead", "2026-01-01 00:15,2.5,0.5", "2026-01-01 00:30,,1"), mapping)
    assert done.readings.schema == {"meter_id": pl.String, "ts": pl.Datetime("us", "UTC"), "q_kvar": pl.Float64}
    assert done.readings["q_kvar"].to_list() == [8.0]
    assert done.rejects.rows() == [(3, "no_value", REASONS["no_value"], "2026-01-01 00:30,,1")]


def test_part_of_a_sum_is_not_the_sum() -> None:
    mapping = (
        HEAD + STAMP + '[[channel]]\nfield = "p_kw"\ncolumns = { a = 1, b = 1 }\n' + POWER.replace("p_kw", "q_kvar")
    )
    done = run(lines("t,a,b,p", "2026-01-01 00:15,1,,3"), mapping)
    assert done.readings.select("p_kw", "q_kvar").rows() == [(None, 3.0)]


def test_label_start_names_the_beginning() -> None:
    done = run(lines("t,p", "2026-01-01 00:00,1"), HEAD + STAMP + 'label = "start"\n' + POWER)
    assert done.readings["ts"].to_list() == at("00:15")


def test_decimal_comma_semicolons_and_another_encoding() -> None:
    mapping = 'delimiter = ";"\ndecimal = ","\nencoding = "gb18030"\n' + HEAD + STAMP.replace('"t"', '["日期", "时间"]')
    text = (
        lines("日期;时间;p", "2026-01-01;00:15;1234,5", "2026-01-01;00:30;1.234,5").encode("gb18030").decode("gb18030")
    )
    done = run(text, mapping + POWER)
    assert done.readings["p_kw"].to_list() == [1234.5]
    assert done.rejects.select("line", "reason", "detail").rows() == [(3, "not_a_number", "p is '1.234,5'")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2026-01-01 00:15,1", "too_few_cells"),
        ("2026-01-01 00:15,1,2,3", "too_many_cells"),
        ('2026-01-01 00:15,"1,2', "broken_quoting"),
        ("soon,1,2", "bad_time"),
        (",1,2", "bad_time"),
        ("2026-01-01 00:15,?,2", "not_a_number"),
        ("2026-01-01 00:15,1,NaN", "not_a_number"),
        ("2026-01-01 00:15,inf,2", "not_a_number"),
        ('2026-01-01 00:15,"1,5",2', "not_a_number"),
        ("2026-01-01 00:15,1,-2", "negative_energy"),
        ("2026-01-01 00:15,,", "no_value"),
    ],
)
def test_a_row_that_cannot_be_read_is_reported_alone(row: str, reason: str) -> None:
    text = lines("t,p,e", "2026-01-01 00:00,1,1", row, "2026-01-01 00:30,1,1")
    done = run(text, HEAD + STAMP + POWER + ENERGY)
    assert done.rejects.schema == REJECTS
    assert done.rejects.select("line", "reason", "text").rows() == [(3, reason, row)]
    assert done.rejects["detail"].null_count() == 0
    assert done.readings["ts"].to_list() == at("00:00", "00:30")
    assert (done.rows, done.gaps, done.missing) == (3, 1, 1)


def test_absent_local_hours_are_rejects_and_doubled_ones_follow_the_file() -> None:
    mapping = HEAD.replace("UTC", "Europe/Berlin").replace("15m", "30m") + STAMP + POWER
    spring = run(lines("t,p", "2026-03-29 01:30,1", "2026-03-29 02:30,1", "2026-03-29 03:00,1"), mapping)
    assert spring.rejects.select("line", "reason", "detail").rows() == [
        (3, "absent_local_time", "'2026-03-29 02:30'"),
    ]
    assert (spring.readings.height, spring.gaps) == (2, 0)
    autumn = run(lines("t,p", *(f"2026-10-25 0{h}:{m},1" for h in (1, 2, 2, 3) for m in ("00", "30"))), mapping)
    assert (autumn.readings["ts"].n_unique(), autumn.gaps, autumn.doubled) == (8, 0, 0)
    earliest = run(
        lines("t,p", *(f"2026-10-25 0{h}:{m},1" for h in (1, 2, 2, 3) for m in ("00", "30"))),
        mapping.replace("[[channel]]", 'ambiguous = "earliest"\n[[channel]]', 1),
    )
    assert (earliest.readings.height, earliest.doubled, earliest.gaps, earliest.missing) == (8, 2, 1, 2)


def test_trailing_delimiters_blank_lines_and_quoted_newlines() -> None:
    text = 't,p,note\n2026-01-01 00:15,1,"two\nlines",\n\n2026-01-01 00:30,x,,\n'
    done = run(text, HEAD + STAMP + POWER)
    assert done.readings.height == 1
    assert done.rejects["line"].to_list() == [5]


def test_meters_from_a_column() -> None:
    mapping = HEAD.replace('"M1"', '{ column = "m" }') + STAMP + 'order = "file"\n' + POWER + ENERGY
    text = lines(
        "m,t,p,e",
        "B,2026-01-01 00:15,1,1",
        "A,2026-01-01 00:15,1,10",
        "B,2026-01-01 00:45,1,1",
        ",2026-01-01 00:30,1,1",
        "B,2026-01-01 00:45,1,1",
        "A,2026-01-01 00:30,1,10",
        f"{'M' * 65},2026-01-01 00:30,1,1",
    )
    done = run(text, mapping)
    assert done.rejects.select("line", "reason").rows() == [(5, "missing_meter"), (8, "missing_meter")]
    assert done.corrected == 1  # B's 00:45, between 00:15 and 00:45
    assert done.readings.select("meter_id", "ts", "import_kwh").rows() == [
        *zip("BABA", at("00:15", "00:15", "00:30", "00:30"), (1.0, 10.0, 2.0, 20.0), strict=True),
        ("B", *at("00:45"), 3.0),
    ]


def test_a_register_sums_and_carries_on_over_gaps_and_unknown_energies() -> None:
    text = lines(
        "t,p,e",
        "2026-01-01 00:15,1,0.1",
        "2026-01-01 00:30,1,0.2",
        "2026-01-01 00:45,1,",
        "2026-01-01 02:00,1,0.3",
    )
    done = run(text, HEAD + STAMP + POWER + ENERGY)
    assert done.readings["import_kwh"].to_list() == [0.1, 0.3, None, 0.6]
    assert (done.gaps, done.missing, done.other_step_s) == (1, 4, 0)
    first, second, _, last = done.readings["register_chain"]
    assert first == second != last


_ENERGIES = st.lists(st.one_of(st.none(), st.integers(0, 400)), min_size=1, max_size=40)


@given(energies=_ENERGIES, gone=st.sets(st.integers(0, 39)), other=_ENERGIES, exported=st.booleans())
def test_chains_hold_what_follows_without_a_gap_and_are_other_in_other_files(
    energies: list[int | None], gone: set[int], other: list[int | None], exported: bool
) -> None:
    def readings(values: list[int | None], left_out: set[int]) -> list[dict[str, Any]]:
        rows = [
            f"{datetime(2026, 1, 1) + timedelta(minutes=15 * (n + 1)):%Y-%m-%d %H:%M},{'' if v is None else v / 8}"
            for n, v in enumerate(values)
            if n not in left_out
        ]
        field = ENERGY.replace("import_kwh", "export_kwh") if exported else ENERGY
        return run(lines("t,e", *rows), HEAD + STAMP + field).readings.to_dicts()

    rows = readings(energies, gone)
    follow = [b["ts"] - a["ts"] == timedelta(minutes=15) for a, b in pairwise(rows)]
    assert [a["register_chain"] == b["register_chain"] for a, b in pairwise(rows)] == follow
    known = {n: v for n, v in enumerate(energies) if v is not None and n not in gone}
    sign = -1 if exported else 1
    assert [row["p_kw"] for row in rows] == pytest.approx([sign * v / 2 for v in known.values()])
    assert readings(energies, gone) == rows
    others = readings(other, set())
    if [v for v in other if v is not None] != [*known.values()]:
        assert {row["register_chain"] for row in others}.isdisjoint(row["register_chain"] for row in rows)


def test_of_doubled_rows_the_later_one_counts_in_the_register() -> None:
    text = lines("t,e", "2026-01-01 00:15,1", "2026-01-01 00:30,5", "2026-01-01 00:30,2", "2026-01-01 00:45,1")
    done = run(text, HEAD + STAMP + ENERGY)
    assert done.readings["import_kwh"].to_list() == [1.0, 6.0, 3.0, 4.0]
    assert done.doubled == 1


def test_a_file_out_of_order_is_put_in_order_of_time() -> None:
    text = lines("t,e", "2026-01-01 00:45,4", "2026-01-01 00:15,1", "2026-01-01 00:30,2")
    done = run(text, HEAD + STAMP + ENERGY)
    assert done.readings["ts"].to_list() == at("00:15", "00:30", "00:45")
    assert done.readings["import_kwh"].to_list() == [1.0, 3.0, 7.0]
    assert done.gaps == 0


def test_declared_nulls_are_no_mistake() -> None:
    mapping = 'null_values = ["?"]\n' + HEAD + STAMP + POWER + POWER.replace("p_kw", "q_kvar").replace("p =", "q =")
    done = run(lines("t,p,q", "2026-01-01 00:15,?,2", "2026-01-01 00:30,,2"), mapping)
    assert done.readings.select("p_kw", "q_kvar").rows() == [(None, 2.0)]
    assert done.rejects.select("line", "detail").rows() == [(3, "p is ''")]


def test_status_is_a_whole_number() -> None:
    done = run(lines("t,s", "2026-01-01 00:15,5"), HEAD + STAMP + POWER.replace("p_kw", "status").replace("p =", "s ="))
    assert done.readings["status"].to_list() == [5]
    assert done.readings.schema["status"] == pl.Int64


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("time,p", r"timestamp\.column: 't' is not in the file, whose columns are time, p"),
        ("t,power", "channel 'p_kw' columns: 'p' is not in the file"),
        ("t,p,p", "channel 'p_kw' columns: 'p' stands twice"),
    ],
)
def test_a_column_that_is_not_there_is_the_mappings_mistake(header: str, problem: str) -> None:
    with pytest.raises(MappingError, match=problem):
        run(lines(header, "2026-01-01 00:15,1,1"), HEAD + STAMP + POWER)


def test_an_empty_table() -> None:
    with pytest.raises(MappingError, match="whose columns are none"):
        run("", HEAD + STAMP + POWER)
    done = run("t,p\n", HEAD + STAMP + POWER)
    assert (done.rows, done.readings.height, done.rejects.height) == (0, 0, 0)


def test_a_typed_table_counts_rows_from_one() -> None:
    frame = pl.DataFrame(
        {
            "t": [datetime(2026, 1, 1, 0, 15), datetime(2026, 1, 1, 0, 30), None, datetime(2026, 1, 1, 1, 0)],
            "p": [1.0, None, 3.0, float("nan")],
            "m": [7, 7, 7, 7],
        }
    )
    mapping = HEAD.replace('"M1"', '{ column = "m" }') + '[timestamp]\ncolumn = "t"\n' + POWER
    done = run(frame, 'format = "parquet"\n' + mapping)
    assert done.readings.rows() == [("7", *at("00:15"), 1.0)]
    assert done.rejects.select("line", "reason").rows() == [(2, "no_value"), (3, "bad_time"), (4, "not_a_number")]
    assert '"p":3.0' in done.rejects["text"][1]


CELLS = st.sampled_from(["1", "2.5", "", "?", "-1", "1e3", '"4"', "x,y", "nan"])
TIMES = st.sampled_from(["2026-01-01 00:15", "2026-01-01 00:30", "24:00", "2026-01-01 24:00", ""])


@given(rows=st.lists(st.tuples(TIMES, CELLS, CELLS), max_size=20), order=st.sampled_from(["file", "column"]))
def test_each_row_is_a_reading_or_a_reject(rows: list[tuple[str, str, str]], order: str) -> None:
    text = lines("t,p,e", *(",".join(row) for row in rows), "2026-01-01 00:45,1,1")
    done = run(text, HEAD + STAMP + f'order = "{order}"\n' + POWER + ENERGY)
    assert done.rows == len(rows) + 1 == done.readings.height + done.rejects.height
    assert set(done.rejects["reason"]) <= set(REASONS)
    assert done.rejects["line"].is_unique().all()
    assert done.readings["ts"].is_sorted()


@pytest.mark.shared_data
def test_local_times_of_a_parquet_file_with_both_clock_changes(shared_data: Path) -> None:
    """SimBench 2016: local stamps, one hour absent in March, one doubled in October."""
    mapping = 'format = "parquet"\n' + HEAD.replace("UTC", "Europe/Berlin") + '[timestamp]\ncolumn = "time"\n'
    channel = POWER.replace("p = 1.0", '"G3-A_pload" = 1000.0')
    frame = pl.read_parquet(shared_data / "simbench_profiles_2016_15min.parquet")
    done = run(frame, mapping + channel)
    assert (done.rejects.height, done.gaps, done.doubled) == (0, 0, 0)
    assert done.readings["ts"].n_unique() == frame.height == 35136
    steps = done.readings["ts"].diff().drop_nulls().unique().to_list()
    assert [s.total_seconds() for s in steps] == [900]
