"""Violations of one storm are told together."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from metering.notices.dispatch import Known, Notice, World, decide
from metering.notices.events import Event, read
from metering.notices.storms import decide_storm
from tests.metering.notices.events import COLD, CUSTOMERS, HOSPITAL, NOW, STEEL, contact, violation, world

WAIT = timedelta(seconds=30)


class Storm:
    """A storm's members and messages so far."""

    def __init__(self, world: World) -> None:
        self.world, self.acknowledged = world, False
        self.known: dict[str, Known] = {}
        self.notices: dict[str, Notice] = {}

    def hear(self, name: str, state: str = "raised", revision: int = 0, now: datetime = NOW, **values: Any) -> None:
        message = violation(
            state, revision, violation_id=name, storm_id="S", message_zh=f"{name}失压。建议：查熔断器。", **values
        )
        event = read("violation", message, self.world.settings)
        assert isinstance(event, Event)
        decision = decide(event, self.known.get(name), (), self.world, now, now)
        assert decision is not None
        self.known[name] = decision.known
        found = decide_storm(
            "S", list(self.known.values()), list(self.notices.values()), self.world, now, self.acknowledged
        )
        for notice_id, status in found.ended:
            self.notices[notice_id] = replace(self.notices[notice_id], status=status)
        for notice in found.notices:
            seq = self.notices[notice.notice_id].seq if notice.notice_id in self.notices else len(self.notices) + 1
            self.notices[notice.notice_id] = replace(notice, seq=seq)

    def sent(self, now: datetime) -> list[Notice]:
        due = [n for n in self.notices.values() if n.status == "pending" and n.due_at <= now]
        for notice in due:
            self.notices[notice.notice_id] = replace(notice, status="sent", attempts=1)
        return due


def test_members_of_several_kinds_are_counted_by_kind() -> None:
    names = {"voltage_loss": ("失压", "loss of voltage"), "reading_missing": ("读数缺失", "reading missing")}
    told = replace(world(contact("zh"), contact("en", language="en")), rule_names=names)
    storm = Storm(told)
    for number, rule in enumerate(("voltage_loss", "reading_missing", "reading_missing", "own_rule")):
        storm.hear(f"v{number}", customer_no=STEEL, rule=rule)
    zh, en = (notice.body.splitlines()[0] for notice in storm.sent(NOW + WAIT))
    assert zh == "3月2日 13:55 起 4 条告警（读数缺失 2、失压 1、own_rule 1）："
    assert en.endswith("4 alarms since 2 Mar 13:55 (reading missing 2, loss of voltage 1, own_rule 1):"), en


def test_members_are_told_in_one_message_after_the_wait_and_their_end_in_one() -> None:
    storm = Storm(world(contact("all"), contact("cold", scope=COLD), contact("boss", severity="critical")))
    for number, name in enumerate((STEEL, HOSPITAL, COLD)):
        storm.hear(f"v{number}", customer_no=name, now=NOW + timedelta(seconds=number))
    assert storm.sent(NOW + WAIT - timedelta(seconds=1)) == []
    whole, alone = storm.sent(NOW + WAIT + timedelta(seconds=3))
    assert (whole.contact, whole.members, whole.title) == (
        "all", ("v0", "v1", "v2"), "【越限告警】10kV-01、35kV-02 线路 3 户",
    )  # fmt: skip
    assert whole.body == "3月2日 13:55 起 3 条告警：\n1. v0失压。\n2. v1失压。\n3. v2失压。"
    assert (alone.contact, alone.title, alone.body) == (
        "cold",
        "【越限告警】冷库（35kV-02）",
        "v2失压。建议：查熔断器。",
    )

    storm.hear("v0", "cleared", 1, customer_no=STEEL, minutes=4)
    storm.hear("v1", "withdrawn", 1, customer_no=HOSPITAL, minutes=4)
    assert storm.sent(NOW + timedelta(minutes=5)) == []
    storm.hear("v2", "cleared", 1, customer_no=COLD, minutes=6, now=NOW + timedelta(minutes=6))
    over = storm.sent(NOW + timedelta(minutes=6))
    assert [(n.contact, n.event_state, n.members) for n in over] == [
        ("all", "cleared", ("v0", "v1", "v2")), ("cold", "cleared", ("v2",)),
    ]  # fmt: skip
    assert over[0].body.splitlines()[0] == "3月2日 13:55–14:06，3 条告警均已解除。"


def test_late_members_are_told_together_and_those_of_before_not_again() -> None:
    storm = Storm(world(contact()))
    storm.hear("v0")
    storm.sent(NOW + WAIT)
    later = NOW + timedelta(minutes=2)
    storm.hear("v1", customer_no=COLD, now=later)
    storm.hear("v2", customer_no=HOSPITAL, now=later + timedelta(seconds=9))
    storm.hear("v0", "updated", 1)
    (more,) = storm.sent(later + WAIT)
    assert (more.event_state, more.members) == ("updated", ("v1", "v2"))


def test_a_storm_that_breaks_out_again_is_told_again() -> None:
    storm = Storm(world(contact()))
    for revision, state in enumerate(("raised", "cleared", "raised", "cleared")):
        storm.hear("v0", state, revision)
        assert [n.event_state for n in storm.sent(NOW + WAIT)] == [state]
    assert len(storm.notices) == 4


def test_withdrawn_as_a_whole_reads_so() -> None:
    storm = Storm(world(contact()))
    storm.hear("v0", customer_no=STEEL)
    storm.hear("v1", customer_no=COLD)
    storm.sent(NOW + WAIT)
    storm.hear("v0", "withdrawn", 1, customer_no=STEEL)
    storm.hear("v1", "withdrawn", 1, customer_no=COLD)
    (off,) = storm.sent(NOW + WAIT)
    assert off.event_state == "withdrawn"
    assert off.body.splitlines()[0] == "3月2日 13:55 起的 2 条告警均已撤销。"


def test_escalation_of_a_storm_waits_its_minutes_and_ends_with_the_storm_or_an_acknowledgement() -> None:
    storm = Storm(world(contact(), contact("boss", level=1, after_min=15)))
    storm.hear("v0")
    (boss,) = [n for n in storm.notices.values() if n.contact == "boss"]
    assert boss.due_at == NOW + WAIT + timedelta(minutes=15)
    storm.sent(NOW + WAIT)
    storm.hear("v0", "cleared", 1)
    assert storm.notices[boss.notice_id].status == "stopped"
    assert [n.contact for n in storm.sent(NOW + WAIT)] == ["duty"]
    storm.acknowledged = True
    storm.hear("v1", customer_no=COLD)
    assert [n.contact for n in storm.notices.values() if n.members == ("v1",)] == ["duty"]


def test_old_members_are_not_told() -> None:
    storm = Storm(world(contact()))
    storm.hear("v0", minutes=-300)
    storm.hear("v1", customer_no=COLD)
    (only,) = storm.sent(NOW + WAIT)
    assert only.members == ("v1",)


def test_no_more_are_named_than_the_settings_say() -> None:
    storm = Storm(world(contact(), members_named=2))
    for number, name in enumerate(CUSTOMERS):
        storm.hear(f"v{number}", customer_no=name)
    (one,) = storm.sent(NOW + WAIT)
    assert one.body.splitlines()[-1] == "……另有 1 条。"
