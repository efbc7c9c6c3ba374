"""A telemetry file as a shard: what its readers have in common, whatever its format.

Not here: the formats (`line_file`, `parquet_file`), which files there are (`files`).
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Protocol

from metering.errors import UserError
from pipelines.sources.poll import Poll

MARK_BYTES = 4096
"""Of a file, to tell by a checksum whether it is still the one that was read."""


class FileShard(Protocol):
    """Reads one file."""

    shard: str
    read_bytes: int
    total_bytes: int

    def polls(self) -> Generator[Poll, None, None]:
        """Every poll of the file from the position on; the last one has `end`."""


def changed(shard: str, path: Path) -> UserError:
    """What is raised where it is not."""
    return UserError(
        f"{path} is not the file that was read before as '{shard}': give new telemetry a new name, or use a new home"
    )
