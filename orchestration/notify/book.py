"""From what topics or the lake say to messages in the ledger: each piece read is one transaction with its position.

Not here: what is decided (`metering.notices`), reading (`pipelines.sources.notice_topics`, `lake_source`), sending
(`sender`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog

from metering.notices.dispatch import Known, World, acknowledged, decide
from metering.notices.events import CONTROL, Event, Feedback, UnusableError, read
from metering.notices.storms import decide_storm
from pipelines.sources.notice_topics import Told
from sinks.notices.ledger import Ledger

_TOO_OLD = "older than notify.expire_after_min when Kilowatch learnt of it"
_OVER = "over before quiet hours were"

log = structlog.get_logger(__name__)


class Book:
    """Enters what is read into the ledger. `first_start`: what was published before counts as of then."""

    def __init__(self, ledger: Ledger, first_start: datetime) -> None:
        self._ledger, self._first_start = ledger, first_start

    def take(self, told: Sequence[Told], world: World, now: datetime) -> None:
        """Enter some messages and where they end, all or nothing. One that says nothing is told, and left out."""
        with self._ledger.transaction():
            for message in told:
                if message.value is not None:
                    self._take(message, message.value, world, now)
                self._ledger.keep_position(message.source, message.part, message.position)

    def _take(self, message: Told, value: bytes | str | Mapping[str, Any], world: World, now: datetime) -> None:
        try:
            said = read(message.kind, value, world.settings)
        except UnusableError as error:
            log.warning("message left out", topic=message.source, place=message.position, problem=str(error))
            return
        if isinstance(said, Feedback):
            self._heard(said, now)
        elif said.kind != CONTROL or world.settings.tell_execution:
            self._happened(said, world, now, max(message.published_at, self._first_start))

    def _happened(self, event: Event, world: World, now: datetime, reference: datetime) -> None:
        ledger = self._ledger
        known = ledger.known(event.subject)
        if known is not None and event.storm != known.event.storm:  # it is told as it was first: alone, or with others
            storm = known.event.storm
            event = replace(event, storm=storm, value={**event.value, "storm_id": storm or None})
        if event.storm:
            self._storm(event, known, world, now, reference)
            return
        decision = decide(event, known, ledger.notices(event.subject), world, now, reference)
        if decision is None:
            return
        seen = decision.known.acknowledged or ledger.is_acknowledged(event.subject)
        ledger.remember(replace(decision.known, acknowledged=seen))
        ledger.end(decision.ended, now, _OVER)
        ledger.add((n for n in decision.notices if not (seen and n.level)), _TOO_OLD)

    def _storm(self, event: Event, known: Known | None, world: World, now: datetime, reference: datetime) -> None:
        """A violation of a storm changes what is known of it, and what is told of the storm."""
        ledger = self._ledger
        decision = decide(event, known, (), world, now, reference)
        if decision is None:
            return
        ledger.remember(decision.known)
        if decision.known.expired:
            ledger.add(decision.notices if known is None else (), _TOO_OLD)
            return
        members = ledger.members(event.storm)
        seen = ledger.is_acknowledged(event.storm, *(member.event.subject for member in members))
        storm = decide_storm(event.storm, members, ledger.notices(event.storm), world, now, seen)
        ledger.end(storm.ended, now, _OVER)
        ledger.add(storm.notices)

    def _heard(self, feedback: Feedback, now: datetime) -> None:
        ledger = self._ledger
        ledger.acknowledge(feedback)
        known = ledger.known(feedback.subject)
        subjects = [feedback.subject, *([known.event.storm] if known and known.event.storm else [])]
        for subject in subjects:
            ledger.end(acknowledged(ledger.notices(subject)), now, f"{feedback.action} by feedback")
