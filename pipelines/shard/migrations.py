"""How bytes of an older state are brought to the version after theirs.

Here: for each version that was, what its frames have to become. Not here: reading and writing them (`state`).

Frames are as they were written: meters by id, rows of the registry's meter_versions left out.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from metering.supply.compliance import SUMS
from metering.tables.lake import CURRENTS
from metering.tables.schema import TIMESTAMP

Frames = dict[str, pl.DataFrame]


def _settled_days(frames: Frames) -> Frames:
    """Readings lost what no window looks at, closed windows what their end tells; days may be settled."""
    emitted = ("meter_id", "window_end", "revision", *SUMS)
    changed = {name: frames[name].drop(CURRENTS) for name in ("open/rows", "closed/rows")}
    changed["emitted"] = frames["emitted"].select(emitted)
    changed["days"] = frames["days"].with_columns(settled=pl.lit(False))
    return {**frames, **changed}


def _placed_readings(frames: Frames) -> Frames:
    """Readings tell which partition they came from, and when they were logged: of those so far that is not known."""
    unknown = {"source_partition": pl.lit(None, pl.Int32), "logged_at": pl.lit(None, TIMESTAMP)}
    return {**frames, **{name: frames[name].with_columns(**unknown) for name in ("open/rows", "closed/rows")}}


MIGRATIONS: dict[int, Callable[[Frames], Frames]] = {1: _settled_days, 2: _placed_readings}
"""By version: what leads to the next one."""
