"""When messages to people are sent, sent again, and given up.

Not here: who gets them (`registry/contacts.csv`), what decides (`metering.notices`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeSettings:
    """The section `[notify]` of the settings.

    An event older than `expire_after_min`, when it was published or at the first start, is not told. A storm waits
    `storm_wait_s` for its members, of which a message names `members_named`. A message that is not taken is tried again
    after `retry_after_s`, then after twice as long each time up to `retry_at_most_s`, `attempts` times in all. So many
    channels as `parallel` are served at a time. Outcomes go to the lake every `lake_interval_s`. With `tell_execution`
    closed quarter-hours above a plan's cap are told from `load.control.v1` too; violations tell of them already.
    What has been over for `keep_days` is forgotten: its outcomes stay in the lake; 0: never.

    Severity of a plan by its level, of an outage by its kind. `restored_states` and `withdrawn_states`: how whoever
    runs the grid says that an outage is over, or will not be.
    """

    expire_after_min: float = 60.0
    storm_wait_s: float = 30.0
    members_named: int = 10
    attempts: int = 8
    retry_after_s: float = 30.0
    retry_at_most_s: float = 900.0
    parallel: int = 4
    lake_interval_s: float = 60.0
    keep_days: float = 90.0
    tell_execution: bool = False
    plan_severity: Mapping[str, str] = field(default_factory=dict)
    outage_severity: Mapping[str, str] = field(default_factory=dict)
    restored_states: tuple[str, ...] = ()
    withdrawn_states: tuple[str, ...] = ()

    def retry_s(self, attempts: int) -> float:
        """How long to wait [s] after so many attempts that failed."""
        return float(min(self.retry_after_s * 2 ** min(attempts - 1, 30), self.retry_at_most_s))
