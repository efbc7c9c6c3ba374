"""How bytes of an older state are brought to the version after theirs.

Here: for each version that was, what its frames have to become. Not here: reading and writing them (`state`).

Frames are as they were written: meters by id, rows of the registry's facts left out.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from metering.compliance import SUMS
from metering.tables.lake import CURRENTS

Frames = dict[str, pl.DataFrame]


def _settled_days(frames: Frames) -> Frames:
    """Readings lost what no window looks at, closed windows what their end tells; days may be settled."""
    emitted = ("meter_id", "window_end", "revision", *SUMS)
    changed = {name: frames[name].drop(CURRENTS) for name in ("open/rows", "closed/rows")}
    changed["emitted"] = frames["emitted"].select(emitted)
    changed["days"] = frames["days"].with_columns(settled=pl.lit(False))
    return {**frames, **changed}


MIGRATIONS: dict[int, Callable[[Frames], Frames]] = {1: _settled_days}
"""By version: what leads to the next one."""
