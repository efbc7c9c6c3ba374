"""Customer lists: what the rule profiles propose on the newest day, and what was approved.

Here: which days' energy counts. Not here: profiles, proposals, history (`metering.registry.lists`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

from assets.batch import Batch, Part
from metering.registry.lists import candidates, customer_lists, memberships, proposed
from sinks.lists import load_decisions
from sinks.marts import CURRENT

_YEAR_DAYS = 366


def lists(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    """As of the newest day that has been materialised, whatever days this run is of."""
    files = batch.marts.files("daily_load")
    newest = max((date.fromisoformat(path.parent.name.partition("=")[2]) for path in files), default=days[-1])
    as_of, settings = max(newest, days[-1]), batch.settings.lists
    year = [as_of - timedelta(days=n) for n in range(_YEAR_DAYS)]
    energy = batch.marts.read(batch.tables["daily_load"], year, ("customer_no", "date", "energy_kwh"))
    known = candidates(energy, batch.registry.customers_on(as_of), as_of, settings)
    approved = memberships(load_decisions(batch.home))
    yield Part(CURRENT, customer_lists(proposed(known, settings), approved, as_of), days[-1])
