"""The one pass over all readings, cut anywhere, misses no step that needs a look, and sums up what steps do."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.events import register_screen, registers
from metering.readings.slots import is_last, placed
from metering.settings import MeteringSettings
from metering.tables.lake import CHAIN, REGISTERS
from metering.tables.schema import TIMESTAMP

START = datetime(2026, 3, 1, 15, 30, tzinfo=UTC)
INTERVALS_S = (60, 600, 900, 3600)
KEPT = ("meter", "version", "slot_us", "end_us", "stamp_us", *REGISTERS, CHAIN, *registers.SEED_SCHEMA)


@pytest.fixture(scope="module")
def versions(make_customers: Callable[..., Any], make_meter_versions: Callable[..., Any]) -> pl.DataFrame:
    meters = {f"33000000000{n}": {"customer_no": "C1", "interval_s": s} for n, s in enumerate(INTERVALS_S)}
    facts: pl.DataFrame = make_meter_versions(make_customers({"C1": {}}), meters)
    return facts


def _rows(draw: random.Random) -> Iterator[dict[str, Any]]:
    for meter, interval_s in enumerate(INTERVALS_S):
        register, chain, sums = draw.choice((1000.0, 999_900.0)), None, draw.random() < 0.5
        for number in range(1, 9 * 3600 // interval_s):
            p_kw = draw.choice((0.0, 300.0, 1500.0, -200.0))
            register = (register + max(0.0, p_kw) * interval_s / 3600 * draw.choice((1, 1, 1, 1, 1, 1, 0, 3))) % 1e6
            if sums and draw.random() < 0.02:
                register, chain = draw.choice((0.0, register)), draw.choice((None, 11.0, 12.0, 2.0**41))
            if draw.random() < 0.08:
                continue
            late = draw.choice((0, 0, 0, 2, interval_s // 40))
            shown = draw.choice((0.0, 1e7, -5.0, register + 200, None)) if draw.random() < 0.03 else register
            yield {
                "meter": meter, "version": meter, "ts": START + timedelta(seconds=number * interval_s + late),
                "p_kw": None if draw.random() < 0.02 else p_kw, "import_kwh": shown,
                "export_kwh": 5.0 if meter else None, "import_kvarh": float(number), "export_kvarh": None, CHAIN: chain,
            }  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_it_misses_nothing(seed: int, versions: pl.DataFrame, metering_settings: MeteringSettings) -> None:
    draw = random.Random(seed)
    schema = {"meter": pl.UInt32, "version": pl.UInt32, "ts": TIMESTAMP, "p_kw": pl.Float64,
              **dict.fromkeys((*REGISTERS, CHAIN), pl.Float64)}  # fmt: skip
    rows = placed(pl.DataFrame(list(_rows(draw)), schema=schema), versions, metering_settings.timezone)
    rows = rows.with_columns(stamp_us=pl.col("ts").to_physical()).sort("meter", "slot_us", "ts")
    rows = rows.filter(is_last("meter", "slot_us"))
    every, known = rows, ["meter", "slot_us", *(name for name in registers.SEED_SCHEMA if name != "troubled")]
    told = registers.steps(every, versions, metering_settings)
    last = rows.clear().with_columns(pl.lit(None, t).alias(n) for n, t in registers.SEED_SCHEMA.items()).select(KEPT)
    found = []
    cuts = sorted(draw.sample(range(33_000), 8))
    for cut in [*cuts, 10**9]:
        begun = START + timedelta(seconds=min(cut, 10**7))
        part, rows = rows.filter(pl.col("ts") <= begun), rows.filter(pl.col("ts") > begun)
        mine = last.filter(pl.col("meter").is_in(part["meter"].implode()))
        both = pl.concat([mine, part], how="diagonal").sort("meter", "slot_us")
        screened = register_screen.screened(both, versions, metering_settings)
        found.append(screened.filter(pl.col("ts").is_not_null()))
        ends = screened.filter(pl.col("meter").is_last_distinct()).select(KEPT)
        last = pl.concat([last.join(ends, on="meter", how="anti"), ends]).sort("meter")
        at_once = registers.steps(every.filter(pl.col("ts") <= begun), versions, metering_settings)
        assert last.select(known).equals(at_once.filter(pl.col("meter").is_last_distinct()).select(known))
    seen = pl.concat(found).sort("meter", "slot_us")
    missed = told.filter(told["wrong"] & ~seen["wrong"])
    assert missed.is_empty(), missed
    assert told["wrong"].any()
