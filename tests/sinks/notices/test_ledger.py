"""The ledger: what is due, in which order, once each, over ends of the process at any moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from metering.errors import OperationError
from metering.notices.dispatch import Known, Notice
from metering.notices.events import Event, Feedback, read
from metering.settings import NoticeSettings
from sinks.lake.reader import LakeReader
from sinks.notices.ledger import Ledger
from sinks.notices.outcomes import outcome_rows, to_lake
from tests.metering.notices.events import NOW, ZONE, violation
from tests.sinks.notices.test_channels import NOTICE

SETTINGS = NoticeSettings(attempts=3, retry_after_s=10, retry_at_most_s=15, storm_wait_s=30)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite", SETTINGS)


def _notice(name: str, channel: str = "json://a", seconds: float = 0, **values: object) -> Notice:
    due = NOW + timedelta(seconds=seconds)
    return replace(NOTICE, notice_id=name, channel=channel, due_at=due, **{"subject": name, "attempts": 0, **values})  # type: ignore[arg-type]


def _claimed(ledger: Ledger, now: datetime = NOW, busy: tuple[str, ...] = ()) -> str | None:
    notice = ledger.claim(now, busy)
    return notice and notice.notice_id


def test_a_message_is_claimed_once_and_comes_back_as_it_was(ledger: Ledger) -> None:
    one = _notice("n1", members=("1", "2"), held=True)
    ledger.add([one, one])
    claimed = ledger.claim(NOW)
    assert claimed is not None
    assert claimed == replace(one, status="sending", attempts=1, seq=1)
    assert ledger.claim(NOW) is None
    assert ledger.record(claimed, None, NOW) == "sent"
    assert ledger.counts() == {"sent": 1}
    assert not ledger.is_busy(NOW)


def test_one_channel_is_served_in_order_and_others_beside_it(ledger: Ledger) -> None:
    ledger.add([_notice("late", seconds=5), _notice("early"), _notice("other", "json://b", 7)])
    now = NOW + timedelta(seconds=10)
    assert _claimed(ledger, now) == "early"
    assert _claimed(ledger, now, busy=("json://a",)) == "other"
    assert _claimed(ledger, now, busy=("json://a", "json://b")) is None
    assert _claimed(ledger, NOW + timedelta(seconds=1)) is None


def test_an_end_waits_for_its_beginning_over_retries(ledger: Ledger) -> None:
    ledger.add([_notice("raised", subject="v"), _notice("cleared", subject="v", event_state="cleared")])
    raised = ledger.claim(NOW)
    assert raised is not None
    assert _claimed(ledger) is None  # it is under way
    assert ledger.record(raised, "503", NOW) == "pending"
    assert _claimed(ledger, NOW + timedelta(seconds=9)) is None
    again = ledger.claim(NOW + timedelta(seconds=10))
    assert again is not None
    assert (again.notice_id, again.attempts) == ("raised", 2)
    ledger.record(again, None, NOW)
    assert _claimed(ledger) == "cleared"


def test_waits_double_up_to_a_bound_and_then_it_is_given_up_with_its_end(ledger: Ledger) -> None:
    ledger.add([_notice("raised", subject="v"), _notice("cleared", subject="v", event_state="cleared")])
    now = NOW
    for wait, status in ((10, "pending"), (15, "pending"), (0, "failed")):
        notice = ledger.claim(now)
        assert notice is not None
        assert ledger.record(notice, "refused", now) == status
        assert _claimed(ledger, now + timedelta(seconds=wait - 0.1)) is None
        now += timedelta(seconds=wait)
    assert ledger.counts() == {"failed": 1, "superseded": 1}
    rows = outcome_rows(ledger.unpublished(), ZONE)
    assert rows.select("state", "attempts", "detail").rows() == [
        ("failed", 3, "refused"), ("superseded", 0, "what it ends did not arrive"),
    ]  # fmt: skip


def test_what_was_under_way_at_the_end_of_the_process_is_sent_again_with_its_id(ledger: Ledger, tmp_path: Path) -> None:
    ledger.add([_notice("n1")])
    assert _claimed(ledger) == "n1"
    ledger.close()
    after = Ledger(tmp_path / "ledger.sqlite", SETTINGS)
    assert after.recover(NOW) == 1
    again = after.claim(NOW)
    assert again is not None
    assert (again.notice_id, again.attempts) == ("n1", 2)


def test_a_transaction_is_all_or_nothing(ledger: Ledger) -> None:
    def interrupted() -> None:
        with ledger.transaction():
            ledger.add([_notice("n1")])
            ledger.keep_position("topic", "0", {"offset": 7})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert ledger.counts() == {}
    assert ledger.positions("topic") == {}


def test_only_a_storm_that_nobody_has_had_is_reworded(ledger: Ledger) -> None:
    ledger.add([_notice("storm", storm=True), _notice("alone")])
    ledger.add([_notice("storm", storm=True, body="more"), _notice("alone", body="more")])
    bodies = {n.notice_id: n.body for n in ledger.pending()}
    assert bodies == {"storm": "more", "alone": NOTICE.body}
    assert {_claimed(ledger), _claimed(ledger)} == {"storm", "alone"}
    ledger.add([_notice("storm", storm=True, body="most")])
    assert ledger.notices("storm")[0].body == "more"


def test_without_more_members_a_storm_does_not_wait_but_a_retry_does(ledger: Ledger) -> None:
    ledger.add([_notice("storm", seconds=30, storm=True), _notice("other", seconds=30)])
    assert ledger.is_busy(NOW, no_more_members=True)
    storm = ledger.claim(NOW, no_more_members=True)
    assert storm is not None
    assert storm.notice_id == "storm"
    ledger.record(storm, "503", NOW)
    assert not ledger.is_busy(NOW, no_more_members=True)


def test_subjects_feedback_and_members(ledger: Ledger) -> None:
    event = read("violation", violation(storm_id="S", violation_id="v"), SETTINGS)
    assert isinstance(event, Event)
    ledger.acknowledge(Feedback("v", "acknowledged", NOW))
    ledger.acknowledge(Feedback("v", "closed", NOW))
    ledger.remember(Known(event=event, severity="warning", episode=2))
    assert ledger.known("v") == Known(event=event, severity="warning", episode=2)
    assert [known.event.subject for known in ledger.members("S")] == ["v"]
    assert ledger.is_acknowledged("other", "v")
    assert not ledger.is_acknowledged("other")
    ledger.acknowledge(Feedback("v", "handled", NOW))
    known = ledger.known("v")
    assert known is not None
    assert known.acknowledged


def test_the_first_start_stays(ledger: Ledger) -> None:
    assert ledger.first_start(NOW) == NOW == ledger.first_start(NOW + timedelta(days=1))


def test_a_copy_changes_nothing(ledger: Ledger) -> None:
    ledger.add([_notice("n1")])
    other = ledger.copy()
    assert _claimed(other) == "n1"
    assert ledger.counts() == {"pending": 1}


def test_a_ledger_of_a_newer_kilowatch_is_left_alone(tmp_path: Path, ledger: Ledger) -> None:
    import sqlite3

    ledger.close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as file:
        file.execute("UPDATE meta SET value = '99' WHERE name = 'version'")
    file.close()
    with pytest.raises(OperationError, match="newer Kilowatch"):
        Ledger(tmp_path / "ledger.sqlite", SETTINGS)
    (tmp_path / "other.sqlite").write_bytes(b"no database at all, but longer than a header is, for sure")
    with pytest.raises(OperationError, match="cannot be used"):
        Ledger(tmp_path / "other.sqlite", SETTINGS)


def _sent(ledger: Ledger, *names: str) -> None:
    ledger.add([_notice(name) for name in names])
    while (notice := ledger.claim(NOW)) is not None:
        ledger.record(notice, None, NOW)


def test_outcomes_are_in_the_lake_once_wherever_the_process_ends(ledger: Ledger, tmp_path: Path) -> None:
    _sent(ledger, "n1", "n2")
    assert to_lake(ledger, tmp_path, ZONE) == 2
    _sent(ledger, "n3")
    batch = ledger.lake_batch()  # a number is given, and the process ends
    assert batch is not None
    _sent(ledger, "n4")
    assert to_lake(ledger, tmp_path, ZONE) == 2
    assert to_lake(ledger, tmp_path, ZONE) == 0
    rows = LakeReader(tmp_path).scan("notices").collect()
    assert sorted(rows["notice_id"]) == ["n1", "n2", "n3", "n4"]
    assert rows["date"].to_list() == [NOW.date()] * 4


def test_outcomes_that_were_merged_before_they_were_ticked_off_do_not_come_twice(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sent(ledger, "n1", "n2")
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "in_lake", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            to_lake(ledger, tmp_path, ZONE)
    (part,) = tmp_path.glob("lake/notices/*/*.parquet")
    part.rename(part.with_name("merged-1.parquet"))
    assert to_lake(ledger, tmp_path, ZONE) == 2
    assert LakeReader(tmp_path).scan("notices").select(pl.len()).collect().item() == 2


def _happens(ledger: Ledger, name: str, state: str, days: float, storm: str = "", status: str = "sent") -> None:
    at = NOW - timedelta(days=days)
    told = violation(state, violation_id=name, storm_id=storm or None, at=at.isoformat(), started_at=at.isoformat())
    event = read("violation", told, SETTINGS)
    assert isinstance(event, Event)
    ledger.remember(Known(event=event, severity="warning"))
    subject = storm or name
    ledger.add([_notice(f"{name}/{status}", subject=subject, status=status, taken_at=at)])


def _in_lake(ledger: Ledger) -> None:
    while (batch := ledger.lake_batch()) is not None:
        ledger.in_lake(batch[0])


def test_what_has_long_been_over_is_forgotten_and_nothing_else_is(ledger: Ledger) -> None:
    ledger.first_start(NOW - timedelta(days=500))
    for name, state, days, storm, status in (
        ("old", "cleared", 91, "", "sent"), ("open", "updated", 91, "", "sent"), ("new", "cleared", 89, "", "sent"),
        ("due", "cleared", 91, "", "pending"), ("s1", "cleared", 99, "S", "sent"), ("s2", "cleared", 95, "S", "failed"),
        ("t1", "cleared", 99, "T", "sent"), ("t2", "raised", 99, "T", "sent"),
    ):  # fmt: skip
        _happens(ledger, name, state, days, storm, status)
    ledger.acknowledge(Feedback("old", "acknowledged", NOW - timedelta(days=91)))
    ledger.acknowledge(Feedback("never heard of", "handled", NOW - timedelta(days=400)))
    assert ledger.forget(NOW) == 0, "nothing is in the lake"
    _in_lake(ledger)
    assert ledger.forget(NOW) == 4  # old, and the storm S with its members
    names = ("old", "open", "new", "due", "s1", "s2", "t1", "t2")
    assert [name for name in names if ledger.known(name)] == ["open", "new", "due", "t1", "t2"]
    assert ledger.notices("S") == ledger.notices("old") == []
    assert len(ledger.notices("T")) == 2
    assert not ledger.is_acknowledged("old", "never heard of")
    assert ledger.first_start(NOW) == NOW - timedelta(days=90) + timedelta(minutes=SETTINGS.expire_after_min)
    assert ledger.forget(NOW) == 0
