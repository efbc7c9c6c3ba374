"""The lake as a source of what people are told of, where there is no Kafka: rows of parts that are new.

Here: which parts are new, and their rows as messages. Not here: what they say (`metering.notices.events`). A row that
comes again, in a merged part, is known by its revision.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from metering.notices.events import CONTROL, FEEDBACK, OUTAGE, PLAN, VIOLATION
from metering.tables import LAKE
from pipelines.sources.notice_topics import Told
from sinks.lake.reader import LakeReader, scan_parts
from sinks.notices.ledger import Ledger

_TABLES = {
    "feedback": FEEDBACK, "violations": VIOLATION, "load_control_plans": PLAN, "outages": OUTAGE,
    "load_control": CONTROL,
}  # fmt: skip
_NAMES = {"from_at": "from", "to_at": "to", "by_role": "by"}
_FIGURES = ("cap_kw", "reduction_kw")
_SOURCE = "lake"
_LOOK_EVERY_S = 2.0


class LakeSource:
    """Rows of the lake's parts that the ledger does not know yet."""

    def __init__(self, home: Path, ledger: Ledger) -> None:
        self._lake, self._ledger = LakeReader(home), ledger
        self._rows: Iterator[Told] = iter(())
        self._looked = float("-inf")
        self.at_end = False

    def poll(self, most: int, timeout_s: float) -> list[Told]:
        """The next rows; of several parts the older ones first."""
        found = list(islice(self._rows, most))
        if found:
            return found
        if time.monotonic() - self._looked < _LOOK_EVERY_S and self.at_end:
            time.sleep(min(timeout_s, _LOOK_EVERY_S))
            return []
        self._looked = time.monotonic()
        rows = self._new_rows()
        self._rows = iter(rows)
        self.at_end = not rows
        return self.poll(most, timeout_s) if rows else []

    def close(self) -> None:
        """Nothing to let go of."""

    def _new_rows(self) -> list[Told]:
        seen = {part for part, whole in self._ledger.positions(_SOURCE).items() if whole}
        rows: list[Told] = []
        there: set[str] = set()
        for table, kind in _TABLES.items():
            if table not in LAKE:
                continue
            for day in self._lake.dates(table):
                with self._lake.held():
                    for path in self._lake.parts(table, day):
                        part = f"{table}/{day}/{path.name}"
                        there.add(part)
                        if part not in seen:
                            rows += _rows(table, kind, day, path, part)
        self._ledger.drop_positions(_SOURCE, seen - there)
        return rows


def _rows(table: str, kind: str, day: date, path: Path, part: str) -> list[Told]:
    frame = scan_parts(LAKE[table], day, [path]).collect()
    order = [name for name in ("at", "issued_at", "window_end", "from_at", "revision") if name in frame.columns]
    published = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    told = [
        Told(kind, _message(row), published, _SOURCE, part, False) for row in frame.sort(order).iter_rows(named=True)
    ]
    # the part counts as seen with its last row; before that its rows come again, and are known
    return [*told[:-1], *(Told(t.kind, t.value, t.published_at, t.source, t.part, True) for t in told[-1:])]


def _message(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as its topic's message."""
    message = {_NAMES.get(name, name): value for name, value in row.items() if not isinstance(value, pl.Series)}
    for name in _FIGURES:
        if isinstance(row.get(name), list):
            message[name] = {entry["name"]: entry["value"] for entry in row[name]}
    return message
