"""The Dagster definitions of one home: `build_definitions(home)`, the same for the UI, the command line and tests.

Here: putting assets, automation, sensors, schedule and jobs together. `defs` is for Dagster's own tools, for the home
that KILOWATCH_HOME names; it is built when asked for, not when this module is imported.
"""

import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

import dagster as dg

JOB = "daily"


@dg.definitions
def defs() -> dg.Definitions:
    return build_definitions(Path(os.environ.get("KILOWATCH_HOME", "data")))


def build_definitions(
    home: Path, progress: Callable[[str, int, int], None] | None = None, span: tuple[date, date] | None = None
) -> dg.Definitions:
    """Definitions of `home`; nothing is read but its settings and days, nothing is written. `progress`: `assets.batch`.

    Partitions are the home's days with data, as they are now, and those of `span`.

    Raises SettingsError when the settings cannot be used.
    """
    from assets.batch import Batch
    from assets.catalogue import batch_assets, partitions, span_of
    from assets.curves import ended_gaps
    from assets.maintenance import UPKEEP, upkeep_asset
    from orchestration.batch.automation import after_dependencies, automation_sensor, with_readings
    from orchestration.batch.maintenance import keep_up, upkeep_schedule
    from orchestration.batch.sensors import lake_sensor
    from orchestration.home.registry_files import load
    from orchestration.home.settings import load_settings

    settings = load_settings(home)
    batch = Batch(home, settings.metering, lambda: load(home, settings), progress)
    known = [day for found in (span_of(home), span) if found is not None for day in found]
    days = partitions(settings.timezone, (min(known), max(known)) if known else None)
    results = dg.AssetSelection.all().materializable() - dg.AssetSelection.assets(UPKEEP)
    return dg.Definitions(
        assets=[
            *batch_assets(days, batch.tables, after_dependencies(), with_readings()),
            upkeep_asset(lambda: keep_up(home, settings)),
        ],
        jobs=[dg.define_asset_job(JOB, selection=results)],
        schedules=[upkeep_schedule()],
        sensors=[lake_sensor(home, days, lambda day: ended_gaps(batch, day, day)), automation_sensor()],
        resources={"batch": batch},
        executor=dg.in_process_executor,
    )
