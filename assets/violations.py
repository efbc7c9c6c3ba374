"""Limit violations as the warehouse shows them: the last state of each, from the whole lake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

from assets.batch import Batch, Part
from metering.tables import LAKE
from sinks.lake_reader import current
from sinks.marts import CURRENT


def violations(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    key = LAKE["violations"].key
    yield Part(CURRENT, current(batch.lake.scan("violations"), key).collect(), days[-1])
