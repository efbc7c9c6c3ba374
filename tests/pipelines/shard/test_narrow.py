"""Rows held in fewer bytes: to the bit what they were, and a stream that holds them so says the same."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metering.registry.index import MeterIndex
from metering.tables.schema import TIMESTAMP
from pipelines.shard import chunks, state
from pipelines.shard.chunks import Chunks
from pipelines.shard.narrow import Narrow
from pipelines.shard.state import NEVER, Bound
from pipelines.shard.store import HELD_SCHEMA
from tests.pipelines.logs import LATE_METERS, late_log

SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32(), "sent": pl.Float64(), "value": pl.Float64(), "count": pl.Int32(), "end_us": pl.Int64(),
        "at": TIMESTAMP, "day": pl.Date(), "over": pl.Boolean(), "state": pl.String(),
    }
)  # fmt: skip
AT = datetime(2026, 3, 1, tzinfo=UTC)
Row = tuple[Any, ...]
Rows = list[Row]
StreamLog = Callable[..., dict[str, pl.DataFrame]]


def _row(sent: float | None = 57.7, value: float | None = 0.5, count: int | None = 0, us: int | None = 0) -> Row:
    return 7, sent, value, count, us, AT, AT.date(), True, "raised"


def _or_none(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1),
        _or_none(st.integers(-(10**9), 10**9).map(lambda thousandths: thousandths / 1000)),
        _or_none(st.one_of(st.floats(), st.sampled_from([-0.0, 0.0, 1e-3, 2.0**60, 0.1 + 0.2]))),
        _or_none(st.integers(-(2**31), 2**31 - 1)),
        _or_none(st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 300))),
        _or_none(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))),
        _or_none(st.dates(date(2000, 1, 1), date(2100, 1, 1))),
        _or_none(st.booleans()),
        _or_none(st.sampled_from(["raised", "cleared", ""])),
    ),
    max_size=12,
)


def _bits(rows: pl.DataFrame) -> list[Row]:
    """Values with the bytes of floats in place of floats, so that -0.0 is not 0.0 and one NaN is another."""
    return [tuple(struct.pack("<d", v) if isinstance(v, float) else v for v in row) for row in rows.iter_rows()]


@given(ROWS)
@example([])
@example([_row(sent=-0.0), _row(sent=1.0)])
@example([_row(sent=float("nan"))])
@example([_row(value=float("-inf")), _row(value=1.0)])
@example([_row(count=-(2**31)), _row(count=2**31 - 1)])
@example([_row(us=-(2**63)), _row(us=2**63 - 1)])
@example([_row(us=2**63 - 1 - 255), _row(us=2**63 - 1)])
@example([_row(count=5), _row(count=None), _row(count=5)])
@example([_row(sent=0.001 * n) for n in range(256)])
def test_rows_are_to_the_bit_what_they_were(values: Rows) -> None:
    rows = pl.DataFrame(values, schema=SCHEMA, orient="row")
    narrow = Narrow.of(rows)
    assert (narrow.rows().schema, narrow.height) == (rows.schema, rows.height)
    assert _bits(narrow.rows()) == _bits(rows)
    for name in rows.columns:
        assert _bits(narrow[name].to_frame()) == _bits(rows.select(name))
    every_other = pl.int_range(rows.height, eager=True) % 2 == 0
    for condition in (every_other, pl.col("count") > 0, pl.col("end_us") == pl.col("count"), pl.col("sent").is_null()):
        assert _bits(narrow.filter(condition)) == _bits(rows.filter(condition))
        assert _bits(narrow.only(condition).rows()) == _bits(rows.filter(condition))


def _readings(count: int) -> pl.DataFrame:
    """Readings of a window as they come: logged up to two minutes after it, values with three decimals."""
    rng = random.Random(1)
    ts = pl.Series([AT] * count, dtype=TIMESTAMP)
    columns = {
        "meter": range(count), "version": range(count), "ts": ts, "end_us": ts.to_physical(),
        "slot_us": ts.to_physical(), "ua_v": [round(rng.uniform(56, 59), 3) for _ in range(count)],
        "p_kw": [round(rng.uniform(0, 900), 3) for _ in range(count)],
        "import_kwh": [round(rng.uniform(0, 1e6), 3) for _ in range(count)], "source_partition": [3] * count,
        "log_offset": range(10**9, 10**9 + count), "source_row": [0] * count,
        "logged_at": [AT + timedelta(milliseconds=rng.randrange(130_000)) for _ in range(count)],
    }  # fmt: skip
    rows = pl.DataFrame(columns)
    return rows.select(
        pl.col(name).cast(dtype) if name in columns else pl.lit(None, dtype).alias(name)
        for name, dtype in HELD_SCHEMA.items()
    )


def test_readings_like_life_take_less_than_a_third() -> None:
    rows = _readings(2000)
    assert Narrow.of(rows).kept.estimated_size() < rows.estimated_size() / 3


def test_a_piece_with_many_rows_is_narrow_and_joined_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MANY", 8)
    rows = _readings(40).with_columns(end_us=pl.int_range(40) // 4)
    held = Chunks()
    for start in range(0, 40, 3):
        held = held.add(rows[start : start + 3])
    full = [piece for piece, _, _ in held.pieces if isinstance(piece, Narrow)]
    assert len(full) >= 3
    assert all(8 <= piece.height < 24 for piece in full)
    assert pl.concat(held.frames()).equals(rows)
    assert pl.concat(held.where(pl.col("end_us") == pl.col("slot_us"), 3, 5)).is_empty()
    assert pl.concat(held.where(pl.col("meter") > 30, 3, 9)).equals(rows.filter(pl.col("meter") > 30))
    no_floors = pl.DataFrame(schema={"meter": pl.UInt32, "us": pl.Int64})
    bound = Bound(pl.Series([NEVER, 4]), pl.repeat(1, 40, dtype=pl.UInt16, eager=True), no_floors)
    early, late = held.split(bound)
    assert pl.concat(early).equals(rows.filter(pl.col("end_us") <= 4))
    assert pl.concat(late.frames()).equals(rows.filter(pl.col("end_us") > 4))
    assert [(first, last) for _, first, last in late.pieces] == [
        (rows["end_us"].min(), rows["end_us"].max()) for rows in late.frames()
    ]


def test_a_stream_that_holds_rows_narrow_says_the_same(
    tmp_path: Path, make_index: Callable[..., MeterIndex], stream_log: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, index = late_log(8)[:500], make_index(*LATE_METERS, **LATE_METERS)
    cuts = sorted(random.Random(8).sample(range(1, len(rows)), 10))
    whole = stream_log(tmp_path / "wide", index, rows, cuts, kept=4, stop=len(rows) - 1)
    made = []
    of = Narrow.of
    monkeypatch.setattr(Narrow, "of", lambda rows: made.append(rows.width) or of(rows))
    for module in (chunks, state):
        monkeypatch.setattr(module, "MANY", 5)
    found = stream_log(tmp_path / "narrow", index, rows, cuts, kept=4, commit_rows=100, stop=len(rows) - 1)
    for name, frame in whole.items():
        assert frame.equals(found[name]), name
    assert len(set(made)) == 3, "readings, what windows were emitted as, and days"
