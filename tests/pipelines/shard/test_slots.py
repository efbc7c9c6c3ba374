"""Meters of every interval that report as they please: what comes out depends on the log alone, and is what the core
computes from all readings at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.load.windows import latest, windows
from metering.registry.index import MeterIndex
from metering.registry.meter_versions import meter_versions
from metering.settings import MeteringSettings
from metering.tables.lake import WINDOWS
from metering.tables.warehouse import METERS
from tests.pipelines.flow.flows import METER, customers_of
from tests.pipelines.turns import Turns

START = datetime(2026, 3, 1, 13, tzinfo=UTC)  # 21:00 in Shanghai
HOURS = 30
INTERVALS = {
    "330200000001": 300, "330200000002": 600, "330200000003": 900, "330200000004": 1800, "330200000005": 3600,
    "330200000006": 86_400, "330200000007": 1200, "330200000008": 960, "330200000009": 900, "330200000010": 600,
}  # fmt: skip
EXCHANGED = {"330200000009": datetime(2026, 3, 2, 12, 7), "330200000010": datetime(2026, 3, 2, 12)}
"""Local times at which a meter gets another version: within a window, and at the edge of one."""

Reading = dict[str, Any]
MakeTurns = Callable[..., Turns]


@pytest.fixture(scope="module")
def index(metering_settings: MeteringSettings) -> MeterIndex:
    rows = []
    for meter, interval_s in INTERVALS.items():
        row = {**METER, "meter_id": meter, "interval_s": interval_s}
        at = EXCHANGED.get(meter)
        if at is None:
            rows.append(row)
            continue
        instant = at.replace(tzinfo=UTC) - timedelta(hours=8)
        rows.append({**row, "valid_to": at.date(), "valid_to_at": instant})
        rows.append({**row, "valid_from": at.date(), "valid_from_at": instant, "ct_ratio": 80.0})
    meters = METERS.conform(pl.DataFrame(rows, schema_overrides={"valid_to": pl.Date}))
    return MeterIndex.of(meter_versions(customers_of(), meters, metering_settings))


@pytest.fixture(scope="module")
def make_turns(
    index: MeterIndex, metering_settings: MeteringSettings, tmp_path_factory: pytest.TempPathFactory
) -> MakeTurns:
    nowhere = tmp_path_factory.mktemp("home")
    return lambda **given: Turns(index, metering_settings, nowhere, **given)


def as_it_comes(seed: int, meters: Sequence[str]) -> list[Reading]:
    """Readings in order of arrival: on the grid, late by the clock, at another rhythm; between others, doubled, late,
    glitched, missing; meters exchanged.
    """
    rng = random.Random(seed)
    arrivals: list[tuple[float, float, Reading]] = []
    for meter in meters:
        interval = INTERVALS[meter]
        rhythm = rng.choice((interval, interval, interval, interval * 0.99, interval / 3))
        offset = rng.choice((0.0, 0.0, 3.0, -7.0, min(60.0, interval / 10), rng.uniform(0, interval)))
        register, high = rng.choice((100.0, 999_700.0)), False
        seconds = offset
        while seconds < HOURS * 3600:
            high ^= rng.random() < 0.08
            p = 1100.0 if high else rng.uniform(100, 400)
            register = (register + p * rhythm / 3600) % 1e6
            ts = START + timedelta(seconds=seconds)
            if (
                meter in EXCHANGED
                and ts.replace(tzinfo=None) + timedelta(hours=8) > EXCHANGED[meter]
                and register > 500
            ):
                register = 3.0
            reading = {
                "meter_id": meter, "ts": int(ts.timestamp() * 1000), "p_kw": p, "q_kvar": rng.uniform(-20, 90),
                "ua_v": rng.choice((57.7, 57.7, 75.0, 44.0)), "ub_v": 57.7, "import_kwh": register,
                "import_kvarh": register / 2 if rng.random() < 0.9 else None, "export_kvarh": 0.0,
            }  # fmt: skip
            late = rng.choice((0.0, 0.0, 0.0, 0.0, 0.0, 20.0, 90.0, 2000.0)) * 60
            if rng.random() > 0.05:
                glitch = {"import_kwh": rng.choice((0.0, 4e9))} if rng.random() < 0.03 else {}
                absurd = {rng.choice(("p_kw", "ua_v")): 1e6} if rng.random() < 0.03 else {}
                arrivals.append((seconds + late, rng.random(), {**reading, **glitch, **absurd}))
            if rng.random() < 0.1:
                extra = {**reading, "ts": reading["ts"] - int(rng.uniform(0, 0.9) * interval * 1000), "p_kw": 900.0}
                arrivals.append((seconds + late + rng.choice((0, 3600)) * rng.random(), rng.random(), extra))
            if rng.random() < 0.05:
                again = {**reading, "p_kw": p + 1, "ua_v": 57.7}
                arrivals.append((seconds + late + rng.uniform(0, 9000), rng.random(), again))
            seconds += rhythm
    return [reading for *_, reading in sorted(arrivals, key=lambda item: item[:2])]


def run(
    turns: Turns, log: Sequence[Reading], cuts: Sequence[int] = (), restarts: bool = False
) -> dict[str, pl.DataFrame]:
    for start, stop in pairwise([0, *cuts, len(log)]):
        turns.turn([(0, reading) for reading in log[start:stop]], ended={0} if stop == len(log) else ())
        if restarts:
            turns.restart()
    return turns.final()


def at_once(turns: Turns) -> pl.DataFrame:
    readings = pl.concat([tables["readings"] for tables in turns.tables])
    readings = readings.with_columns(turns.index.code(readings["meter_id"]))
    readings = readings.with_columns(turns.index.version(readings["meter"], readings["ts"]))
    made = windows(latest(readings), turns.index.meter_versions, turns.figures.timezone)
    return made.drop("meter", "version", "end_us").sort("meter_id", "window_end")


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), kept=st.sampled_from([1, 4, 60]), restarts=st.booleans(), data=st.data())
def test_neither_cut_nor_start_changes_what_comes_out(
    seed: int, kept: int, restarts: bool, data: st.DataObject, make_turns: MakeTurns
) -> None:
    meters = data.draw(st.lists(st.sampled_from(list(INTERVALS)), min_size=2, max_size=4, unique=True))
    log = as_it_comes(seed, meters)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(log) - 1), max_size=30)))
    whole = make_turns(kept=kept)
    wanted = run(whole, log)
    found = run(make_turns(kept=kept), log, cuts, restarts)
    for name, frame in wanted.items():
        assert frame.equals(found[name]), name
    names = [name for name in WINDOWS.names if name not in ("revision", "date")]
    assert wanted["windows"].sort("meter_id", "window_end").select(names).equals(at_once(whole).select(names))
