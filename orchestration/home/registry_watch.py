"""The registry as a running stream sees it: looked at again now and then, the last good one in force.

Not here: what a good registry is (`metering.registry.parse`).
"""

from __future__ import annotations

import time
from pathlib import Path

import structlog

from metering.errors import RegistryError, UserError
from metering.registry.index import MeterIndex
from orchestration.home.registry_files import load, registry_paths
from orchestration.home.settings import Settings

log = structlog.get_logger(__name__)


class RegistryWatch:
    """Index of the registry of `home`. Raises UserError or RegistryError when there is no good one to start with."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self._home, self._settings = home, settings
        self._stamp = self._stamp_now()
        self._index = MeterIndex.of(load(home, settings).meter_versions)
        self._looked = time.monotonic()
        self._told: str | None = None

    def index(self) -> MeterIndex:
        """The index in force; another object once a changed registry has been taken up."""
        if time.monotonic() - self._looked >= self._settings.stream.registry_check_s:
            self.refresh()
        return self._index

    def refresh(self) -> None:
        """Take up a changed registry at once."""
        self._looked = time.monotonic()
        self._look()

    def _look(self) -> None:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            self._told = None
            return
        try:
            self._index = MeterIndex.of(load(self._home, self._settings).meter_versions)
        except RegistryError as error:
            self._stamp = stamp
            self._tell(str(error))
        except UserError as error:  # looked at again: a file that cannot be read may come back as it was
            self._tell(str(error))
        else:
            self._stamp, self._told = stamp, None
            log.info("registry taken up", meters=len(self._index.first))

    def _tell(self, problem: str) -> None:
        """Say it once, however often it is found."""
        if problem != self._told:
            log.error("registry refused, the last good one stays in force", problem=problem)
        self._told = problem

    def _stamp_now(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_stamp(path) for path in registry_paths(self._home))


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes with a file's content; None where it cannot be looked at."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
