"""When a meter's clock runs ahead: its stamps against the time at which they were logged.

Here: what stamps say to the rule `clock_drift` (`judged`). Not here: what has been raised (`lifecycle`), which stamps
there are (`pipelines.shard.clock`).

Only ahead: a stamp that lies behind is a late reading, as after every outage, and says nothing of the clock.
"""

from __future__ import annotations

import polars as pl

from metering.events.catalogue import checks
from metering.events.figures import figures_in_force
from metering.events.judge import said_to
from metering.settings import MeteringSettings

RULE = "clock_drift"


def ahead_min(ts: pl.Expr, logged_at: pl.Expr) -> pl.Expr:
    """How far a stamp is ahead of the time of its message [min]."""
    return (ts - logged_at).dt.total_microseconds() / 60e6


def judged(stamps: pl.DataFrame, meter_versions: pl.DataFrame, settings: MeteringSettings) -> pl.DataFrame:
    """What stamps say to the rule (JUDGED_SCHEMA). `stamps`: `meter`, `version`, `ahead_min`, and as `ts` when it was
    logged: they are judged by the time of the log, the one that can be trusted.
    """
    (check,) = (check for check in checks(settings) if check.rule == RULE)
    known, figures = figures_in_force(stamps, meter_versions, settings, [RULE])
    return said_to(check, known, figures[RULE]).sort("meter", "ts")
