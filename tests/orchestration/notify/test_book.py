"""From messages to what is due, and handing it over: in this process, with a channel that is a list."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from itertools import pairwise
from threading import Event, Lock
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import OperationError
from metering.notices.dispatch import Notice, World
from orchestration.notify.book import Book
from orchestration.notify.sender import Sender
from pipelines.sources.notice_topics import Told
from sinks.notices.ledger import Ledger
from tests.metering.notices.events import COLD, NOW, SETTINGS, STEEL, contact, plan, violation, world

V = "M-000000000017/over_voltage/a/1"


class Desk:
    """A ledger in memory, and the book that fills it."""

    def __init__(self, world: World, first_start: datetime = NOW) -> None:
        self.world, self.ledger = world, Ledger(None, world.settings)
        self.book = Book(self.ledger, first_start)
        self._offset = 0

    def told(self, kind: str, message: dict[str, Any] | bytes | None, published: datetime = NOW) -> Told:
        self._offset += 1
        value = json.dumps(message).encode() if isinstance(message, dict) else message
        return Told(kind, value, published, kind, "0", {"offset": self._offset})

    def hear(self, kind: str, message: dict[str, Any] | bytes | None, published: datetime = NOW) -> None:
        self.book.take([self.told(kind, message, published)], self.world, NOW)

    def statuses(self) -> list[tuple[str, str, str]]:
        with self.ledger._lock:
            rows = self.ledger._db.execute("SELECT contact, event_state, status FROM notices ORDER BY seq")
            return [tuple(row) for row in rows]


def _feedback(subject: str = V, action: str = "acknowledged") -> dict[str, Any]:
    return {"violation_id": subject, "action": action, "at": NOW.isoformat(), "by": "值班台"}


ROWS = (contact(), contact("boss", level=1, after_min=15))


def test_feedback_stops_escalation_before_and_after_its_alarm_twice_and_for_unknown_ones() -> None:
    after = Desk(world(*ROWS))
    after.hear("violation", violation())
    after.hear("feedback", _feedback("unknown"))
    assert after.statuses() == [("duty", "raised", "pending"), ("boss", "raised", "pending")]
    after.hear("feedback", _feedback())
    after.hear("feedback", _feedback(action="closed"))
    assert after.statuses() == [("duty", "raised", "pending"), ("boss", "raised", "stopped")]
    before = Desk(world(*ROWS))
    before.hear("feedback", _feedback())
    before.hear("violation", violation())
    assert before.statuses() == [("duty", "raised", "pending")]


def test_feedback_on_one_member_stops_the_escalation_of_its_storm() -> None:
    desk = Desk(world(*ROWS))
    desk.hear("violation", violation(storm_id="S"))
    desk.hear("violation", violation(storm_id="S", violation_id="other", customer_no=COLD))
    assert len(desk.statuses()) == 2
    desk.hear("feedback", _feedback("other"))
    assert desk.statuses()[1] == ("boss", "raised", "stopped")


def test_a_violation_stays_alone_or_in_its_storm_as_it_was_first_told() -> None:
    desk = Desk(world(contact()))
    desk.hear("violation", violation())
    desk.hear("violation", violation("cleared", 1, 5, storm_id="S"))
    assert desk.statuses() == [("duty", "raised", "pending"), ("duty", "cleared", "pending")]
    desk.hear("violation", violation(violation_id="m", storm_id="S"))
    desk.hear("violation", violation("cleared", 1, 5, violation_id="m", storm_id=None))
    assert [n.subject for n in desk.ledger.pending() if n.storm] == ["S", "S"]


def test_age_counts_from_when_it_was_published_or_the_first_start() -> None:
    day = timedelta(days=1)
    desk = Desk(world(contact()), first_start=NOW - day)
    # published while notify was down: told however long that was
    desk.hear("violation", violation(violation_id="down", minutes=-600), NOW - timedelta(minutes=599))
    # a meter's backlog, published ten hours after it happened
    desk.hear("violation", violation(violation_id="backlog", minutes=-600), NOW)
    # before the first start
    desk.hear("violation", violation(violation_id="past", minutes=-1600), NOW - timedelta(minutes=1599))
    assert [status for _, _, status in desk.statuses()] == ["pending", "expired", "expired"]


def test_what_says_nothing_is_left_out_and_the_position_goes_on() -> None:
    desk = Desk(world(contact()))
    for value in (b"junk", None, b"{}"):
        desk.hear("violation", value)
    assert desk.statuses() == []
    assert desk.ledger.positions("violation") == {"0": {"offset": 3}}


def test_a_batch_that_breaks_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(world(contact()))
    batch = [desk.told("violation", violation()), desk.told("violation", violation(violation_id="next"))]
    monkeypatch.setattr(desk.ledger, "known", lambda subject: 1 / 0 if subject == "next" else None)
    with pytest.raises(ZeroDivisionError):
        desk.book.take(batch, desk.world, NOW)
    assert desk.statuses() == []
    assert desk.ledger.positions("violation") == {}


MESSAGES = [
    ("violation", violation()), ("violation", violation("updated", 1, severity="critical")), ("plan", plan()),
    ("violation", violation(violation_id="s1", storm_id="S")), ("violation", violation("cleared", 2, 5)),
    ("violation", violation(violation_id="s2", storm_id="S", customer_no=COLD)), ("plan", plan(1, cap_kw=100)),
    ("violation", violation("cleared", 1, 6, violation_id="s1", storm_id="S")), ("feedback", _feedback("s2")),
    ("plan", plan(2, state="withdrawn")),
]  # fmt: skip


@given(cuts=st.sets(st.integers(1, len(MESSAGES) - 1)), again=st.lists(st.integers(0, len(MESSAGES) - 1), max_size=4))
def test_the_same_is_told_however_the_log_is_cut_and_whatever_comes_again(cuts: set[int], again: list[int]) -> None:
    def messages(desk: Desk) -> list[tuple[Any, ...]]:
        with desk.ledger._lock:
            return [tuple(row) for row in desk.ledger._db.execute("SELECT notice_id, title, body, status FROM notices")]

    rows = (*ROWS, contact("steel", scope=STEEL))
    whole, cut = Desk(world(*rows)), Desk(world(*rows))
    whole.book.take([whole.told(*message) for message in MESSAGES], whole.world, NOW)
    edges = [0, *sorted(cuts), len(MESSAGES)]
    for begin, end in pairwise(edges):
        cut.book.take([cut.told(*message) for message in MESSAGES[begin:end]], cut.world, NOW)
        repeated = [cut.told(*MESSAGES[number]) for number in again if number < end]
        cut.book.take(repeated, cut.world, NOW)
    assert messages(cut) == messages(whole)


def _wait(what: Any) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _filled(desk: Desk, count: int, *channels: str) -> None:
    for number in range(count):
        desk.hear("violation", violation(violation_id=f"v{number}"))
    assert len(desk.ledger.pending()) == count * len(channels)


def test_each_is_handed_over_once_one_at_a_time_through_each_channel() -> None:
    channels = ("json://a", "json://b", "json://c")
    desk = Desk(world(contact(channels=channels)))
    _filled(desk, 12, *channels)
    under_way: set[str] = set()
    got: list[str] = []
    lock = Lock()

    def hand_over(notice: Notice) -> str | None:
        with lock:
            assert notice.channel not in under_way
            under_way.add(notice.channel)
        time.sleep(0.002)
        with lock:
            under_way.discard(notice.channel)
            got.append(notice.notice_id)
        return None

    sender = Sender(desk.ledger, hand_over, 4)
    _wait(lambda: desk.ledger.counts() == {"sent": 36})
    sender.stop()
    assert len(got) == len(set(got)) == 36
    assert sender.failure is None


def test_a_plugin_that_raises_is_a_message_that_was_not_taken_and_one_slow_channel_delays_no_other() -> None:
    desk = Desk(world(contact(channels=("json://slow", "json://broken", "json://good"))))
    _filled(desk, 3, *("json://",) * 3)
    go_on = Event()

    def hand_over(notice: Notice) -> str | None:
        if notice.channel == "json://broken":
            raise RuntimeError("boom")
        if notice.channel == "json://slow":
            go_on.wait(20)
        return None

    sender = Sender(desk.ledger, hand_over, 2)
    _wait(lambda: desk.ledger.counts().get("sent") == 3)
    assert desk.ledger.counts() == {"pending": 5, "sending": 1, "sent": 3}
    go_on.set()
    sender.stop()
    assert desk.ledger.counts()["sent"] == 4  # what was under way was written down, and nothing more begun
    with desk.ledger._lock:
        details = desk.ledger._db.execute("SELECT DISTINCT detail FROM notices WHERE detail IS NOT NULL").fetchall()
    assert [tuple(row) for row in details] == [("RuntimeError: boom",)]


def test_a_ledger_that_cannot_be_written_ends_the_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(world(contact()))
    _filled(desk, 1, "json://hook/a")

    def full(*_: Any) -> str:
        raise OperationError("the ledger of notices cannot be written: disk full")

    monkeypatch.setattr(desk.ledger, "record", full)
    sender = Sender(desk.ledger, lambda _: None, 1)
    _wait(lambda: sender.failure is not None)
    sender.stop()
    assert "disk full" in str(sender.failure)


def test_settings_wait_twice_as_long_each_time_up_to_a_bound() -> None:
    assert [SETTINGS.retry_s(n) for n in (1, 2, 3, 6, 1000)] == [30, 60, 120, 900, 900]
