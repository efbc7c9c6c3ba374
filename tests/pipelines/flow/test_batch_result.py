"""Every row of a batch gets the place that it came from: its own shard, partition, offset, and number in the log."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.readings.decode import Decoded, Lines, Refused, decode
from metering.registry.index import MeterIndex
from metering.tables.lake import REJECTS
from pipelines.flow.batch_result import placed
from pipelines.sources.kafka_messages import Run, joined
from pipelines.sources.poll import Batch, Segment

AT = datetime(2026, 3, 1, tzinfo=UTC)
LOGGED_MS = int(AT.timestamp() * 1000) + 86_400_000
METERS = [f"3101052000{number:02}" for number in range(4)]
TOPIC = "meter.readings.v1"
PLACE = ["shard", "source", "source_partition", "source_offset", "source_row", "log_offset"]

Place = tuple[int, str, int, int, int, int]


@pytest.fixture(scope="module")
def index(make_index: Callable[..., MeterIndex]) -> MeterIndex:
    return make_index(*METERS)


def _reading(number: int, meter: str = METERS[0]) -> dict[str, object]:
    return {"meter_id": meter, "ts": (AT + timedelta(seconds=number)).isoformat(), "p_kw": float(number)}


def _payload(rng: random.Random, number: int, kind: str) -> tuple[bytes, bool, list[bool]]:
    """A message's bytes, whether they are an Arrow stream, and for each row of it whether it is a reading."""
    if kind == "json":
        return json.dumps(_reading(number)).encode(), False, [True]
    if kind == "broken":
        return b"{", False, [False]
    if kind == "stranger":
        return json.dumps(_reading(number, "unknown")).encode(), False, [False]
    if kind == "broken arrow":
        return b"no stream", True, [False]
    good = [rng.random() < 0.7 for _ in range(rng.randint(1, 3))]
    rows = [_reading(number, METERS[0] if known else "unknown") for known in good]
    if kind == "lines":
        return b"\n".join(json.dumps(row).encode() for row in rows), False, good
    stream = BytesIO()
    frame = pl.DataFrame(rows)
    (frame if rng.random() < 0.5 else frame.with_columns(note=pl.lit("x"))).write_ipc_stream(stream)
    return stream.getvalue(), True, good


def _decoded(batch: Batch, index: MeterIndex) -> Decoded:
    return decode(batch.content, index, 300, AT + timedelta(days=30))


def _places(batch: Batch, decoded: Decoded, numbers: dict[str, int]) -> tuple[list[Place], list[Place]]:
    for rows in (decoded.accepted, decoded.rejects):
        assert placed(rows, batch, numbers).schema.items() >= {"shard": pl.UInt16(), "log_offset": pl.Int64()}.items()
    accepted, rejects = (placed(rows, batch, numbers).select(PLACE).rows() for rows in _sides(decoded))
    return accepted, rejects


def _sides(decoded: Decoded) -> tuple[pl.DataFrame, pl.DataFrame]:
    return decoded.accepted, decoded.rejects


KINDS = st.sampled_from(["json", "broken", "stranger", "lines", "arrow", "broken arrow"])


@given(st.lists(st.lists(KINDS, min_size=1, max_size=6), min_size=1, max_size=5), st.integers(0, 2**32))
def test_messages_of_several_partitions_of_json_and_arrow(
    index: MeterIndex, partitions: list[list[str]], seed: int
) -> None:
    rng = random.Random(seed)
    runs, segments, numbers = [], [], {"": 0}
    wanted: dict[bool, list[Place]] = {True: [], False: []}
    for partition, kinds in enumerate(partitions):
        run, offset = Run(), rng.randint(0, 2**40)
        numbers[f"{TOPIC}-{partition}"] = shard = 10 * partition + 1
        for kind in kinds:
            offset += rng.randint(1, 3)  # offsets may have holes
            value, is_arrow, rows = _payload(rng, offset % 1000, kind)
            if is_arrow:
                run.streams[len(run.values)] = value
            run.values.append(value)
            run.offsets.append(offset)
            run.logged_ms.append(LOGGED_MS)
            run.keys.append(b"%d" % partition)
            for row, good in enumerate(rows):
                wanted[good].append((shard, TOPIC, partition, offset, row, offset))
        runs.append(run)
        segments.append(Segment(f"{TOPIC}-{partition}", TOPIC, partition, len(kinds), {"offset": offset + 1}))
    batch = Batch(joined(runs), tuple(segments))
    decoded = _decoded(batch, index)
    accepted, rejects = _places(batch, decoded, numbers)
    assert accepted == wanted[True], "and in the order of the log"
    assert rejects == wanted[False]
    # What a row says is that of its place, too: readings are told apart by their time.
    seconds = placed(decoded.accepted, batch, numbers).select((pl.col("ts") - AT).dt.total_seconds()).to_series()
    assert seconds.to_list() == [offset % 1000 for _, _, _, offset, _, _ in accepted]
    keys = decoded.rejects["message_key"].to_list()
    assert keys == [b"%d" % partition for _, _, partition, _, _, _ in rejects]


@given(st.lists(st.lists(st.sampled_from(["json", "broken", "stranger", "blank"]), max_size=5), min_size=1, max_size=6))
def test_lines_of_several_files(index: MeterIndex, files: list[list[str]]) -> None:
    rng, data, segments = random.Random(1), [], []
    wanted: dict[bool, list[Place]] = {True: [], False: []}
    log_offset = 1000
    for number, kinds in enumerate(files):
        name, first = f"sub/2026-03-{number + 1:02}.ndjson", number * 100
        for row, kind in enumerate(kinds, first):
            line = b"" if kind == "blank" else _payload(rng, row, kind)[0]
            data.append(line + b"\n")
            if kind != "blank":
                wanted[kind == "json"].append((3, name, 77, row, 0, log_offset + row - first))
        segments.append(Segment("sub", name, 77, len(kinds), {}, first, log_offset - first))
        log_offset += len(kinds)
    batch = Batch(Lines(b"".join(data)), tuple(segments))
    assert _places(batch, _decoded(batch, index), {"sub": 3}) == (wanted[True], wanted[False])


def test_rows_of_a_parquet_file(index: MeterIndex) -> None:
    frame = pl.DataFrame([_reading(0), _reading(1, "unknown"), _reading(2)])
    batch = Batch(frame, (Segment(".", "a.parquet", 0, 3, {}, first_row=40, log_base=1000),))
    accepted, rejects = _places(batch, _decoded(batch, index), {".": 1})
    assert accepted == [(1, "a.parquet", 0, 40, 0, 1040), (1, "a.parquet", 0, 42, 0, 1042)]
    assert rejects == [(1, "a.parquet", 0, 41, 0, 1041)]


def test_rejects_read_again_keep_their_old_places(index: MeterIndex) -> None:
    """Also those of homes whose lake tells no number in the log."""
    lines = [json.dumps(_reading(number)).encode() for number in range(3)]
    rows = REJECTS.conform(
        pl.DataFrame({"payload": lines, "source_offset": [7, 9, 11], "log_offset": [1007, None, 1011]}),
        source="a.ndjson", source_partition=0, source_row=2, reason="unknown_meter", date=AT.date(),
    )  # fmt: skip
    batch = Batch(Refused(rows), (Segment(".", "a.ndjson", 0, 3, {}),))
    accepted, rejects = _places(batch, _decoded(batch, index), {".": 1})
    assert accepted == [(1, "a.ndjson", 0, o, 2, logged) for o, logged in ((7, 1007), (9, 9), (11, 1011))]
    assert rejects == []
