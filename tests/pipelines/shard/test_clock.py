"""Clocks that run ahead: told by what is rejected, over with the first sane stamp; against a plain account."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.events.lifecycle import NAME, last_emitted
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from pipelines.shard.advance import FRAMES
from pipelines.shard.clock import DRIFTS, STAMPS_SCHEMA, step
from pipelines.shard.recovery import rebuild
from pipelines.shard.state import Shards, State, dump, load, of_shards
from pipelines.shard.store import Context, naming_of
from sinks.lake.commits import CommitLog
from sinks.lake.owner import take
from sinks.lake.reader import LakeReader
from tests.pipelines.turns import Turns

StreamLog = Callable[..., dict[str, pl.DataFrame]]
Log = list[tuple[str, int, float]]
"""Meter, when it was logged [ms], how far its stamp is ahead [min]."""

START_MS = 1_772_380_800_123
METERS = {"310100000001": 60, "310100000002": 900}
A, B = METERS
FLICKER_MS = 900_000


@pytest.fixture(scope="module")
def index(make_index: Callable[..., MeterIndex]) -> MeterIndex:
    return make_index(*METERS, **{name: {"interval_s": s} for name, s in METERS.items()})


@pytest.fixture(scope="module")
def context(
    index: MeterIndex, metering_settings: MeteringSettings, tmp_path_factory: pytest.TempPathFactory
) -> Context:
    return Turns(index, metering_settings, tmp_path_factory.mktemp("home")).context


def run(home: Path, index: MeterIndex, log: Log, stream_log: StreamLog, *cuts: int, **more: Any) -> pl.DataFrame:
    """What was told of clocks in the end."""
    rows = [{"meter_id": meter, "ts": ms + round(ahead * 60_000), "p_kw": 1.0} for meter, ms, ahead in log]
    found = stream_log(home, index, rows, cuts, logged_ms=[ms for _, ms, _ in log], **more)
    return found["violations"].filter(pl.col("rule") == "clock_drift")


def minutes(meter: str, *ahead: float, first: int = 0) -> Log:
    """A message a minute."""
    return [(meter, START_MS + (first + n) * 60_000, minutes) for n, minutes in enumerate(ahead)]


# --- by hand --------------------------------------------------------------------------------------------------------


def test_what_is_rejected_raises_and_a_sane_stamp_clears(
    tmp_path: Path, index: MeterIndex, stream_log: StreamLog
) -> None:
    log = minutes(A, 0.0, 4.0, 10.0, 10.5, 25.2, 25.1, -0.5, 0.0)
    half = run(tmp_path / "half", index, log[:6], stream_log, stop=6).row(0, named=True)
    assert (half["state"], half["value"], half["ended_at"]) == ("updated", pytest.approx(25.2), None)
    row = run(tmp_path / "whole", index, log, stream_log).row(0, named=True)
    start = datetime.fromtimestamp(START_MS / 1000, UTC)
    assert (row["started_at"], row["ended_at"]) == (start + timedelta(minutes=2), start + timedelta(minutes=5))
    assert (row["state"], row["value"], row["limit_value"], row["unit"]) == (
        "cleared",
        pytest.approx(25.2),
        10.0,
        "min",
    )
    assert (row["meter_id"], row["severity"], row["event_class"]) == (A, "warning", "power_notice")
    assert "时钟超差已解除：时标最多超前 25.2 min（限值 10 min）" in row["message_zh"]
    assert "by up to 25.2 min (limit 10 min)" in row["message_en"]


@pytest.mark.parametrize("ahead", [[0.0, 4.9, 6.0, 9.9, 10.0, 0.0], [-2000.0, -11.0, 0.0, -30.0]])
def test_up_to_ten_minutes_and_all_that_is_late_say_nothing(
    tmp_path: Path, index: MeterIndex, stream_log: StreamLog, ahead: list[float]
) -> None:
    assert run(tmp_path, index, minutes(A, *ahead), stream_log).is_empty()


def test_what_comes_back_soon_is_the_same_and_later_another(
    tmp_path: Path, index: MeterIndex, stream_log: StreamLog
) -> None:
    log = [*minutes(A, 12.0, 0.0, 12.0, 0.0), *minutes(A, 12.0, 0.0, first=60)]
    found = run(tmp_path, index, log, stream_log)
    assert found["occurrences"].to_list() == [2, 1]
    assert found["state"].to_list() == ["cleared", "cleared"]


def test_in_files_the_machines_clock_is_what_counts(tmp_path: Path, index: MeterIndex, stream_log: StreamLog) -> None:
    now = datetime.now(UTC)
    log = [
        {"meter_id": meter, "ts": (now + timedelta(minutes=ahead)).isoformat(), "p_kw": 1.0}
        for meter, ahead in ((A, -60.0), (A, 40.0), (B, 40.0), (A, -58.0))
    ]
    found = stream_log(tmp_path, index, log)["violations"].filter(pl.col("rule") == "clock_drift").sort("meter_id")
    assert found.select("meter_id", "state").rows() == [(A, "cleared"), (B, "raised")]
    assert found["value"].to_list() == pytest.approx([40.0, 40.0], abs=0.5)


def test_a_meter_of_which_nothing_was_accepted_stays_with_its_shard(
    context: Context,
) -> None:
    """When shards are shared out anew."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    stamp = {"meter": 0, "shard": 2, "ts": at + timedelta(hours=1), "logged_at": at, "log_offset": 0, "source_row": 0}
    state = State(Shards().with_names(["t-0", "t-1"]))
    state, changes = step(state, pl.DataFrame([stamp], schema=STAMPS_SCHEMA), context)
    assert changes["state"].to_list() == ["raised"]
    naming = context.naming
    written = dump(state, FRAMES, naming)
    for mine, count in (("t-0", 0), ("t-1", 1)):
        cut = of_shards(load(written, FRAMES, naming), FRAMES, mine.__eq__, naming)
        assert cut.frame(DRIFTS).height == count


# --- against an account ---------------------------------------------------------------------------------------------


def account(log: Log) -> list[tuple[str, int, int | None, float]]:
    """Meter, start and end [ms], worst [min] of each: of an open one as far as it has to be told."""
    found: list[list[Any]] = []
    latest: dict[str, int] = {}
    current: dict[str, list[Any]] = {}
    for meter, logged, ahead in log:
        at = latest[meter] = max(logged, latest.get(meter, logged)) if meter in current else logged
        mine = current.get(meter)
        is_open = mine is not None and mine[2] is None
        if ahead > 10 and not is_open:
            if mine is not None and at <= mine[4] + FLICKER_MS:
                mine[2], mine[3] = None, max(mine[3], ahead)
            else:
                mine = current[meter] = [meter, at - METERS[meter] * 1000, None, ahead, at]
                found.append(mine)
        elif is_open and mine is not None:
            if ahead <= 9.8:
                mine[2], mine[4] = at - METERS[meter] * 1000, at
            mine[3] = max(mine[3], ahead)
    return [(meter, start, end, worst) for meter, start, end, worst, _ in found]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Messages of two meters, some in one millisecond, some far apart."""
    count, ms, log = draw(st.integers(1, 40)), START_MS, []
    for _ in range(count):
        ms += draw(st.sampled_from([0, 0, 1, 60_000, 600_000, 1_000_000]))
        ahead = draw(st.sampled_from([-500.0, 0.0, 4.0, 9.0, 9.9, 10.5, 11.0, 40.0, 3000.0]))
        log.append((draw(st.sampled_from([A, B])), ms, ahead))
    return log


def stepped(log: Log, cuts: list[int], context: Context) -> pl.DataFrame:
    """What was told last of each, of a log in turns that end at `cuts`, with a restart after each."""
    naming, state, changes = context.naming, State(Shards().with_names(["t-0"])), []
    codes = dict(zip(naming.index.names, range(len(METERS)), strict=True))
    at = [datetime.fromtimestamp(ms / 1000, UTC) for _, ms, _ in log]
    rows = [
        (codes[meter], 1, logged + timedelta(minutes=ahead), logged, number, 0)
        for number, ((meter, _, ahead), logged) in enumerate(zip(log, at, strict=True))
    ]
    for start, end in pairwise([0, *cuts, len(log)]):
        state, told = step(state, pl.DataFrame(rows[start:end], schema=STAMPS_SCHEMA, orient="row"), context)
        state = load(dump(state, FRAMES, naming), FRAMES, naming)
        changes.append(told)
    every = pl.concat(changes)
    assert every.select(*NAME, "revision").is_unique().all()
    return last_emitted(every).sort("started_at", "meter")


@settings(max_examples=25)
@given(log=logs(), cuts=st.sets(st.integers(0, 39), max_size=6))
def test_any_cut_ends_in_what_an_account_says(log: Log, cuts: set[int], context: Context) -> None:
    whole = stepped(log, [], context)
    assert stepped(log, sorted(cut for cut in cuts if cut < len(log)), context).equals(whole)
    names = context.index.names.gather(whole["meter"]).alias("meter_id")
    epochs = whole.select(names, pl.col("started_at").dt.epoch("ms"), pl.col("ended_at").dt.epoch("ms"), "value")
    told = epochs.sort("started_at", "meter_id")
    expected = sorted(account(log), key=lambda it: (it[1], it[0]))
    assert [row[:3] for row in told.rows()] == [row[:3] for row in expected]
    for (*_, end, worst), (*_, due) in zip(told.rows(), expected, strict=True):
        assert worst <= due + 1e-9
        assert end is None or worst == pytest.approx(due)


@pytest.mark.parametrize("seed", range(2))
def test_a_state_made_anew_goes_on_with_it(
    seed: int, tmp_path: Path, index: MeterIndex, metering_settings: MeteringSettings, stream_log: StreamLog
) -> None:
    rng = random.Random(seed)
    log = [
        (rng.choice([A, B]), START_MS + 20_000 * n, rng.choice([0.0, 4.0, 11.0, 12.0 + n, 12.0 + n])) for n in range(60)
    ]
    whole = run(tmp_path / "whole", index, log, stream_log)
    home = tmp_path / "home"
    for stop in (13, 40):
        run(home, index, log, stream_log, stop=stop)
        owner = take(home)
        naming = naming_of(index, metering_settings)
        rebuild(LakeReader(home), CommitLog(home, owner), naming, metering_settings, 8)
        owner.release()
    end = run(home, index, log, stream_log)
    names = ["violation_id", "state", "started_at", "ended_at", "value", "occurrences"]
    assert json.dumps(end.select(names).rows(), default=str) == json.dumps(whole.select(names).rows(), default=str)
