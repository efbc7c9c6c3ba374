"""Rows of quality_results: counts, and samples that name key, meter, time and value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from metering.tables.evidence import QUALITY_RESULTS
from metering.tables.quality import SAMPLES, of_failures, of_findings, summed
from metering.tables.warehouse import VOLTAGE_DAILY
from metering.vee.findings import FINDINGS

DAY = date(2026, 3, 2)


@dataclass(frozen=True)
class Failing:
    expectation: str
    columns: tuple[str, ...]
    rows: tuple[int, ...]


def test_failing_rows_are_counted_within_their_part_and_sampled() -> None:
    frame = pl.DataFrame({"meter_id": [f"M{n}" for n in range(32)], "monitored_min": [1515.0] * 32})
    rows = VOLTAGE_DAILY.conform(frame, customer_no="A", date=DAY, phase="a", over_min=0.0, under_min=0.0)
    failing = Failing("between", ("monitored_min",), tuple(range(32)))
    (found,) = of_failures(VOLTAGE_DAILY, [failing], rows, range(2, 32), DAY, kept=False).to_dicts()
    assert (found["rule"], found["severity"], found["failing_rows"]) == ("monitored_min: between", "error", 30)
    assert found["sample"].startswith("meter_id M2, date 2026-03-02, phase a, monitored_min 1515.0; meter_id M3")
    assert found["sample"].count("meter_id") == SAMPLES
    assert found["sample"].endswith("; and 10 more")
    kept = of_failures(VOLTAGE_DAILY, [failing], rows, range(32), DAY, kept=True)
    assert kept["severity"].to_list() == ["warning"]
    assert of_failures(VOLTAGE_DAILY, [failing], rows, range(32, 40), DAY, kept=True).is_empty()
    both = summed([kept, kept])
    assert (both.height, both["failing_rows"].item()) == (1, 64)
    assert summed([]).schema == QUALITY_RESULTS.schema


@given(rows=st.sets(st.tuples(st.integers(0, 25), st.integers(1, 96)), min_size=1, max_size=120))
def test_every_meter_is_named_once_with_its_first_time_and_how_often(rows: set[tuple[int, int]]) -> None:
    midnight = datetime(2026, 3, 1, 16, tzinfo=UTC)
    found = pl.DataFrame(
        [
            {"meter_id": f"{371_502_048_800 + m}", "window_end": midnight + timedelta(minutes=15 * point),
             "rule": "missing", "severity": "warning", "value": 1.0, "limit": 1.0, "detail": "no reading"}
            for m, point in sorted(rows, reverse=True)
        ],
        schema=FINDINGS,
    )  # fmt: skip
    (result,) = of_findings(found, "meter_curve", DAY, "Asia/Shanghai").to_dicts()
    assert result["failing_rows"] == len(rows)
    meters = sorted({m for m, _ in rows})
    expected = []
    for m in meters[:SAMPLES]:
        points = sorted(point for meter, point in rows if meter == m)
        last = points[0]
        while last + 1 in points:
            last += 1
        since, until = (f"{midnight + timedelta(hours=8, minutes=15 * n):%Y-%m-%d %H:%M}" for n in (points[0], last))
        span = since if last == points[0] else f"{since} to {until}"
        times = f" ({len(points)} in all)" if len(points) > 1 else ""
        expected.append(f"meter {371_502_048_800 + m} at {span}: no reading{times}")
    if len(meters) > SAMPLES:
        expected.append(f"and {len(meters) - SAMPLES} more meters")
    assert result["sample"].split("; ") == expected
