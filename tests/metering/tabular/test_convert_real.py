"""Real files, replayed by the mappings in docs/mappings, against SQL straight from the CSV."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import pytest

from metering.tabular.convert import Replayed, from_text, replay
from metering.tabular.mapping import parse_mapping

pytestmark = pytest.mark.shared_data

MAPPINGS = Path(__file__).parents[3] / "docs" / "mappings"


def replayed(file: Path, mapping_name: str) -> Replayed:
    mapping = parse_mapping((MAPPINGS / mapping_name).read_text("utf-8"), "Asia/Shanghai")
    return replay(from_text(file.read_bytes().decode(mapping.encoding), mapping), mapping)


@pytest.fixture(scope="module")
def steel_file(shared_data: Path) -> Path:
    return shared_data / "steel_2018_jan_aug.csv"


@pytest.fixture(scope="module")
def steel(steel_file: Path) -> Replayed:
    return replayed(steel_file, "steel.toml")


@pytest.fixture(scope="module")
def household(shared_data: Path) -> Replayed:
    return replayed(shared_data / "household_1min_28d.txt", "household.toml")


def local(readings: pl.DataFrame) -> pl.DataFrame:
    """Readings with the local date of their interval, which ends at ts, and the register's steps."""
    start = pl.col("ts").dt.offset_by("-15m").dt.convert_time_zone("Asia/Seoul")
    steps = [
        pl.col(c).diff().fill_null(pl.col(c)).alias(f"{c}_step") for c in ("import_kwh", "import_kvarh", "export_kvarh")
    ]
    return readings.with_columns(start.dt.date().alias("date"), *steps)


def test_steel_has_96_points_on_every_day(steel: Replayed) -> None:
    points = local(steel.readings).group_by("date").agg(pl.len(), pl.col("ts").n_unique().alias("times"))
    assert points.height == 243
    assert (str(points["date"].min()), str(points["date"].max())) == ("2018-01-01", "2018-08-31")
    assert points["len"].unique().to_list() == points["times"].unique().to_list() == [96]
    assert (steel.corrected, steel.gaps, steel.doubled, steel.rejects.height) == (243, 0, 0, 0)


def test_steel_daily_energy_and_peak_agree_with_sql(steel: Replayed, steel_file: Path) -> None:
    """SQL knows nothing of stamps: the file's rows are 96 to a day, in order."""
    expected = duckdb.sql(f"""
        with rows as (
            select row_number() over () - 1 as n, "Usage_kWh" as kwh from read_csv('{steel_file}', parallel = false)
        )
        select date '2018-01-01' + cast(n // 96 as integer) as date, sum(kwh) as kwh, max(kwh) * 4 as p_max,
               min(n % 96) filter (kwh = top) as at
        from (select *, max(kwh) over (partition by n // 96) as top from rows) group by all order by all
    """).pl()
    first = pl.col("ts").filter(pl.col("p_kw") == pl.col("p_kw").max()).min().dt.convert_time_zone("Asia/Seoul")
    got = (
        local(steel.readings)
        .group_by("date")
        .agg(
            pl.col("import_kwh_step").sum().alias("kwh"),
            (pl.col("p_kw").sum() / 4).alias("kwh_of_power"),
            pl.col("p_kw").max().alias("p_max"),
            first.alias("at"),
        )
        .sort("date")
        .with_columns(((pl.col("at").dt.hour().cast(pl.Int64) * 60 + pl.col("at").dt.minute()) // 15 - 1) % 96)
    )
    assert got["date"].to_list() == expected["date"].to_list()
    assert got["kwh"].to_list() == pytest.approx(expected["kwh"].to_list(), rel=1e-9)
    assert got["kwh_of_power"].to_list() == pytest.approx(expected["kwh"].to_list(), rel=1e-9)
    assert got["p_max"].to_list() == pytest.approx(expected["p_max"].to_list())
    assert got["at"].to_list() == expected["at"].to_list()


def test_steel_monthly_power_factor_agrees_with_sql(steel: Replayed, steel_file: Path) -> None:
    expected = duckdb.sql(f"""
        select month(strptime("date", '%d-%m-%Y %H:%M')) as month,
               sum("Usage_kWh") as p,
               sum("Lagging_Current_Reactive.Power_kVarh") + sum("Leading_Current_Reactive_Power_kVarh") as q,
               round(p / sqrt(p * p + q * q), 2) as pf
        from read_csv('{steel_file}', types = {{'date': 'VARCHAR'}}) group by month order by month
    """).pl()  # the misprinted midnights keep the right date of their interval, so months hold
    p, q = pl.col("import_kwh_step").sum(), pl.col("import_kvarh_step").sum() + pl.col("export_kvarh_step").sum()
    got = (
        local(steel.readings)
        .group_by(pl.col("date").dt.month().alias("month"))
        .agg((p / (p**2 + q**2).sqrt()).round(2).alias("pf"))
        .sort("month")
    )
    assert got["month"].to_list() == expected["month"].to_list() == list(range(1, 9))
    assert got["pf"].to_list() == pytest.approx(expected["pf"].to_list(), abs=1e-9)


def test_household_reports_five_rows_and_loses_nothing_else(household: Replayed, shared_data: Path) -> None:
    file = shared_data / "household_1min_28d.txt"
    lines = file.read_text("utf-8").splitlines()
    expected = [
        number
        for number, line in enumerate(lines, 1)
        if number > 1 and ("?" in line or line.count(";") != lines[0].count(";"))
    ]
    assert household.rejects["line"].to_list() == expected
    assert household.rejects["reason"].to_list() == ["not_a_number"] * 4 + ["too_few_cells"]
    assert household.rejects["text"].to_list() == [lines[number - 1] for number in expected]
    assert household.readings.height == household.rows - 5 == len(lines) - 6
    assert (household.gaps, household.missing, household.doubled) == (2, 4, 0)


def test_household_energy_and_voltage_agree_with_sql(household: Replayed, shared_data: Path) -> None:
    file = shared_data / "household_1min_28d.txt"
    kwh, over, under, n = duckdb.sql(f"""
        with rows as (
            select cast("Global_active_power" as double) as p, cast("Voltage" as double) as u
            from read_csv('{file}', delim = ';', nullstr = '?', null_padding = true)
        )
        select sum(p) / 60, count(*) filter (u > 230 * 1.07), count(*) filter (u < 230 * 0.90), count(u) from rows
    """).fetchall()[0]
    readings = household.readings
    assert readings["import_kwh"][-1] == pytest.approx(kwh, rel=1e-9)
    assert int((readings["ua_v"] > 230 * 1.07).sum()) == over > 0
    assert int((readings["ua_v"] < 230 * 0.90).sum()) == under
    assert readings["ua_v"].count() == n
