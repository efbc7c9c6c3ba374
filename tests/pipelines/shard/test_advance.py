"""A shard's step: results depend on the log and its order alone, and equal what the core computes from all readings."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipelines.shard.environment import Environment

from metering.load.windows import latest, windows
from metering.readings.decode import Lines, decode
from metering.registry.index import MeterIndex
from metering.registry.meter_versions import meter_versions
from metering.settings import MeteringSettings
from metering.tables.warehouse import CUSTOMERS, METERS
from pipelines.shard.advance import Results, advance
from pipelines.shard.state import ShardState, dump, load

START = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = {"windows": ["meter_id", "window_end"], "violations": ["violation_id"], "compliance": ["meter_id", "date"]}


class NoHistory:
    """Nothing is older than the state in these tests."""

    def readings(self, wanted: pl.DataFrame) -> pl.DataFrame:
        raise AssertionError(f"the state should hold {wanted}")

    def windows(self, wanted: pl.DataFrame) -> pl.DataFrame:
        raise AssertionError(f"the state should hold {wanted}")


@pytest.fixture(scope="module")
def index(metering_settings: MeteringSettings) -> MeterIndex:
    customer = {
        "name": "机械厂 001", "segment": "large", "industry": "machinery", "voltage_level_kv": 10.0, "pf_standard": 0.9,
        "contract_capacity_kva": 1000.0, "tariff": "large_industry", "dual_supply": False, "controllable": False,
    }  # fmt: skip
    meter = {
        "wiring": "3p4w", "nominal_v": 57.7, "pt_ratio": 100.0, "ct_ratio": 40.0, "rated_a": 5.0, "max_a": 6.0,
        "register_digits": 6, "source_no": 1, "valid_from": date(2020, 1, 1),
    }  # fmt: skip
    customers = CUSTOMERS.conform(pl.DataFrame([{"customer_no": f"C{i}", **customer} for i in range(4)]))
    intervals = [60, 60, 300, 900]
    meters = METERS.conform(
        pl.DataFrame(
            [{"meter_id": f"M{i}", "customer_no": f"C{i}", "interval_s": s, **meter} for i, s in enumerate(intervals)]
        )
    )
    return MeterIndex.of(meter_versions(customers, meters, metering_settings))


def _log(seed: int, lateness: bool) -> list[dict[str, Any]]:
    """Readings of four meters in order of arrival: bursts over limits, gaps, corrections, and some that come late."""
    rng = random.Random(seed)
    arrivals: list[tuple[float, float, dict[str, Any]]] = []
    for meter, step in enumerate((1, 1, 5, 15)):
        high = low = False
        register = 0.0
        for minute in range(step, 150, step):
            high ^= rng.random() < 0.05
            low ^= rng.random() < 0.05
            p = 1100.0 if high else 300 + rng.random()
            register += p / 60 * step
            if rng.random() < 0.03:
                continue
            reading = {
                "meter_id": f"M{meter}", "ts": (START + timedelta(minutes=minute)).isoformat(), "p_kw": p,
                "q_kvar": 900.0 if low else 20.0, "ua_v": 57.7 * rng.choices((1.0, 1.25, 0.7), (18, 1, 1))[0],
                "ub_v": 57.7, "uc_v": 57.7, "import_kwh": register, "import_kvarh": float(minute), "export_kvarh": 0.0,
            }  # fmt: skip
            jitter = rng.random() * 4 if rng.random() < 0.2 else 0.0
            late = rng.choice((10, 25, 60)) if lateness and rng.random() < 0.05 else 0.0
            arrivals.append((minute + jitter + late, rng.random(), reading))
            if lateness and rng.random() < 0.02:
                corrected = {**reading, "p_kw": p + 1, "ua_v": 57.7}
                arrivals.append((minute + jitter + late + rng.random() * 40, rng.random(), corrected))
    arrivals.sort(key=lambda item: item[:2])
    return [reading for *_, reading in arrivals]


def _accepted(log: list[dict[str, Any]], index: MeterIndex) -> pl.DataFrame:
    data = "\n".join(json.dumps(reading) for reading in log).encode()
    return decode(Lines(data, 0), 0, index, 300, datetime(2027, 1, 1, tzinfo=UTC)).accepted


def _final(
    accepted: pl.DataFrame, cuts: list[int], env: Environment, through_bytes: bool = False
) -> dict[str, pl.DataFrame]:
    """Final value of every key after running the log in batches cut at `cuts`."""
    state, results = ShardState(), list[Results]()
    for start, stop in pairwise([0, *cuts, accepted.height]):
        state, result = advance(state, accepted[start:stop], env, end=stop == accepted.height)
        results.append(result)
        if through_bytes:
            state = load(dump(state, env.index), env.index)
    return {
        name: pl.concat([getattr(r, name) for r in results])
        .sort("revision", maintain_order=True)
        .unique(key, keep="last")
        .sort(key)
        for name, key in KEYS.items()
    }


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), data=st.data())
def test_any_cut_of_the_log_gives_the_same_final_values(
    seed: int, data: st.DataObject, index: MeterIndex, metering_settings: MeteringSettings
) -> None:
    env = Environment(index, metering_settings, 60, NoHistory())
    accepted = _accepted(_log(seed, lateness=True), index)
    cuts = sorted(data.draw(st.sets(st.integers(1, accepted.height - 1), max_size=40)))
    whole = _final(accepted, [], env)
    cut = _final(accepted, cuts, env, through_bytes=True)
    for name, frame in whole.items():
        assert frame.equals(cut[name]), name


def test_row_by_row_gives_the_same_final_values(index: MeterIndex, metering_settings: MeteringSettings) -> None:
    env = Environment(index, metering_settings, 60, NoHistory())
    accepted = _accepted(_log(7, lateness=True), index)
    whole, single = _final(accepted, [], env), _final(accepted, list(range(1, accepted.height)), env)
    for name, frame in whole.items():
        assert frame.equals(single[name]), name
    assert {"raised", "cleared", "withdrawn"} <= set(whole["violations"]["state"])
    assert whole["windows"]["revision"].max() > 1


def test_windows_equal_those_of_all_readings_at_once(index: MeterIndex, metering_settings: MeteringSettings) -> None:
    env = Environment(index, metering_settings, 60, NoHistory())
    accepted = _accepted(_log(11, lateness=True), index)
    streamed = _final(accepted, [100, 300, 500], env)["windows"]
    at_once = windows(latest(accepted), index.meter_versions).sort("meter_id", "window_end")
    columns = [name for name in at_once.columns if name not in ("meter", "version")]
    assert streamed.select(columns).equals(at_once.select(columns))


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_any_order_within_the_lateness_gives_the_same_windows_unrevised(
    seed: int, index: MeterIndex, metering_settings: MeteringSettings
) -> None:
    env = Environment(index, metering_settings, 60, NoHistory())
    shuffled = _log(seed, lateness=False)
    ordered = sorted(shuffled, key=lambda reading: reading["ts"])
    a = _final(_accepted(shuffled, index), [50, 200], env)["windows"]
    b = _final(_accepted(ordered, index), [50, 200], env)["windows"]
    assert a.equals(b)
    assert a["revision"].max() == 0


def test_standing_violations_do_not_depend_on_order(index: MeterIndex, metering_settings: MeteringSettings) -> None:
    """What is not withdrawn in the end is what the readings in order of time would have raised."""
    env = Environment(index, metering_settings, 60, NoHistory())
    log = _log(13, lateness=True)
    winners = {(r["meter_id"], r["ts"]): r for r in log}
    columns = ["violation_id", "started_at", "ended_at", "value", "limit_value"]
    told = _final(_accepted(log, index), [], env)["violations"].filter(pl.col("state") != "withdrawn").select(columns)
    in_order = sorted(winners.values(), key=lambda reading: reading["ts"])
    expected = _final(_accepted(in_order, index), [], env)["violations"].select(columns)
    assert told.equals(expected)
