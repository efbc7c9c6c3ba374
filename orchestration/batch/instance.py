"""The Dagster instance of a home: `<home>/dagster`, with the project's dagster.yaml copied in.

Here: making it ready, for this process and those it starts. Not here: running anything.
"""

import os
from pathlib import Path

from metering.errors import OperationError

CONFIG = "dagster.yaml"
EVENTS_AT_ONCE = "500"
WORKSPACE = "workspace.yaml"
LOCATION = "Kilowatch"

_WORKSPACE = f"""load_from:
  - python_module:
      module_name: orchestration.definitions
      location_name: {LOCATION}
"""

_STORAGE = """
# Added by Kilowatch: see orchestration/batch/event_log.py.
event_log_storage:
  module: orchestration.batch.event_log
  class: BatchedEventLog
  config:
    base_dir: {folder}/history/runs
"""


def prepare_instance(home: Path) -> Path:
    """Make `<home>/dagster` ready, and the instance of this process and of its children; gives its path."""
    folder = home.resolve() / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f"{CONFIG}.part"
    config.write_text(_config().read_text("utf-8") + _STORAGE.format(folder=folder), "utf-8")
    config.replace(folder / CONFIG)
    (folder / WORKSPACE).write_text(_WORKSPACE, "utf-8")
    os.environ |= {
        "DAGSTER_HOME": str(folder),
        "KILOWATCH_HOME": str(home.resolve()),
        "DAGSTER_EVENT_BATCH_SIZE": os.environ.get("DAGSTER_EVENT_BATCH_SIZE", EVENTS_AT_ONCE),
    }
    return folder


def _config() -> Path:
    here = Path(__file__).parents[1]
    for candidate in (here.parent / CONFIG, here / CONFIG):
        if candidate.exists():
            return candidate
    raise OperationError(f"{CONFIG} is missing beside the packages; install Kilowatch again")
