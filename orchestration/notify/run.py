"""One run of `kilowatch notify`: read, enter, send, tell the outcomes, until stopped or until nothing is left.

Here: how the parts work together. Not here: any of the parts. One process a home.

What is read is entered into the ledger together with where to go on; from there messages are sent by threads of their
own (`sender`). Outcomes follow to the topic and to the lake.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Protocol

import structlog

from metering.errors import OperationError, OwnedError
from metering.notices.dispatch import Notice
from metering.notices.events import CONTROL, FEEDBACK, OUTAGE, PLAN, VIOLATION
from orchestration.home.settings import Settings
from orchestration.notify.book import Book
from orchestration.notify.contacts import ContactsWatch
from orchestration.notify.courier import LEDGER, Courier
from pipelines.sources.notice_topics import Told
from sinks.lake.owner import make_folder
from sinks.locking import LockedError, locked
from sinks.notices.ledger import Ledger

log = structlog.get_logger(__name__)

_AT_ONCE = 100
"""Messages that are entered in one transaction: while it lasts nothing can be claimed or written down."""
_POLL_S = 0.2
_PUBLISH_EVERY_S = 0.5
_LOOK_EVERY_S = 0.05
_FORGET_EVERY_S = 86_400.0
_SILENCE_S = 60.0


class Source(Protocol):
    """Where events come from."""

    @property
    def at_end(self) -> bool: ...
    def poll(self, most: int, timeout_s: float) -> list[Told]: ...
    def close(self) -> None: ...


def notify(home: Path, settings: Settings, kafka: Mapping[str, str] | None, stop: Event, once: bool) -> dict[str, int]:
    """Tell people what the topics say until `stop` is set; with `once` until nothing more is due.

    `kafka` is its clients' configuration; None: the lake is read. How many messages there are by status. Raises
    KilowatchError.
    """
    folder = home / "notify"
    make_folder(folder)
    watch = ContactsWatch(home, settings)
    with _alone(folder):
        ledger = Ledger(folder / LEDGER, settings.notify)
        try:
            _run(home, settings, kafka, watch, ledger, stop, once)
            return ledger.counts()
        finally:
            ledger.close()


def rehearse(home: Path, settings: Settings, kafka: Mapping[str, str] | None, stop: Event) -> list[Notice]:
    """The messages that a run would send, now or later; nothing is sent or written down. Raises KilowatchError."""
    path = home / "notify" / LEDGER
    watch = ContactsWatch(home, settings)
    before = Ledger(path, settings.notify) if path.exists() else Ledger(None, settings.notify)
    ledger = before.copy()
    before.close()
    book = Book(ledger, ledger.first_start(_now()))
    source = _source(home, settings, kafka, ledger)
    try:
        for told in _until_its_end(source, stop):
            book.take(told, watch.world(), _now())
    finally:
        source.close()
    return ledger.pending()


def _run(
    home: Path, settings: Settings, kafka: Mapping[str, str] | None, watch: ContactsWatch, ledger: Ledger, stop: Event,
    once: bool,
) -> None:  # fmt: skip
    book = Book(ledger, ledger.first_start(_now()))
    source = _source(home, settings, kafka, ledger)
    outcomes = _Outcomes(home, settings, kafka, ledger)
    log.info("notify", source="kafka" if kafka else "lake", contacts=len(watch.world().contacts))
    courier = Courier(home / "notify", settings.notify)
    try:
        if once:
            for told in _until_its_end(source, stop):
                book.take(told, watch.world(), _now())
                courier.wake()
            courier.no_more_members()
            while not stop.is_set() and ledger.is_busy(_now(), no_more_members=True):
                courier.check()
                time.sleep(_LOOK_EVERY_S)
        while not once and not stop.is_set():
            if told := source.poll(_AT_ONCE, _POLL_S):
                book.take(told, watch.world(), _now())
                courier.wake()
            courier.check()
            outcomes.tell()
    finally:
        courier.stop()
        source.close()
    outcomes.tell(last=True)


def _until_its_end(source: Source, stop: Event) -> Iterator[list[Told]]:
    """All that there is. Raises OperationError when brokers fall silent."""
    heard = time.monotonic()
    while not source.at_end and not stop.is_set():
        if told := source.poll(_AT_ONCE, _POLL_S):
            heard = time.monotonic()
            yield told
        elif time.monotonic() - heard > _SILENCE_S:
            raise OperationError(f"the brokers have not answered for {_SILENCE_S:.0f} s: check that they are up")


def _source(home: Path, settings: Settings, kafka: Mapping[str, str] | None, ledger: Ledger) -> Source:
    if kafka is None:
        from orchestration.notify.lake_source import LakeSource

        return LakeSource(home, ledger)
    from pipelines.sources.notice_topics import NoticeTopics

    names = settings.topics
    topics = {
        FEEDBACK: names.feedback, VIOLATION: names.violations, PLAN: names.load_control_plans, OUTAGE: names.outages,
        CONTROL: names.load_control,
    }  # fmt: skip
    return NoticeTopics(kafka, topics, {topic: ledger.positions(topic) for topic in topics.values()})


class _Outcomes:
    """Outcomes to the topic and to the lake, now and then; where that cannot be done, later."""

    def __init__(self, home: Path, settings: Settings, kafka: Mapping[str, str] | None, ledger: Ledger) -> None:
        self._home, self._settings, self._ledger, self._kafka = home, settings, ledger, kafka
        self._sink = None
        if kafka is not None:
            from sinks.kafka.topics import TopicSink

            self._sink = TopicSink(kafka, topics=[settings.topics.notices])
        self._published = self._in_lake = self._forgot = time.monotonic()
        self._problem: str | None = None

    def tell(self, last: bool = False) -> None:
        """Tell what there is to tell, if it is time or this is the `last` time."""
        now = time.monotonic()
        try:
            if self._sink is not None and (last or now - self._published > _PUBLISH_EVERY_S):
                from sinks.notices.outcomes import publish

                self._published = now
                publish(self._ledger, self._sink, self._settings.topics.notices, self._settings.timezone)
            if last or now - self._in_lake > self._settings.notify.lake_interval_s:
                from sinks.notices.outcomes import to_lake

                self._in_lake = now
                to_lake(self._ledger, self._home, self._settings.timezone)
            if last or now - self._forgot > _FORGET_EVERY_S:
                self._forgot = now
                self._ledger.forget(_now())
        except (OperationError, OSError) as error:
            if str(error) != self._problem:
                log.warning("outcomes are kept, and told later", problem=str(error))
            self._problem = str(error)
        else:
            self._problem = None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with locked(folder / "lock", patience_s=0):
            yield
    except LockedError:
        raise OwnedError(f"another `kilowatch notify` runs on {folder.parent}: stop that one first") from None


def _now() -> datetime:
    return datetime.now(UTC)
