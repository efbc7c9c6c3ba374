"""The home's log of edits: every correction file that was accepted, as it came, one after another.

Here: keeping and reading them, `<home>/edits/NNNNNN-<digest>.csv`; nothing there is ever changed. Not here: what is in
them and what they do (`metering.vee.edits`).
"""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from metering.errors import UserError
from metering.vee.edits import EDITS, parse
from sinks.locking import locked
from sinks.marts import sync

FOLDER = "edits"


def load_edits(home: Path) -> pl.DataFrame:
    """EDITS of all correction files of `home`, in the order in which they were accepted.

    Raises UserError when a kept file has been changed since it was signed.
    """
    frames = [EDITS.empty()]
    for path in _files(home):
        frames.append(parse(path.read_bytes(), f"{FOLDER}/{path.name}", sum(frame.height for frame in frames)))
    return pl.concat(frames)


def keep_edits(home: Path, content: bytes, name: str) -> tuple[Path, pl.DataFrame]:
    """Append a correction file to the log of `home`; gives where it is kept, and its EDITS.

    Raises UserError when it cannot be used, or has been accepted before.
    """
    (home / FOLDER).mkdir(parents=True, exist_ok=True)
    with locked(home / FOLDER / ".lock"):
        kept = load_edits(home)
        edits = parse(content, name, kept.height)
        edit_id = edits["edit_id"][0]
        if edit_id in kept["edit_id"].to_list():
            raise UserError(f"{name}: it has been accepted before, as {FOLDER}/*-{edit_id[:12]}.csv; nothing to do")
        path = home / FOLDER / f"{len(_files(home)) + 1:06d}-{edit_id[:12]}.csv"
        waiting = path.with_suffix(".part")
        waiting.write_bytes(content)
        sync(waiting)
        os.link(waiting, path)  # never over another
        waiting.unlink()
        sync(path.parent)
    return path, edits


def _files(home: Path) -> list[Path]:
    return sorted((home / FOLDER).glob("*.csv"))
