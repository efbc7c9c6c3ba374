"""The commit record of each shard: what decides that lake parts, state and position belong together.

Here: writing parts aside, the record that commits them, revealing them, finishing on restart. Not here: what is in the
parts (`lake`), when to commit (`pipelines`). See docs/adr/0001-one-commit-record.md.

Whatever moment the process dies: before the record is renamed into place nothing has happened, after it everything has.
Shards that must be committed together have their records in one file first, from which each is then written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from metering.errors import OperationError
from sinks.lake.lock import shared
from sinks.lake.owner import Owner, make_folder, sync_folder
from sinks.lake.parts import write_part

_MAGIC = b"KWCR"


@dataclass(frozen=True, slots=True)
class Part:
    """A lake part: its name in staging, and where it is revealed, relative to the home."""

    staged: str
    final: str


@dataclass(frozen=True, slots=True)
class Record:
    """A shard's last commit: where to go on, the state there, and the parts that it revealed."""

    shard: str
    sequence: int
    position: Mapping[str, int]
    parts: tuple[Part, ...]
    state: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """Where a shard goes on, its state there, and `frames` by folder relative to the home (`lake/<table>/date=...`)."""

    position: Mapping[str, int]
    state: bytes
    frames: Mapping[str, pl.DataFrame]


class CommitLog:
    """Commit records of the shards of one home, written by its owner.

    With `finish` (a stream's first process) what a dead owner left is finished: parts of a record are revealed, all
    else in staging is removed.
    """

    def __init__(self, home: Path, owner: Owner, finish: bool = True) -> None:
        self._home = home
        self._owner = owner
        self._staging = owner.folder / "staging"
        self._records = owner.folder / "commits"
        self._known = {record.shard: record for record in self._read_all()}
        if finish:
            self._finish()

    def _finish(self) -> None:
        for path in self._records.iterdir():
            if path.suffix not in (".commit", ".joint"):
                path.unlink()
        self._finish_joint()
        for record in self._known.values():
            self._reveal(record)
        for leftover in self._staging.iterdir():
            leftover.unlink()

    def check(self) -> None:
        """Raises OperationError once another stream has taken over."""
        self._owner.check()

    @property
    def shards(self) -> Set[str]:
        """Shards that have been committed."""
        return self._known.keys()

    def last(self, shard: str) -> Record | None:
        return self._known.get(shard)

    def commit(
        self, shard: str, position: Mapping[str, int], state: bytes, frames: Mapping[str, pl.DataFrame]
    ) -> Record:
        """Commit a shard: `frames` by folder relative to the home (`lake/<table>/date=...`), the state after them, and
        where to go on. Raises OperationError when the disk is full, or when another stream has taken over.
        """
        return self.commit_together({shard: Commit(position, state, frames)})[shard]

    def commit_together(self, commits: Mapping[str, Commit]) -> dict[str, Record]:
        """Commit several shards, all of them or none. Raises as `commit` does."""
        with self._told():
            records = [self._staged(shard, commit) for shard, commit in sorted(commits.items())]
            if any(record.parts for record in records):
                sync_folder(self._staging)
            if len(records) > 1:
                self._write(self._joint_path(records), b"".join(map(_encode_sized, records)))
            for record in records:
                self._write_record(record)
            for record in records:
                self._reveal(record)
            if len(records) > 1:
                self._joint_path(records).unlink()
        return {record.shard: record for record in records}

    def _staged(self, shard: str, commit: Commit) -> Record:
        last = self._known.get(shard)
        sequence = last.sequence + 1 if last else 1
        parts = tuple(self._stage(shard, sequence, folder, frame) for folder, frame in sorted(commit.frames.items()))
        return Record(shard, sequence, dict(commit.position), parts, commit.state)

    def _stage(self, shard: str, sequence: int, folder: str, frame: pl.DataFrame) -> Part:
        name = f"{slug(shard)}-{sequence:010d}"
        staged = f"{name}-{slug(folder)}.parquet"
        write_part(self._staging / staged, frame)
        return Part(staged, f"{folder}/{name}.parquet")

    def _write_record(self, record: Record) -> None:
        self._write(self._records / f"{slug(record.shard)}.commit", _encode(record))
        self._known[record.shard] = record

    def _write(self, path: Path, data: bytes) -> None:
        aside = path.with_name(f"{path.name}.new")
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        sync_folder(self._records)

    def _joint_path(self, records: Sequence[Record]) -> Path:
        return self._records / f"{slug(records[0].shard)}.joint"

    def _finish_joint(self) -> None:
        """Write the records of a joint commit that its owner did not come to write."""
        for path in self._records.glob("*.joint"):
            for record in records_of(path):
                last = self._known.get(record.shard)
                if last is None or last.sequence < record.sequence:
                    self._write_record(record)
            path.unlink()

    def _reveal(self, record: Record) -> None:
        """Idempotent: a part that is not in staging any more has been revealed."""
        waiting = [(self._staging / part.staged, self._home / part.final) for part in record.parts]
        if waiting := [(staged, final) for staged, final in waiting if staged.exists()]:
            make_folder(self._home / "lake")
            with shared(self._home):  # a folder is not swapped for a compacted one meanwhile
                for staged, final in waiting:
                    make_folder(final.parent)
                    staged.rename(final)
                for folder in {final.parent for _, final in waiting}:
                    sync_folder(folder)
        self._owner.check()

    def _read_all(self) -> Iterator[Record]:
        for path in sorted(self._records.iterdir()):
            if path.suffix == ".commit":
                yield from records_of(path)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._owner.check()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OperationError(
                    f"the disk of {self._home} is full: free space and start again; what is not committed is read again"
                ) from error
            raise


def records_of(path: Path) -> list[Record]:
    """The records in a file of a commit, of one shard or of several. Raises OperationError when it is damaged."""
    data = path.read_bytes()
    return [_decode(data, path)] if path.suffix == ".commit" else list(_decode_sized(data, path))


def slug(name: str) -> str:
    """`name` as a file name that no other name shares."""
    plain = re.sub(r"[^A-Za-z0-9.=]+", "_", name)[:80]
    return plain if plain == name else f"{plain}_{zlib.crc32(name.encode()):08x}"


def _encode(record: Record) -> bytes:
    header = json.dumps(
        {
            "shard": record.shard,
            "sequence": record.sequence,
            "position": dict(record.position),
            "parts": [[part.staged, part.final] for part in record.parts],
        }
    ).encode()
    body = struct.pack("<I", len(header)) + header + record.state
    return _MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def _decode(data: bytes, path: Path) -> Record:
    body = data[8:]
    if data[:4] != _MAGIC or len(data) < 12 or struct.unpack("<I", data[4:8])[0] != zlib.crc32(body):
        raise OperationError(f"commit record {path} is damaged: restore it, or start again with a new home")
    (length,) = struct.unpack("<I", body[:4])
    header = json.loads(body[4 : 4 + length])
    parts = tuple(Part(*names) for names in header["parts"])
    return Record(header["shard"], header["sequence"], header["position"], parts, body[4 + length :])


def _encode_sized(record: Record) -> bytes:
    data = _encode(record)
    return struct.pack("<Q", len(data)) + data


def _decode_sized(data: bytes, path: Path) -> Iterator[Record]:
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield _decode(data[at + 8 : at + 8 + length], path)
        at += 8 + length
