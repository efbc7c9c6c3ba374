"""Rows of quality_results: counts, and samples that name key, meter, time and value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import polars as pl

from metering.tables.evidence import QUALITY_RESULTS
from metering.tables.quality import SAMPLES, of_failures, summed
from metering.tables.warehouse import VOLTAGE_DAILY

DAY = date(2026, 3, 2)


@dataclass(frozen=True)
class Failing:
    expectation: str
    columns: tuple[str, ...]
    rows: tuple[int, ...]


def test_failing_rows_are_counted_within_their_part_and_sampled() -> None:
    frame = pl.DataFrame({"meter_id": [f"M{n}" for n in range(12)], "monitored_min": [1515.0] * 12})
    rows = VOLTAGE_DAILY.conform(frame, customer_no="A", date=DAY, phase="a", over_min=0.0, under_min=0.0)
    failing = Failing("between", ("monitored_min",), tuple(range(12)))
    (found,) = of_failures(VOLTAGE_DAILY, [failing], rows, range(2, 12), DAY, kept=False).to_dicts()
    assert (found["rule"], found["severity"], found["failing_rows"]) == ("monitored_min: between", "error", 10)
    assert found["sample"].startswith("meter_id M2, date 2026-03-02, phase a, monitored_min 1515.0; meter_id M3")
    assert found["sample"].count("meter_id") == SAMPLES
    kept = of_failures(VOLTAGE_DAILY, [failing], rows, range(12), DAY, kept=True)
    assert kept["severity"].to_list() == ["warning"]
    assert of_failures(VOLTAGE_DAILY, [failing], rows, range(12, 20), DAY, kept=True).is_empty()
    both = summed([kept, kept])
    assert (both.height, both["failing_rows"].item()) == (1, 24)
    assert summed([]).schema == QUALITY_RESULTS.schema
