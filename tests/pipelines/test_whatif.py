"""Replays under other rules: register rules say what they would if every meter were looked at closely, in any lots."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.readings.slots import is_last, placed
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.lake import CHAIN, MEASURED, REGISTERS
from metering.tables.schema import TIMESTAMP
from pipelines.whatif import Registers, Replay
from tests.metering.events.test_register_screen import INTERVALS_S, _rows

RULES = ("register_decrease", "runaway", "energy_mismatch", "stopped")


def _alarms(lots: list[pl.DataFrame], index: MeterIndex, figures: MeteringSettings, closely: bool) -> pl.DataFrame:
    replay, registers_of = Replay(index, figures), Registers(index, figures)
    for rows in lots:
        registers_of.take(rows)
        if closely:
            registers_of._wrong = rows["meter"].unique()
        replay.take(rows, registers_of)
    return replay.alarms.filter(pl.col("rule").is_in(RULES))


@settings(max_examples=6)
@given(seed=st.integers(0, 10**9))
def test_only_meters_that_need_it_are_looked_at_closely(
    seed: int, make_index: Callable[..., MeterIndex], metering_settings: MeteringSettings
) -> None:
    draw = random.Random(seed)
    meters = {f"33000000000{n}": {"interval_s": s} for n, s in enumerate(INTERVALS_S)}
    index = make_index(*meters, **meters)
    read: dict[str, Any] = dict.fromkeys(("p_kw", *REGISTERS, CHAIN), pl.Float64)
    frame = pl.DataFrame(list(_rows(draw)), schema={"meter": pl.UInt32, "version": pl.UInt32, "ts": TIMESTAMP, **read})
    frame = frame.with_columns(pl.lit(None, pl.Float64).alias(name) for name in MEASURED if name not in read)
    rows = placed(frame, index.meter_versions, metering_settings.timezone)
    rows = rows.with_columns(stamp_us=pl.col("ts").to_physical()).sort("meter", "slot_us", "ts")
    rows = rows.filter(is_last("meter", "slot_us")).with_columns(ts=pl.col("slot_us").cast(TIMESTAMP))
    hours = pl.col("ts").dt.offset_by("-1us").dt.truncate(f"{draw.choice((1, 2, 5))}h")
    lots = [lot.sort("meter", "slot_us") for _, lot in sorted(rows.group_by(hours), key=lambda item: str(item[0]))]
    assert len(lots) > 1
    wanted = _alarms([rows], index, metering_settings, closely=True)
    assert wanted.height > 0
    assert _alarms([rows], index, metering_settings, closely=False).equals(wanted)
    assert _alarms(lots, index, metering_settings, closely=False).equals(wanted)
