"""A turn: results depend on the logs and their order alone, and equal what the core computes from all readings."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from metering.events import plain
from metering.events.catalogue import rulebook
from metering.load.windows import latest, windows
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from pipelines.shard.store import LakePast
from tests.pipelines.logs import MESSY_METERS, PARTITIONS, STAYING, messy_log
from tests.pipelines.turns import Sent, Turns, standing

START = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = {"330100000001": 1, "330100000002": 1, "330100000003": 5, "330100000004": 15}
SEEDS = st.integers(0, 10_000)

Frames = dict[str, pl.DataFrame]
MakeIndex = Callable[..., MeterIndex]
MakeTurns = Callable[..., Turns]


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home without a lake."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def one_shard(make_index: MakeIndex, metering_settings: MeteringSettings, nowhere: Path) -> MakeTurns:
    index = make_index(*STEPS, **{name: {"interval_s": step * 60} for name, step in STEPS.items()})
    rules = rulebook([{"id": rule.id, "flicker_s": 240} for rule in metering_settings.rules.rules], ())
    figures = replace(metering_settings, rules=rules)  # so that some come back as the same, and some as others
    return lambda **given: Turns(index, figures, nowhere, **{"kept": 60, **given})


def _log(seed: int, lateness: bool) -> list[dict[str, Any]]:
    """Readings of four meters in order of arrival: bursts over limits, gaps, corrections, and some that come late."""
    rng = random.Random(seed)
    arrivals: list[tuple[float, float, dict[str, Any]]] = []
    for meter, step in STEPS.items():
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
                "meter_id": meter, "ts": int((START + timedelta(minutes=minute)).timestamp() * 1000), "p_kw": p,
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


def _run(turns: Turns, log: Sequence[dict[str, Any]], cuts: Sequence[int] = (), restarts: bool = False) -> Frames:
    """Final value of every key after a log of one shard, in turns that end at `cuts`."""
    for start, stop in pairwise([0, *cuts, len(log)]):
        turns.turn([(0, reading) for reading in log[start:stop]], ended={0} if stop == len(log) else ())
        if restarts:
            turns.restart()
    return turns.final()


def _same(found: Frames, wanted: Frames) -> None:
    for name, frame in wanted.items():
        assert frame.equals(found[name]), name


# --- one shard ------------------------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(seed=SEEDS, data=st.data())
def test_any_cut_of_the_log_gives_the_same_final_values(seed: int, data: st.DataObject, one_shard: MakeTurns) -> None:
    log = _log(seed, lateness=True)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(log) - 1), max_size=40)))
    _same(_run(one_shard(), log, cuts, restarts=True), _run(one_shard(), log))


@pytest.mark.parametrize("kept", [60, 1])
def test_row_by_row_gives_the_same_final_values(kept: int, one_shard: MakeTurns) -> None:
    log = _log(7, lateness=True)
    whole = _run(one_shard(), log)
    _same(_run(one_shard(kept=kept), log, range(1, len(log))), whole)
    assert {"raised", "cleared", "withdrawn"} <= set(whole["violations"]["state"])
    assert whole["windows"]["revision"].max() > 1


def test_windows_equal_those_of_all_readings_at_once(one_shard: MakeTurns) -> None:
    turns = one_shard()
    streamed = _run(turns, _log(11, lateness=True), [100, 300, 500])["windows"]
    readings = pl.concat([tables["readings"] for tables in turns.tables])
    readings = readings.with_columns(turns.index.code(readings["meter_id"]))
    readings = readings.with_columns(turns.index.version(readings["meter"], readings["ts"]))
    at_once = windows(latest(readings), turns.index.meter_versions, turns.figures.timezone)
    at_once = at_once.drop("end_us").sort("meter_id", "window_end")
    columns = [name for name in at_once.columns if name not in ("meter", "version")]
    assert streamed.select(columns).equals(at_once.select(columns))


@settings(max_examples=5)
@given(seed=SEEDS)
def test_any_order_within_the_lateness_gives_the_same_windows_unrevised(seed: int, one_shard: MakeTurns) -> None:
    shuffled = _log(seed, lateness=False)
    ordered = sorted(shuffled, key=lambda reading: reading["ts"])
    a, b = (_run(one_shard(), log, [50, 200])["windows"] for log in (shuffled, ordered))
    assert a.equals(b)
    assert a["revision"].max() == 0


def test_standing_violations_do_not_depend_on_order(one_shard: MakeTurns) -> None:
    """What is not withdrawn in the end is what the readings in order of time would have raised."""
    log = _log(13, lateness=True)
    winners = {(reading["meter_id"], reading["ts"]): reading for reading in log}
    columns = ["violation_id", "started_at", "ended_at", "value", "limit_value"]
    found = _run(one_shard(), log)["violations"].filter(pl.col("state") != "withdrawn")
    in_order = sorted(winners.values(), key=lambda reading: reading["ts"])
    expected = _run(one_shard(), in_order)["violations"]
    assert set(expected["state"]) <= {"raised", "updated", "cleared"}
    # Of one that is open, a worst value is told where it is another step of 1 %.
    over, over_expected = (rows.filter(pl.col("ended_at").is_not_null()).select(columns) for rows in (found, expected))
    assert over.equals(over_expected)
    assert over.height > 20
    both = found.join(expected, on=columns[:2], how="full", suffix="_expected")
    assert both.height == expected.height
    assert ((both["value"] - both["value_expected"]).abs() <= 0.01 * both["limit_value"].abs()).all()


def test_a_turn_without_readings_changes_nothing(one_shard: MakeTurns) -> None:
    turns = one_shard()
    _run(turns, _log(3, lateness=True), [100])
    before = turns.state
    results = turns.turn([])
    assert (results.windows.height, results.violations.height, results.compliance.height) == (0, 0, 0)
    assert dict(turns.state.frames) == dict(before.frames)
    assert turns.state.shards == before.shards


def test_a_violation_that_a_held_reading_decides_goes_on_counting(
    make_index: MakeIndex, metering_settings: MeteringSettings, nowhere: Path
) -> None:
    """Its run began an interval before its first reading, and so before all that is held."""
    meter = "330100000005"
    turns = Turns(make_index(meter, **{meter: {"interval_s": 1800}}), metering_settings, nowhere, kept=3)

    def sent(minute: float, q_kvar: float) -> Sent:
        ts = int((START + timedelta(minutes=minute)).timestamp() * 1000)
        return 0, {"meter_id": meter, "ts": ts, "p_kw": 300.0, "q_kvar": q_kvar}

    turns.turn([sent(30, 0.0), sent(45, 0.0), sent(60.5, 190.0), sent(90, 0.0)])
    turns.turn([sent(120.5, 0.0)])  # from minute 60 on readings are held
    turns.turn([sent(60.5, 220.0)])
    rows = pl.concat([tables["violations"] for tables in turns.tables]).sort("revision")
    rows = rows.filter(rule="low_power_factor")
    assert rows["state", "revision"].rows() == [("raised", 0), ("cleared", 1), ("cleared", 2)]
    assert rows["violation_id"].n_unique() == 1


# --- several shards -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def indexes(make_index: MakeIndex) -> Callable[..., MeterIndex]:
    """The registry without some meters, and with others before, between and after them."""

    def make(missing: Sequence[str] = (), more: Sequence[str] = ()) -> MeterIndex:
        return make_index(*sorted({*MESSY_METERS, *more} - {*missing}), **MESSY_METERS)

    return make


MORE = ("1", "330100000250", "9")
_MAY_DIFFER = {"windows": ["revision"], "compliance": ["revision"], "violations": ["revision", "state", "at", "date"]}
"""Of a meter that moves: how often something was emitted depends on which partition was read first."""


def _of_stayers(frames: Frames) -> Frames:
    return {name: frames[name].filter(pl.col("meter_id").is_in(STAYING)) for name in _MAY_DIFFER}


def _of_movers(frames: Frames) -> Frames:
    stands = {name: frames[name] for name in _MAY_DIFFER} | {"violations": standing(frames["violations"])}
    movers = ~pl.col("meter_id").is_in(STAYING)
    return {name: frame.filter(movers).select(pl.exclude(_MAY_DIFFER[name])) for name, frame in stands.items()}


def _around(turns: Turns, rng: random.Random, indexes: Callable[..., MeterIndex], following: Sequence[Sent]) -> None:
    """What may happen between two turns: a start of one, two or three workers, and a look at another registry, which
    may not know meters that send nothing in the turn that follows.
    """
    if rng.random() < 0.4:
        worker = {f"meter.readings.v1-{partition}": rng.randrange(3) for partition in range(PARTITIONS)}
        turns.restart(worker.__getitem__)
    speaking = {reading["meter_id"] for _, reading in following}
    if rng.random() < 0.5 or speaking - set(turns.index.names):
        turns.under(indexes(missing=sorted({*MESSY_METERS} - speaking), more=rng.sample(MORE, rng.randrange(3))))
        if rng.random() < 0.3:
            turns.restart()


@settings(max_examples=12, phases=(Phase.explicit, Phase.reuse, Phase.generate))  # a shorter seed is no simpler log
@given(seed=SEEDS)
@example(seed=3)
@example(seed=14)
def test_nothing_but_the_logs_decides_what_comes_out(
    seed: int, indexes: Callable[..., MeterIndex], metering_settings: MeteringSettings, nowhere: Path
) -> None:
    """Partitions read in any turns, stopped and shared out anew, under registries that change, with little or much that
    is held, and with meters that leave in silence: the same bytes as one turn over all of it.
    """
    rng = random.Random(seed)
    moving = rng.random() < 0.6
    log = messy_log(seed, moving=moving)
    whole = Turns(indexes(), metering_settings, nowhere)
    whole.turn(log, ended=range(PARTITIONS))
    turns = Turns(indexes(), metering_settings, nowhere, rng.choice((1, 3, 8, 1000)), rng.choice((1e9, 86_400.0)))
    at = rng.randrange(1, len(log) - 60)  # from there some short turns, in which most meters are silent
    cuts = sorted({*rng.sample(range(1, len(log)), 6), *range(at, at + 60, 6)})
    for start, stop in pairwise([0, *cuts, len(log)]):
        _around(turns, rng, indexes, log if stop == len(log) else log[start:stop])
        turns.turn(log[start:stop], ended=range(PARTITIONS) if stop == len(log) else ())
    found, wanted = turns.final(), whole.final()
    _same(_of_stayers(found), _of_stayers(wanted))
    _same(_of_movers(found), _of_movers(wanted))
    if not moving:
        _same(found, wanted)
    assert wanted["windows"]["revision"].max() > 1
    assert wanted["violations"].height > 100


def test_partitions_read_one_after_the_other_end_the_same(
    indexes: Callable[..., MeterIndex], metering_settings: MeteringSettings, nowhere: Path
) -> None:
    """As after a long stop: what is asked of the past came earlier in the same turn."""
    log = messy_log(2)
    whole, apart = (Turns(indexes(), metering_settings, nowhere, kept=kept) for kept in (1, 1000))
    whole.turn(log, ended=range(PARTITIONS))
    for partition in range(PARTITIONS):
        apart.turn([sent for sent in log if sent[0] == partition])
    apart.turn([], ended=range(PARTITIONS))
    _same(whole.final(), apart.final())


# --- very many late readings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["second half first", "backwards", "shuffled"])
def test_very_many_late_readings_cost_a_few_looks_each(order: str, one_shard: MakeTurns) -> None:
    """However they are cut into turns, which also changes nothing of what comes out."""
    rows = sorted(_log(17, lateness=False), key=lambda reading: reading["ts"])
    rows = [
        {**reading, "ts": reading["ts"] + 9_000_000 * turn, "meter_id": meter}
        for turn in range(8)
        for meter in ("330100000001", "330100000002")
        for reading in rows
        if reading["meter_id"] == meter
    ]
    if order == "shuffled":
        random.Random(1).shuffle(rows)
    else:
        rows.sort(key=lambda reading: reading["ts"], reverse=order == "backwards")
        rows = [*rows[len(rows) // 2 :], *rows[: len(rows) // 2]] if order == "second half first" else rows
    found = []
    for cuts in ([], range(300, len(rows), 300)):
        with mock.patch.object(plain, "step", wraps=plain.step) as steps:
            found.append(_run(one_shard(kept=4), rows, cuts))
        assert steps.call_count < 80 * len(rows)  # eight checks; what is held is gone through once a turn
    _same(found[1], found[0])
    assert found[0]["violations"].height > 50


@pytest.mark.parametrize(
    ("minute", "ua_v", "asked"),
    [
        pytest.param(400, 57.7, False, id="long after it"),
        pytest.param(7, 57.7, True, id="while it was open"),
        pytest.param(400, 75.0, True, id="speaks for a start"),
        pytest.param(390, 57.7, True, id="in the place of another"),
    ],
)
def test_a_late_reading_asks_for_those_before_it_only_where_it_can_change_a_violation(
    one_shard: MakeTurns, minute: int, ua_v: float, asked: bool
) -> None:
    """A violation in the first ten minutes, then a quiet day of which minutes 7 and 400 come late."""
    turns = one_shard(kept=1)
    meter = next(iter(STEPS))

    def sent(at: int, ua: float) -> Sent:
        ts = int((START + timedelta(minutes=at)).timestamp() * 1000)
        return 0, {"meter_id": meter, "ts": ts, "p_kw": 300.0, "ua_v": ua, "ub_v": 57.7, "uc_v": 57.7}

    for hour in range(15):
        minutes = (at for at in range(60 * hour + 1, 60 * hour + 61) if at not in (7, 400))
        turns.turn([sent(at, 75.0 if 2 < at < 11 else 57.7) for at in minutes])
    with mock.patch.object(LakePast, "readings_since", autospec=True, side_effect=LakePast.readings_since) as looks:
        turns.turn([sent(minute, ua_v)])
    assert looks.called is asked
