"""Telemetry out: readings as NDJSON lines, to a file under the home or to the readings topic; tables of others in.

Here: bytes and files. Not here: what makes a row a reading (`metering.tabular.convert`, `metering.simulation`), the
dataflow's sources.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import polars as pl

from metering.errors import UserError
from metering.tabular.convert import Cells, Replayed, from_frame, from_text, replay
from metering.tabular.formats import READERS
from metering.tabular.mapping import Mapping
from orchestration.home.settings import Settings
from orchestration.kafka import broker
from sinks.kafka.topics import TopicSink

SLICE_ROWS = 50_000


class Writer(Protocol):
    """Takes readings, in order; they count once the `with` block ends without an error."""

    def write(self, readings: pl.DataFrame) -> None: ...

    def __enter__(self) -> Writer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class FileWriter:
    """Writes one NDJSON file, aside until it is whole: a stream over its folder never reads half of it."""

    def __init__(self, path: Path) -> None:
        self._path, self._aside = path, path.with_name(path.name + ".part")
        self._file: IO[bytes]

    def write(self, readings: pl.DataFrame) -> None:
        _lines(readings).write_ndjson(self._file)

    def __enter__(self) -> FileWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._aside.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            self._aside.replace(self._path)
        else:
            self._aside.unlink(missing_ok=True)


class TopicWriter:
    """Produces to the readings topic, one message for each reading, keyed by meter."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self._topic = settings.topics.readings
        self._sink = TopicSink(broker.ensure_topics(home, settings))

    def write(self, readings: pl.DataFrame) -> None:
        self._sink.publish(self._topic, readings["meter_id"].to_list(), _encoded(readings))

    def __enter__(self) -> TopicWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._sink.flush()
        else:
            self._sink.close()


def slices(readings: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The readings in order, in pieces small enough to show progress over."""
    return readings.iter_slices(SLICE_ROWS)


def read_readings(path: Path, mapping: Mapping) -> Replayed:
    """The readings and rejects of a file, whatever its format. Raises UserError, MappingError."""
    if mapping.format in READERS:
        return READERS[mapping.format](path.read_bytes(), mapping)
    return replay(read_table(path, mapping), mapping)


def read_table(path: Path, mapping: Mapping) -> Cells:
    """The cells of a table that `mapping` reads. Raises UserError when the file cannot be read, MappingError when the
    mapping does not fit it."""
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    if mapping.format == "parquet":
        return from_frame(_parquet(path), mapping)
    # bytes that the encoding does not know are marked, so that their rows can be reported
    return from_text(path.read_bytes().decode(mapping.encoding, errors="replace"), mapping)


def write_rejects(path: Path, replayed: Replayed) -> None:
    """All rejects, one JSON object a line: line, reason, detail and the row's text. Without any the file is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    replayed.rejects.write_ndjson(aside)
    aside.replace(path)


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path} is not a Parquet file that can be read: {error}") from error


def _lines(readings: pl.DataFrame) -> pl.DataFrame:
    return readings.with_columns(pl.col("ts").dt.to_string("%Y-%m-%dT%H:%M:%S%.fZ"))


def _encoded(readings: pl.DataFrame) -> list[bytes]:
    buffer = io.BytesIO()
    _lines(readings).write_ndjson(buffer)
    return buffer.getvalue().split(b"\n")[:-1]
