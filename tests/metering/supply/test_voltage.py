"""Voltage qualification: minutes by phase and wiring, the assessment band, the spread, and SQL over readings."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.settings import MeteringSettings
from metering.supply.voltage import qualification, voltage_daily
from metering.tables.lake import READINGS
from metering.tables.warehouse import VOLTAGE_DAILY

Builder = Callable[..., pl.DataFrame]
DAY = date(2026, 7, 1)
START = datetime(2026, 6, 30, 16, tzinfo=UTC)


@pytest.fixture(scope="module")
def meter_versions(make_customers: Builder, make_meter_versions: Builder) -> pl.DataFrame:
    customers = make_customers({"A": {}, "H": {"voltage_level_kv": 110.0}, "L": {"voltage_level_kv": 0.4}})
    return make_meter_versions(
        customers,
        {
            "four": {"customer_no": "A", "interval_s": 60},
            "three": {"customer_no": "H", "wiring": "3p3w", "nominal_v": 100.0, "interval_s": 900},
            "one": {"customer_no": "L", "wiring": "1p", "interval_s": 30},
        },
    )


def readings(meter_versions: pl.DataFrame, meter_id: str, voltages: dict[str, list[float | None]]) -> pl.DataFrame:
    """Readings of one meter from START on, one interval apart, with its meter_versions."""
    version = meter_versions.filter(pl.col("meter_id") == meter_id)
    step = timedelta(seconds=version["interval_s"].item())
    count = len(next(iter(voltages.values())))
    rows = pl.DataFrame(voltages, schema=dict.fromkeys(voltages, pl.Float64)).with_columns(
        pl.Series("ts", [START + step * (n + 1) for n in range(count)], dtype=pl.Datetime("us", "UTC"))
    )
    known = READINGS.conform(rows, meter_id=meter_id, customer_no=version["customer_no"].item())
    extra = [c for c in meter_versions.columns if c not in READINGS.names]
    known = known.join(version.select("meter_id", *extra), on="meter_id")
    return known.with_columns(slot_end="ts", slot_s=pl.lit(step.total_seconds()))


def day_of(frame: pl.DataFrame, settings: MeteringSettings) -> dict[tuple[str, str], dict[str, Any]]:
    table = voltage_daily(frame, DAY, settings)
    assert table.schema == VOLTAGE_DAILY.schema
    assert table.select(VOLTAGE_DAILY.key).is_unique().all()
    return {(r["meter_id"], r["phase"]): r for r in table.to_dicts()}


def test_minutes_of_a_four_wire_meter(metering_settings: MeteringSettings, meter_versions: pl.DataFrame) -> None:
    # 220 V, +-7 %: limits 235.4 and 204.6, band 154 to 264
    ua = [220.0, 236.0, 204.0, 264.0, 264.1, 153.9, 154.0, None]
    frame = readings(meter_versions, "four", {"ua_v": ua, "ub_v": [220.0] * 8, "uc_v": [None] * 8})
    rows = day_of(frame, metering_settings)
    a, b, c = (rows["four", phase] for phase in "abc")
    assert (a["monitored_min"], a["over_min"], a["under_min"]) == (5.0, 2.0, 2.0)
    assert a["qualification_rate"] == pytest.approx(20.0)
    assert (a["u_min_v"], a["u_max_v"]) == (154.0, 264.0)
    assert (b["monitored_min"], b["qualification_rate"]) == (8.0, 100.0)
    assert (c["monitored_min"], c["qualification_rate"], c["u_min_v"]) == (0.0, None, None)
    assert {r["spread_pct"] for r in rows.values()} == {None}
    assert {r["customer_no"] for r in rows.values()} == {"A"}


def test_phases_follow_the_wiring_and_readings_weigh_their_interval(
    metering_settings: MeteringSettings, meter_versions: pl.DataFrame
) -> None:
    three = readings(meter_versions, "three", {"ua_v": [100.0, 101.0], "ub_v": [100.0, 100.0], "uc_v": [100.0, 111.0]})
    one = readings(meter_versions, "one", {"ua_v": [220.0, 198.0, 197.9], "uc_v": [220.0] * 3})
    rows = day_of(pl.concat([three, one]), metering_settings)
    assert list(rows) == [("one", "a"), ("three", "a"), ("three", "c")]
    assert (rows["three", "c"]["monitored_min"], rows["three", "c"]["over_min"]) == (30.0, 15.0)
    assert (rows["one", "a"]["monitored_min"], rows["one", "a"]["under_min"]) == (1.5, 0.5)  # +7 / -10 %


@pytest.mark.parametrize(
    ("u", "spread"), [([97.0, 104.0], 7.0), ([102.0, 104.0], 4.0), ([95.0, 99.0], 5.0), ([100.0, 100.0], 0.0)]
)
def test_spread_at_35_kv_and_above(
    metering_settings: MeteringSettings, meter_versions: pl.DataFrame, u: list[float | None], spread: float
) -> None:
    rows = day_of(readings(meter_versions, "three", {"ua_v": u}), metering_settings)
    assert rows["three", "a"]["spread_pct"] == pytest.approx(spread)


def test_a_meter_without_limits_is_not_monitored(
    metering_settings: MeteringSettings, meter_versions: pl.DataFrame
) -> None:
    frame = readings(meter_versions, "four", {"ua_v": [220.0]}).with_columns(
        pl.lit(None, pl.Float64).alias("u_lower_v")
    )
    assert day_of(frame, metering_settings)["four", "a"]["qualification_rate"] is None


def test_only_the_day_counts(metering_settings: MeteringSettings, meter_versions: pl.DataFrame) -> None:
    frame = readings(meter_versions, "three", {"ua_v": [100.0] * 97})  # the 97th ends 00:15 of the next day
    assert day_of(frame, metering_settings)["three", "a"]["monitored_min"] == 1440.0
    empty = voltage_daily(frame.clear(), DAY, metering_settings)
    assert empty.is_empty()
    assert empty.schema == VOLTAGE_DAILY.schema


@given(u=st.lists(st.none() | st.floats(0, 400), min_size=1, max_size=50))
def test_minutes_add_up(
    metering_settings: MeteringSettings, meter_versions: pl.DataFrame, u: list[float | None]
) -> None:
    row = day_of(readings(meter_versions, "four", {"ua_v": u}), metering_settings)["four", "a"]
    assert 0 <= row["over_min"] + row["under_min"] <= row["monitored_min"] <= len(u)
    assert (row["qualification_rate"] is None) == (row["monitored_min"] == 0)
    if row["monitored_min"]:
        assert 0 <= row["qualification_rate"] <= 100
        assert 154.0 <= row["u_min_v"] <= row["u_max_v"] <= 264.0


def test_qualification_is_null_without_monitored_minutes() -> None:
    minutes = pl.DataFrame(
        {"m": [0.0, None, 10.0], "o": [0.0, 0.0, 1.0], "u": [0.0, 0.0, 2.0]}, schema=dict.fromkeys("mou", pl.Float64)
    )
    rate = minutes.select(qualification(pl.col("m"), pl.col("o"), pl.col("u"))).to_series()
    assert rate.to_list() == [None, None, pytest.approx(70.0)]


def test_agrees_with_sql(
    metering_settings: MeteringSettings, meter_versions: pl.DataFrame, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    swing = [150.0 + (n * 7919) % 1200 / 10 for n in range(1500)]
    frame = readings(meter_versions, "four", {"ua_v": swing, "ub_v": swing[::-1], "uc_v": [220.0, None] * 750})
    ours = voltage_daily(frame, DAY, metering_settings)
    theirs = sql(
        """
        with phases as (
            unpivot (select ts, ua_v as a, ub_v as b, uc_v as c from frame) on a, b, c into name phase value u
        ), judged as (
            select phase, u > 220 * 1.07 as over, u < 220 * 0.93 as under from phases
            where u between 220 * 0.7 and 220 * 1.2
              and cast((ts - interval 1 microsecond) at time zone 'Asia/Shanghai' as date) = date '2026-07-01'
        )
        select phase, count(*)::double, (count(*) filter (over))::double, (count(*) filter (under))::double,
               100 * (1 - count(*) filter (over or under) / count(*))
        from judged group by all order by all
        """,
        frame=frame,
    )
    columns = ["phase", "monitored_min", "over_min", "under_min", "qualification_rate"]
    assert [row[:4] for row in theirs] == [row[:4] for row in ours.select(columns).rows()]
    assert [row[4] for row in theirs] == pytest.approx(ours["qualification_rate"].to_list(), rel=1e-12)
