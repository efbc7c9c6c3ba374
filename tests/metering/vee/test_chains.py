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


def curve_of(
    shown: dict[int, list[float]],
    used: list[float],
    powered: bool,
    versions: pl.DataFrame,
    figures: MeteringSettings,
) -> pl.DataFrame:
    """The curves of meters' day, of which `shown` are the registers as read, the first at its start."""
    rows: list[dict[str, object]] = []
    for version, values in shown.items():
        each = INTERVALS[version] // 900
        rows += [
            {
                **dict.fromkeys(MEASURED), "ts": MIDNIGHT + n * timedelta(seconds=INTERVALS[version]),
                "meter": version, "version": version, "import_kwh": value, "log_offset": n, "source_row": 0,
                "p_kw": sum(used[(n - 1) * each : n * each]) * 4 / each if powered and n else None,
                "q_kvar": sum(used[(n - 1) * each : n * each]) / each if powered and n else None,
                "import_kvarh": 500.0 + 0.3 * sum(used[: n * each]),
            }
            for n, value in enumerate(values)
        ]  # fmt: skip
    return curve_of_readings(rows, {version: values[0] for version, values in shown.items()}, versions, figures)


def curve_of_readings(
    rows: list[dict[str, object]], at_midnight: dict[int, float], versions: pl.DataFrame, figures: MeteringSettings
) -> pl.DataFrame:
    """`at_midnight`: the register of each version of a meter that is valid then."""
    schema = {"ts": TIMESTAMP, **dict.fromkeys(MEASURED, pl.Float64), "meter": pl.UInt32, "version": pl.UInt32,
              "log_offset": pl.Int64, "source_row": pl.Int32}  # fmt: skip
    readings = latest(pl.DataFrame(rows, schema=schema))
    ends = readings.select(
        versions["meter_id"].gather(readings["version"]).alias("meter_id"), pl.col("ts").alias("window_end"),
        *(pl.col(n).alias(f"{n}_end") for n in REGISTERS),
    )  # fmt: skip
    made = windows(readings, versions, ZONE).join(ends, on=["meter_id", "window_end"], how="left")
    of_day = BATCH_WINDOWS.conform(made.filter(pl.col("window_end") > MIDNIGHT), revision=0, date=DAY)
    start = [
        {
            "meter_id": versions["meter_id"][version], "window_end": MIDNIGHT, "import_kwh_end": value,
            "import_kvarh_end": 500.0,
            "chain": versions["chain"][version] << 40,
        }
        for version, value in at_midnight.items()
    ]  # fmt: skip
    at_start = pl.DataFrame([{n: row.get(n) for n in START.names()} for row in start], schema=START)
    beside = replace(Beside.nothing(), start=at_start)
    return meter_curve(of_day, versions, DAY, figures, beside)[0]


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
    right = {
        n: [first + sum(used[: k * seconds // 900]) for k in range(86_400 // seconds + 1)]
        for n, seconds in enumerate(INTERVALS)
    }
    mine = right[version]
    at = data.draw(st.integers(1, len(mine) - 3))
    wrong = data.draw(st.sampled_from(list(wrong_values(at, mine))))
    times = data.draw(st.sampled_from([1, 1, 2]))
    assume(at + times < len(mine) - 1)
    shown = {**right, version: [*mine[:at], *[wrong] * times, *mine[at + times :]]}
    each = INTERVALS[version] // 900
    curve = curve_of(shown, used, powered, versions, quiet)
    totals = curve.group_by("meter_id").agg(pl.col("energy_kwh", "import_kvarh").sum(), pl.len()).rows()
    assert len(totals) == len(INTERVALS)
    for _, total, kvarh, points in totals:
        assert kvarh == pytest.approx(0.3 * sum(used), rel=1e-6)  # what its own register says
        assert points == 96
        # beside power, a step to or from a wrong value that is within 20 % of it is like any other
        assert total == pytest.approx(sum(used), rel=1e-6, abs=2 * 0.2 * USED_KWH[1] * each if powered else 0.0)


@pytest.mark.parametrize("stamped", ["last of the old", "first of the new"])
@pytest.mark.parametrize("started_at", [0.0, 500.0, 81_000.0])
def test_at_an_exchange_the_registers_tell_whose_the_reading_of_its_moment_is(
    metering_settings: MeteringSettings, versions: pl.DataFrame, stamped: str, started_at: float
) -> None:
    """A meter of 15 minutes gets another register at noon; it uses 50 kWh a quarter-hour."""
    noon = 48
    both = pl.concat([versions[:1], versions[:1]]).with_columns(
        valid_to=pl.Series([MIDNIGHT + timedelta(hours=12), None], dtype=TIMESTAMP),
        valid_from=pl.Series([versions["valid_from"][0], MIDNIGHT + timedelta(hours=12)], dtype=TIMESTAMP),
        chain=pl.Series([0, 1], dtype=pl.UInt32),
    )
    shown = [81_234.5 + 50.0 * n for n in range(noon)]
    shown += [81_234.5 + 50.0 * noon if stamped == "last of the old" else started_at]
    shown += [started_at + 50.0 * n for n in range(1, 49)]
    rows = [
        {
            **dict.fromkeys(MEASURED), "ts": MIDNIGHT + timedelta(minutes=15 * n), "meter": 0, "version": int(n > noon),
            "import_kwh": value, "log_offset": n, "source_row": 0,
        }
        for n, value in enumerate(shown)
    ]  # fmt: skip
    curve = curve_of_readings(rows, {0: shown[0]}, both, metering_settings)
    assert curve["energy_kwh"].to_list() == pytest.approx([50.0] * 96)
    unsure = curve.filter(pl.col("status") == "estimated")["point"].to_list()
    assert unsure == ([noon + 1] if stamped == "last of the old" else [noon, noon + 1])
