"""Whether the stream gets on: told by the flow as it turns, asked by whoever wants to know, from any thread.

Here: what counts as stale, since when, and the log line when that begins and ends. Not here: serving it over HTTP
(`orchestration.stream.health_server`), metrics (`metrics`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

STALE_AFTER_S = 30.0
"""The longest that a flow may stand still, or something may wait for a commit that is due, and count as healthy."""
UNACKNOWLEDGED_AFTER_S = 5.0
"""The longest that brokers may leave results unacknowledged, where a commit waits for them."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ShardHealth:
    """A shard: when it was last committed (None: not by this run), how long something waits, and how long overdue."""

    committed_at: datetime | None
    pending_s: float
    overdue_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a worker stands: its shards, and how long the brokers have been leaving a commit without an answer."""

    shards: Mapping[str, ShardHealth]
    unacknowledged_s: float


class Health:
    """Health of the flow of one process, which calls `turned` all the time."""

    def __init__(self) -> None:
        self._turned = time.monotonic()
        self._since = datetime.now(UTC)
        self._reason: str | None = None
        self._shards: Mapping[str, ShardHealth] = {}
        self._ended: BaseException | None = None

    def turned(self, source_stale_since: datetime | None, progress: Progress) -> None:
        """The flow has turned once more; this is what it found."""
        self._turned = time.monotonic()
        self._shards = progress.shards
        reason = _reason(source_stale_since, progress)
        if (reason is None) == (self._reason is None):
            self._reason = reason
            return
        before, self._since, self._reason = self._since, datetime.now(UTC), reason
        if reason:
            log.warning("stale", reason=reason)
        else:
            log.info("no longer stale", was_since=before.isoformat())

    def failed(self, failure: BaseException) -> None:
        """The flow ends because of this."""
        self._ended, self._since = failure, datetime.now(UTC)

    @property
    def stale(self) -> bool:
        """Whether results are later than the log makes them."""
        return self._reason is not None or self._still_s() > STALE_AFTER_S

    def report(self) -> dict[str, Any]:
        """`status` (ok, stale, failing), `since` when, why, `last_commit_age_s` (null before the first), the shards."""
        now = datetime.now(UTC)
        shards = {name: _shard(shard, now) for name, shard in sorted(self._shards.items())}
        ages = [shard["last_commit_age_s"] for shard in shards.values() if shard["last_commit_age_s"] is not None]
        status, reason = "ok", self._reason
        if self._ended is not None:
            status, reason = "failing", type(self._ended).__name__
        elif self.stale:
            status, reason = "stale", reason or f"the flow has stood still for {self._still_s():.0f} s"
        return {
            "status": status,
            "since": self._since.isoformat(timespec="seconds"),
            "reason": reason,
            "last_commit_age_s": min(ages, default=None),
            "shards": shards,
        }

    def _still_s(self) -> float:
        return time.monotonic() - self._turned


def _reason(source_stale_since: datetime | None, progress: Progress) -> str | None:
    if source_stale_since is not None:
        return f"the source cannot be read since {source_stale_since.isoformat(timespec='seconds')}"
    if progress.unacknowledged_s > UNACKNOWLEDGED_AFTER_S:
        return "the brokers do not acknowledge results"
    overdue = [name for name, shard in progress.shards.items() if shard.overdue_s > STALE_AFTER_S]
    return f"no commit of {', '.join(sorted(overdue)[:5])}" if overdue else None


def _shard(shard: ShardHealth, now: datetime) -> dict[str, float | None]:
    age = None if shard.committed_at is None else round((now - shard.committed_at).total_seconds(), 1)
    return {"last_commit_age_s": age, "pending_s": round(shard.pending_s, 1)}
