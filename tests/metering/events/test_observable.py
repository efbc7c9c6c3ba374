"""What a meter's readings can show: by its interval, phases, and the rules as they are for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import polars as pl
import pytest

from metering.events.catalogue import rulebook
from metering.events.observable import rule_observability, rules_by_meter
from metering.settings import MeteringSettings

DAY = date(2026, 7, 14)


@pytest.fixture
def meters() -> pl.DataFrame:
    rows = [
        ("every-minute", "C1", "3p4w", 60, "large"),
        ("every-quarter", "C1", "3p4w", 900, "large"),
        ("three-wire", "C2", "3p3w", 60, "sme"),
        ("hourly", "C2", "1p", 3600, "important"),
    ]
    names = ["meter_id", "customer_no", "wiring", "interval_s", "segment"]
    frame = pl.DataFrame(rows, schema=names, orient="row", schema_overrides={"interval_s": pl.Int32})
    return frame.with_columns(voltage_level_kv=pl.lit(10.0))


def test_a_hold_shorter_than_the_interval_is_not_observable(
    meters: pl.DataFrame, metering_settings: MeteringSettings
) -> None:
    rules = (
        {"id": "over_voltage", "segment": "important", "hold_s": 7200},
        {"id": "under_voltage", "meter_id": "every-minute", "start": 0},
        {"id": "b_alone", "name_zh": "乙", "name_en": "b", "measure": "u", "side": "above", "base": "nominal_v",
         "start": 1.3, "phases": ["b"], "hold_s": 0},
    )  # fmt: skip
    settings = replace(metering_settings, rules=rulebook(rules, ()))
    found = rule_observability(meters, DAY, settings)
    rows = {(row["meter_id"], row["rule"]): row for row in found.to_dicts()}

    def said(meter: str, rule: str) -> tuple[bool, float | None]:
        return rows[meter, rule]["observable"], rows[meter, rule]["detection_delay_s"]

    assert said("every-minute", "over_voltage") == (True, 120.0)
    assert said("every-quarter", "over_voltage") == (False, 1800.0)
    assert said("every-quarter", "over_capacity") == (True, 1800.0)
    assert said("every-minute", "over_capacity") == (True, 960.0)
    assert said("hourly", "over_voltage") == (True, 3 * 3600.0)
    assert said("hourly", "over_capacity") == (False, 7200.0)
    assert said("three-wire", "b_alone") == (False, None)
    assert said("every-quarter", "b_alone") == (True, 1800.0)
    assert ("every-minute", "under_voltage") not in rows
    assert rows["every-quarter", "over_voltage"]["reason"] == (
        "the hold of 60 s is shorter than the interval of 900 s: only events of 1800 s are sure to be seen"
    )
    assert rows["three-wire", "b_alone"]["reason"] == "a 3p3w meter has none of its phases"
    counted = found.group_by("meter_id").agg(pl.len().cast(pl.Int64), pl.col("observable").sum().cast(pl.Int64))
    assert sorted(rules_by_meter(meters, DAY, settings).rows()) == sorted(counted.rows())


def test_no_meters_no_rows(meters: pl.DataFrame, metering_settings: MeteringSettings) -> None:
    assert rule_observability(meters.clear(), DAY, metering_settings).is_empty()
    assert rules_by_meter(meters.clear(), DAY, metering_settings).is_empty()
