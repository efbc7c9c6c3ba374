"""Register rules in the stream: what comes out depends on the log alone, and is what all readings in order say."""

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

from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from tests.pipelines.turns import Turns

Row = dict[str, Any]
START = datetime(2026, 3, 2, 6, tzinfo=UTC)
STEPS = {"330100000001": 1, "330100000002": 15, "330100000003": 10, "330100000004": 60}
"""Meters, and minutes from reading to reading."""
RULES = ("register_decrease", "runaway", "energy_mismatch", "stopped")
HOURS = 9
SEEDS = st.integers(0, 10_000)
MakeTurns = Callable[..., Turns]


@pytest.fixture(scope="module")
def turns(
    make_index: Callable[..., MeterIndex],
    metering_settings: MeteringSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> MakeTurns:
    index = make_index(*STEPS, **{name: {"interval_s": step * 60} for name, step in STEPS.items()})
    home = tmp_path_factory.mktemp("home")
    return lambda **given: Turns(index, metering_settings, home, **{"kept": 4, **given})


def troubled_log(seed: int) -> list[Row]:
    """Readings of four meters in order of arrival: some are late, some come twice or corrected, some never; registers
    show 0 or far too much, stand still, run ahead, are reset; those of one meter are sums of other chains at times.
    """
    rng = random.Random(seed)
    arrivals: list[tuple[float, float, Row]] = []
    for meter, step in STEPS.items():
        count = HOURS * 60 // step
        register, scale, trouble = 50_000.0, 1.0, 3.5 / count
        chain = 7.0 if step == 15 else None
        for number in range(1, count):
            minute, p_kw = number * step, rng.choice((1500.0, 1700.0, 900.0))
            if rng.random() < trouble:
                scale = rng.choice((1.0, 0.0, 0.5, 12.0))
            if rng.random() < 0.1:
                scale = 1.0
            register += p_kw * step / 60 * scale
            if rng.random() < trouble / 2:
                register = 5.0
            shown = rng.choice((0.0, 4_294_967_295.0, register + 4e5, None)) if rng.random() < trouble else register
            if chain is not None and rng.random() < trouble / 2:
                register, chain = 0.0, chain + 1
            if rng.random() < 0.04:
                continue
            reading = {
                "meter_id": meter, "ts": (START + timedelta(minutes=minute)).isoformat(), "p_kw": p_kw,
                "import_kwh": shown, "export_kwh": 7.0 if step > 1 else None, "import_kvarh": minute / 2,
                "register_chain": chain,
            }  # fmt: skip
            late = rng.choice((2.0, 17.0, 50.0, 90.0, 400.0)) * rng.random() if rng.random() < 0.08 else 0.0
            arrivals.append((minute + late, rng.random(), reading))
            if rng.random() < 0.04:
                other = {**reading, "import_kwh": rng.choice((register, register, 0.0)), "p_kw": p_kw + 10}
                again = rng.choice((reading, other))
                arrivals.append((minute + late + rng.choice((1.0, 70.0, 300.0)) * rng.random(), rng.random(), again))
    return [reading for *_, reading in sorted(arrivals, key=lambda item: item[:2])]


def _run(turns: Turns, log: Sequence[Row], cuts: Sequence[int] = (), restarts: bool = False) -> pl.DataFrame:
    for start, stop in pairwise([0, *cuts, len(log)]):
        turns.turn([(0, reading) for reading in log[start:stop]], ended={0} if stop == len(log) else ())
        if restarts:
            turns.restart()
    return turns.final()["violations"].filter(pl.col("rule").is_in(RULES))


@settings(max_examples=5)
@given(seed=SEEDS, data=st.data())
def test_any_cut_of_the_log_gives_the_same_final_values(seed: int, data: st.DataObject, turns: MakeTurns) -> None:
    log = troubled_log(seed)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(log) - 1), max_size=15)))
    kept = data.draw(st.sampled_from([1, 4, 60]))
    whole = _run(turns(), log)
    found = _run(turns(kept=kept), log, cuts, restarts=True)
    assert found.equals(whole)
