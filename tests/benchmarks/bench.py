"""What every row of the benchmark works with: folders, brokers, rivals, how often, how much.

Here: the context and the shape of a row's result. Not here: any row (`rows`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl

from tests.benchmarks import rivals
from tests.benchmarks.answers import windows_of
from tests.benchmarks.data import Load, cache_folder, ndjson
from tests.benchmarks.measure import ROOT, Result, process
from tests.benchmarks.topics import Brokers

CONTENDERS = Path(__file__).with_name("contenders")


@dataclass
class Found:
    """A row's result. `measures`: figures that targets are set for, by name; `skipped`: who was left out, and why."""

    load: str
    measures: dict[str, float] = field(default_factory=dict)
    contenders: list[Result] = field(default_factory=list)
    stages: Mapping[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "date": f"{datetime.now(UTC):%Y-%m-%d}", "load": self.load, "measures": self.measures,
            "contenders": [result.as_dict() for result in self.contenders], "stages": dict(self.stages),
            "figures": self.figures, "notes": self.notes, "skipped": self.skipped,
        }  # fmt: skip


@dataclass
class Bench:
    """One run of the benchmark. `quick`: small loads, few runs; `hours`: of the outage that is caught up with, of the
    pace that is kept up; None: what the row takes by itself; `most_runs` of a contender."""

    say: Callable[[str], None]
    quick: bool = False
    hours: float | None = None
    most_runs: int | None = None
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="kilowatch-bench-")))
    cache: Path = field(default_factory=cache_folder)

    @cached_property
    def brokers(self) -> Brokers:
        return Brokers(self.say)

    @cached_property
    def rival(self) -> Path | str:
        """The rivals' Python, or why there is none."""
        return rivals.python(self.say)

    def unique(self) -> str:
        """A name for topics that no other run has."""
        return uuid4().hex

    @property
    def runs(self) -> int:
        return self.most_runs or (3 if self.quick else 5)

    @property
    def long_runs(self) -> int:
        """Of contenders that take a minute and more each time."""
        return min(self.runs, 1 if self.quick else 3)

    def load(self, load: Load, quick: Load) -> Load:
        return quick if self.quick else load

    def file(self, load: Load) -> Path:
        self.say(f"{load.readings:,} readings as NDJSON")
        return ndjson(load, self.cache)

    def windows(self, load: Load) -> pl.DataFrame:
        return windows_of(load, self.cache)

    def stages(self, home: Path, *source: str | Path) -> dict[str, float]:
        """CPU seconds by stage of one more run, on a new `home`."""
        self.say("once more, for the stages")
        out = self.folder / "stages.json"
        process(
            [sys.executable, CONTENDERS / "profiled.py", home, out, *map(str, source)], log=self.folder / "stages.log"
        )
        found: dict[str, float] = json.loads(out.read_text("utf-8"))
        return found


__all__ = ["CONTENDERS", "ROOT", "Bench", "Found"]
