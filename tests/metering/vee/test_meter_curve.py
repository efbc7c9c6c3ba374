"""A meter's day: statuses, import and export apart, exchanges at noon, running days; and its sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.settings import MeteringSettings
from metering.tables.batch import BATCH_WINDOWS, METER_CURVE
from metering.tables.schema import no_rows
from metering.tables.warehouse import METER_DAILY
from metering.vee.meter_curve import START, Beside, meter_curve, meter_daily

Builder = Callable[..., pl.DataFrame]
DAY = date(2026, 7, 1)
MIDNIGHT = datetime(2026, 6, 30, 16, tzinfo=UTC)


@pytest.fixture(scope="module")
def versions(make_customers: Builder, make_meter_versions: Builder) -> pl.DataFrame:
    return make_meter_versions(make_customers({"A": {}}), {"a1": {"customer_no": "A"}})


def test_statuses_are_the_contracts(
    metering_settings: MeteringSettings, versions: pl.DataFrame, make_windows: Builder
) -> None:
    p_kw: list[float | None] = [100.0 + k % 3 for k in range(96)]
    p_kw[20] = None
    p_kw[40] = 400.0  # a spike
    k = pl.int_range(pl.len())
    windows = make_windows("a1", "A", DAY, p_kw, energy_basis="registers").with_columns(
        pl.when(k == 50).then(pl.lit("import_kwh: register went back from 9 to 0")).alias("reason"),
        pl.when(k == 60).then(14).otherwise("n_expected").cast(pl.Int32).alias("n_expected"),
        pl.when(k == 60).then(pl.lit(900 * 1 / 840)).otherwise("covered_min").alias("covered_min"),
    )
    curve, findings = meter_curve(windows, versions, DAY, metering_settings, Beside.nothing())
    at = {row["point"]: row for row in curve.to_dicts()}
    assert (at[2]["status"], at[2]["rule"], at[2]["reason"]) == ("validated", None, None)
    assert (at[21]["status"], at[21]["rule"]) == ("estimated", "linear")
    assert (at[41]["status"], at[41]["rule"]) == ("raw", "spike")
    assert at[41]["p_kw"] == 400.0  # kept as it came
    assert at[41]["reason"] == "spike: 400.0 kW, third-highest of the day 102.0 kW"
    assert (at[52]["status"], at[52]["rule"]) == ("raw", "implausible")
    assert (at[62]["status"], at[62]["reason"]) == ("raw", "missing: 1 of 14 readings")  # the registers know its energy
    assert set(findings["rule"]) == {"missing", "spike", "implausible"}


def test_a_finding_of_the_whole_day_marks_what_came_of_it(
    metering_settings: MeteringSettings, versions: pl.DataFrame, make_windows: Builder
) -> None:
    p_kw: list[float | None] = [2000.0] * 96
    history = METER_DAILY.conform(
        pl.DataFrame({"date": [DAY - timedelta(days=n) for n in range(1, 11)]}), meter_id="a1", customer_no="A",
        energy_kwh=9600.0, export_kwh=0.0, points=96, known_points=96, repeated_points=1, zero_days=0,
    )  # fmt: skip
    beside = replace(Beside.nothing(), history=history)
    curve, _ = meter_curve(make_windows("a1", "A", DAY, p_kw), versions, DAY, metering_settings, beside)
    assert set(curve["status"]) == {"raw"}
    assert set(curve["reason"]) == {"high: 48000.0 kWh, 9600.0 kWh a day before"}


@given(
    net=st.lists(st.tuples(st.floats(0, 900), st.floats(0, 900)), min_size=96, max_size=96),
    gone=st.sets(st.integers(1, 94), max_size=20),
)
def test_import_and_export_are_kept_apart_and_agree_with_both_registers(
    metering_settings: MeteringSettings, versions: pl.DataFrame, net: list[tuple[float, float]], gone: set[int]
) -> None:
    """A customer with solar on the roof draws and feeds within one quarter-hour; gaps take both registers' rest."""
    rows, drawn, fed = [], 7000.0, 300.0
    for k, (imported, exported) in enumerate(net):
        drawn, fed = drawn + imported, fed + exported
        both = k - 1 not in gone
        rows.append(
            {
                "window_end": MIDNIGHT + timedelta(minutes=15 * (k + 1)), "p_mean_kw": (imported - exported) * 4,
                "energy_kwh": imported - exported, "energy_basis": "registers" if both else "power",
                "import_kwh_end": drawn, "export_kwh_end": fed,
            }
        )  # fmt: skip
    kept = [row for k, row in enumerate(rows) if k not in gone]
    frame = pl.DataFrame(kept, schema={n: BATCH_WINDOWS.schema[n] for n in rows[0]})
    given_too = {"n": 1, "n_expected": 1, "revision": 0, "covered_min": 15.0, "u_max_v": 220.0}
    windows = BATCH_WINDOWS.conform(frame, meter_id="a1", customer_no="A", date=DAY, **given_too)
    start = pl.DataFrame(
        [{n: {"meter_id": "a1", "window_end": MIDNIGHT, "chain": 0, "import_kwh_end": 7000.0,
              "export_kwh_end": 300.0}.get(n) for n in START.names()}],
        schema=START,
    )  # fmt: skip
    quiet = replace(metering_settings, vee=replace(metering_settings.vee, validation={}))
    curve, _ = meter_curve(windows, versions, DAY, quiet, replace(Beside.nothing(), start=start))
    assert curve.select(pl.col("energy_kwh", "export_kwh").null_count()).row(0) == (0, 0)
    whole = [k for k in range(96) if k not in gone and k - 1 not in gone]
    for k in whole:
        row = curve.row(k, named=True)
        assert (row["energy_kwh"], row["export_kwh"]) == pytest.approx(net[k], rel=1e-9, abs=1e-6)
    net_kwh = curve["energy_kwh"] - curve["export_kwh"]
    assert (curve["p_kw"] / 4).to_list() == pytest.approx(net_kwh.to_list(), rel=1e-9, abs=1e-6)
    assert curve["energy_kwh"].sum() == pytest.approx(drawn - 7000.0, abs=1e-6)
    assert curve["export_kwh"].sum() == pytest.approx(fed - 300.0, abs=1e-6)


def test_an_exchange_at_noon_owes_no_point_twice_and_none_of_neither(
    metering_settings: MeteringSettings, make_customers: Builder, make_meter_versions: Builder, make_windows: Builder
) -> None:
    noon = MIDNIGHT + timedelta(hours=12)
    customers = make_customers({"A": {}})
    versions = make_meter_versions(customers, {"old": {"customer_no": "A"}, "young": {"customer_no": "A"}})
    cut = versions.with_columns(
        pl.when(pl.col("meter_id") == "old").then(pl.lit(noon)).otherwise("valid_to").alias("valid_to"),
        pl.when(pl.col("meter_id") == "young").then(pl.lit(noon)).otherwise("valid_from").alias("valid_from"),
    )
    windows = pl.concat(
        [
            make_windows("old", "A", DAY, [80.0] * 48 + [None] * 48),
            make_windows("young", "A", DAY, [None] * 48 + [80.0] * 48),
        ]
    )
    curve, _ = meter_curve(windows, cut, DAY, metering_settings, Beside.nothing())
    assert curve.group_by("meter_id").agg(pl.col("point").min(), pl.len()).sort("meter_id").rows() == [
        ("old", 1, 48),
        ("young", 49, 48),
    ]
    assert set(curve["status"]) == {"validated"}


@pytest.mark.parametrize(("minutes", "points"), [(0, 0), (127, 8), (1440, 96)])
def test_a_running_day_ends_at_the_newest_watermark(
    metering_settings: MeteringSettings, versions: pl.DataFrame, make_windows: Builder, minutes: int, points: int
) -> None:
    windows = make_windows("a1", "A", DAY, [100.0] * 9 + [None] * 87)
    beside = Beside.nothing(until=MIDNIGHT + timedelta(minutes=minutes))
    curve, findings = meter_curve(windows, versions, DAY, metering_settings, beside)
    assert curve.schema == METER_CURVE.schema
    assert curve["point"].to_list() == list(range(1, points + 1))
    if points < 96:
        assert findings.is_empty()
        assert set(curve["status"]) <= {"validated"}


def test_a_days_sums_are_those_of_its_quarter_hours(
    metering_settings: MeteringSettings, versions: pl.DataFrame, make_windows: Builder
) -> None:
    p_kw: list[float | None] = [*[100.0] * 40, *[None] * 16, *[60.0] * 40]
    curve, _ = meter_curve(make_windows("a1", "A", DAY, p_kw), versions, DAY, metering_settings, Beside.nothing())
    assert curve["status"].to_list().count("missing") == 16  # 4 h, and nothing to go by
    daily = meter_daily(curve, METER_DAILY.empty(), DAY).row(0, named=True)
    assert (daily["energy_kwh"], daily["export_kwh"], daily["p_max_kw"]) == (40 * 25.0 + 40 * 15.0, 0.0, 100.0)
    assert (daily["points"], daily["known_points"], daily["validated_points"]) == (96, 80, 80)
    assert (daily["repeated_kw"], daily["repeated_points"], daily["zero_days"]) == (60.0, 40, 0)
    idle, _ = meter_curve(make_windows("a1", "A", DAY, [0.0] * 96), versions, DAY, metering_settings, Beside.nothing())
    first = meter_daily(idle, METER_DAILY.empty(), DAY)
    assert first["zero_days"].item() == 1
    tomorrow = idle.with_columns(date=pl.lit(DAY + timedelta(days=1)))
    second = meter_daily(tomorrow, first, DAY + timedelta(days=1))
    assert second.select("zero_days", "repeated_points").row(0) == (2, 192)


def test_nothing_due_is_nothing(metering_settings: MeteringSettings, versions: pl.DataFrame) -> None:
    empty, findings = meter_curve(BATCH_WINDOWS.empty(), versions.clear(), DAY, metering_settings, Beside.nothing())
    assert (empty.height, findings.height) == (0, 0)
    assert meter_daily(empty, METER_DAILY.empty(), DAY).is_empty()
    assert no_rows(START).is_empty()


@given(
    kwh=st.lists(st.floats(0, 900), min_size=96, max_size=96),
    off=st.lists(st.floats(-0.19, 0.19), min_size=96, max_size=96),
    given_ones=st.sets(st.integers(0, 95)),
)
def test_power_agrees_with_what_the_registers_counted_and_estimates_of_others_are_told(
    metering_settings: MeteringSettings,
    versions: pl.DataFrame,
    kwh: list[float],
    off: list[float],
    given_ones: set[int],
) -> None:
    """A meter's mean power is up to 19 % off its registers; some of its readings came marked as estimates."""
    rows = [
        {
            "window_end": MIDNIGHT + timedelta(minutes=15 * (k + 1)), "p_mean_kw": used * 4 * (1 + off[k]),
            "energy_kwh": used, "energy_basis": "registers", "estimates": 1 if k in given_ones else None,
        }
        for k, used in enumerate(kwh)
    ]  # fmt: skip
    frame = pl.DataFrame(rows, schema={n: BATCH_WINDOWS.schema[n] for n in rows[0]})
    given_too = {"n": 1, "n_expected": 1, "revision": 0, "covered_min": 15.0, "u_max_v": 220.0}
    windows = BATCH_WINDOWS.conform(frame, meter_id="a1", customer_no="A", date=DAY, **given_too)
    quiet = replace(metering_settings, vee=replace(metering_settings.vee, validation={}))
    curve, _ = meter_curve(windows, versions, DAY, quiet, Beside.nothing())
    assert (curve["p_kw"] / 4).to_list() == pytest.approx(kwh, rel=1e-9, abs=1e-6)
    marked = [k for k, row in enumerate(curve.to_dicts()) if row["status"] == "estimated"]
    assert marked == sorted(given_ones)
    assert set(curve.filter(pl.col("status") == "estimated")["rule"]) <= {"given_estimate"}
    assert set(curve.filter(pl.col("status") != "estimated")["status"]) <= {"validated"}


def test_a_long_gap_of_a_meter_with_registers_alone_follows_its_reference_days(
    metering_settings: MeteringSettings, versions: pl.DataFrame, make_windows: Builder
) -> None:
    load: list[float | None] = [100.0 + 200.0 * (k // 24 % 2) for k in range(96)]

    def day(n: int, p_kw: list[float | None]) -> pl.DataFrame:
        made = make_windows("a1", "A", DAY - timedelta(days=n), p_kw, energy_basis="registers")
        return made.with_columns(p_mean_kw=pl.lit(None, pl.Float64), q_mean_kvar=pl.lit(None, pl.Float64))

    gap = [None if 30 <= k < 66 else p for k, p in enumerate(load)]
    earlier = pl.concat([day(n, load) for n in (7, 2, 1)])
    beside = replace(Beside.nothing(), windows=earlier)
    curve, _ = meter_curve(day(0, gap), versions, DAY, metering_settings, beside)
    filled = curve.filter(pl.col("status") == "estimated")
    assert set(filled["rule"]) == {"reference_days"}
    assert curve["p_kw"].to_list() == load
