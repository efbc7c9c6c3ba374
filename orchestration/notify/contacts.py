"""Contacts and customers as a running `kilowatch notify` sees them: looked at again now and then, the last good ones in
force.

Not here: what good ones are (`metering.notices.contacts`, `metering.registry.parse`).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import structlog

from metering.errors import UserError
from metering.notices.contacts import directory
from metering.notices.dispatch import World
from orchestration.home.registry_files import contacts_path, load, load_contacts, registry_paths
from orchestration.home.settings import Settings

log = structlog.get_logger(__name__)


class ContactsWatch:
    """The world of `home`. Raises UserError or RegistryError when there is no good one to start with."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self._home, self._settings = home, settings
        self._stamps = self._stamps_now()
        self._world = self._read()
        self._looked = time.monotonic()

    def world(self) -> World:
        """The world in force."""
        if time.monotonic() - self._looked >= self._settings.stream.registry_check_s:
            self._looked = time.monotonic()
            self._look()
        return self._world

    def _look(self) -> None:
        stamps = self._stamps_now()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self._world = self._read()
        except UserError as error:
            log.error("contacts refused, the last good ones stay in force", problem=str(error))
        else:
            log.info("contacts taken up", contacts=len(self._world.contacts))

    def _read(self) -> World:
        settings = self._settings
        registry = load(self._home, settings)
        today = datetime.now(ZoneInfo(settings.timezone)).date()
        contacts = load_contacts(self._home, settings, registry.customers)
        known = directory(registry.customers_on(today, since=datetime.min.replace(tzinfo=UTC).date()))
        names = {rule.id: (rule.name_zh, rule.name_en) for rule in settings.metering.rules.rules}
        return World(contacts, known, settings.notify, settings.timezone, names)

    def _stamps_now(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(map(_stamp, (*registry_paths(self._home), contacts_path(self._home))))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
