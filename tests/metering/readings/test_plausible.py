"""What is believed of voltages, currents and powers, and what rules say to what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from metering.events import judge
from metering.events.catalogue import checks
from metering.readings.plausible import believed, told
from metering.settings import MeteringSettings, PlausibilitySettings
from metering.tables.lake import MEASURED
from metering.tables.schema import TIMESTAMP

Builder = Callable[..., pl.DataFrame]
Versions = Callable[..., pl.DataFrame]
LIMITS = {"3p4w": 3 * 220 * 6 * 2.0, "3p3w": 3**0.5 * 220 * 6 * 2.0, "1p": 220 * 6 * 2.0}
"""Rated power [kW] of the meters below: 2000 times what they see, in kW."""


@pytest.fixture
def versions_of(make_customers: Builder, make_meter_versions: Builder) -> Versions:
    def make(figures: MeteringSettings, wiring: str = "3p4w") -> pl.DataFrame:
        meters = {"M": {"customer_no": "C1", "wiring": wiring}}
        return make_meter_versions(make_customers({"C1": {}}), meters, figures)

    return make


def _readings(**values: list[Any]) -> pl.DataFrame:
    count = len(next(iter(values.values())))
    at = [datetime(2026, 3, 2, 0, 15 * (n + 1), tzinfo=UTC) for n in range(count)]
    frame = pl.DataFrame({"ts": at, **values}, schema={"ts": TIMESTAMP, **dict.fromkeys(values, pl.Float64)})
    missing = [pl.lit(None, pl.Float64).alias(name) for name in MEASURED if name not in values]
    return frame.with_columns(missing).with_columns(meter=pl.lit(0, pl.UInt32), version=pl.lit(0, pl.UInt32))


@pytest.mark.parametrize("wiring", list(LIMITS))
def test_what_is_beyond_twice_what_the_meter_is_made_for(
    metering_settings: MeteringSettings, versions_of: Versions, wiring: str
) -> None:
    most = 2 * LIMITS[wiring]
    rows = _readings(
        ua_v=[440.0, 440.1, -441.0], ib_a=[12.0, -12.0, 12.01], p_kw=[most, -most * 1.0001, None],
        q_kvar=[most * 1.0001, most, -most], import_kwh=[1e300, None, -1.0],
    )  # fmt: skip
    found = believed(rows, versions_of(metering_settings, wiring))
    assert found["ua_v"].to_list() == [440.0, None, None]
    assert found["ib_a"].to_list() == [12.0, -12.0, None]
    assert found["p_kw"].to_list() == [most, None, None]
    assert found["q_kvar"].to_list() == [None, most, -most]
    assert found["import_kwh"].to_list() == [1e300, None, -1.0]  # registers are judged by their steps


def test_the_figures_are_settings(metering_settings: MeteringSettings, versions_of: Versions) -> None:
    figures = replace(metering_settings, plausibility=PlausibilitySettings(voltage_factor=3.0))
    rows = _readings(ua_v=[441.0])
    assert believed(rows, versions_of(figures)).equals(rows)
    assert told("ua_v", 100_000.0) == "voltage of 100,000 V is more than the meter can have measured"


def test_rules_say_nothing_to_what_is_not_believed(metering_settings: MeteringSettings, versions_of: Versions) -> None:
    versions = versions_of(metering_settings)
    rows = _readings(ua_v=[270.0, 1e6, 220.0], p_kw=[1e9, 10.0, 10.0], q_kvar=[0.0, 0.0, 0.0])
    named = {(check.rule, check.phase): check.code for check in checks(metering_settings)}
    over_voltage, capacity = named["over_voltage", "a"], named["over_capacity", "total"]
    starts = judge.starts(rows, versions, metering_settings)
    assert over_voltage in starts["code"]
    assert capacity not in starts["code"]
    said = judge.judge(rows, versions, metering_settings, pl.Series([over_voltage, capacity], dtype=pl.UInt32))
    assert said.filter(code=over_voltage)["value"].to_list() == [270.0, 220.0]
    assert said.filter(code=capacity)["value"].to_list() == [10.0, 10.0]


def test_a_negative_voltage_is_none(metering_settings: MeteringSettings, versions_of: Versions) -> None:
    rows = _readings(ua_v=[-230.0, -0.0, 230.0], ubc_v=[-1.0, 0.0, None], ia_a=[-5.0, 5.0, None])
    found = believed(rows, versions_of(metering_settings))
    assert found["ua_v"].to_list() == [None, -0.0, 230.0]
    assert found["ubc_v"].to_list() == [None, 0.0, None]
    assert found["ia_a"].to_list() == [-5.0, 5.0, None]
    assert told("ua_v", -230.0) == "voltage of -230 V is negative, which no voltage is"
