"""What a shard's step depends on beside its state.

Here: types only. Not here: the step (`advance`, `judging`), the past itself (`history`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import polars as pl

from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings


class History(Protocol):
    """What the lake, and what is on its way into it, knows of windows older than the state."""

    def readings(self, wanted: pl.DataFrame) -> pl.DataFrame:
        """Readings (ROW_SCHEMA) of `meter` in windows ending at `window_end`, and at their start edges."""

    def readings_since(self, meters: pl.Series, since: datetime) -> pl.DataFrame:
        """All readings (ROW_SCHEMA) of the meters (codes) after `since`."""

    def violations(self, meters: pl.Series, since: datetime) -> pl.DataFrame:
        """What was told last (CHANGE_SCHEMA) of each violation of the meters (codes) that changed after `since`."""

    def days(self, wanted: pl.DataFrame) -> pl.DataFrame:
        """Sums (DAYS_SCHEMA) of all days of `meter` in `month`, from what was told of them last."""

    def windows(self, wanted: pl.DataFrame) -> pl.DataFrame:
        """Current windows (columns of `windows`, with `meter` and `version`) of `meter`, `window_end`, if any."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What a step depends on beside its state: registry, settings, how much is kept, the past, and the partition of
    its source that the readings come from.

    Meters not heard for `silent_s`, by the time of the data, leave the state. With `at_once` the late readings of a
    meter are judged together: the same values, fewer revisions of them.
    """

    index: MeterIndex
    settings: MeteringSettings
    windows_kept: int
    history: History
    silent_s: float = 7 * 86_400
    partition: int = 0
    at_once: bool = False

    @property
    def meter_versions(self) -> pl.DataFrame:
        return self.index.meter_versions
