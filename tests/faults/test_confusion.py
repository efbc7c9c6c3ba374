"""Alarms against labels, kind by kind: a small run of what `python -m tests.faults.confusion` does at length."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.faults import confusion
from tests.faults.confusion import Found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return confusion.run(tmp_path_factory.mktemp("confusion") / "home", 160, 3, 900, seed=5)


def test_every_label_is_raised_and_nothing_else(found: Found) -> None:
    assert found.missed.rows() == []
    assert found.invented.rows() == []
    assert found.pairs.height == found.labels.height == found.raised.height
    assert set(found.labels["kind"]) == set(confusion.RULES)


def test_the_table_says_what_is_missing_and_invented(found: Found) -> None:
    """Of a run in which one alarm is a day late, one came on another phase, and one label more was due."""
    late = found.raised.with_row_index().with_columns(
        started_at=pl.when(pl.col("index") == 0).then(pl.col("started_at").dt.offset_by("1d")).otherwise("started_at"),
    ).drop("index")  # fmt: skip
    more = pl.concat([found.labels, found.labels.tail(1).with_columns(kind=pl.lit("overload"))])
    pairs = confusion._pairs(more, late, 900)
    wrong = Found(found.readings, found.meters, more, late, pairs)
    assert (wrong.missed.height, wrong.invented.height) == (2, 1)
    kind = late["kind"][0]
    row = next(line for line in confusion.table([wrong]).splitlines() if line.startswith(f"| `{kind}` |"))
    due, ours = (frame.filter(pl.col("kind") == kind).height for frame in (more, late))
    assert row.startswith(f"| `{kind}` | {due} | {ours} | {ours - 1} |")


def test_the_page_has_its_place_for_the_table() -> None:
    text = Path(confusion.PAGE).read_text("utf-8")
    assert text.count(confusion.BEGIN) == text.count(confusion.END) == 1
