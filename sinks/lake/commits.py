"""The commit record of each worker: what decides that lake parts, state and positions belong together.

Here: writing parts aside, the record that commits them, revealing them, finishing on restart, and which record counts
for a shard. Not here: what is in the parts (`parts`), when to commit (`pipelines`). See
docs/adr/0001-one-commit-record.md.

Whatever moment the process dies: before the record is renamed into place nothing has happened, after it everything has.
A record carries the owner's number, its generation: of several that name a shard the newest counts for it, so that the
shards of a home can be shared out anew at each start.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from metering.errors import OperationError
from sinks.lake.lock import shared
from sinks.lake.owner import Owner, make_folder, sync_folder
from sinks.lake.parts import write_part

Position = Mapping[str, Any]

_MAGIC = b"KWC2"
_MAGIC_OF_SHARDS = b"KWCR"
"""Of records before there was one for each worker: one for each shard."""


@dataclass(frozen=True, slots=True)
class Part:
    """A lake part: its name in staging, and where it is revealed, relative to the home."""

    staged: str
    final: str


@dataclass(frozen=True, slots=True)
class Record:
    """A worker's last commit: where each of its shards goes on, the state there (empty: it was damaged, and has to be
    made anew), and the parts that it revealed.
    """

    worker: int
    generation: int
    sequence: int
    positions: Mapping[str, Position]
    parts: tuple[Part, ...]
    state: bytes = field(compare=False)

    @property
    def age(self) -> tuple[int, int]:
        return self.generation, self.sequence


class CommitLog:
    """Commit records of one home, written by its owner.

    With `finish` (a stream's first process, before the others) what a dead owner left is finished: parts of records are
    revealed, all else in staging is removed, and so are records that count for no shard any more. With `salvage`,
    records that cannot be read are put aside instead of being an error.
    """

    def __init__(self, home: Path, owner: Owner, finish: bool = True, salvage: bool = False) -> None:
        self._home = home
        self._owner = owner
        self._generation = int(owner.folder.name)
        self._staging = owner.folder / "staging"
        self._folder = owner.folder / "commits"
        self.damaged = False
        self._records = {path: self._read(path, salvage) for path in self._paths()}
        self._newest: dict[str, Record] = {}
        for record in self._all():
            self._count(record)
        if finish:
            self._finish()

    def _paths(self) -> list[Path]:
        return [path for path in sorted(self._folder.iterdir()) if path.suffix in (".commit", ".joint")]

    def _read(self, path: Path, salvage: bool) -> list[Record]:
        try:
            return records_of(path)
        except OperationError:
            if not salvage:
                raise
            path.rename(path.with_suffix(".damaged"))
            self.damaged = True
            return []

    def _finish(self) -> None:
        for record in self._all():
            self._reveal(record)
        for leftover in self._staging.iterdir():
            leftover.unlink()
        for path in self._let_go():
            path.unlink(missing_ok=True)
        for path in self._folder.iterdir():
            if path.suffix == ".new":
                path.unlink()

    def _all(self) -> Iterator[Record]:
        return (record for records in self._records.values() for record in records)

    def _count(self, record: Record) -> None:
        for shard in record.positions:
            if shard not in self._newest or self._newest[shard].age <= record.age:
                self._newest[shard] = record

    def _let_go(self) -> list[Path]:
        """Forget records that count for no shard any more; returns their paths."""
        counting = {id(record) for record, _ in self._counting()}
        gone = [path for path, records in self._records.items() if counting.isdisjoint(map(id, records))]
        for path in gone:
            del self._records[path]
        return gone

    def check(self) -> None:
        """Raises OperationError once another stream has taken over."""
        self._owner.check()

    def counting(self) -> list[tuple[Record, frozenset[str]]]:
        """The records that count, each with the shards that it counts for."""
        return [(self._whole(record), shards) for record, shards in self._counting()]

    def _counting(self) -> list[tuple[Record, frozenset[str]]]:
        found = [(r, frozenset(s for s in r.positions if self._newest[s] is r)) for r in self._all()]
        return [(record, shards) for record, shards in found if shards]

    def _whole(self, record: Record) -> Record:
        """The record with its state, which is not held of those written here: it is large, and seldom asked for."""
        let_go = record.generation == self._generation and not record.state
        return records_of(self._path(record.worker))[0] if let_go else record

    def _path(self, worker: int) -> Path:
        return self._folder / f"{self._generation:010d}-{worker}.commit"

    @property
    def shards(self) -> frozenset[str]:
        """Shards that have been committed."""
        return frozenset(self._newest)

    def position(self, shard: str) -> Position | None:
        """Where a shard goes on; None for one never seen."""
        record = self._newest.get(shard)
        return None if record is None else record.positions[shard]

    def commit(
        self,
        worker: int,
        positions: Mapping[str, Position],
        state: bytes,
        frames: Mapping[str, pl.DataFrame],
        before: Sequence[Part] = (),
    ) -> Record:
        """Commit a worker: `frames` by folder relative to the home (`lake/<table>/date=...`), the state after them, and
        where each of its shards goes on. With parts that were revealed `before`, for what is to be done about them
        still. Raises OperationError when the disk is full, or another stream has taken over.
        """
        path = self._path(worker)
        last = self._records.get(path)
        sequence = last[0].sequence + 1 if last else 1
        with self._told():
            # With the home's identity: generations begin anew where `stream/` was removed and the lake was not.
            name = f"commit-{self._owner.identity[:8]}-{self._generation}-{worker}-{sequence:010d}"
            parts = tuple(self._stage(name, folder, frame) for folder, frame in sorted(frames.items()))
            record = Record(worker, self._generation, sequence, dict(positions), (*before, *parts), state)
            if parts:
                sync_folder(self._staging)
            self._write(path, _encode(record))
            self._records[path] = [kept := replace(record, state=b"")]
            self._count(kept)
            self._let_go()
            self._reveal(record)
        return record

    def _stage(self, name: str, folder: str, frame: pl.DataFrame) -> Part:
        staged = f"{name}-{slug(folder)}.parquet"
        write_part(self._staging / staged, frame)
        return Part(staged, f"{folder}/{name}.parquet")

    def _write(self, path: Path, data: bytes) -> None:
        aside = path.with_name(f"{path.name}.new")
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        sync_folder(self._folder)

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


def days_of(table: str, parts: Iterable[Part]) -> list[date]:
    """Local dates of the table that some parts hold rows of."""
    folders = {PurePosixPath(part.final).parent for part in parts}
    mine = [folder.name.removeprefix("date=") for folder in folders if folder.parent.name == table]
    return sorted(map(date.fromisoformat, mine))


def slug(name: str) -> str:
    """`name` as a file name that no other name shares."""
    plain = re.sub(r"[^A-Za-z0-9.=]+", "_", name)[:80]
    return plain if plain == name else f"{plain}_{zlib.crc32(name.encode()):08x}"


# --- bytes ----------------------------------------------------------------------------------------------------------


def records_of(path: Path) -> list[Record]:
    """The records in a commit's file. Raises OperationError when it is damaged."""
    data = path.read_bytes()
    if path.suffix == ".joint":
        return list(_decode_joint(data, path))
    return [_decode_of_shard(data, path) if data[:4] == _MAGIC_OF_SHARDS else _decode(data, path)]


def _encode(record: Record) -> bytes:
    header = {
        "worker": record.worker,
        "generation": record.generation,
        "sequence": record.sequence,
        "positions": {shard: dict(position) for shard, position in record.positions.items()},
        "parts": [[part.staged, part.final] for part in record.parts],
        "state": zlib.crc32(record.state),
    }
    return _MAGIC + _summed(json.dumps(header, separators=(",", ":")).encode()) + record.state


def _summed(header: bytes) -> bytes:
    return struct.pack("<II", zlib.crc32(header), len(header)) + header


def _decode(data: bytes, path: Path) -> Record:
    header, rest = _header(data, path) if data[:4] == _MAGIC else ({}, b"")
    if not header:
        raise _damaged(path)
    parts = tuple(Part(*names) for names in header["parts"])
    state = rest if zlib.crc32(rest) == header["state"] else b""
    return Record(header["worker"], header["generation"], header["sequence"], header["positions"], parts, state)


def _header(data: bytes, path: Path) -> tuple[dict[str, Any], bytes]:
    if len(data) < 12:
        raise _damaged(path)
    checksum, length = struct.unpack("<II", data[4:12])
    header = data[12 : 12 + length]
    if len(header) != length or zlib.crc32(header) != checksum:
        raise _damaged(path)
    return json.loads(header), data[12 + length :]


def _damaged(path: Path) -> OperationError:
    return OperationError(
        f"commit record {path} is damaged: restore it, or have positions and state made anew from the lake with "
        "`kilowatch stream --rebuild`"
    )


def _decode_of_shard(data: bytes, path: Path) -> Record:
    body = data[8:]
    if data[:4] != _MAGIC_OF_SHARDS or len(data) < 12 or struct.unpack("<I", data[4:8])[0] != zlib.crc32(body):
        raise _damaged(path)
    (length,) = struct.unpack("<I", body[:4])
    header = json.loads(body[4 : 4 + length])
    parts = tuple(Part(*names) for names in header["parts"])
    positions = {header["shard"]: header["position"]}
    return Record(0, 0, header["sequence"], positions, parts, body[4 + length :])


def _decode_joint(data: bytes, path: Path) -> Iterator[Record]:
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise _damaged(path)
        (length,) = struct.unpack_from("<Q", data, at)
        yield _decode_of_shard(data[at + 8 : at + 8 + length], path)
        at += 8 + length
