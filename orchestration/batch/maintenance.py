"""When the lake is kept in order: hourly by Dagster, or when `kilowatch compact` says so.

Here: one round with a home's settings, and the schedule. Not here: what a round does (`sinks.lake.maintenance`).
"""

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg

from assets.maintenance import UPKEEP
from orchestration.home.settings import Settings
from sinks.lake.compaction import Sizes
from sinks.lake.maintenance import Progress, Report, upkeep

MB = 1_000_000


def keep_up(home: Path, settings: Settings, progress: Progress | None = None) -> Report:
    """One round over the lake of `home`. Raises KilowatchError."""
    sizes = Sizes(settings.lake.compact_parts, settings.lake.part_mb * MB)
    today = datetime.now(ZoneInfo(settings.timezone)).date()
    return upkeep(home, sizes, settings.retention.lake_days, today, progress)


def upkeep_schedule() -> dg.ScheduleDefinition:
    """Every hour, on from the start; off the full hour, when windows close and commits are large."""
    return dg.ScheduleDefinition(
        name="hourly_upkeep",
        job=dg.define_asset_job("upkeep", selection=dg.AssetSelection.assets(UPKEEP)),
        cron_schedule="10 * * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Merges the lake's small parts, and takes out days past keeping.",
    )
