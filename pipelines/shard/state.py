"""What a process remembers between turns: declared frames over its meters, and how far each shard has come.

Here: how a frame is declared, the state as a value, and what is written once for all frames: dump, load, cut, unite,
drop. Not here: which frames there are (each detector declares its own), how they move on (`advance`), where they are
kept (`sinks`).

In memory meters, their versions, shards and checks are numbers; bytes name all of them, so that a state can be taken up
under a registry, or rules, that have changed. Rows of meters that the registry in force does not know are kept by name
until it knows them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import polars as pl

from metering.errors import OperationError
from metering.registry.index import MeterIndex
from metering.tables.lake import MEASURED
from metering.tables.schema import no_rows
from pipelines.shard.chunks import NEVER, Bound, Chunks, wide
from pipelines.shard.narrow import MANY, Narrow

_MAGIC = b"KWST"
_VERSION = 4
"""Of the bytes as a whole; a frame has a version of its own."""


class StateVersionError(OperationError):
    """Bytes of a state that this Kilowatch does not read; the lake tells what was in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A frame of the state. `schema` as kept in memory, with `meter`; a column `version` follows from the meter and the
    time in `dated`, `code` (of a check) from rule and phase, `shard` from its name. A `growing` one is kept in pieces,
    of a `narrow` one many rows in fewer bytes.

    When a meter has been silent for long its rows go, but for those that `stays` is true of.
    """

    name: str
    version: int
    schema: pl.Schema
    dated: str = ""
    growing: bool = False
    narrow: bool = False
    stays: pl.Expr | None = None

    def empty(self) -> pl.DataFrame:
        return no_rows(self.schema)


# --- the state ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shards:
    """How far each shard has come [us]: its highest event time, and up to where its windows are closed.

    A shard's number is its place here; number 0 is that of no shard.
    """

    names: tuple[str, ...] = ("",)
    max_us: tuple[int, ...] = (NEVER,)
    closed_us: tuple[int, ...] = (NEVER,)

    def with_names(self, names: Iterable[str]) -> Shards:
        new = tuple(name for name in dict.fromkeys(names) if name not in self.names)
        never = (NEVER,) * len(new)
        return Shards(self.names + new, self.max_us + never, self.closed_us + never) if new else self

    def raised(self, max_us: Mapping[int, int], closed_us: Mapping[int, int]) -> Shards:
        """With higher marks of some shards (numbers)."""
        return replace(
            self,
            max_us=tuple(max(at, max_us.get(number, NEVER)) for number, at in enumerate(self.max_us)),
            closed_us=tuple(max(at, closed_us.get(number, NEVER)) for number, at in enumerate(self.closed_us)),
        )


METERS = Frame("meters", 1, pl.Schema({"meter": pl.UInt32(), "seen_us": pl.Int64(), "shard": pl.UInt16()}))
"""When each meter was last heard, by its own time (0: it has left), and in which shard. In memory a row for each code
of the registry; 0 and no shard for those never heard."""
FLOORS = Frame("floors", 1, pl.Schema({"meter": pl.UInt32(), "max_us": pl.Int64(), "closed_us": pl.Int64()}))
"""How far the shard had come that a meter was in before, where the one it is in now has not come as far."""


@dataclass(frozen=True, slots=True)
class State:
    """The state of a process, a value: frames are never changed in place.

    `left_us`: up to where meters have left in silence. `unknown`: rows of meters that the registry does not know, by
    frame, named as in the bytes. `taken_up`: since the last turn, so that windows of meters may be overdue that the
    registry did not know before.
    """

    shards: Shards = field(default_factory=Shards)
    left_us: int | None = None
    frames: Mapping[str, pl.DataFrame | Narrow | Chunks] = field(default_factory=dict)
    unknown: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    taken_up: bool = False

    def frame(self, frame: Frame) -> pl.DataFrame:
        found = self.frames.get(frame.name)
        return frame.empty() if found is None or isinstance(found, Chunks) else wide(found)

    def chunks(self, frame: Frame) -> Chunks:
        found = self.frames.get(frame.name)
        return found if isinstance(found, Chunks) else Chunks()

    def having(self, frames: Mapping[Frame, pl.DataFrame | Chunks], **changed: Any) -> State:
        """With other frames in place of these."""
        changed_frames = {frame.name: _held(frame, rows) for frame, rows in frames.items()}
        return replace(self, frames={**self.frames, **changed_frames}, **changed)

    def meters(self, index: MeterIndex) -> pl.DataFrame:
        """METERS, a row for each code."""
        found = self.frames.get(METERS.name)
        return found if isinstance(found, pl.DataFrame) else _never_heard(index)

    def closed(self, index: MeterIndex) -> Bound:
        """Up to where windows of each meter are closed."""
        floors = self.frame(FLOORS).select("meter", us="closed_us")
        return Bound(pl.Series(self.shards.closed_us, dtype=pl.Int64), self.meters(index)["shard"], floors)

    @property
    def meters_held(self) -> int:
        """Meters that have been heard and have not left."""
        return int((self.frame(METERS)["seen_us"] != 0).sum())


def _held(frame: Frame, rows: pl.DataFrame | Chunks) -> pl.DataFrame | Narrow | Chunks:
    if frame.narrow and isinstance(rows, pl.DataFrame) and rows.height >= MANY:
        return Narrow.of(rows)
    return rows


def _never_heard(index: MeterIndex) -> pl.DataFrame:
    count = len(index.first)
    return pl.select(
        pl.int_range(count, dtype=pl.UInt32).alias("meter"),
        pl.repeat(0, count, dtype=pl.Int64).alias("seen_us"),
        pl.repeat(0, count, dtype=pl.UInt16).alias("shard"),
    )


# --- names for numbers, and back ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Naming:
    """What numbers in a state stand for: the registry in force, and the checks of the rules (code, rule, phase); and
    which measured values are kept of readings.
    """

    index: MeterIndex
    checks: pl.DataFrame
    measured: tuple[str, ...]

    def columns(self, frame: Frame) -> list[str]:
        """Columns of a frame as it is kept."""
        return [name for name in frame.schema if name not in MEASURED or name in self.measured]


Named = dict[str, pl.DataFrame]
"""Rows of frames, by names."""


def _named(state: State, frames: Sequence[Frame], naming: Naming) -> Named:
    return {frame.name: _named_frame(state, frame, naming) for frame in frames}


def _named_frame(state: State, frame: Frame, naming: Naming) -> pl.DataFrame:
    rows = _rows(state, frame)
    rows = rows.with_columns(naming.index.names.gather(rows["meter"]).alias("meter_id"))
    rows = rows.drop("meter", "version", strict=False)
    if "shard" in frame.schema:
        rows = rows.with_columns(pl.Series(state.shards.names).gather(rows["shard"]).alias("shard"))
    if "code" in frame.schema:
        checks = naming.checks.select("code", "rule", "phase")
        rows = rows.join(checks, on="code", how="inner", maintain_order="left").drop("code")
    aside = state.unknown.get(frame.name)
    return rows if aside is None else pl.concat([rows, aside], how="diagonal").select(rows.columns)


def _rows(state: State, frame: Frame) -> pl.DataFrame:
    if frame.growing:
        pieces = state.chunks(frame).frames()
        return pl.concat(pieces) if pieces else frame.empty()
    rows = state.frame(frame)
    return rows.filter(pl.col("shard") != 0) if frame is METERS else rows


def _taken_up(named: Named, frames: Sequence[Frame], state: State, naming: Naming) -> State:
    taken: dict[Frame, pl.DataFrame | Chunks] = {}
    unknown: Named = {}
    for frame in frames:
        numbered, aside = _numbered(frame, named[frame.name], state.shards, naming)
        if aside.height:
            unknown[frame.name] = aside
        if frame is METERS:
            every = _never_heard(naming.index)
            at = numbered["meter"]
            numbered = every.with_columns(every[name].scatter(at, numbered[name]) for name in ("seen_us", "shard"))
        taken[frame] = Chunks.of(numbered) if frame.growing else numbered
    return replace(state, frames={}, unknown=unknown, taken_up=True).having(taken)


def _numbered(frame: Frame, rows: pl.DataFrame, shards: Shards, naming: Naming) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows with numbers, and those of meters that the registry does not know, by name. Rows of checks that there are no
    more are left out.
    """
    coded = rows.with_columns(naming.index.code(rows["meter_id"]))
    known = coded["meter"].is_not_null()
    if "version" in frame.schema:
        version = naming.index.version if frame.dated == "ts" else naming.index.version_of_window
        versions = version(coded["meter"].fill_null(0), coded[frame.dated])
        coded = coded.with_columns(versions)
        known &= versions.is_not_null()
    coded, aside = coded.filter(known), rows.filter(~known)
    if "shard" in frame.schema:
        numbers = {name: number for number, name in enumerate(shards.names)}
        coded = coded.with_columns(pl.col("shard").replace_strict(numbers, default=0, return_dtype=pl.UInt16))
    if "code" in frame.schema:
        coded = coded.join(naming.checks.select("code", "rule", "phase"), on=("rule", "phase"), maintain_order="left")
    wanted = pl.Schema({name: frame.schema[name] for name in naming.columns(frame)})
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in wanted.items() if name not in coded.columns]
    return coded.with_columns(missing).select(wanted.names()).cast(wanted), aside


# --- bytes ----------------------------------------------------------------------------------------------------------


def dump(state: State, frames: Sequence[Frame], naming: Naming) -> bytes:
    """The state as bytes: a header, then an Arrow IPC stream of each frame. Same state, same bytes."""
    blobs: list[bytes] = []
    for rows in _named(state, frames, naming).values():
        buffer = BytesIO()
        rows.write_ipc_stream(buffer, compression="zstd")
        blobs.append(buffer.getvalue())
    shards = state.shards
    header = {
        "version": _VERSION,
        "left_us": state.left_us,
        "shards": [shards.names[1:], shards.max_us[1:], shards.closed_us[1:]],
        "frames": [[frame.name, frame.version, len(blob)] for frame, blob in zip(frames, blobs, strict=True)],
    }
    head = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([_MAGIC, struct.pack("<I", len(head)), head, *blobs])


def readable(data: bytes, frames: Sequence[Frame]) -> bool:
    """Whether this Kilowatch reads these bytes, as far as their header tells."""
    if data[:4] != _MAGIC:
        return False
    header = _header(data)[0]
    declared = [[frame.name, frame.version] for frame in frames]
    return header.get("version") == _VERSION and [written[:2] for written in header["frames"]] == declared


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    (length,) = struct.unpack("<I", data[4:8])
    return json.loads(data[8 : 8 + length]), length


def load(data: bytes, frames: Sequence[Frame], naming: Naming) -> State:
    """The state that `dump` wrote, under the registry in force. Raises StateVersionError for other versions."""
    if not readable(data, frames):
        raise StateVersionError(
            "the stream's state is damaged, or of another version: have it made anew from the lake with "
            "`kilowatch stream --rebuild`"
        )
    header, length = _header(data)
    named: Named = {}
    at = 8 + length
    for name, _, size in header["frames"]:
        named[name] = pl.read_ipc_stream(data[at : at + size])
        at += size
    names, max_us, closed_us = header["shards"]
    shards = Shards(("", *names), (NEVER, *max_us), (NEVER, *closed_us))
    return _taken_up(named, frames, State(shards, header["left_us"]), naming)


def rebased(state: State, frames: Sequence[Frame], old: Naming, new: Naming) -> State:
    """The same state under another registry."""
    return _taken_up(_named(state, frames, old), frames, replace(state, frames={}, unknown={}), new)


# --- cutting and joining --------------------------------------------------------------------------------------------


def of_shards(state: State, frames: Sequence[Frame], mine: Callable[[str], bool], naming: Naming) -> State:
    """What the state holds of shards that `mine` is true of, and of meters last heard in them."""
    named = _named(state, frames, naming)
    meters = named[METERS.name]
    numbers = [number for number, name in enumerate(state.shards.names) if number and mine(name)]
    names = [state.shards.names[number] for number in numbers]
    theirs = pl.col("meter_id").is_in(meters.filter(pl.col("shard").is_in(names))["meter_id"].implode())
    own = pl.col("shard").is_in(names)  # also of meters of which nothing has been accepted
    cut = {name: rows.filter(own if "shard" in rows.columns else theirs) for name, rows in named.items()}
    marks = state.shards
    shards = Shards(
        ("", *names),
        (NEVER, *(marks.max_us[number] for number in numbers)),
        (NEVER, *(marks.closed_us[number] for number in numbers)),
    )
    return _taken_up(cut, frames, State(shards, state.left_us), naming)


def united(states: Sequence[State], frames: Sequence[Frame], naming: Naming) -> State:
    """States of different shards, and so of different meters, as one."""
    if len(states) < 2:
        return states[0] if states else State()
    shards = Shards()
    for state in states:
        shards = shards.with_names(state.shards.names)
        numbers = [shards.names.index(name) for name in state.shards.names]
        shards = shards.raised(
            dict(zip(numbers, state.shards.max_us, strict=True)),
            dict(zip(numbers, state.shards.closed_us, strict=True)),
        )
    parts = [_named(state, frames, naming) for state in states]
    named = {frame.name: pl.concat([part[frame.name] for part in parts], how="diagonal") for frame in frames}
    left_us = max((state.left_us for state in states if state.left_us is not None), default=None)
    return _taken_up(named, frames, State(shards, left_us), naming)


def without(state: State, frames: Sequence[Frame], meters: pl.Series) -> State:
    """The state after meters (codes) have left it: what is known of them goes, but for the rows that stay."""
    theirs = pl.col("meter").is_in(meters.implode())
    held = state.frame(METERS)
    nothing = pl.repeat(0, len(meters), dtype=pl.Int64, eager=True)
    changed: dict[Frame, pl.DataFrame | Chunks] = {
        METERS: held.with_columns(held["seen_us"].clone().scatter(meters, nothing))
    }
    for frame in frames:
        if frame is METERS or frame.growing:  # readings held go by the watermark
            continue
        changed[frame] = state.frame(frame).filter(~theirs if frame.stays is None else ~theirs | frame.stays)
    return state.having(changed)
