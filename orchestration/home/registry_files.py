"""The registry's two files in a home: read, written.

Here: where they are and how they are opened. Not here: what makes them valid (`metering.registry.parse`).
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

import polars as pl

from metering.errors import UserError
from metering.notices.contacts import CONTACTS_FILE, Contact, parse_contacts
from metering.registry.parse import CUSTOMERS_FILE, METERS_FILE, Registry, parse_registry
from metering.tables.notices import CLASSES
from orchestration.home.settings import Settings


def registry_paths(home: Path) -> tuple[Path, Path]:
    """The customers' and the meters' file of `home`."""
    folder = home / "registry"
    return folder / CUSTOMERS_FILE, folder / METERS_FILE


def contacts_path(home: Path) -> Path:
    """The contacts' file of `home`, which it need not have."""
    return home / "registry" / CONTACTS_FILE


def load(home: Path, settings: Settings) -> Registry:
    """The registry of `home`. Raises UserError when a file cannot be read, RegistryError when one is not valid."""
    customers, meters = (_content(path) for path in registry_paths(home))
    return parse_registry(customers, meters, settings.metering)


def load_contacts(home: Path, settings: Settings, customers: pl.DataFrame) -> tuple[Contact, ...]:
    """The contacts of `home`, whose scopes may name these customers. Raises as `load` does."""
    classes = (*CLASSES, *(rule.event_class for rule in settings.rulebook.rules))
    return parse_contacts(_content(contacts_path(home)), customers, classes)


def save(home: Path, customers: pl.DataFrame, meters: pl.DataFrame) -> list[Path]:
    """Write both files, each whole or not at all; a running stream picks them up.

    A file that was there with other content is kept beside it; returns where.
    """
    kept = []
    for path, frame in zip(registry_paths(home), (customers, meters), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = frame.write_csv().encode()
        if path.exists() and path.read_bytes() != text:
            kept.append(_kept(path))
        aside = path.with_suffix(".csv.part")
        aside.write_bytes(text)
        aside.replace(path)
    return kept


def _kept(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.before-{number}") for number in count(1))
    free = next(name for name in names if not name.exists())
    path.replace(free)
    return free


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; `kilowatch init` writes a template to fill in") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}): make it a file that this user may read") from error
