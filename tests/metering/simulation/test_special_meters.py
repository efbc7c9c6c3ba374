"""Meters of the fleet that are not as all others: of other intervals, exchanged, misread, corrected."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.settings import MeteringSettings
from metering.simulation import Fleet, draw_fleet, run, simulate
from metering.simulation.faults import plan
from metering.tables.lake import REGISTERS

START = date(2026, 3, 2)
NOON = datetime(2026, 3, 3, 4, tzinfo=UTC)
EXCHANGED, HOURLY, TEN_MINUTES = "M100008-1", "M100009-1", "M100010-1"
SPECIAL = (EXCHANGED, HOURLY, TEN_MINUTES)


def fleet_of(count: int, given: MeteringSettings, interval_s: int = 60, exchange: date | None = None) -> Fleet:
    return draw_fleet(count, 3, interval_s, date(2025, 1, 1), given, exchange)


def run_all(fleet: Fleet, given: MeteringSettings, interval_s: int = 60) -> tuple[pl.DataFrame, pl.DataFrame]:
    slices = list(simulate(fleet, START, 3, interval_s, given))
    return pl.concat([s.readings for s in slices]), pl.concat([s.labels for s in slices])


@pytest.fixture(scope="module")
def fleet(metering_settings: MeteringSettings) -> Fleet:
    return fleet_of(12, metering_settings, exchange=NOON.date())


@pytest.fixture(scope="module")
def simulated(fleet: Fleet, metering_settings: MeteringSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    return run_all(fleet, metering_settings)


def of(readings: pl.DataFrame, meter_id: str) -> pl.DataFrame:
    return readings.filter(pl.col("meter_id") == meter_id)


def the_label(labels: pl.DataFrame, kind: str, number: int = 0) -> dict[str, object]:
    return labels.filter(pl.col("kind") == kind).row(number, named=True)


def within(rows: pl.DataFrame, label: dict[str, object]) -> pl.DataFrame:
    """Readings of the label's meter that it strikes."""
    own = of(rows, str(label["meter_id"]))
    return own.filter(pl.col("ts") > label["started_at"], pl.col("ts") <= label["ended_at"])


# --- other intervals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("meter_id", "interval_s"), [(HOURLY, 3600), (TEN_MINUTES, 600)])
def test_a_seldom_meter_tells_means_that_agree_with_its_registers(
    fleet: Fleet,
    simulated: tuple[pl.DataFrame, pl.DataFrame],
    metering_settings: MeteringSettings,
    meter_id: str,
    interval_s: int,
) -> None:
    assert of(fleet.meters, meter_id)["interval_s"].to_list() == [interval_s]
    own = of(simulated[0], meter_id)
    begin = datetime(2026, 3, 1, 16, tzinfo=UTC)
    due = [begin + timedelta(seconds=interval_s * number) for number in range(1, 3 * 86_400 // interval_s + 1)]
    assert own["ts"].to_list() == due
    every_minute = replace(fleet, traits=fleet.traits.with_columns(pl.lit(60, pl.Int64).alias("interval_s")))
    minutes = of(run_all(every_minute, metering_settings)[0], meter_id).sort("ts")
    assert minutes.filter(pl.col("ts").is_in(due)).select(REGISTERS).equals(own.select(REGISTERS))
    for name in ("p_kw", "q_kvar"):
        means = [part.mean() for part in minutes[name].reshape((len(due), -1))]
        assert (own[name] - pl.Series(means)).abs().max() <= 0.0005 + 1e-9
    energy = own["p_kw"] * interval_s / 3600
    assert (own["import_kwh"].diff() - energy).abs().max() < 0.001 * interval_s / 3600 + 2e-4


@pytest.mark.parametrize(
    ("interval_s", "own"), [(60, {3600: 1, 600: 1}), (900, {3600: 1}), (960, {}), (3600, {}), (1200, {3600: 1})]
)
def test_only_multiples_of_the_fleets_interval_are_had(
    metering_settings: MeteringSettings, interval_s: int, own: dict[int, int]
) -> None:
    fleet = fleet_of(10, metering_settings, interval_s, NOON.date())
    counts = dict(fleet.meters["interval_s"].value_counts().rows())
    counts.pop(interval_s)
    assert counts == own
    assert fleet.meters["meter_id"].is_duplicated().sum() == fleet.exchanges.height * 2 == 2 * (3600 % interval_s == 0)


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25)])
def test_an_hourly_meter_reports_each_hour_of_a_day_with_a_change_of_clocks(
    metering_settings: MeteringSettings, day: date, hours: int
) -> None:
    given = replace(metering_settings, timezone="Europe/Paris")
    fleet = fleet_of(10, given, 900, day)
    readings = pl.concat([s.readings for s in simulate(fleet, day, 1, 900, given)])
    assert of(readings, HOURLY).height == hours
    assert fleet.exchanges["at"].dt.convert_time_zone("Europe/Paris").dt.hour().to_list() == [12]
    exchanged = of(readings, EXCHANGED).sort("ts")
    restarts = exchanged.filter(pl.col("import_kwh").diff() < 0)["ts"].to_list()
    assert restarts == [fleet.exchanges["at"][0] + timedelta(minutes=15)]


# --- an exchange -----------------------------------------------------------------------------------------------------


def test_an_exchanged_meter_counts_on_from_another_start(
    fleet: Fleet, simulated: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    readings, labels = simulated
    assert of(fleet.meters, EXCHANGED).select("valid_to_at", "valid_from_at").rows()[0][0] == NOON
    assert of(fleet.meters, EXCHANGED)["valid_from_at"].to_list()[1] == NOON
    label = the_label(labels, "meter_exchange")
    assert (label["meter_id"], label["started_at"], label["ended_at"]) == (EXCHANGED, NOON, NOON)
    start = float(str(label["detail"]).removeprefix("import_kwh begins at "))
    assert start <= 50
    own = of(readings, EXCHANGED)
    assert own.height == 3 * 1440
    old, new = own.filter(pl.col("ts") <= NOON), own.filter(pl.col("ts") > NOON)
    assert new["ts"][0] == NOON + timedelta(minutes=1)
    counted = (new["p_kw"] / 60).cum_sum() + start
    assert (new["import_kwh"] - counted).abs().max() < 2e-4
    since = (old["p_kw"] / 60).cum_sum() - old["p_kw"][0] / 60
    assert (old["import_kwh"] - old["import_kwh"][0] - since).abs().max() < 2e-4


def test_the_rest_of_the_fleet_knows_nothing_of_an_exchange(
    fleet: Fleet, simulated: tuple[pl.DataFrame, pl.DataFrame], metering_settings: MeteringSettings
) -> None:
    without = fleet_of(12, metering_settings)
    assert without.exchanges.is_empty()
    assert without.meters["meter_id"].is_unique().all()
    readings, labels = run_all(without, metering_settings)
    others = pl.col("meter_id") != EXCHANGED
    assert readings.filter(others).equals(simulated[0].filter(others))
    assert labels.equals(simulated[1].filter(pl.col("kind") != "meter_exchange"))


def test_slices_do_not_matter(
    fleet: Fleet,
    simulated: tuple[pl.DataFrame, pl.DataFrame],
    metering_settings: MeteringSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "SLICE_ROWS", 15 * 131)  # neither hours nor noon at an end
    readings, labels = run_all(fleet, metering_settings)
    assert readings.equals(simulated[0])
    assert labels.equals(simulated[1])


# --- glitches and corrections ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "shown"), [("register_decrease", 0.0), ("runaway", 2.0**32 - 1)])
def test_a_register_is_misread_once_at_the_end_of_a_quarter_hour(
    fleet: Fleet, simulated: tuple[pl.DataFrame, pl.DataFrame], kind: str, shown: float
) -> None:
    readings, labels = simulated
    label = the_label(labels, kind)
    assert label["detail"] == f"import_kwh shows {shown:.0f}"
    assert within(readings, label)["import_kwh"].to_list() == [shown]
    assert label["ended_at"].minute % 15 == 0
    own = of(readings, str(label["meter_id"]))
    near = own.filter((pl.col("ts") - label["ended_at"]).dt.total_minutes().is_between(-60, 60)).sort("ts")
    right = near.filter(pl.col("ts") != label["ended_at"])
    used = (right["import_kwh"][-1] - right["import_kwh"][0]) % 10 ** of(fleet.meters, own["meter_id"][0])[
        "register_digits"
    ][0]
    assert used == pytest.approx(near["p_kw"][1:].sum() / 60, abs=2e-4)
    assert shown == 0 or shown >= 10 ** int(fleet.meters["register_digits"].max())


def test_an_hour_is_sent_again_with_what_the_registers_say(
    fleet: Fleet, simulated: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    readings, labels = simulated
    label = the_label(labels, "correction")
    sent = within(readings, label).with_row_index("row")
    first, later = (sent.filter(pl.col("row") // 60 == number).drop("row") for number in (0, 1))
    assert first["ts"].equals(later["ts"])
    assert later.height == 60
    too_much = float(str(label["detail"]).split()[0])
    assert too_much > 0
    assert (first["p_kw"] - later["p_kw"]).round(3).unique().to_list() == [too_much]
    register_says = (first["import_kwh"] - later["import_kwh"]).to_list()
    assert register_says == pytest.approx([too_much * n / 60 for n in range(1, 61)], abs=2e-4)
    assert (first["ia_a"] > later["ia_a"]).all()
    others = ("q_kvar", "export_kwh", "import_kvarh", "export_kvarh")
    assert first.select(others).equals(later.select(others))
    last = of(readings, str(label["meter_id"])).unique("ts", keep="last", maintain_order=True).sort("ts")
    day = last.filter((pl.col("ts") - label["ended_at"]).dt.total_minutes().is_between(-120, 120))
    used = day["import_kwh"].diff()[1:] % 10 ** int(of(fleet.meters, str(label["meter_id"]))["register_digits"][0])
    assert (used - day["p_kw"][1:] / 60).abs().max() < 2e-4
    again = datetime.fromisoformat(str(label["detail"]).split()[-1])
    rows = readings.with_columns(newest=pl.col("ts").cum_max())
    arrived = within(rows, label)["newest"][-1]
    assert timedelta() <= again - arrived < timedelta(minutes=1)


@settings(deadline=None, max_examples=20)
@given(first=st.dates(date(2020, 1, 1), date(2035, 1, 1)), interval_s=st.sampled_from((60, 300, 900, 3600)))
def test_three_days_have_one_of_each_and_special_meters_no_fault(
    metering_settings: MeteringSettings, first: date, interval_s: int
) -> None:
    fleet = fleet_of(10, metering_settings, interval_s, first)
    days = [plan(fleet, first + timedelta(days=day), interval_s, metering_settings) for day in range(3)]
    of_registers = pl.concat(days).filter(pl.col("kind").is_in(["register_decrease", "runaway", "correction"]))
    assert sorted(of_registers["kind"]) == ["correction", "register_decrease", "runaway"]
    for day in days:
        assert day["meter"].is_unique().all()
        struck = day.join(fleet.traits, on="meter")["meter_id"]
        assert set(struck).isdisjoint(SPECIAL)
        assert (day["last"] * interval_s <= 22 * 3600).all()
