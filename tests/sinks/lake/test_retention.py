"""Days past keeping leave the lake whole, and nothing else does."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metering.errors import OperationError
from metering.tables import LAKE
from sinks.lake.compaction import Sizes, aside
from sinks.lake.lock import shared
from sinks.lake.maintenance import upkeep
from sinks.lake.reader import LakeReader
from sinks.lake.retention import expire

TODAY = date(2026, 6, 30)
KEPT = 100
FIRST = TODAY - timedelta(days=KEPT)  # the first day that is kept
OLD_S = (KEPT + 1) * 86_400


def put(home: Path, day: date, table: str = "readings", name: str = "a", age_s: float = OLD_S) -> Path:
    path = home / "lake" / table / f"date={day}" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"meter_id": "M1", "ts": datetime(2026, 1, 1, tzinfo=UTC), "source_offset": 1}
    LAKE[table].conform(pl.DataFrame([row])).drop("date").write_parquet(path)
    at = path.stat().st_mtime - age_s
    os.utime(path, (at, at))
    return path


def days(home: Path, table: str = "readings") -> list[date]:
    return LakeReader(home).dates(table)


def back(count: int) -> date:
    return FIRST - timedelta(days=count)


def test_days_before_the_first_kept_one_go_from_every_table(tmp_path: Path) -> None:
    for table in ("readings", "windows", "rejects"):
        for day in (back(50), back(1), FIRST, TODAY):
            put(tmp_path, day, table)
    gone = expire(tmp_path, KEPT, TODAY)
    assert {(e.table, e.day, e.parts) for e in gone} == {
        (table, day, 1) for table in ("readings", "windows", "rejects") for day in (back(50), back(1))
    }
    for table in ("readings", "windows", "rejects"):
        assert days(tmp_path, table) == [FIRST, TODAY]
    assert expire(tmp_path, KEPT, TODAY) == []


def test_nothing_goes_for_ever_or_without_readings(tmp_path: Path) -> None:
    assert expire(tmp_path, KEPT, TODAY) == []
    put(tmp_path, back(500), "rejects")
    assert expire(tmp_path, KEPT, TODAY) == []
    put(tmp_path, back(500))
    put(tmp_path, TODAY)
    assert expire(tmp_path, 0, TODAY) == []
    assert LakeReader(tmp_path).taken_until is None


def test_days_count_back_from_the_newest_reading_and_no_clock_ahead_takes_more(tmp_path: Path) -> None:
    put(tmp_path, back(1))
    put(tmp_path, TODAY - timedelta(days=1))
    assert expire(tmp_path, KEPT, TODAY + timedelta(days=400)) == []  # the stream stood still
    put(tmp_path, TODAY + timedelta(days=4000))
    assert [e.day for e in expire(tmp_path, KEPT, TODAY)] == [back(1)]
    assert TODAY - timedelta(days=1) in days(tmp_path)


def test_a_day_to_which_something_was_added_of_late_stays(tmp_path: Path) -> None:
    """As history that was loaded yesterday, or a reject whose stamp is wrong by years."""
    put(tmp_path, TODAY)
    put(tmp_path, back(3))
    put(tmp_path, back(3), name="b", age_s=3600)
    put(tmp_path, date(1970, 1, 1), "rejects", age_s=60)
    assert expire(tmp_path, KEPT, TODAY) == []


def test_merging_does_not_make_rows_younger_or_older(tmp_path: Path) -> None:
    put(tmp_path, TODAY)
    for name in "abcd":
        put(tmp_path, back(3), name=name)
        put(tmp_path, back(4), name=name, age_s=3600 if name == "c" else OLD_S)
    sizes = Sizes(parts=2, part_bytes=10**6)
    assert len(upkeep(tmp_path, sizes, 0, TODAY).compacted) == 2
    assert [e.day for e in upkeep(tmp_path, sizes, KEPT, TODAY).expired] == [back(3)]


def test_what_is_whole_is_known_afterwards(tmp_path: Path) -> None:
    for day in (back(9), back(1), FIRST, TODAY):
        put(tmp_path, day)
    lake = LakeReader(tmp_path)
    assert lake.whole(back(9))
    expire(tmp_path, KEPT, TODAY)
    assert lake.taken_until == back(1)
    assert [lake.whole(day) for day in (back(9), back(1), FIRST, FIRST + timedelta(days=1))] == [
        False, False, False, True,
    ]  # fmt: skip
    put(tmp_path, back(9))  # a late reading's day, past its time when the next round comes
    assert [e.day for e in expire(tmp_path, KEPT, TODAY)] == [back(9)]
    assert lake.taken_until == back(1)


def test_readers_that_hold_the_lake_keep_their_days(tmp_path: Path) -> None:
    put(tmp_path, back(1))
    put(tmp_path, TODAY)
    with shared(tmp_path):
        report = upkeep(tmp_path, Sizes(8, 10**6), KEPT, TODAY, patience_s=0.05)
        with pytest.raises(OperationError, match="try again later"):
            expire(tmp_path, KEPT, TODAY, patience_s=0.05)
    assert ["try again later" in reason for reason in report.skipped] == [True]
    assert days(tmp_path) == [back(1), TODAY]


class _Died(BaseException):
    """Stands for a process that is no more."""


def _dies_at(patch: pytest.MonkeyPatch, at: int, after: bool) -> list[str]:
    calls: list[str] = []

    def guard(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            mine = len(calls) - 1 == at
            if mine and not after:
                raise _Died
            result = real(*args, **kwargs)
            if mine:
                raise _Died
            return result

        return guarded

    for name in ("fsync", "rename", "unlink", "rmdir"):
        patch.setattr(os, name, guard(name, getattr(os, name)))
    return calls


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_dying_at_any_step_leaves_days_whole_or_gone_and_marked(tmp_path: Path, after: bool) -> None:
    for at in itertools.count():
        home = tmp_path / f"{at}"
        for day in (back(2), back(1), TODAY):
            for name in "ab":
                put(home, day, name=name)
        with pytest.MonkeyPatch.context() as patch:
            calls = _dies_at(patch, at, after)
            try:
                upkeep(home, Sizes(8, 10**6), KEPT, TODAY, grace_s=0)
                died = False
            except _Died:
                died = True
        lake = LakeReader(home)
        for day in (back(2), back(1), TODAY):
            assert len(lake.parts("readings", day)) == (2 if day in lake.dates("readings") else 0)
            if lake.whole(day):
                assert lake.dates("readings").count(day) == 1
        assert lake.whole(TODAY)
        upkeep(home, Sizes(8, 10**6), KEPT, TODAY, grace_s=0)
        assert days(home) == [TODAY]
        assert lake.taken_until == back(1)
        upkeep(home, Sizes(8, 10**6), KEPT, TODAY, grace_s=0)
        assert list(aside(home).iterdir()) == []
        if not died:
            break
    assert calls.count("rename") == 3
