"""Windows of meters of any interval that report as they please, against a plain account of each meter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from metering.load.windows import latest, windows
from metering.registry.index import MeterIndex
from metering.registry.meter_versions import meter_versions
from metering.settings import MeteringSettings
from metering.tables.lake import MEASURED
from metering.tables.schema import TIMESTAMP
from metering.tables.warehouse import METERS
from tests.metering.load import account

Builder = Callable[..., pl.DataFrame]
INTERVALS = (60, 90, 100, 300, 450, 600, 900, 960, 1200, 1800, 3600, 7200, 14_400, 43_200, 86_400)
DAYS = {
    "Asia/Shanghai": datetime(2026, 3, 1, 16, tzinfo=UTC), "Europe/Vienna": datetime(2026, 3, 28, 23, tzinfo=UTC),
    "America/Sao_Paulo": datetime(2018, 11, 4, 3, tzinfo=UTC), "Europe/Berlin": datetime(2026, 10, 24, 22, tzinfo=UTC),
    "Asia/Kathmandu": datetime(2026, 3, 1, 18, 15, tzinfo=UTC),
    "Australia/Lord_Howe": datetime(2026, 4, 4, 13, tzinfo=UTC),
}  # fmt: skip
"""Time zones, and the start of a day there: most of them shorter or longer than others."""
RATED_KW = 3 * 220 * 6 * 100 * 20 / 1000


@st.composite
def logs(draw: st.DrawFn) -> tuple[str, list[account.Version], list[dict[str, Any]]]:
    """A meter's versions, and readings of it over a day and a half."""
    zone = draw(st.sampled_from(list(DAYS)))
    start = DAYS[zone]
    seam = draw(st.none() | st.sampled_from([12 * 60, 12 * 60 + 7, 9 * 60 + 45, 24 * 60]))
    first = draw(st.sampled_from([datetime(2000, 1, 1, tzinfo=UTC), start]))
    bounds = [first, None if seam is None else start + timedelta(minutes=seam), None]
    intervals = [draw(st.sampled_from(INTERVALS))] * 2
    if seam is not None and seam % 720 == 0 and draw(st.booleans()):
        intervals[1] = draw(st.sampled_from(INTERVALS))
    versions = [
        account.Version(timedelta(seconds=interval), begin, end, RATED_KW, 220.0, 20.0)
        for interval, begin, end in zip(intervals, bounds, bounds[1:], strict=False)
        if begin is not None
    ]
    rhythm_s = draw(st.sampled_from([1, 1, 1, 0.99, 1 / 3, 1.02])) * intervals[0]
    lag_s = draw(st.sampled_from([0, 0, 3, 30, -20, 61, intervals[0] / 10, intervals[0] / 2]))
    rhythm_s = max(rhythm_s, 36 * 3600 / 400)
    readings, register = [], draw(st.sampled_from([10.0, 999_990.0, 500_000.0]))
    load = draw(st.lists(st.sampled_from([0.0, 40.0, 400.0, -60.0]), min_size=1, max_size=7))
    glitches = draw(st.dictionaries(st.integers(0, 30), st.sampled_from([0.0, 2e6, 1e300, 65_535.0, -4.0]), max_size=4))
    absurd = draw(st.dictionaries(st.integers(0, 30), st.sampled_from([20_000.0, -1e9]), max_size=2))
    gaps = draw(st.sets(st.integers(0, 40), max_size=5))
    extras = draw(st.dictionaries(st.integers(0, 30), st.floats(0.05, 0.95), max_size=5))
    with_power = draw(st.booleans())
    for n in range(int(36 * 3600 / rhythm_s)):
        ts = start + timedelta(seconds=round(n * rhythm_s + lag_s, 3))
        p = load[n % len(load)]
        register = (register + max(p, 0) * rhythm_s / 3600) % 1e6
        values = {"ts": ts, "p_kw": absurd.get(n, p) if with_power else None, "ua_v": 220.0 if n % 3 else 300.0}
        reading = {**values, "import_kwh": glitches.get(n, register)}
        if n not in gaps:
            readings.append(reading)
        if n in extras:
            readings.append({**reading, "ts": ts - timedelta(seconds=round(extras[n] * rhythm_s, 3)), "p_kw": 77.0})
    return zone, versions, draw(st.permutations(readings)) if len(readings) < 60 else readings


def _index(
    versions: list[account.Version], zone: str, customers: pl.DataFrame, figures: MeteringSettings
) -> MeterIndex:
    # the customer's meter before it, which it is exchanged for
    before = account.Version(versions[0].interval, datetime(1999, 1, 1, tzinfo=UTC), versions[0].valid_from, RATED_KW,
                             220.0, 20.0)  # fmt: skip
    rows = [
        {
            "meter_id": meter, "customer_no": "C1", "wiring": "3p4w", "nominal_v": 220.0, "pt_ratio": 100.0,
            "ct_ratio": 20.0, "rated_a": 5.0, "max_a": 6.0, "register_digits": 6, "source_no": 1,
            "interval_s": int(version.interval.total_seconds()), "valid_from": version.valid_from.date(),
            "valid_from_at": version.valid_from, "valid_to_at": version.valid_to,
        }
        for meter, version in [*(("310105200001", version) for version in versions), ("310105200002", before)]
    ]  # fmt: skip
    meters = pl.DataFrame(rows, schema=METERS.schema)
    return MeterIndex.of(meter_versions(customers, meters, replace(figures, timezone=zone)))


def _frame(readings: list[dict[str, Any]], index: MeterIndex) -> pl.DataFrame:
    rows = [
        {**dict.fromkeys(MEASURED), **reading, "log_offset": n, "source_row": 0} for n, reading in enumerate(readings)
    ]
    schema = {"ts": TIMESTAMP, **dict.fromkeys(MEASURED, pl.Float64), "log_offset": pl.Int64, "source_row": pl.Int32}
    frame = pl.DataFrame(rows, schema=schema).with_columns(pl.lit(0, pl.UInt32).alias("meter"))
    return frame.with_columns(index.version(frame["meter"], frame["ts"])).filter(pl.col("version").is_not_null())


@settings(max_examples=150)
@given(log=logs())
def test_windows_are_those_of_the_account(
    log: tuple[str, list[account.Version], list[dict[str, Any]]],
    make_customers: Builder,
    metering_settings: MeteringSettings,
) -> None:
    zone, versions, readings = log
    index = _index(versions, zone, make_customers({"C1": {}}), metering_settings)
    made = windows(latest(_frame(readings, index)), index.meter_versions, zone)
    expected = account.windows(versions, readings, ZoneInfo(zone))
    assume(expected)
    assert made["window_end"].to_list() == sorted(expected)
    for row in made.to_dicts():
        window = expected[row["window_end"]]
        assert (row["n"], row["energy_basis"]) == (window.n, window.basis), row
        for value, wanted in (
            (row["energy_kwh"], window.kwh),
            (row["p_mean_kw"], window.mean_kw),
            (row["p_max_kw"], window.highest_kw),
            (row["p_min_kw"], window.lowest_kw),
            (row["covered_min"], window.covered.total_seconds() / 60),
            (row["u_monitored_min"], window.u_s / 60),
        ):
            assert value == (None if wanted is None else pytest.approx(wanted, rel=1e-9, abs=1e-6)), (row, window)
