"""Days as they come, from files to the warehouse: what people reported, one energy in every table, edits, seams."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

FIRST = datetime(2026, 3, 1, 16, tzinfo=UTC)  # local midnight of 2026-03-02
CUSTOMERS = "".join(
    f"80000{n},works {n},large,machinery,10,1600,,0.90,large_industry,false,F-01,office,true\n" for n in range(1, 6)
)
METERS = (
    "371502048811,800001,3p4w,230,1,200,5,10,6,60,1,2020-01-01,\n"  # loses readings
    "371502048812,800002,3p4w,230,1,200,5,10,6,900,1,2020-01-01,\n"  # beside a silent one
    "371502048813,800002,3p4w,230,1,200,5,10,6,900,1,2020-01-01,\n"
    "371502048814,800003,3p4w,230,1,200,5,10,6,900,1,2020-01-01,\n"  # solar on the roof
    "371502048815,800004,3p4w,230,1,200,5,10,6,3600,1,2020-01-01,\n"  # hourly, registers alone
    "371502048816,800005,3p4w,230,1,200,5,10,6,900,1,2020-01-01,2026-03-03T12:00\n"  # exchanged at noon
    "371502048817,800005,3p4w,230,1,200,5,10,6,900,1,2026-03-03T12:00,\n"
)


def case_home(make_home: Callable[..., Any], cases: Path, number: str, zone: str, *telemetry: str) -> Any:
    home = make_home("", "", f'timezone = "{zone}"\n')
    shutil.copy(cases / "00-customers.csv", home.path / "registry" / "customers.csv")
    shutil.copy(cases / f"{number}-meters.csv", home.path / "registry" / "meters.csv")
    (home.path / "telemetry").mkdir()
    for name in telemetry:
        shutil.copy(cases / name, home.path / "telemetry" / name)
    if telemetry:
        home.run("stream")
    return home


def sql(home: Any, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(home.path / "warehouse.duckdb"), read_only=True) as connection:
        connection.execute("SET TimeZone = 'Asia/Shanghai'")
        return connection.execute(query).fetchall()


def test_a_short_and_a_long_day_come_out_right(make_home: Callable[..., Any], shared_cases: Path) -> None:
    home = case_home(make_home, shared_cases, "37", "Europe/Vienna", "37-short-and-long-day.ndjson")
    for day in ("2026-03-29", "2026-10-25"):
        home.run("materialize", "--from", day, "--to", day)
    for day, kwh in (("2026-03-29", 2300.0), ("2026-10-25", 2500.0)):
        for table in ("daily_load", "daily_curve", "meter_daily"):
            whose = f"WHERE customer_no <> '*' AND date = '{day}'"
            found = sql(home, f"SELECT customer_no, sum(energy_kwh) FROM {table} {whose} GROUP BY ALL ORDER BY 1")
            assert dict(found) == pytest.approx({"800001": kwh}), table
    months = sql(home, "SELECT month::varchar, active_kwh FROM power_factor_monthly ORDER BY 1")
    assert months == [("2026-03-01", pytest.approx(2300)), ("2026-10-01", pytest.approx(2500))]
    assert sql(home, "SELECT sum(differing_rows) FROM reconciliation") == [(0,)]


# --- a fleet as it comes ----------------------------------------------------------------------------------------------


def fleet(days: int) -> list[str]:
    """Readings of METERS as NDJSON lines, in order of time; the same every time."""
    chance = random.Random(7)
    lines: list[tuple[datetime, str]] = []

    def tell(meter: str, at: datetime, **values: float) -> None:
        reading = {"meter_id": meter, "ts": int(at.timestamp() * 1000), **{k: round(v, 4) for k, v in values.items()}}
        lines.append((at, json.dumps(reading)))

    total = dict.fromkeys(range(11, 18), 40_000.0)
    fed = 500.0
    for minute in range(days * 1440 + 1):
        at = FIRST + timedelta(minutes=minute)
        kw = 200 + 60 * chance.random()
        total[11] += kw / 60
        lost = chance.random() < 0.02 or 2000 < minute < 2090 or 600 < minute < 900
        if not lost:
            tell("371502048811", at, p_kw=kw, q_kvar=kw / 5, import_kwh=total[11])
        if minute % 15:
            continue
        for number in (12, 16, 17):
            total[number] += kw / 4
        drawn, given = kw / 4, 30 * chance.random()
        total[14], fed = total[14] + drawn, fed + given
        tell("371502048812", at, p_kw=kw, import_kwh=total[12])
        if not 1200 < minute < 1700:  # over midnight
            tell("371502048814", at, p_kw=(drawn - given) * 4, import_kwh=total[14], export_kwh=fed)
        noon = days * 1440 if days < 2 else 1440 + 720
        meter, start = ("371502048816", 0) if minute <= noon else ("371502048817", 30_000)
        tell(meter, at, p_kw=kw, import_kwh=total[int(meter[-2:])] - start)
        total[15] += kw / 4
        if minute % 60 == 0:
            tell("371502048815", at, import_kwh=total[15])
    return [line for _, line in sorted(lines, key=lambda row: row[0])]


def write(home: Any, parts: Iterable[list[str]]) -> None:
    folder = home.path / "telemetry"
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(parts):
        (folder / f"{number:03d}.ndjson").write_text("\n".join(part) + "\n", "utf-8")


TABLES = ("daily_curve", "meter_daily", "daily_load", "power_factor_monthly", "voltage_daily", "kpi", "quality_results")


def state(home: Any) -> dict[str, list[tuple[Any, ...]]]:
    return {table: sql(home, f"SELECT * FROM {table} ORDER BY ALL") for table in TABLES}


def test_a_customers_month_has_one_energy_however_its_meters_report(make_home: Callable[..., Any]) -> None:
    home = make_home(CUSTOMERS, METERS)
    write(home, [fleet(3)])
    home.run("stream")
    home.run("materialize", "--from", "2026-03-02", "--to", "2026-03-04")
    months = {
        "daily_load": "sum(energy_kwh)", "daily_curve": "sum(energy_kwh)", "meter_daily": "sum(energy_kwh)",
        "power_factor_monthly": "any_value(active_kwh)",
    }  # fmt: skip
    found = {
        table: dict(sql(home, f"SELECT customer_no, {value} FROM {table} WHERE customer_no <> '*' GROUP BY ALL"))
        for table, value in months.items()
    }
    kpi = sql(
        home, "SELECT scope, numerator FROM kpi WHERE kpi_id = 'power_factor' AND period = '2026-03' AND scope <> '*'"
    )
    reference = found["meter_daily"]
    assert len(reference) == 5
    for table, energies in found.items():
        assert energies == pytest.approx(reference, rel=1e-9), table
    known = {scope: kwh for scope, kwh in kpi if scope in reference and kwh is not None}
    assert known == pytest.approx({scope: reference[scope] for scope in known}, rel=1e-9)
    assert known
    # what the registers say: the first reading's to the last's, and of the exchanged one's two registers
    registers = sql(
        home,
        f"""
        WITH edges AS (
            SELECT meter_id, max(import_kwh) - min(import_kwh) AS drawn, max(export_kwh) - min(export_kwh) AS fed
            FROM read_parquet('{home.path}/lake/readings/*/*.parquet') GROUP BY ALL)
        SELECT m.customer_no, sum(drawn), sum(fed) FROM edges JOIN (SELECT DISTINCT meter_id, customer_no FROM meters) m
        USING (meter_id) GROUP BY ALL""",
    )
    for customer, drawn, fed in registers:
        if customer == "800005":  # of the quarter-hour at the seam, power tells
            assert reference[customer] == pytest.approx(drawn, rel=0.02)
        else:
            assert reference[customer] == pytest.approx(drawn, abs=0.01), customer
        if fed is not None:
            assert sql(home, f"SELECT sum(export_kwh) FROM daily_load WHERE customer_no = '{customer}'")[0][
                0
            ] == pytest.approx(fed, abs=0.01)
    lost = sql(home, "SELECT count(*), count(*) FILTER (status = 'raw') FROM daily_curve WHERE customer_no = '800002'")
    assert lost == [(288, 288)]  # one of its meters is silent, and each point says so
    whole = sql(home, "SELECT count(*), count(DISTINCT status) FROM daily_curve WHERE customer_no = '800005'")
    assert whole == [(288, 1)]  # an exchange leaves no point out
    assert sql(home, "SELECT sum(differing_rows) FROM reconciliation") == [(0,)]

    before = state(home)
    home.run("materialize", "--from", "2026-03-02", "--to", "2026-03-04")
    assert state(home) == before
    assert sql(home, "SELECT * FROM restatements") == []


def test_the_same_data_cut_into_other_files_and_days_gives_the_same_results(make_home: Callable[..., Any]) -> None:
    lines = fleet(2)
    whole, cut = make_home(CUSTOMERS, METERS), make_home(CUSTOMERS, METERS)
    write(whole, [lines])
    write(cut, [lines[start : start + 1111] for start in range(0, len(lines), 1111)])
    for home in (whole, cut):
        home.run("stream")
    whole.run("materialize", "--from", "2026-03-02", "--to", "2026-03-03")
    cut.run("materialize", "--from", "2026-03-02", "--to", "2026-03-02")
    said = cut.run("materialize", "--from", "2026-03-03", "--to", "2026-03-03")
    assert "from 2026-03-02 on: gaps that reached out of the days before 2026-03-03 have ended since" in said
    assert state(cut) == state(whole)
    changed = {key for (key,) in sql(cut, "SELECT DISTINCT key FROM restatements WHERE table_name = 'meter_daily'")}
    assert "meter_id=371502048814, date=2026-03-02" in changed
    assert all(key.endswith("date=2026-03-02") for key in changed)


def test_another_time_zone_is_refused_once_days_are_there(make_home: Callable[..., Any]) -> None:
    home = make_home(CUSTOMERS, METERS)
    write(home, [fleet(1)[:200]])
    home.run("stream")
    (home.path / "kilowatch.toml").write_text('timezone = "Europe/Vienna"\n', "utf-8")
    for command in (["stream"], ["materialize", "--from", "2026-03-02", "--to", "2026-03-02"]):
        said = home.run(*command, code=2)
        assert (
            "the days in this home are those of Asia/Shanghai, and timezone is Europe/Vienna now: set it back" in said
        )


def test_an_edit_restates_its_day_and_month_and_never_touches_readings(
    make_home: Callable[..., Any], tmp_path: Path
) -> None:
    home = make_home(CUSTOMERS, METERS)
    write(home, [fleet(1)])
    home.run("stream")
    home.run("materialize", "--from", "2026-03-02", "--to", "2026-03-02")
    ((before,),) = [sql(home, "SELECT active_kwh FROM power_factor_monthly WHERE customer_no = '800005'")]
    lake = {path: path.read_bytes() for path in (home.path / "lake").rglob("*.parquet")}
    corrections = tmp_path / "corrections.csv"
    corrections.write_text(
        "meter_id,window_end,energy_kwh,by,at,why\n"
        "371502048816,2026-03-02T10:15:00+08:00,0,metering office,2026-03-05T09:00:00+08:00,fuse blown\n",
        "utf-8",
    )
    assert "not signed" in home.run("edit", corrections, code=2)
    home.run("edit", corrections, "--sign")
    home.run("edit", corrections)
    (row,) = sql(
        home,
        "SELECT p_kw, energy_kwh, status, rule, reason FROM daily_curve WHERE customer_no = '800005' AND point = 41",
    )
    assert row[:4] == (0.0, 0.0, "edited", "edited")
    assert row[4] == "by metering office on 2026-03-05T01:00Z: fuse blown (was validated)"
    ((after,),) = [sql(home, "SELECT active_kwh FROM power_factor_monthly WHERE customer_no = '800005'")]
    (told,) = sql(home, "SELECT before, after, cause FROM restatements WHERE \"column\" = 'active_kwh'")
    assert (float(told[0]), float(told[1])) == (before[0], after[0])
    assert told[2] == "edited by metering office: fuse blown"
    assert before[0] - after[0] == pytest.approx(
        float(
            sql(home, "SELECT before FROM restatements WHERE \"column\" = 'energy_kwh' AND key LIKE '%point=41'")[0][0]
        )
    )
    assert {path: path.read_bytes() for path in (home.path / "lake").rglob("*.parquet")} == lake
    assert "accepted before" in home.run("edit", corrections, code=2)


def test_a_corrected_file_restates_what_was_published(make_home: Callable[..., Any], shared_cases: Path) -> None:
    home = case_home(make_home, shared_cases, "33", "Asia/Shanghai")
    for name in ("first", "corrected"):
        home.run("replay", shared_cases / f"33-{name}.csv", "--mapping", shared_cases / "33.toml")
        home.run("stream")
        home.run("materialize", "--from", "2026-03-01", "--to", "2026-03-01")
        kwh = {"first": 9600.0, "corrected": 10_080.0}[name]
        assert sql(home, "SELECT energy_kwh FROM daily_load") == [(kwh,), (kwh,)]
        assert sql(home, "SELECT active_kwh FROM power_factor_monthly") == [(kwh,)]
    told = sql(
        home,
        "SELECT table_name, before::double, after::double, cause FROM restatements "
        "WHERE \"column\" IN ('active_kwh', 'energy_kwh') AND table_name <> 'daily_curve' ORDER BY 1",
    )
    assert {row[0] for row in told} == {"daily_load", "load_indices", "meter_daily", "power_factor_monthly"}
    assert {row[1:3] for row in told} == {(9600.0, 10_080.0)}
    assert {row[3] for row in told} == {"later readings: 96 revisions of windows"}
    assert sql(home, "SELECT DISTINCT restated_at::varchar FROM restatements") == [("2026-03-02 00:00:00+08",)]
    assert sql(home, "SELECT failing_rows, severity FROM quality_results WHERE rule = 'duplicate'") == [(96, "info")]
    assert sql(home, "SELECT DISTINCT status FROM daily_curve") == [("validated",)]
