"""KPI rows: counts, targets, status, coverage; no data is never a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import polars as pl
import pytest

from metering.kpi.count import DEFINITIONS, daily_kpis, monthly_kpis
from metering.settings import KpiTarget, MeteringSettings
from metering.supply.power_factor import power_factor_monthly
from metering.tables.lake import WINDOWS
from metering.tables.warehouse import FORECAST_ACCURACY, KPI, VOLTAGE_DAILY

Builder = Callable[..., pl.DataFrame]
Rows = dict[tuple[str, str], dict[str, Any]]
DAY, NEXT = date(2026, 7, 1), date(2026, 7, 2)


@pytest.fixture(scope="module")
def customers(make_customers: Builder) -> pl.DataFrame:
    return make_customers({"A": {}, "B": {}, "gone": {}})


@pytest.fixture(scope="module")
def meter_versions(customers: pl.DataFrame, make_meter_versions: Builder) -> pl.DataFrame:
    return make_meter_versions(
        customers,
        {
            "a1": {"customer_no": "A"},
            "a2": {"customer_no": "A", "wiring": "3p3w", "nominal_v": 100.0},
            "b1": {"customer_no": "B", "wiring": "1p"},
            "g1": {"customer_no": "gone", "valid_to": date(2026, 6, 30)},
        },
    )


def voltage(*rows: tuple[str, str, str, float, float, float], day: date = DAY) -> pl.DataFrame:
    names = ["meter_id", "customer_no", "phase", "monitored_min", "over_min", "under_min"]
    schema = {n: VOLTAGE_DAILY.schema[n] for n in names}
    return VOLTAGE_DAILY.conform(pl.DataFrame(rows, schema=schema, orient="row"), date=day)


def accuracy(*rows: tuple[str, float | None, int, int], day: date = DAY) -> pl.DataFrame:
    names = ["customer_no", "grid_accuracy", "points", "left_out"]
    schema = {n: FORECAST_ACCURACY.schema[n] for n in names}
    return FORECAST_ACCURACY.conform(pl.DataFrame(rows, schema=schema, orient="row"), date=day, model="m")


def of(table: pl.DataFrame) -> Rows:
    assert table.schema == KPI.schema
    assert table.select(KPI.key).is_unique().all()
    return {(row["kpi_id"], row["scope"]): row for row in table.to_dicts()}


@pytest.fixture
def windows(make_windows: Builder) -> pl.DataFrame:
    full = make_windows("a1", "A", DAY, [400.0] * 96, import_kvarh=45.0, export_kvarh=0.0)
    half = make_windows("a2", "A", DAY, [400.0] * 48 + [None] * 48, import_kvarh=30.0, export_kvarh=45.0)
    return pl.concat([full, half])


@pytest.fixture
def rows(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame, windows: pl.DataFrame
) -> Rows:
    volts = voltage(
        ("a1", "A", "a", 1440, 0, 0), ("a1", "A", "b", 1440, 0, 0), ("a1", "A", "c", 1440, 43.2, 28.8),
        ("a2", "A", "a", 720, 0, 0), ("a2", "A", "c", 0, 0, 0),
    )  # fmt: skip
    scores = accuracy(("A", 99.0, 96, 6), ("*", 98.2, 48, 0))
    return of(daily_kpis(windows, volts, scores, meter_versions, customers, DAY, metering_settings))


def test_every_kpi_for_every_customer_with_a_meter_and_for_all(rows: Rows) -> None:
    assert rows.keys() == {(d.kpi_id, scope) for d in DEFINITIONS for scope in ("A", "B", "*")}
    assert {row["period"] for row in rows.values()} == {"2026-07-01"}


def test_counts_and_values(rows: Rows) -> None:
    def counted(kpi_id: str, scope: str) -> list[float]:
        row = rows[kpi_id, scope]
        return [row[c] for c in ("numerator", "denominator", "value", "coverage")]

    assert counted("reading_success_rate", "A") == [144, 192, 75.0, 1.0]
    assert counted("reading_success_rate", "B") == [0, 96, 0.0, 1.0]
    assert counted("reading_success_rate", "*") == [144, 288, 50.0, 1.0]
    assert counted("monitoring_coverage", "*") == pytest.approx([2, 3, 200 / 3, 1.0])
    for kpi_id in ("voltage_qualification_monitoring", "voltage_qualification_service"):
        assert counted(kpi_id, "A") == pytest.approx([4968, 5040, 4968 / 50.4, 5040 / 7200])
        assert counted(kpi_id, "*") == pytest.approx([4968, 5040, 4968 / 50.4, 5040 / 8640])
    # P = 14400 kWh, Q = |5760| + |2160| = 7920 kvarh
    assert counted("power_factor", "A") == pytest.approx([14400, (14400**2 + 7920**2) ** 0.5, 0.88, 0.75])
    assert counted("power_factor", "*")[3] == pytest.approx(0.5)
    assert counted("load_forecast_accuracy", "A") == pytest.approx([89.1, 90, 99.0, 1.0])
    assert counted("load_forecast_accuracy", "*") == pytest.approx([47.136, 48, 98.2, 0.5])


def test_status_by_target(rows: Rows) -> None:
    status = {key: row["status"] for key, row in rows.items()}
    assert status["reading_success_rate", "A"] == "missed"
    assert status["voltage_qualification_monitoring", "A"] == "met"  # 98.57 %: two KPIs, two targets
    assert status["voltage_qualification_service", "A"] == "met"
    assert status["power_factor", "A"] == "missed"
    assert status["load_forecast_accuracy", "A"] == status["load_forecast_accuracy", "*"] == "met"


def test_two_voltage_targets(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame
) -> None:
    volts = voltage(("b1", "B", "a", 1000, 17, 0))  # 98.3 %
    table = of(daily_kpis(WINDOWS.empty(), volts, accuracy(), meter_versions, customers, DAY, metering_settings))
    assert table["voltage_qualification_monitoring", "B"]["status"] == "met"
    assert table["voltage_qualification_service", "B"]["status"] == "missed"


def test_no_data_is_never_a_pass(rows: Rows) -> None:
    silent = {kpi_id: row for (kpi_id, scope), row in rows.items() if scope == "B"}
    for kpi_id in ("voltage_qualification_monitoring", "power_factor", "load_forecast_accuracy"):
        row = silent[kpi_id]
        assert (row["value"], row["status"], row["coverage"]) == (None, "no_data", 0.0)
    assert silent["monitoring_coverage"]["status"] == "missed"  # a silent meter is known to be silent


def test_without_a_target_a_value_is_reported_but_not_judged(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame, windows: pl.DataFrame
) -> None:
    settings = replace(metering_settings, kpi={"reading_success_rate": KpiTarget(target=None)})
    table = of(daily_kpis(windows, voltage(), accuracy(), meter_versions, customers, DAY, settings))
    row = table["reading_success_rate", "A"]
    assert (row["value"], row["target"], row["status"]) == (75.0, None, "no_data")


def test_no_meters_leaves_the_scope_without_data(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame
) -> None:
    table = of(
        daily_kpis(WINDOWS.empty(), voltage(), accuracy(), meter_versions.clear(), customers, DAY, metering_settings)
    )
    assert table.keys() == {(d.kpi_id, "*") for d in DEFINITIONS}
    assert {row["status"] for row in table.values()} == {"no_data"}


def test_month_to_date_sums_days(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    windows: pl.DataFrame,
    make_windows: Builder,
) -> None:
    later = make_windows("b1", "B", NEXT, [100.0] * 96, import_kvarh=0.0, export_kvarh=0.0)
    both = pl.concat([windows, later])
    days = [
        daily_kpis(both, volts, scores, meter_versions, customers, day, metering_settings)
        for day, volts, scores in (
            (DAY, voltage(("b1", "B", "a", 1000, 0, 30)), accuracy(("A", 99.0, 96, 6))),
            (NEXT, voltage(("b1", "B", "a", 1000, 0, 0), day=NEXT), accuracy(("A", 90.0, 96, 6), day=NEXT)),
        )
    ]
    june = days[0].with_columns(pl.lit("2026-06-30").alias("period"))
    monthly = power_factor_monthly(both, customers, DAY, metering_settings)
    table = of(monthly_kpis(pl.concat([*days, june]), monthly, NEXT, metering_settings))
    assert {row["period"] for row in table.values()} == {"2026-07"}
    reading = table["reading_success_rate", "*"]
    assert (reading["numerator"], reading["denominator"]) == (144 + 96, 2 * 288)
    voltage_row = table["voltage_qualification_service", "B"]
    assert (voltage_row["value"], voltage_row["status"]) == (98.5, "met")
    assert voltage_row["coverage"] == pytest.approx(1000 / 1440)
    assert table["load_forecast_accuracy", "A"]["value"] == pytest.approx(94.5)
    assert table["power_factor", "A"]["value"] == monthly.filter(pl.col("customer_no") == "A")["power_factor"].item()
    scope = table["power_factor", "*"]
    assert scope["numerator"] == pytest.approx(14400 + 2400)
    assert scope["denominator"] == pytest.approx((16800**2 + 7920**2) ** 0.5)
    assert scope["coverage"] == pytest.approx((144 / 288 + 96 / 288) / 2)


def test_an_empty_month_has_no_data(metering_settings: MeteringSettings) -> None:
    monthly = power_factor_monthly(WINDOWS.empty(), _no_customers(), DAY, metering_settings)
    table = of(monthly_kpis(KPI.empty(), monthly, DAY, metering_settings))
    assert {(scope, row["status"]) for (_, scope), row in table.items()} == {("*", "no_data")}


def _no_customers() -> pl.DataFrame:
    return pl.DataFrame(schema={"customer_no": pl.String, "pf_standard": pl.Float64})


def test_every_definition_has_a_default_target_and_says_what_it_counts(metering_settings: MeteringSettings) -> None:
    assert {d.kpi_id for d in DEFINITIONS} == set(metering_settings.kpi)
    for definition in DEFINITIONS:
        assert all([definition.name_zh, definition.name_en, definition.numerator, definition.denominator])
        assert definition.coverage
        assert definition.unit in {"%", "1"}


def test_rates_agree_with_sql(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    windows: pl.DataFrame,
    sql: Callable[..., list[tuple[Any, ...]]],
) -> None:
    table = of(daily_kpis(windows, voltage(), accuracy(), meter_versions, customers, DAY, metering_settings))
    theirs = sql(
        """
        with every as (select *, customer_no as scope from windows union all select *, '*' from windows)
        select scope, sum(n), sum(energy_kwh),
               round(sum(energy_kwh) / sqrt(sum(energy_kwh) ** 2 + sum(import_kvarh + export_kvarh) ** 2), 2)
        from every group by all order by all
        """,
        windows=windows,
    )
    ours = [
        (
            scope,
            table["reading_success_rate", scope]["numerator"],
            table["power_factor", scope]["numerator"],
            table["power_factor", scope]["value"],
        )
        for scope in ("*", "A")
    ]
    assert ours == theirs
