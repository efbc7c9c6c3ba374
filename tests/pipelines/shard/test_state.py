"""A shard's state and its bytes: the same after a round trip, and under a registry that has changed."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metering.errors import OperationError
from metering.readings.decode import Lines, decode
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from pipelines.shard.advance import Environment, advance
from pipelines.shard.state import (
    HELD_SCHEMA,
    PAIR_SCHEMA,
    VERSION,
    Chunk,
    ShardState,
    dump,
    load,
    rebased,
    rows_of,
    split,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
FRAMES = ("emitted", "days", "pairs", "base", "told")
MakeIndex = Callable[..., MeterIndex]


class _NoHistory:
    def readings(self, wanted: pl.DataFrame) -> pl.DataFrame:
        raise AssertionError(f"the state should hold {wanted}")

    windows = readings


def _readings(names: list[str], minutes: range, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "meter_id": name, "ts": (START + timedelta(minutes=minute)).isoformat(), "p_kw": rng.uniform(1, 1500),
            "q_kvar": 10.0, "ua_v": rng.choice((57.7, 75.0)), "ub_v": 57.7, "uc_v": 57.7, "import_kwh": float(minute),
        }
        for minute in minutes
        for name in names
    ]  # fmt: skip


def _advanced(
    state: ShardState, log: list[dict[str, Any]], index: MeterIndex, figures: MeteringSettings, first_row: int = 0
) -> ShardState:
    data = "\n".join(json.dumps(reading) for reading in log).encode()
    accepted = decode(Lines(data, first_row), first_row, index, 300, datetime(2027, 1, 1, tzinfo=UTC)).accepted
    return advance(state, accepted, Environment(index, figures, 3, _NoHistory()))[0]


@pytest.fixture
def full(make_index: MakeIndex, metering_settings: MeteringSettings) -> tuple[ShardState, MeterIndex]:
    """A state with something in every part, of meters A, B and C."""
    index = make_index("A", "B", "C")
    log = _readings(["C", "A", "B"], range(1, 140))
    state = _advanced(ShardState(), log[:200], index, metering_settings)
    state = _advanced(state, log[200:], index, metering_settings, first_row=200)
    assert state.closed
    assert state.open
    assert all(getattr(state, name).height for name in FRAMES)
    return state, index


def _by_meter(state: ShardState, index: MeterIndex, without: tuple[str, ...] = ()) -> dict[str, pl.DataFrame]:
    """The state's content by meter id instead of code, sorted."""
    names = pl.Series(index.ids.categories)
    heard = state.seen_us.to_frame().with_row_index("meter").filter(pl.col("seen_us") != 0)
    parts = {
        "seen": heard.cast({"meter": pl.UInt32}), "open": rows_of(state.open), "closed": rows_of(state.closed),
        **{name: getattr(state, name) for name in FRAMES},
    }  # fmt: skip
    told = {}
    for name, frame in parts.items():
        named = frame.with_columns(names.gather(frame["meter"]).alias("meter")).drop("version", strict=False)
        told[name] = named.filter(~pl.col("meter").is_in(without)).sort(pl.all())
    return told


def _equal(a: dict[str, pl.DataFrame], b: dict[str, pl.DataFrame]) -> None:
    for name, frame in a.items():
        assert_frame_equal(frame, b[name], check_exact=True)


def test_an_empty_state_round_trips(make_index: MakeIndex) -> None:
    index = make_index("A")
    state = load(dump(ShardState(), index), index)
    assert (state.max_us, state.closed_us, state.open, state.closed) == (None, None, (), ())
    assert (state.readings_open, state.meters_held) == (0, 0)
    assert dump(load(dump(state, index), index), index) == dump(state, index)


def test_a_full_state_round_trips_to_the_same_bytes(full: tuple[ShardState, MeterIndex]) -> None:
    state, index = full
    data = dump(state, index)
    again = load(data, index)
    _equal(_by_meter(state, index), _by_meter(again, index))
    assert (again.max_us, again.closed_us) == (state.max_us, state.closed_us)
    assert (again.readings_open, again.meters_held) == (state.readings_open, 3)
    for name in FRAMES:
        assert_frame_equal(getattr(again, name), getattr(state, name), check_exact=True)
    assert rows_of(again.open).equals(rows_of(state.open))
    assert dump(again, index) == data
    assert dump(state, index) == data


def test_rows_keep_the_order_they_came_in(full: tuple[ShardState, MeterIndex]) -> None:
    state, index = full
    offsets = rows_of(load(dump(state, index), index).open)["source_offset"]
    assert offsets.equals(rows_of(state.open)["source_offset"])


def test_another_order_of_the_registry_changes_codes_and_nothing_else(
    full: tuple[ShardState, MeterIndex], make_index: MakeIndex, metering_settings: MeteringSettings
) -> None:
    state, old = full
    new = make_index("0 comes first", "A", "B", "BB", "C", "Z")
    moved = rebased(state, old, new)
    _equal(_by_meter(state, old), _by_meter(moved, new))
    assert (
        new.meter_versions["meter_id"]
        .gather(rows_of(moved.open)["version"])
        .equals(pl.Series(new.ids.categories).gather(rows_of(moved.open)["meter"]), check_names=False)
    )
    assert len(moved.seen_us) == 6
    more = _readings(["A", "B", "C"], range(140, 170), seed=1)
    after_old = _advanced(state, more, old, metering_settings, first_row=1000)
    after_new = _advanced(moved, more, new, metering_settings, first_row=1000)
    _equal(_by_meter(after_old, old), _by_meter(after_new, new))


def test_a_meter_that_left_the_registry_is_left_out(full: tuple[ShardState, MeterIndex], make_index: MakeIndex) -> None:
    state, old = full
    new = make_index("A", "C")
    moved = rebased(state, old, new)
    _equal(_by_meter(state, old, without=("B",)), _by_meter(moved, new))
    assert moved.meters_held == 2


def test_rows_of_times_at_which_a_meter_is_no_longer_valid_are_left_out(
    full: tuple[ShardState, MeterIndex], make_index: MakeIndex
) -> None:
    state, old = full
    new = make_index("A", "B", "C", B={"valid_from": date(2026, 6, 1)})
    moved = rebased(state, old, new)
    assert "B" not in set(_by_meter(moved, new)["open"]["meter"])
    assert set(_by_meter(moved, new)["open"]["meter"]) == {"A", "C"}


def test_versions_of_a_meter_are_found_anew(full: tuple[ShardState, MeterIndex], make_index: MakeIndex) -> None:
    state, old = full
    index_of = make_index("A", "B", "C", B={"interval_s": 300})
    moved = rebased(state, old, index_of)
    rows = rows_of(moved.open)
    assert set(index_of.meter_versions["interval_s"].gather(rows["version"])) == {60, 300}


def _of_version(data: bytes, version: object) -> bytes:
    (length,) = struct.unpack("<I", data[4:8])
    head = json.dumps({**json.loads(data[8 : 8 + length]), "version": version}).encode()
    return data[:4] + struct.pack("<I", len(head)) + head + data[8 + length :]


@pytest.mark.parametrize("version", [0, VERSION + 1, None, "1"])
def test_bytes_of_another_version_are_refused(full: tuple[ShardState, MeterIndex], version: object) -> None:
    state, index = full
    with pytest.raises(
        OperationError,
        match=f"state has version {version}, this Kilowatch reads {VERSION}: .*kilowatch stream --rebuild",
    ):
        load(_of_version(dump(state, index), version), index)


@pytest.mark.parametrize("data", [b"", b"KW", b"PK\x03\x04 something else altogether"])
def test_bytes_that_are_no_state_are_refused(make_index: MakeIndex, data: bytes) -> None:
    with pytest.raises(OperationError, match="state has version unknown"):
        load(data, make_index("A"))


def test_bytes_of_version_1_are_migrated(make_index: MakeIndex, metering_settings: MeteringSettings) -> None:
    """`state-v1.bin` is what the first version wrote of this log, cut at 100."""
    index = make_index("A", "B", "C")
    log = _readings(["C", "A", "B"], range(1, 80))
    state = _advanced(
        _advanced(ShardState(), log[:100], index, metering_settings), log[100:], index, metering_settings, 100
    )
    migrated = load((Path(__file__).parent / "data" / "state-v1.bin").read_bytes(), index)
    wanted, found = _by_meter(state, index), _by_meter(migrated, index)
    for name in ("open", "closed"):  # where readings came from was not written then
        assert set(found[name]["source_partition"]) == set(found[name]["logged_at"]) == {None}
        wanted[name] = wanted[name].with_columns(found[name]["source_partition", "logged_at"])
    _equal(wanted, found)
    assert (migrated.max_us, migrated.closed_us, migrated.left_us) == (state.max_us, state.closed_us, None)


def test_open_windows_are_counted_once_each(full: tuple[ShardState, MeterIndex]) -> None:
    state, _ = full
    assert state.windows_open == rows_of(state.open).select("meter", "end_us").n_unique() == 6
    assert ShardState().windows_open == 0


# --- chunks ---------------------------------------------------------------------------------------------------------


def _chunk(ends: list[int]) -> Chunk:
    rows = pl.DataFrame({"end_us": ends, "source_offset": range(len(ends))}).select(
        pl.lit(None, dtype).alias(name) if name not in ("end_us", "source_offset") else pl.col(name).cast(dtype)
        for name, dtype in HELD_SCHEMA.items()
    )
    return Chunk.of(rows, pl.DataFrame({"meter": [1], "code": [1]}, schema=PAIR_SCHEMA))


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 9])
def test_splitting_loses_nothing_and_keeps_order(at: int) -> None:
    chunks = (_chunk([2, 1, 3]), _chunk([4, 4]), _chunk([1, 4, 2]))
    early, late = split(chunks, at)
    ends = [end for chunk in chunks for end in chunk.rows["end_us"]]
    assert rows_of(early)["end_us"].to_list() == [end for end in ends if end <= at]
    assert rows_of(late)["end_us"].to_list() == [end for end in ends if end > at]
    assert all(chunk.first_us <= chunk.last_us for chunk in (*early, *late))
    assert all(chunk.rows.height for chunk in (*early, *late))
