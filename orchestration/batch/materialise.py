"""One Dagster run over a range of days, in this process.

Here: preparing it, running it, and turning its failure into one line. Not here: what is shown (`cli.materialize`).
"""

import logging
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import dagster as dg

from metering.errors import KilowatchError, OperationError
from orchestration.batch.instance import prepare_instance
from orchestration.batch.sensors import notice, remember
from orchestration.definitions import JOB, build_definitions

# Tags that Dagster's own UI puts on a run over a range of partitions; it has no public names for them.
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def materialise(
    home: Path,
    first: date,
    last: date,
    progress: Callable[[str, int, int], None] | None = None,
    assets: Sequence[str] | None = None,
) -> dict[str, int]:
    """Run every asset for the local days `first` to `last`, both included; gives the rows of the warehouse's tables.

    With `assets`, which `warehouse` is among, only those are run.
    `progress` is called with a table, the days done and the days in all. Raises OperationError when a check or a step
    fails: the warehouse then stays as it was.
    """
    prepare_instance(home)
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    definitions = build_definitions(home, progress, (first, last))
    tags = {RANGE_START: first.isoformat(), RANGE_END: last.isoformat()}
    with dg.DagsterInstance.get() as instance:
        # what is not the whole graph leaves the rest of it to automation
        noticed = notice(instance, home, first, last) if assets is None else {}
        result = definitions.resolve_job_def(JOB).execute_in_process(
            instance=instance,
            tags=tags,
            raise_on_error=False,
            run_config=QUIET,
            asset_selection=[dg.AssetKey(name) for name in assets] if assets is not None else None,
        )
        if result.success:
            remember(instance, noticed)
    if not result.success:
        raise _failure(result)
    written = result.asset_materializations_for_node("warehouse")[-1].metadata
    return {
        name: value.value
        for name, value in written.items()
        if isinstance(value.value, int) and not name.startswith("dagster/")
    }


def _failure(result: dg.ExecuteInProcessResult) -> KilowatchError:
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data and data.user_failure_data.description:
                return OperationError(f"{data.user_failure_data.description}; the warehouse was left as it was")
            error = (data.error and (data.error.cause or data.error)) or None
            said = error.message if error else "it failed"
            return OperationError(f"{event.step_key}: {said.strip()}; the warehouse was left as it was")
    return OperationError("the run failed before its first step; `kilowatch ui` shows why")
