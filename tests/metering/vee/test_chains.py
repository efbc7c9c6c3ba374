"""What was used beside wrong values of registers is what the registers on both sides say, against a plain account."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from metering.load.windows import latest, windows
from metering.settings import MeteringSettings
from metering.tables.batch import BATCH_WINDOWS
from metering.tables.lake import MEASURED, REGISTERS
from metering.tables.schema import TIMESTAMP
from metering.vee.meter_curve import START, Beside, meter_curve

Builder = Callable[..., pl.DataFrame]
ZONE = "Asia/Shanghai"
DAY = date(2026, 7, 1)
MIDNIGHT = datetime(2026, 6, 30, 16, tzinfo=UTC)
INTERVALS = (900, 1800, 3600, 7200)
USED_KWH = (20.0, 60.0)
"""In a quarter-hour; the meters can make 95."""


@pytest.fixture(scope="module")
def versions(make_customers: Builder, make_meter_versions: Builder) -> pl.DataFrame:
    common = {"customer_no": "A", "nominal_v": 220.0, "pt_ratio": 1.0, "ct_ratio": 80.0, "max_a": 6.0}
    kinds = {f"{371_502_048_813 + n}": {**common, "interval_s": s} for n, s in enumerate(INTERVALS)}
    return make_meter_versions(make_customers({"A": {}}), kinds)


def day_of(
    shown: list[float],
    used: list[float],
    version: int,
    powered: bool,
    versions: pl.DataFrame,
    figures: MeteringSettings,
) -> list[dict[str, object]]:
    """The meter's curve of a day, of which `shown` are the registers as read, the first at its start."""
    interval = timedelta(seconds=INTERVALS[version])
    each = INTERVALS[version] // 900
    rows = [
        {
            **dict.fromkeys(MEASURED), "ts": MIDNIGHT + n * interval, "import_kwh": value, "log_offset": n,
            "source_row": 0, "p_kw": sum(used[(n - 1) * each : n * each]) * 4 / each if powered and n else None,
        }
        for n, value in enumerate(shown)
    ]  # fmt: skip
    schema = {"ts": TIMESTAMP, **dict.fromkeys(MEASURED, pl.Float64), "log_offset": pl.Int64, "source_row": pl.Int32}
    readings = latest(
        pl.DataFrame(rows, schema=schema).with_columns(
            pl.lit(0, pl.UInt32).alias("meter"), pl.lit(version, pl.UInt32).alias("version")
        )
    )
    ends = readings.select(pl.col("ts").alias("window_end"), *(pl.col(n).alias(f"{n}_end") for n in REGISTERS))
    made = windows(readings, versions, ZONE).join(ends, on="window_end", how="left")
    of_day = BATCH_WINDOWS.conform(made.filter(pl.col("window_end") > MIDNIGHT), revision=0, date=DAY)
    meter_id, chain = versions.row(version, named=True)["meter_id"], versions["chain"][version] << 40
    start = {"meter_id": meter_id, "window_end": MIDNIGHT, "chain": chain, "import_kwh_end": shown[0]}
    beside = replace(Beside.nothing(), start=pl.DataFrame([{n: start.get(n) for n in START.names()}], schema=START))
    mine = versions.filter(pl.col("meter_id") == meter_id)
    curve, _ = meter_curve(of_day, mine, DAY, figures, beside)
    return curve.to_dicts()


def wrong_values(n: int, shown: list[float]) -> Iterator[float]:
    yield from (0.0, 999_999.0, 655_350.0, -5.0)
    yield from (shown[n] + off for off in (-150.0, -40.0, 15.0, 35.0, 150.0, 300.0, 3000.0))


@settings(max_examples=50)
@given(
    data=st.data(),
    version=st.integers(0, len(INTERVALS) - 1),
    powered=st.booleans(),
    first=st.sampled_from([10.0, 81_234.5]),
)
def test_the_day_is_what_the_registers_on_both_sides_of_wrong_values_say(
    metering_settings: MeteringSettings, versions: pl.DataFrame, data: st.DataObject, version: int, powered: bool,
    first: float,
) -> None:  # fmt: skip
    quiet = replace(metering_settings, vee=replace(metering_settings.vee, validation={}))
    used = data.draw(st.lists(st.floats(*USED_KWH), min_size=96, max_size=96))
    each = INTERVALS[version] // 900
    count = 96 // each
    right = [first + sum(used[: n * each]) for n in range(count + 1)]
    at = data.draw(st.integers(1, count - 2))
    wrong = data.draw(st.sampled_from(list(wrong_values(at, right))))
    times = data.draw(st.sampled_from([1, 1, 2]))
    assume(at + times < count)
    shown = [*right[:at], *[wrong] * times, *right[at + times :]]
    rows = day_of(shown, used, version, powered, versions, quiet)
    total = sum(row["energy_kwh"] for row in rows)  # type: ignore[misc]
    assert total == pytest.approx(right[-1] - right[0], rel=1e-6)
