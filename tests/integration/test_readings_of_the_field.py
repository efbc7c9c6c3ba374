"""What people who work with meter data have reported, through the command line: one home, a folder for each case.

Inputs are those of the cases beside the checkout, under meters of their own; and exchanges, and meters of other
intervals, made here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

DAY = "2026-03-02"
START = datetime(2026, 3, 1, 16, tzinfo=UTC)
INTERVALS = {
    15: (1800, 3600),
    23: (900, 900),
    26: (900, 900),
    27: (10, 900),
    28: (900, 900),
    29: (900, 900),
    30: (900, 900),
}
FILES = {15: "15-half-hour-and-hour", 23: "23-register-glitch", 26: "26-event-push", 27: "27-every-9.9-s",
         28: "28-three-seconds-late", 29: "29-repeated-register", 30: "30-daily-reset-and-rollover"}  # fmt: skip
OWN = {"26b": 261, "noon": 501, "seam": 502, "ten": 503, "day": 504, "glitch": 505}
"""Cases with inputs of one meter, by what their numbers begin with."""

Row = dict[str, Any]


def meter(case: int, number: int) -> str:
    return f"3101{case:06d}{number:02d}"


def customer(case: int, number: int) -> str:
    return f"{case:04d}{number:02d}"


def registered(case: int, number: int, interval_s: int, since: str = "2020-01-01", to: str = "", **given: str) -> str:
    ratio, whose = given.get("ct_ratio", "100"), int(given.get("of", number))
    cells = (meter(case, number), customer(case, whose), "3p4w", "230", "1", ratio, "5", "10", "6", str(interval_s))
    return ",".join([*cells, "1", since, to]) + "\n"


def readings(
    number: int, case: int, step_s: int, values: Callable[[float], Mapping[str, Any]], **span: float
) -> Iterator[Row]:
    """Readings of a day and its start, from `start_h` to `end_h`; `values` of the hours since the day's start."""
    at = timedelta(hours=span.get("start_h", 0))
    while at <= timedelta(hours=span.get("end_h", 24)):
        hours = at / timedelta(hours=1)
        yield {"meter_id": meter(case, number), "ts": (START + at).isoformat(), **values(hours)}
        at += timedelta(seconds=step_s)


def steady(register: float = 1000.0) -> Callable[[float], Mapping[str, Any]]:
    return lambda hours: {"p_kw": 400.0, "import_kwh": register + 400 * hours}


def own_logs() -> dict[str, list[Row]]:
    """A meter exchanged for another number at noon, one that gets another ratio at 12:07, one of 10 minutes and one of
    a day, and one without power whose register glitches twice.
    """
    glitches = {5.0: 0.0, 9.5: 999_999.0}
    return {
        "noon": [*readings(1, 501, 900, steady(), end_h=12), *readings(2, 501, 900, steady(7.0), start_h=12.25)],
        "seam": [
            *readings(1, 502, 60, steady(), end_h=12 + 7 / 60),
            *readings(1, 502, 60, steady(5.0), start_h=12 + 8 / 60),
        ],
        "ten": list(readings(1, 503, 600, steady())),
        "day": list(readings(1, 504, 86_400, steady())),
        "glitch": list(readings(1, 505, 900, lambda h: {"import_kwh": glitches.get(h, 120_000 + 400 * h)})),
    }


@pytest.fixture(scope="module")
def home(make_home: Callable[..., Any], shared_cases: Path, once: Callable[[str, Callable[[Path], None]], Path]) -> Any:
    meters = [registered(case, n, s) for case, both in INTERVALS.items() for n, s in enumerate(both, 1)]
    meters += [
        registered(261, 1, 900),
        registered(501, 1, 900, to=f"{DAY}T12:00"), registered(501, 2, 900, since=f"{DAY}T12:00", of="1"),
        registered(502, 1, 60, to=f"{DAY} 12:07"), registered(502, 1, 60, since=f"{DAY} 12:07", ct_ratio="200"),
        registered(503, 1, 600), registered(504, 1, 86_400), registered(505, 1, 900),
    ]  # fmt: skip
    numbers = sorted({line.split(",")[1] for line in meters})
    customers = "".join(
        f"{number},works {number},large,machinery,10,1600,,0.90,large_industry,false,F-01,office,true\n"
        for number in numbers
    )

    def fill(path: Path) -> None:
        made = make_home(customers, "".join(meters), 'timezone = "Asia/Shanghai"\n', path=path)
        for case, name in {**FILES, 261: "26b-now-every-5-min"}.items():
            lines = [json.loads(line) for line in (shared_cases / f"{name}.ndjson").read_text("utf-8").splitlines()]
            _write(path, case, [{**row, "meter_id": meter(case, int(row["meter_id"][-1]))} for row in lines])
        for name, rows in own_logs().items():
            _write(path, OWN[name], rows)
        made.run("stream")
        made.run("materialize", "--from", DAY, "--to", DAY)

    return make_home(customers, "", path=once("field", fill))


def _write(home: Path, case: int, rows: list[Row]) -> None:
    folder = home / "telemetry" / f"case-{case:03d}"
    folder.mkdir(parents=True)
    (folder / "log.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture(scope="module")
def windows(home: Any) -> pl.DataFrame:
    """The day's current windows, as the stream told them."""
    found = pl.read_parquet(f"{home.path}/lake/windows/date={DAY}/*.parquet")
    return found.sort("revision").unique(("meter_id", "window_end"), keep="last").sort("meter_id", "window_end")


def of(windows: pl.DataFrame, case: int, number: int = 1) -> pl.DataFrame:
    return windows.filter(meter_id=meter(case, number))


def query(home: Any, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(home.path / "warehouse.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


KWH = {
    (15, 1): 9600, (15, 2): 9600, (23, 1): 4000, (23, 2): 4000, (26, 1): 9600, (26, 2): 9600, (261, 1): 2400,
    (27, 1): 181, (28, 1): 10_800, (28, 2): 9600, (29, 1): 4000, (30, 1): 1100, (30, 2): 1900,
    (501, 1): 4800, (501, 2): 4800, (502, 1): 9600, (503, 1): 9600, (504, 1): 9600,
}  # fmt: skip
"""Energy of the day of cases and their meters."""


@pytest.mark.parametrize(("case", "number"), KWH)
def test_energy_of_the_day(windows: pl.DataFrame, case: int, number: int) -> None:
    assert of(windows, case, number)["energy_kwh"].sum() == pytest.approx(KWH[case, number])


@pytest.mark.parametrize("table", ["daily_load", "daily_curve", "meter_daily", "power_factor_monthly"])
def test_every_table_has_that_energy(home: Any, table: str) -> None:
    column = "active_kwh" if table == "power_factor_monthly" else "energy_kwh"
    found = dict(query(home, f"select customer_no, sum({column}) from {table} group by all"))
    expected = {customer(case, number): kwh for (case, number), kwh in KWH.items() if case < 500 and case != 27}
    assert {number: found[number] for number in expected} == pytest.approx(expected)
    assert found[customer(501, 1)] == pytest.approx(9600)


def test_energy_and_power_of_a_point_agree_and_what_does_not_fit_is_told(home: Any) -> None:
    assert query(home, "select max(abs(p_kw / 4 - (energy_kwh - export_kwh))) from daily_curve")[0][0] < 1e-6
    rhythms = query(home, "select sample from quality_results where rule = 'interval_size'")
    assert f"meter {meter(261, 1)}: readings come every 300 s, registered are 900 s" in rhythms[0][0]
    of_glitch = query(home, f"select distinct rule, status from daily_curve where customer_no = '{customer(23, 1)}'")
    assert ("implausible", "raw") in of_glitch


def test_stream_and_batch_agree(home: Any) -> None:
    rows = query(home, "select table_name, stream_rows, batch_rows, differing_rows from reconciliation order by all")
    assert [(row[0], row[3]) for row in rows] == [("compliance", 0), ("load_control", 0), ("windows", 0)]
    assert all(stream == batch > 15 for table, stream, batch, _ in rows if table != "load_control")


def test_one_reading_answers_for_a_slot(home: Any, windows: pl.DataFrame) -> None:
    minutes = dict(query(home, "select meter_id, monitored_min from voltage_daily where phase = 'a'"))
    assert (minutes[meter(26, 1)], minutes[meter(26, 2)], minutes[meter(261, 1)]) == (1440, 1440, 360)
    for number in (1, 2):
        assert of(windows, 26, number).select(pl.col("n", "covered_min").sum()).row(0) == (96, 1440.0)
    received = dict(query(home, "select customer_no, completeness from daily_load"))
    assert (received[customer(26, 1)], received[customer(26, 2)], received[customer(261, 1)]) == (1, 1, 0.25)
    nine = of(windows, 27)
    assert nine["energy_kwh"].to_list()[:2] == pytest.approx([90.0, 90.0])
    assert nine["n"].to_list()[:2] == [90, 90]


def test_a_stamp_a_little_late_belongs_to_the_slot_that_ended(home: Any, windows: pl.DataFrame) -> None:
    peak, at = query(
        home,
        "select energy_peak_kwh, timezone('Asia/Shanghai', p_max_at)::varchar from daily_load "
        f"where customer_no = '{customer(28, 1)}'",
    )[0]
    assert (peak, at) == (pytest.approx(4400), "2026-03-02 08:15:00")
    for number in (1, 2):
        assert set(of(windows, 28, number)["energy_basis"]) == {"registers"}
    read = pl.read_parquet(f"{home.path}/lake/readings/date={DAY}/*.parquet").filter(meter_id=meter(28, 1))
    assert (read.height, read["ts"].max()) == (96, START + timedelta(days=1, seconds=3))


def test_registers_that_no_meter_can_show_are_told_and_not_counted(windows: pl.DataFrame) -> None:
    first, second = (of(windows, 23, number).filter(pl.col("reason").is_not_null()) for number in (1, 2))
    assert first["energy_basis"].to_list() == second["energy_basis"].to_list() == ["power"] * 2
    assert "went back from" in first["reason"][0]
    assert "step 122,100 kWh is more than the meter can have made" in first["reason"][1]
    assert all("is not within the register's 6 digits" in reason for reason in second["reason"])
    caught_up = of(windows, 29).filter(pl.col("reason").is_not_null())
    assert caught_up["reason"].to_list() == [f"register step {step} kWh, where power says 100 kWh" for step in (0, 200)]
    rolled_over = of(windows, 30, 2)
    assert rolled_over["reason"].null_count() == rolled_over.height
    blind = of(windows, 505)
    assert blind["energy_kwh"].null_count() == blind["reason"].count() == 4
    assert blind["energy_kwh"].drop_nulls().to_list() == pytest.approx([100.0] * 92)


@pytest.mark.parametrize(("case", "number"), [(15, 1), (15, 2), (503, 1), (504, 1)])
def test_long_readings_are_spread_over_what_they_cover(windows: pl.DataFrame, case: int, number: int) -> None:
    rows = of(windows, case, number)
    assert rows.height == 96
    assert set(rows["energy_basis"]) == {"spread"}
    assert rows["energy_kwh"].to_list() == pytest.approx([100.0] * 96)
    assert rows["covered_min"].to_list() == [15.0] * 96
    if (case, number) != (15, 2):  # which has registers alone
        assert rows["p_mean_kw"].to_list() == pytest.approx([400.0] * 96)
    assert rows["n"].sum() == rows["n_expected"].sum() == 86_400 // {15: 1800 * number, 503: 600, 504: 86_400}[case]


def test_no_energy_across_an_exchange_and_none_lost_beside_it(windows: pl.DataFrame) -> None:
    before, after = of(windows, 501, 1), of(windows, 501, 2)
    assert (before.height, after.height) == (48, 48)
    assert before["window_end"].max() == after["window_end"].min() - timedelta(minutes=15)
    assert set(before["energy_basis"]) == {"registers"}
    assert after["energy_basis"].to_list() == ["power"] + ["registers"] * 47
    within = of(windows, 502)
    assert within["energy_kwh"].to_list() == pytest.approx([100.0] * 96)
    assert within["covered_min"].to_list() == [15.0] * 96
    assert within["reason"].null_count() == 96
    assert (within["energy_basis"] == "registers").sum() == 95
