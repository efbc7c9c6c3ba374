"""Handing over what is due: some threads, each channel served by one of them at a time.

Here: claim, hand over, write down, again. Not here: what is due and what an outcome means (`sinks.notices.ledger`),
channels themselves (`sinks.notices.channels`), the process that it runs in (`courier`).

A message is claimed on disk before it is handed over, and its outcome written by the very thread that handed it over,
before anything else: a process that dies in between has sent a message twice at worst, with the same id.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from threading import Condition, Thread

import structlog

from metering.errors import OperationError
from metering.notices.dispatch import Notice
from sinks.notices.channels import scheme
from sinks.notices.ledger import Ledger

log = structlog.get_logger(__name__)

HandOver = Callable[[Notice], str | None]
_LOOK_EVERY_S = 0.5


class Sender:
    """Sends what is due until it is stopped. `failure` is set once the ledger cannot be written; storms do not wait
    once `no_more_members` is set.
    """

    def __init__(self, ledger: Ledger, hand_over: HandOver, parallel: int) -> None:
        self._ledger, self._hand_over = ledger, hand_over
        self._change = Condition()
        self._busy: set[str] = set()
        self._stopped = False
        self.no_more_members = False
        self.failure: OperationError | None = None
        self._threads = [Thread(target=self._work, name=f"sender-{n}", daemon=True) for n in range(parallel)]
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """There may be more that is due."""
        with self._change:
            self._change.notify_all()

    def stop(self) -> None:
        """Hand over nothing more; what is under way is written down."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        try:
            while (notice := self._next()) is not None:
                self._send(notice)
        except OperationError as error:
            self.failure = error

    def _next(self) -> Notice | None:
        with self._change:
            while not self._stopped:
                notice = self._ledger.claim(_now(), self._busy, self.no_more_members)
                if notice is not None:
                    self._busy.add(notice.channel)
                    return notice
                self._change.wait(_LOOK_EVERY_S)
        return None

    def _send(self, notice: Notice) -> None:
        try:
            problem = self._handed_over(notice)
            status = self._ledger.record(notice, problem, _now())
        finally:
            with self._change:
                self._busy.discard(notice.channel)
                self._change.notify_all()
        tell = log.info if problem is None else log.warning
        told = {} if problem is None else {"problem": problem}
        tell(
            "notice", outcome=status, notice_id=notice.notice_id, subject=notice.subject, state=notice.event_state,
            contact=notice.contact, channel=scheme(notice.channel), attempt=notice.attempts, **told,
        )  # fmt: skip

    def _handed_over(self, notice: Notice) -> str | None:
        try:
            return self._hand_over(notice)
        except Exception as error:  # a plugin's own mistake is a message that was not taken
            return f"{type(error).__name__}: {error}"


def _now() -> datetime:
    return datetime.now(UTC)
