"""The home's log of decisions on customer lists: each as it was approved, one after another.

Here: keeping and reading them, `<home>/lists/NNNNNN-<list>.json`; nothing there is ever changed. Not here: what is in
them and what follows (`metering.registry.lists`).
"""

from __future__ import annotations

import os
from pathlib import Path

from metering.registry.lists import Decision, read, written
from sinks.locking import locked
from sinks.marts import sync

FOLDER = "lists"


def load_decisions(home: Path) -> list[Decision]:
    """All decisions of `home`, in the order in which they were made.

    Raises UserError when a kept file has been changed since it was signed.
    """
    return [read(path.read_bytes(), f"{FOLDER}/{path.name}") for path in _files(home)]


def keep_decision(home: Path, decision: Decision) -> Path:
    """Append a decision to the log of `home`; gives where it is kept."""
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        path = folder / f"{len(_files(home)) + 1:06d}-{decision.list}.json"
        waiting = path.with_suffix(".part")
        waiting.write_bytes(written(decision))
        sync(waiting)
        os.link(waiting, path)  # never over another
        waiting.unlink()
        sync(folder)
    return path


def _files(home: Path) -> list[Path]:
    return sorted((home / FOLDER).glob("*.json"))
