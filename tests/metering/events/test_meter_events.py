"""Meters' own events beside derived ones: which are one, against plain Python; what is unknown is told."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from metering.events.meter_events import code_frame, doubts, joined
from metering.settings import MeteringSettings
from metering.tables.alarms import ALARMS, METER_EVENTS_JOINED
from metering.tables.records import METER_EVENTS

DAY = date(2026, 7, 14)
MIDNIGHT = datetime(2026, 7, 13, 16, tzinfo=UTC)
"""Start of DAY in Shanghai."""
INTERVALS = {"310105200001": 60, "310105200002": 900}
CODES = {"0x3002": "over_voltage", "VOLTAGE_LOSS": "voltage_loss", "cover_opened": "", "0x3010": "", "x99": None}


def events(*rows: tuple[str, str, float, float | None]) -> pl.DataFrame:
    """Rows of the lake: meter, code, start and end in minutes of DAY."""
    found = [
        {
            "meter_id": meter, "code": code, "at": MIDNIGHT + timedelta(minutes=start), "log_offset": place,
            "cleared_at": None if end is None else MIDNIGHT + timedelta(minutes=end),
            "date": (MIDNIGHT + timedelta(minutes=start, hours=8, microseconds=-1)).date(),
        }
        for place, (meter, code, start, end) in enumerate(rows)
    ]  # fmt: skip
    fixed: dict[str, Any] = {"source": "t", "source_partition": 0, "source_offset": 0, "source_row": 0}
    if not found:
        return METER_EVENTS.table.empty()
    return METER_EVENTS.table.conform(pl.DataFrame(found, infer_schema_length=None), **fixed)


def alarms(*rows: tuple[str, str, float, float | None, str]) -> pl.DataFrame:
    """Meter, rule, start and end in minutes of DAY, state."""
    found = [
        {
            "violation_id": f"v{number}", "meter_id": meter, "customer_no": "C1", "rule": rule, "state": state,
            "started_at": MIDNIGHT + timedelta(minutes=start),
            "ended_at": None if end is None else MIDNIGHT + timedelta(minutes=end),
        }
        for number, (meter, rule, start, end, state) in enumerate(rows)
    ]  # fmt: skip
    return ALARMS.conform(pl.DataFrame(found, infer_schema_length=None)) if found else ALARMS.empty()


@pytest.fixture
def meters() -> pl.DataFrame:
    rows = [(meter, "C1", seconds) for meter, seconds in INTERVALS.items()]
    return pl.DataFrame(rows, schema=["meter_id", "customer_no", "interval_s"], orient="row")


@pytest.mark.parametrize("seed", range(4))
def test_what_overlaps_is_one(seed: int, meters: pl.DataFrame, metering_settings: MeteringSettings) -> None:
    rng = random.Random(seed)

    def span() -> tuple[float, float | None]:
        start = rng.randint(-3000, 3000) / 2
        return start, None if rng.random() < 0.3 else start + rng.randint(0, 90)

    own = [(rng.choice([*INTERVALS, "stranger"]), rng.choice(list(CODES)), *span()) for _ in range(60)]
    derived = [
        (rng.choice(list(INTERVALS)), rng.choice(("over_voltage", "voltage_loss", "over_capacity")), *span(),
         rng.choice(("raised", "cleared", "withdrawn")))
        for _ in range(60)
    ]  # fmt: skip
    found = joined(events(*own), alarms(*derived), meters, DAY, metering_settings)
    expected = set()
    matched = set()
    for meter, code, start, end in own:
        one = []
        for number, (other, rule, began, ended, state) in enumerate(derived):
            slack = (metering_settings.meter_events.tolerance_s + INTERVALS.get(meter, 0)) / 60
            over = began - slack <= (start if end is None else end) and (ended is None or ended + slack >= start)
            if other == meter and CODES[code] == rule and over and state != "withdrawn":
                one.append(f"v{number}")
        matched |= set(one)
        if 0 < start <= 1440:
            expected |= {(meter, code, start, v, "both") for v in one} or {(meter, code, start, "", "device_only")}
    for number, (meter, rule, began, _, state) in enumerate(derived):
        mine = rule != "over_capacity" and state != "withdrawn" and 0 < began <= 1440
        if mine and f"v{number}" not in matched:
            expected.add((meter, "", began, f"v{number}", "derived_only"))
    minutes = ((pl.col("at") - MIDNIGHT).dt.total_seconds() / 60).alias("minute")
    assert set(found.select("meter_id", "code", minutes, "violation_id", "found").rows()) == expected
    assert {row[4] for row in expected} == {"both", "device_only", "derived_only"}


def test_an_event_told_again_with_its_end_counts_once(
    meters: pl.DataFrame, metering_settings: MeteringSettings
) -> None:
    meter = "310105200001"
    rows = events((meter, "0x301B", 60, 75), (meter, "0x301B", 60, None), (meter, "0x301B", 60, 75))
    (row,) = joined(rows, ALARMS.empty(), meters, DAY, metering_settings).to_dicts()
    assert (row["name_zh"], row["found"], row["cleared_at"]) == (
        "开表盖", "device_only", MIDNIGHT + timedelta(minutes=75),
    )  # fmt: skip


def test_what_means_nothing_is_told(meters: pl.DataFrame, metering_settings: MeteringSettings) -> None:
    rows = events(("310105200001", "x99", 60, None), ("stranger", "magnet", 61, None))
    found = doubts(joined(rows, ALARMS.empty(), meters, DAY, metering_settings))
    assert found.select("meter_id", "rule", "detail").rows() == [
        ("310105200001", "unknown_code", "code x99 means nothing: add it to [meter_events.codes]"),
        ("stranger", "unknown_meter", "event magnet of a meter that is not in the registry"),
    ]
    nothing = joined(events(), ALARMS.empty(), meters, DAY, metering_settings)
    assert nothing.schema == METER_EVENTS_JOINED.schema
    assert doubts(nothing).is_empty()


def test_codes_are_told_apart(metering_settings: MeteringSettings) -> None:
    frame = code_frame(metering_settings.meter_events.codes)
    said = [name for key, code in metering_settings.meter_events.codes.items() for name in (key, *code.aliases)]
    assert frame.height == len({name.lower() for name in said}) == len(said), "no code means two things"
    assert frame.filter(pl.col("name_zh") == "", pl.col("name_en") == "").is_empty()
