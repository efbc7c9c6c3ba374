"""Pictures and trends: whom they show, what they are measured against, and that each day gives the same names."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import date, timedelta

import polars as pl
import pytest

from assets.picture import curve_picture, day_pictures
from assets.seen import FIGURES
from metering.calendar import day_bounds
from metering.settings import MeteringSettings
from metering.tables import Table, warehouse

ZONE = "Asia/Shanghai"
DAY = date(2026, 3, 2)
CUSTOMERS = pl.DataFrame(
    {
        "customer_no": ["440100000001", "440100000002"],
        "name": ["机械厂", "水泵站"],
        "tariff": ["large_industry", "large_industry"],
        "contract_demand_kw": [100.0, None],
        "contract_capacity_kva": [500.0, 60.0],
    },
    schema_overrides={"contract_demand_kw": pl.Float64},
)


def _curve(zone: str = ZONE, day: date = DAY) -> pl.DataFrame:
    start, end = day_bounds(day, zone)
    ends = [start + timedelta(minutes=15 * (n + 1)) for n in range(int((end - start) / timedelta(minutes=15)))]
    frames = []
    for customer, power in (("440100000001", 40.0), ("440100000002", 59.0)):
        frames.append(
            pl.DataFrame({"window_end": ends}, schema={"window_end": pl.Datetime("us", "UTC")})
            .with_row_index("n")
            .select(
                pl.lit(customer).alias("customer_no"),
                pl.lit(day).alias("date"),
                (pl.col("n") + 1).cast(pl.Int32).alias("point"),
                "window_end",
                pl.when(pl.col("n") != 7).then(power).alias("p_kw"),
                pl.lit(power / 4).alias("energy_kwh"),
                pl.when(pl.col("n") == 7)
                .then(pl.lit("missing"))
                .when(pl.col("n") == 9)
                .then(pl.lit("estimated"))
                .otherwise(pl.lit("validated"))
                .alias("status"),
            )
        )
    return pl.concat(frames)


def _svg(markdown: str) -> str:
    return base64.b64decode(markdown.partition("base64,")[2][:-1]).decode()


def _forecast(curve: pl.DataFrame) -> pl.DataFrame:
    bands = {"p_kw": 90.0, "p10_kw": 80.0, "p90_kw": 100.0}
    return curve.unique("window_end").select(
        pl.lit("*").alias("customer_no"),
        pl.col("window_end").alias("target"),
        *(pl.lit(v).alias(k) for k, v in bands.items()),
    )


def test_the_whole_scope_comes_first_and_then_who_used_most_of_the_contract(
    metering_settings: MeteringSettings,
) -> None:
    curve = _curve()
    scope, worst = day_pictures(curve, CUSTOMERS, metering_settings, _forecast(curve))
    assert "全部客户" in scope.title
    assert scope.points["p_kw"].max() == 99.0
    assert worst.title == "440100000002 水泵站  2026-03-02"  # 59 of 60 kVA, the other 40 of 100 kW
    assert list(worst.limits.values()) == [60.0]
    picture = _svg(curve_picture(worst, ZONE))
    for text in (
        "水泵站",
        "440100000002",
        "合同容量",
        "missing: 1",
        "estimated: 1",
        "valley",
    ):
        assert text in picture, text
    assert "预测" in _svg(curve_picture(scope, ZONE))


@pytest.mark.parametrize("day", [date(2026, 3, 29), date(2026, 10, 25)])
def test_days_of_92_and_100_points_and_days_of_nothing_known_are_drawn(
    day: date, metering_settings: MeteringSettings
) -> None:
    zone = "Europe/Berlin"
    settings = replace(metering_settings, timezone=zone)
    curve = _curve(zone, day)
    none = curve.with_columns(p_kw=pl.lit(None, pl.Float64), status=pl.lit("missing"))
    for frame in (curve, none):
        for drawn in day_pictures(frame, CUSTOMERS.head(1), settings, _forecast(curve).clear()):
            assert _svg(curve_picture(drawn, zone)).startswith("<?xml")


def test_a_customer_that_the_registry_has_forgotten_is_drawn_under_its_number(
    metering_settings: MeteringSettings,
) -> None:
    curve = _curve()
    _, worst = day_pictures(curve, CUSTOMERS.clear(), metering_settings, _forecast(curve).clear())
    assert worst.title.startswith("44010000000")


def test_figures_are_numbers_of_the_rows_of_a_day() -> None:
    shown = FIGURES["daily_curve"](_curve())
    assert shown["completeness"] == (192 - 2) / 192
    assert shown["energy_kwh"] == pytest.approx((40 + 59) * 24)
    assert (shown["missing_points"], shown["estimated_points"], shown["edited_points"]) == (2, 2, 0)
    voltage = pl.DataFrame({"monitored_min": [1440, 60], "over_min": [10, 0], "under_min": [5, 0]})
    assert FIGURES["voltage_daily"](voltage)["qualification_rate"] == 1 - 15 / 1500
    reconciled = pl.DataFrame(
        {"table_name": ["a", "b"], "differing_rows": [2, 1], "stream_rows": [5, 6], "batch_rows": [5, 7]}
    )
    assert FIGURES["reconciliation"](reconciled) == {"differing_rows": 3, "stream_rows": 11, "batch_rows": 12}


def test_every_table_with_figures_has_the_columns_that_they_are_of(metering_settings: MeteringSettings) -> None:
    tables = warehouse(metering_settings.periods)
    for name, figures in FIGURES.items():
        assert all(isinstance(value, int | float) for value in figures(_one_row(tables[name])).values())


def _one_row(table: Table) -> pl.DataFrame:
    return pl.DataFrame({n: [None if t != pl.String else "*"] for n, t in table.schema.items()}, schema=table.schema)
