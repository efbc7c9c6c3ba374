"""Telemetry out: readings as NDJSON lines, to a file under the home or to the readings topic.

Here: bytes and files. Not here: what makes a row a reading (`metering.tabular.convert`, `metering.simulation`), files
of others (`table_files`), the dataflow's sources.
"""

from __future__ import annotations

import filecmp
import io
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import polars as pl

from metering.errors import UserError
from metering.tabular.convert import Replayed
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
    """Writes one NDJSON file, aside until it is whole: a stream over its folder never reads half of it.

    With `keep` a file that is there already stays, and UserError is raised, unless it would be the same.
    """

    def __init__(self, path: Path, keep: bool = False) -> None:
        self._path, self._aside, self._keep = path, path.with_name(path.name + ".part"), keep
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
        if kind is not None:
            self._aside.unlink(missing_ok=True)
        elif self._keep and self._path.exists():
            same = filecmp.cmp(self._aside, self._path, shallow=False)
            self._aside.unlink()
            if not same:
                raise UserError(
                    f"{self._path} is there already and holds other readings; nothing was written: name another file "
                    "with --out, or replace it with --overwrite"
                )
        else:
            self._aside.replace(self._path)


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


def write_rejects(path: Path, replayed: Replayed) -> None:
    """All rejects, one JSON object a line: line, reason, detail and the row's text. Without any the file is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    replayed.rejects.write_ndjson(aside)
    aside.replace(path)


def _lines(readings: pl.DataFrame) -> pl.DataFrame:
    return readings.with_columns(pl.col("ts").dt.to_string("%Y-%m-%dT%H:%M:%S%.fZ"))


def _encoded(readings: pl.DataFrame) -> list[bytes]:
    buffer = io.BytesIO()
    _lines(readings).write_ndjson(buffer)
    return buffer.getvalue().split(b"\n")[:-1]
