"""What the checks of a meter's day look at, and what they find.

Here: the two shapes. Not here: the checks (`validation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import polars as pl

from metering.tables.schema import TIMESTAMP

FINDINGS = pl.Schema(
    {
        "meter_id": pl.String(),
        "window_end": TIMESTAMP,
        "rule": pl.String(),
        "severity": pl.String(),
        "value": pl.Float64(),
        "limit": pl.Float64(),
        "detail": pl.String(),
    }
)
"""What validations find. `window_end` is null where a finding is of the whole day; `value` and `limit` are in the unit
of the rule's row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterDay:
    """What the checks of one local day look at.

    `points`: every quarter-hour due, sorted by meter_id and window_end: p_kw [kW], import_kwh, export_kwh,
    import_kvarh, export_kvarh, the registers at its end, what their steps are believed by (see `chains`), `n`,
    `n_expected`, `window_reason` (null where no window is, or nothing is to be said of it). `start`: meter_id and the
    registers at the day's start, where known.
    `meters`: meter_id, `multiplier` [kWh], `register_modulus`. `history`: METER_DAILY of the days before, of which
    there must be `min_history_days` that are `alike`, workdays or days off, to compare with.
    """

    day: date
    points: pl.DataFrame
    start: pl.DataFrame
    meters: pl.DataFrame
    history: pl.DataFrame
    min_history_days: int
    alike: frozenset[date]
