"""What tests of commit records share: commits of small frames, what readers see, and dying at any call to the disk."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from sinks.lake.commits import CommitLog, Record

SHARD = "meter.readings.v1-0"
FOLDERS = ("lake/readings/date=2026-01-01", "lake/readings/date=2026-01-02", "lake/windows/date=2026-01-01")
CALLS = ("fsync", "rename", "mkdir", "unlink")


class Died(BaseException):
    """Stands for a process that is no more: nothing may catch it."""


def frames(number: int) -> dict[str, pl.DataFrame]:
    return {folder: pl.DataFrame({"commit": [number], "folder": [folder]}) for folder in FOLDERS}


def commit(log: CommitLog, number: int, worker: int = 0, shards: Sequence[str] = (SHARD,)) -> Record:
    positions = {shard: {"offset": number * 10} for shard in shards}
    return log.commit(worker, positions, b"state %d" % number, frames(number))


def counting(log: CommitLog, shard: str = SHARD) -> Record | None:
    """The record that counts for a shard."""
    found = [record for record, shards in log.counting() if shard in shards]
    assert len(found) <= 1
    return found[0] if found else None


def seen(home: Path) -> list[tuple[int, str]]:
    """What a reader's bare glob sees, read by an engine that shares no code with the writer."""
    if not list(home.glob("lake/**/*.parquet")):
        return []
    with duckdb.connect() as connection:
        query = f"select commit, folder from read_parquet('{home}/lake/**/*.parquet') order by all"
        return connection.execute(query).fetchall()


def rows(*numbers: int) -> list[tuple[int, str]]:
    return sorted((number, folder) for number in numbers for folder in FOLDERS)


def at_each_call(
    patch: pytest.MonkeyPatch, at: int, after: bool, act: Callable[[], None], calls: Sequence[str] = CALLS
) -> list[str]:
    """Act at the `at`-th call (from 0) of those that change the disk, before it or after it. Gives the calls seen."""
    made: list[str] = []

    def guard(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            made.append(name)
            mine = len(made) - 1 == at
            if mine and not after:
                act()
            result = real(*args, **kwargs)
            if mine and after:
                act()
            return result

        return guarded

    for name in calls:
        patch.setattr(os, name, guard(name, getattr(os, name)))
    return made


def die_at(patch: pytest.MonkeyPatch, at: int, after: bool, error: BaseException | None = None) -> list[str]:
    def die() -> None:
        raise error or Died

    return at_each_call(patch, at, after, die)


# --- as records were before there was one for each worker -------------------------------------------------------------


def old_record(shard: str, sequence: int, position: Mapping[str, Any], parts: Sequence[tuple[str, str]]) -> bytes:
    header = {"shard": shard, "sequence": sequence, "position": dict(position), "parts": [list(part) for part in parts]}
    head = json.dumps(header).encode()
    body = struct.pack("<I", len(head)) + head + b"state %d" % sequence
    return b"KWCR" + struct.pack("<I", zlib.crc32(body)) + body


def old_joint(records: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(record)) + record for record in records)
