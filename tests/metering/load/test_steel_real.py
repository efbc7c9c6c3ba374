"""A real steel works, January to August 2018: indices and power factor against SQL straight from the file."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metering.calendar import day_bounds
from metering.load.curve import daily_curve
from metering.load.indices import daily_load
from metering.settings import MeteringSettings
from metering.supply.power_factor import power_factor_monthly
from metering.tables.batch import BATCH_WINDOWS
from metering.tables.charges import DEMAND_DAILY

Builder = Callable[..., pl.DataFrame]
Sql = Callable[..., list[tuple[Any, ...]]]
FIRST = date(2018, 1, 1)
DAYS = [FIRST, date(2018, 2, 28), date(2018, 4, 15), date(2018, 8, 31)]

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def customers(make_customers: Builder) -> pl.DataFrame:
    return make_customers({"S": {}})


@pytest.fixture(scope="module")
def meter_versions(customers: pl.DataFrame, make_meter_versions: Builder) -> pl.DataFrame:
    return make_meter_versions(customers, {"steel": {"customer_no": "S"}})


@pytest.fixture(scope="module")
def csv(shared_data: Path) -> Path:
    return shared_data / "steel_2018_jan_aug.csv"


@pytest.fixture(scope="module")
def windows(csv: Path) -> pl.DataFrame:
    """Rows are 15 min apart in the file's order; their printed times are not to be trusted."""
    start = day_bounds(FIRST, "Asia/Shanghai")[0]
    rows = pl.read_csv(csv, infer_schema_length=None).with_row_index("row")
    values = rows.select(
        (pl.lit(start) + (pl.col("row") + 1) * timedelta(minutes=15)).alias("window_end"),
        pl.col("Usage_kWh").alias("energy_kwh"),
        (pl.col("Usage_kWh") * 4).alias("p_mean_kw"),
        pl.col("Lagging_Current_Reactive.Power_kVarh").alias("import_kvarh"),
        pl.col("Leading_Current_Reactive_Power_kVarh").alias("export_kvarh"),
    )
    return BATCH_WINDOWS.conform(
        values, meter_id="steel", customer_no="S", n=1, n_expected=1, revision=0, covered_min=15, energy_basis="power"
    )


NUMBERED = "with rows as (select *, row_number() over () - 1 as i from read_csv('{csv}'))"


@pytest.mark.parametrize("day", DAYS, ids=str)
def test_a_day(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    windows: pl.DataFrame,
    csv: Path,
    sql: Sql,
    make_meter_curve: Builder,
    day: date,
) -> None:
    curve = daily_curve(make_meter_curve(windows, meter_versions, day), customers, day)
    assert curve.height == 96
    assert curve["status"].unique().to_list() == ["validated"]
    load = daily_load(curve, windows, DEMAND_DAILY.empty(), customers, meter_versions, day, metering_settings).filter(
        customer_no="S"
    )
    query = f"""{NUMBERED}
        select sum(Usage_kWh), max(Usage_kWh) * 4, min(Usage_kWh) * 4, avg(Usage_kWh) * 4,
               arg_max(i % 96 + 1, (Usage_kWh, -i)), arg_min(i % 96 + 1, (Usage_kWh, i))
        from rows where i // 96 = {(day - FIRST).days}"""
    theirs = sql(query.format(csv=csv))[0]
    columns = ("energy_kwh", "p_max_kw", "p_min_kw", "p_mean_kw")
    assert load.select(columns).row(0) == pytest.approx(theirs[:4], rel=1e-9)
    start = day_bounds(day, "Asia/Shanghai")[0]
    times = tuple(start + point * timedelta(minutes=15) for point in theirs[4:])
    assert load.select("p_max_at", "p_min_at").row(0) == times


def test_power_factor_of_every_month(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    windows: pl.DataFrame,
    csv: Path,
    sql: Sql,
    days_of: Builder,
) -> None:
    months = [date(2018, n, 1) for n in range(1, 9)]
    ours = pl.concat(power_factor_monthly(days_of(windows), customers, month, metering_settings) for month in months)
    query = f"""{NUMBERED}
        select date_trunc('month', date '2018-01-01' + cast(i // 96 as int))::date as month, sum(Usage_kWh) as p,
               sum("Lagging_Current_Reactive.Power_kVarh" + Leading_Current_Reactive_Power_kVarh) as q,
               round(p / sqrt(p ** 2 + q ** 2), 2)
        from rows group by month order by month"""
    theirs = sql(query.format(csv=csv))
    assert [(row[0], row[3]) for row in theirs] == ours.select("month", "power_factor").rows()
    assert [row[1] for row in theirs] == pytest.approx(ours["active_kwh"].to_list(), rel=1e-9)
