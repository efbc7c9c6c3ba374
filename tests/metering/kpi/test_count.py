"""KPI rows: counts, targets, status, coverage; no data is never a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.kpi.count import daily_kpis, meter_days, monthly_kpis
from metering.settings import MeteringSettings
from metering.settings.kpis import Kpi
from metering.supply.power_factor import power_factor_monthly
from metering.tables.kpi import KPI
from metering.tables.lake import MOST_KW, VIOLATIONS, WINDOWS
from metering.tables.warehouse import FORECAST_ACCURACY, METER_DAILY, VOLTAGE_DAILY
from tests.metering.kpi.conftest import nothing

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
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    windows: pl.DataFrame,
    kpis_of: Builder,
) -> Rows:
    volts = voltage(
        ("a1", "A", "a", 1440, 0, 0), ("a1", "A", "b", 1440, 0, 0), ("a1", "A", "c", 1440, 43.2, 28.8),
        ("a2", "A", "a", 720, 0, 0), ("a2", "A", "c", 0, 0, 0),
    )  # fmt: skip
    scores = accuracy(("A", 99.0, 96, 6), ("*", 98.2, 48, 0))
    return of(kpis_of(windows, volts, scores, meter_versions, customers, DAY, metering_settings))


def test_every_kpi_for_every_customer_with_a_meter_and_for_all(rows: Rows, metering_settings: MeteringSettings) -> None:
    groups = ("segment:large", "voltage_level_kv:10")
    of_customers = {(kpi_id, scope) for kpi_id in metering_settings.kpi for scope in ("A", "B", "*")}
    of_groups = {(kpi_id, scope) for kpi_id in metering_settings.kpi for scope in groups}
    assert rows.keys() == of_customers | {key for key in of_groups if key[0] != "load_forecast_accuracy"}
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


def test_groups_count_their_customers_together(
    metering_settings: MeteringSettings,
    make_customers: Builder,
    make_meter_versions: Builder,
    make_windows: Builder,
    kpis_of: Builder,
) -> None:
    """A group's figure is that of its meters, not a mean of its customers'; who is in no group counts for all alone."""
    customers = make_customers(
        {
            "370100200001": {"feeder": "东一线", "manager": "城东供电所", "segment": "sme", "voltage_level_kv": 0.38},
            "370100200002": {"feeder": "东一线", "segment": "large"},
            "370100200003": {"feeder": "", "segment": "large"},
        }
    )
    meters = {f"{no}-{n}": {"customer_no": no} for no, n in zip(customers["customer_no"], "111", strict=True)}
    meters["370100200001-2"] = {"customer_no": "370100200001"}
    versions = make_meter_versions(customers, meters)
    windows = pl.concat(
        [
            make_windows("370100200001-1", "370100200001", DAY, [400.0] * 96, import_kvarh=200.0, export_kvarh=0.0),
            make_windows("370100200002-1", "370100200002", DAY, [40.0] * 48 + [None] * 48, import_kvarh=0.0),
        ]
    )
    table = of(kpis_of(windows, voltage(), accuracy(), versions, customers, DAY, metering_settings))

    def counted(scope: str) -> tuple[float, float]:
        row = table["reading_success_rate", scope]
        return row["numerator"], row["denominator"]

    assert counted("feeder:东一线") == (96 + 48, 3 * 96)
    assert counted("manager:城东供电所") == counted("segment:sme") == counted("voltage_level_kv:0.38") == (96, 192)
    assert counted("segment:large") == counted("voltage_level_kv:10") == (48, 192)
    assert counted("*") == (96 + 48, 4 * 96)
    p, q = 9600 + 480, 19200
    assert table["power_factor", "feeder:东一线"]["value"] == round(p / (p**2 + q**2) ** 0.5, 2)
    scopes = {scope for _, scope in table}
    assert {scope.partition(":")[0] for scope in scopes if ":" in scope} == {
        "feeder", "manager", "segment", "voltage_level_kv",
    }  # fmt: skip
    assert "feeder:" not in scopes
    assert ("load_forecast_accuracy", "segment:large") not in table


def own(**values: Any) -> Kpi:
    """A KPI of a home, over the minutes below the limit."""
    plain = {
        "name_zh": "欠压时间占比", "name_en": "Share of under-voltage minutes", "meaning": "minutes", "unit": "%",
        "source": "voltage_daily", "numerator": "sum(under_min)", "denominator": "sum(monitored_min)",
    }  # fmt: skip
    return Kpi(**(plain | values))


@pytest.mark.parametrize(("target", "status"), [(3.0, "met"), (2.9, "missed")])
def test_at_most_is_met_from_below(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    target: float,
    status: str,
) -> None:
    settings = replace(metering_settings, kpi={"low": own(direction="at_most", target=target, weight=3.0)})
    volts = voltage(("b1", "B", "a", 1000, 0, 30))
    meters = meter_days(WINDOWS.empty(), volts, METER_DAILY.empty(), meter_versions, customers, DAY, settings)
    table = of(daily_kpis({"meter_days": meters, "voltage_daily": volts}, customers, DAY, settings))
    row = table["low", "B"]
    assert (row["value"], row["status"], row["direction"], row["weight"]) == (3.0, status, "at_most", 3.0)
    assert (table["low", "A"]["value"], table["low", "A"]["status"]) == (None, "no_data")


def test_rows_are_dated_by_a_time_of_the_local_day(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame
) -> None:
    """16:00 UTC is local midnight: what starts then starts on the next day."""
    instants = [datetime(2026, 6, 30, 16, tzinfo=UTC), datetime(2026, 7, 1, 15, 59, 59, 999000, tzinfo=UTC)]
    late = [datetime(2026, 7, 1, 16, tzinfo=UTC), datetime(2026, 6, 30, 15, 59, 59, tzinfo=UTC)]
    raised = pl.DataFrame({"started_at": instants + late}).select(
        pl.lit("B").alias("customer_no"), pl.col("started_at").cast(VIOLATIONS.schema["started_at"])
    )
    kpi = own(source="violations", numerator="count(*)", denominator="1", unit="violations", dated_by="started_at")
    settings = replace(metering_settings, kpi={"raised": kpi})
    meters = meter_days(WINDOWS.empty(), voltage(), METER_DAILY.empty(), meter_versions, customers, DAY, settings)
    table = of(daily_kpis({"meter_days": meters, "violations": raised}, customers, DAY, settings))
    assert table["raised", "B"]["value"] == table["raised", "*"]["value"] == 2.0


def test_what_is_not_additive_is_counted_from_the_months_rows(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame
) -> None:
    """The largest share of a day is neither a sum nor a mean of days."""
    kpi = own(numerator="max(under_min)", denominator="max(monitored_min)", additive=False)
    settings = replace(metering_settings, kpi={"worst": kpi})
    volts = pl.concat(
        [voltage(("b1", "B", "a", 1000, 0, 30)), voltage(("b1", "B", "a", 1440, 0, 144), day=NEXT)],
    )
    days = []
    for day in (DAY, NEXT):
        meters = meter_days(WINDOWS.empty(), volts, METER_DAILY.empty(), meter_versions, customers, day, settings)
        days.append(daily_kpis({"meter_days": meters, "voltage_daily": volts}, customers, day, settings))
    june = voltage(("b1", "B", "a", 1440, 0, 1440), day=date(2026, 6, 30))
    rows = {"voltage_daily": pl.concat([volts, june])}
    table = of(monthly_kpis(pl.concat(days), rows, customers, DAY, settings))
    assert (table["worst", "B"]["numerator"], table["worst", "B"]["value"]) == (144, 10.0)


def test_two_voltage_targets(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame, kpis_of: Builder
) -> None:
    volts = voltage(("b1", "B", "a", 1000, 17, 0))  # 98.3 %
    table = of(kpis_of(WINDOWS.empty(), volts, accuracy(), meter_versions, customers, DAY, metering_settings))
    assert table["voltage_qualification_monitoring", "B"]["status"] == "met"
    assert table["voltage_qualification_service", "B"]["status"] == "missed"


def test_no_data_is_never_a_pass(rows: Rows) -> None:
    silent = {kpi_id: row for (kpi_id, scope), row in rows.items() if scope == "B"}
    for kpi_id in ("voltage_qualification_monitoring", "power_factor", "load_forecast_accuracy"):
        row = silent[kpi_id]
        assert (row["value"], row["status"], row["coverage"]) == (None, "no_data", 0.0)
    assert silent["monitoring_coverage"]["status"] == "missed"  # a silent meter is known to be silent


def test_without_a_target_a_value_is_reported_but_not_judged(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    windows: pl.DataFrame,
    kpis_of: Builder,
) -> None:
    aimless = replace(metering_settings.kpi["reading_success_rate"], target=None)
    settings = replace(metering_settings, kpi={**metering_settings.kpi, "reading_success_rate": aimless})
    table = of(kpis_of(windows, voltage(), accuracy(), meter_versions, customers, DAY, settings))
    row = table["reading_success_rate", "A"]
    assert (row["value"], row["target"], row["status"]) == (75.0, None, "no_data")


def test_no_meters_leaves_the_scope_without_data(
    metering_settings: MeteringSettings, customers: pl.DataFrame, meter_versions: pl.DataFrame, kpis_of: Builder
) -> None:
    table = of(
        kpis_of(WINDOWS.empty(), voltage(), accuracy(), meter_versions.clear(), customers, DAY, metering_settings)
    )
    assert table.keys() == {(kpi_id, "*") for kpi_id in metering_settings.kpi}
    assert {row["status"] for row in table.values()} == {"no_data"}


def test_month_to_date_sums_days(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    windows: pl.DataFrame,
    make_windows: Builder,
    kpis_of: Builder,
    days_of: Builder,
) -> None:
    later = make_windows("b1", "B", NEXT, [100.0] * 96, import_kvarh=0.0, export_kvarh=0.0)
    both = pl.concat([windows, later])
    days = [
        kpis_of(both, volts, scores, meter_versions, customers, day, metering_settings)
        for day, volts, scores in (
            (DAY, voltage(("b1", "B", "a", 1000, 0, 30)), accuracy(("A", 99.0, 96, 6))),
            (NEXT, voltage(("b1", "B", "a", 1000, 0, 0), day=NEXT), accuracy(("A", 90.0, 96, 6), day=NEXT)),
        )
    ]
    june = days[0].with_columns(pl.lit("2026-06-30").alias("period"))
    monthly = power_factor_monthly(days_of(both), customers, DAY, metering_settings)
    rows = {**nothing(metering_settings), "power_factor_monthly": monthly}
    table = of(monthly_kpis(pl.concat([*days, june]), rows, customers, NEXT, metering_settings))
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


def test_an_empty_month_has_no_data(metering_settings: MeteringSettings, customers: pl.DataFrame) -> None:
    monthly = power_factor_monthly(METER_DAILY.empty(), _no_customers(), DAY, metering_settings)
    rows = {**nothing(metering_settings), "power_factor_monthly": monthly}
    table = of(monthly_kpis(KPI.empty(), rows, customers.clear(), DAY, metering_settings))
    assert {(scope, row["status"]) for (_, scope), row in table.items()} == {("*", "no_data")}


def _no_customers() -> pl.DataFrame:
    return pl.DataFrame(schema={"customer_no": pl.String, "pf_standard": pl.Float64})


def test_every_kpi_has_a_target_a_clause_and_says_what_it_counts(metering_settings: MeteringSettings) -> None:
    for kpi_id, kpi in metering_settings.kpi.items():
        assert all([kpi.name_zh, kpi.name_en, kpi.meaning, kpi.clause]), kpi_id
        assert kpi.target is not None, kpi_id
        assert kpi.unit in {"%", "1"}, kpi_id


def test_rates_agree_with_sql(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    windows: pl.DataFrame,
    sql: Callable[..., list[tuple[Any, ...]]],
    kpis_of: Builder,
) -> None:
    table = of(kpis_of(windows, voltage(), accuracy(), meter_versions, customers, DAY, metering_settings))
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


def test_absurd_energies_are_no_data_for_their_scopes_alone(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    make_windows: Builder,
    kpis_of: Builder,
) -> None:
    windows = pl.concat(
        [
            make_windows("a1", "A", DAY, [1.7e308] * 96, import_kvarh=1.7e308, export_kvarh=0.0),
            make_windows("b1", "B", DAY, [MOST_KW / 4] * 96, import_kvarh=0.0, export_kvarh=0.0),
        ]
    )
    scores = accuracy(("A", -1.7e308, 96, 0), ("B", 99.0, 96, 0))
    table = kpis_of(windows, voltage(), scores, meter_versions, customers, DAY, metering_settings)
    rows = of(table)
    assert all(table.select(pl.col(pl.Float64).is_finite().all()).row(0))
    assert (rows["power_factor", "A"]["value"], rows["power_factor", "A"]["status"]) == (None, "no_data")
    for scope in ("B", "*"):  # of the whole scope what is known counts
        assert (rows["power_factor", scope]["value"], rows["power_factor", scope]["status"]) == (1.0, "met")
    assert rows["load_forecast_accuracy", "A"]["status"] == "no_data"
    assert rows["load_forecast_accuracy", "B"]["value"] == pytest.approx(99.0)


@pytest.mark.parametrize(("minutes", "due"), [(127, 8), (0, 0)])
def test_what_is_not_due_yet_is_neither_missing_nor_missed(
    metering_settings: MeteringSettings,
    customers: pl.DataFrame,
    meter_versions: pl.DataFrame,
    make_windows: Builder,
    kpis_of: Builder,
    minutes: int,
    due: int,
) -> None:
    """At 02:07 a meter that sent eight of eight quarter-hours has 100 %, and one that sent six of eight 75 %."""
    start = datetime(2026, 6, 30, 16, tzinfo=UTC)
    sent = {("a1", "A"): due, ("a2", "A"): due, ("b1", "B"): due * 3 // 4}
    windows = pl.concat([make_windows(*of_, DAY, [400.0] * n + [None] * (96 - n)) for of_, n in sent.items()])
    until = start + timedelta(minutes=minutes)
    table = of(kpis_of(windows, voltage(), accuracy(), meter_versions, customers, DAY, metering_settings, until))
    success = {scope: table["reading_success_rate", scope] for scope in ("A", "B", "*")}
    if due:
        assert [success[scope]["value"] for scope in ("A", "B")] == [100.0, 75.0]
        assert (success["*"]["denominator"], success["A"]["status"]) == (24, "met")
        assert table["monitoring_coverage", "*"]["value"] == 100.0
    else:
        assert {row["status"] for row in success.values()} == {"no_data"}
        assert table["monitoring_coverage", "*"]["status"] == "no_data"
