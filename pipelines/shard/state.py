"""What a shard remembers between batches, as a value: frames that are never changed in place.

Here: the state and its bytes (Arrow IPC, versioned). Not here: how it moves on (`advance`), where it is kept (`sinks`).

Meters are codes and versions are rows of the registry's meter_versions, both of the registry in force; bytes name
meters by id, so that a state can be taken up under a registry that has changed.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import polars as pl

from metering.errors import OperationError
from metering.events.lifecycle import CHANGE_SCHEMA, STATE_SCHEMA
from metering.registry.index import MeterIndex
from metering.supply.compliance import DAYS_SCHEMA, SUMS
from metering.tables.lake import MEASURED, READINGS, WINDOW_S
from metering.tables.schema import TIMESTAMP, no_rows
from pipelines.shard.migrations import MIGRATIONS

VERSION = 3
_MAGIC = b"KWST"
PLACE = ("source_partition", "source_offset", "source_row")
"""Where a reading stands in its source."""

ROW_SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32(),
        "version": pl.UInt32(),
        "ts": TIMESTAMP,
        **{name: READINGS.schema[name] for name in MEASURED},
        **{name: READINGS.schema[name] for name in PLACE},
        "logged_at": TIMESTAMP,
    }
)
HELD_SCHEMA = pl.Schema({**ROW_SCHEMA, "end_us": pl.Int64()})
EMITTED_SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32(),
        "version": pl.UInt32(),
        "window_end": TIMESTAMP,
        "revision": pl.Int32(),
        **{name: DAYS_SCHEMA[name] for name in SUMS},
    }
)
PAIR_SCHEMA = pl.Schema({"meter": pl.UInt32(), "code": pl.UInt32()})
SEEN_SCHEMA = pl.Schema({"meter": pl.UInt32(), "seen_us": pl.Int64()})


@dataclass(frozen=True, slots=True)
class Chunk:
    """Readings of some windows (HELD_SCHEMA) in the order they came, and the pairs for which any spoke for a start."""

    rows: pl.DataFrame
    pairs: pl.DataFrame
    first_us: int
    last_us: int

    @classmethod
    def of(cls, rows: pl.DataFrame, pairs: pl.DataFrame) -> Chunk:
        first, last = rows["end_us"].min(), rows["end_us"].max()
        return cls(rows, pairs, first if isinstance(first, int) else 0, last if isinstance(last, int) else 0)

    def split(self, end_us: int) -> tuple[Chunk | None, Chunk | None]:
        """Readings of windows that end up to `end_us`, and of later ones."""
        if self.last_us <= end_us:
            return self, None
        if self.first_us > end_us:
            return None, self
        early = pl.col("end_us") <= end_us
        return Chunk.of(self.rows.filter(early), self.pairs), Chunk.of(self.rows.filter(~early), self.pairs)


def split(chunks: tuple[Chunk, ...], end_us: int) -> tuple[tuple[Chunk, ...], tuple[Chunk, ...]]:
    """Chunks up to `end_us`, and after it, each in the order they came."""
    halves = [chunk.split(end_us) for chunk in chunks]
    return tuple(early for early, _ in halves if early), tuple(late for _, late in halves if late)


def rows_of(chunks: tuple[Chunk, ...]) -> pl.DataFrame:
    """All readings of the chunks (HELD_SCHEMA), in the order they came."""
    return pl.concat([chunk.rows for chunk in chunks]) if chunks else no_rows(HELD_SCHEMA)


def pairs_of(chunks: tuple[Chunk, ...]) -> pl.DataFrame:
    """All suspect pairs of the chunks (PAIR_SCHEMA)."""
    return pl.concat([chunk.pairs for chunk in chunks]).unique() if chunks else no_rows(PAIR_SCHEMA)


@dataclass(frozen=True, slots=True)
class ShardState:
    """`max_us`: highest time seen; `closed_us`: windows up to here are closed (epoch microseconds, None: none yet).

    `open`: readings of open windows; `closed`: those of the last closed ones. `emitted`: the closed windows held, with
    what each added to its day. `seen_us`: newest time of each meter, by code (0: none, or it left). `days`: sums to
    date. `pairs`: where checks stand now; `base`: where they stood before the oldest reading held; `told`: what was
    told last of violations since then. `guests`: states of meters that came over from other shards, whose watermark is
    ahead of this one's (`handover`).
    """

    max_us: int | None = None
    closed_us: int | None = None
    left_us: int | None = None
    open: tuple[Chunk, ...] = ()
    closed: tuple[Chunk, ...] = ()
    emitted: pl.DataFrame = field(default_factory=lambda: no_rows(EMITTED_SCHEMA))
    seen_us: pl.Series = field(default_factory=lambda: pl.Series("seen_us", [], dtype=pl.Int64))
    days: pl.DataFrame = field(default_factory=lambda: no_rows(DAYS_SCHEMA))
    pairs: pl.DataFrame = field(default_factory=lambda: no_rows(STATE_SCHEMA))
    base: pl.DataFrame = field(default_factory=lambda: no_rows(STATE_SCHEMA))
    told: pl.DataFrame = field(default_factory=lambda: no_rows(CHANGE_SCHEMA))
    guests: tuple[ShardState, ...] = ()

    @property
    def readings_open(self) -> int:
        """Readings in windows that are still open."""
        guests = sum(guest.readings_open for guest in self.guests)
        return sum(chunk.rows.height for chunk in self.open) + guests

    @property
    def meters_held(self) -> int:
        """Meters that have been heard and have not left."""
        return int((self.seen_us != 0).sum()) + sum(guest.meters_held for guest in self.guests)

    @property
    def windows_open(self) -> int:
        """Windows of a meter that have readings and are not closed. Costs a look at all of these."""
        number = pl.col("end_us") // (WINDOW_S * 1_000_000)
        keys = [chunk.rows.select(number * (1 << 32) + pl.col("meter")).to_series() for chunk in self.open]
        guests = sum(guest.windows_open for guest in self.guests)
        return guests + (pl.concat(keys).n_unique() if keys else 0)


_FRAMES = {
    "emitted": EMITTED_SCHEMA,
    "days": DAYS_SCHEMA,
    "pairs": STATE_SCHEMA,
    "base": STATE_SCHEMA,
    "told": CHANGE_SCHEMA,
}


def dump(state: ShardState, index: MeterIndex) -> bytes:
    """The state as bytes: a header, then one Arrow IPC stream for each frame. Same state, same bytes."""
    frames = {"seen": _sparse(state.seen_us), **{name: getattr(state, name) for name in _FRAMES}}
    for part in ("open", "closed"):
        frames[f"{part}/rows"] = rows_of(getattr(state, part))
        frames[f"{part}/pairs"] = pairs_of(getattr(state, part)).sort("meter", "code")
    names = pl.Series(index.ids.categories)
    blobs = []
    for frame in frames.values():
        buffer = BytesIO()
        named = frame.with_columns(names.gather(frame["meter"]).alias("meter_id")).drop(
            "meter", "version", strict=False
        )
        named.write_ipc_stream(buffer, compression="zstd")
        blobs.append(buffer.getvalue())
    guests = [dump(guest, index) for guest in state.guests]
    header = {
        "version": VERSION,
        "max_us": state.max_us,
        "closed_us": state.closed_us,
        "left_us": state.left_us,
        "frames": [[name, len(blob)] for name, blob in zip(frames, blobs, strict=True)],
        "guests": [len(guest) for guest in guests],
    }
    head = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([_MAGIC, struct.pack("<I", len(head)), head, *blobs, *guests])


def load(data: bytes, index: MeterIndex) -> ShardState:
    """The state that `dump` wrote, under the registry in force; what belongs to meters it no longer knows is left out.

    Bytes of an older version are migrated. Raises OperationError for what cannot be read.
    """
    header, raw, within = _read(data)
    for version in range(header["version"], VERSION):
        raw = MIGRATIONS[version](raw)
    frames = {name: _taken_up(frame, _schema_of(name), index) for name, frame in raw.items()}
    chunks = {part: _chunks(frames[f"{part}/rows"], frames[f"{part}/pairs"]) for part in ("open", "closed")}
    plain = {name: frames[name] for name in _FRAMES}
    seen = never_heard(index).scatter(frames["seen"]["meter"], frames["seen"]["seen_us"])
    guests = tuple(load(guest, index) for guest in within)
    return ShardState(
        header["max_us"], header["closed_us"], header.get("left_us"), seen_us=seen, guests=guests, **chunks, **plain
    )


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, pl.DataFrame], list[bytes]]:
    """Header, frames and the bytes of guests, as they were written.

    Raises OperationError when there is no way to the version in force.
    """
    known = data[:4] == _MAGIC
    (length,) = struct.unpack("<I", data[4:8]) if known else (0,)
    header = json.loads(data[8 : 8 + length]) if known else {}
    version = header.get("version", "unknown")
    if version != VERSION and version not in MIGRATIONS:
        raise OperationError(
            f"the stream's state has version {version}, this Kilowatch reads {VERSION}: "
            "make it anew from what has been committed of the log, with `kilowatch stream --rebuild`"
        )
    frames: dict[str, pl.DataFrame] = {}
    at = 8 + length
    for name, size in header["frames"]:
        frames[name] = pl.read_ipc_stream(data[at : at + size])
        at += size
    guests = []
    for size in header.get("guests", ()):
        guests.append(data[at : at + size])
        at += size
    return header, frames, guests


def never_heard(index: MeterIndex) -> pl.Series:
    """`seen_us` of a shard that has heard none of the registry's meters."""
    return pl.repeat(0, len(index.first), dtype=pl.Int64, eager=True).alias("seen_us")


def _sparse(seen_us: pl.Series) -> pl.DataFrame:
    heard = seen_us.to_frame().with_row_index("meter").filter(pl.col("seen_us") != 0)
    return heard.select(SEEN_SCHEMA.names())


def _schema_of(name: str) -> pl.Schema:
    kinds = {"seen": SEEN_SCHEMA, "rows": HELD_SCHEMA, "pairs": PAIR_SCHEMA}
    return _FRAMES[name] if name in _FRAMES else kinds[name.rsplit("/", maxsplit=1)[-1]]


def _chunks(rows: pl.DataFrame, pairs: pl.DataFrame) -> tuple[Chunk, ...]:
    return (Chunk.of(rows, pairs),) if rows.height else ()


def _taken_up(frame: pl.DataFrame, schema: pl.Schema, index: MeterIndex) -> pl.DataFrame:
    coded = frame.with_columns(index.code(frame["meter_id"])).filter(pl.col("meter").is_not_null())
    coded = coded.with_columns(pl.lit(None).alias(n) for n in MEASURED if n in schema and n not in coded.columns)
    if "version" in schema:
        time = next(name for name in ("ts", "as_of", "window_end", "at") if name in schema)
        coded = coded.with_columns(index.version(coded["meter"], coded[time])).filter(pl.col("version").is_not_null())
    return coded.select(schema.names()).cast(schema)


def rebased(state: ShardState, old: MeterIndex, new: MeterIndex) -> ShardState:
    """The same state under another registry."""
    return load(dump(state, old), new)
