"""Which shards are looked at for readings that do not come, and when (docs/adr/0013-silence-is-looked-at.md).

Here: which shards have been read to their end, which of them are live, and since when nothing has come of the others.
Not here: what is found by looking (`pipelines.shard.silence`), whether the source has answered all the while
(`dataflow`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from pipelines.flow.settings import StreamSettings
from pipelines.shard.chunks import NEVER
from pipelines.shard.state import Shards
from pipelines.sources.poll import Segment


class Looks:
    """The shards of a worker. Live are those whose newest reading is no older than the settings say."""

    def __init__(self, settings: StreamSettings) -> None:
        self._live_us, self._quiet_s = int(settings.live_days * 86_400e6), settings.look_s
        self._caught_up: set[str] = set()
        self._read_at: dict[str, float] = {}

    def after(self, segments: Sequence[Segment], shards: Shards) -> dict[int, int]:
        """The shards of a turn (numbers) to look at after it: those that have been read to the end of their logs, and
        are live. Of what is sent from long ago more may be on its way. `shards`: as they were before the turn.
        """
        found: dict[str, bool] = {}
        for segment in segments:
            newest = segment.newest_offset
            found[segment.shard] = newest is not None and segment.after.get("offset", 0) > newest
        self._caught_up = {*(self._caught_up - found.keys()), *(shard for shard, whole in found.items() if whole)}
        self._read_at |= dict.fromkeys(found, time.monotonic())
        oldest_us = time.time_ns() // 1000 - self._live_us
        numbered = enumerate(zip(shards.names, shards.max_us, strict=True))
        return {number: NEVER for number, (name, us) in numbered if found.get(name, False) and us > oldest_us}

    def due(self, shards: Shards) -> Mapping[int, int]:
        """The shards to look at while nothing comes: live ones by the clock [us], others once by their own time when
        nothing more has come for a while.
        """
        now_us = time.time_ns() // 1000
        found = {}
        for number, (name, max_us) in enumerate(zip(shards.names, shards.max_us, strict=True)):
            if name not in self._caught_up:
                continue
            if max_us > now_us - self._live_us:
                found[number] = now_us
            elif name in self._read_at and time.monotonic() - self._read_at[name] >= self._quiet_s:
                del self._read_at[name]
                found[number] = NEVER
        return found
