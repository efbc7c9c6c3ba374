"""Who is told of an event, and when."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import time, timedelta

from hypothesis import given
from hypothesis import strategies as st

from metering.notices.dispatch import acknowledged
from metering.tables.notices import SEVERITIES
from tests.metering.notices.events import COLD, HOSPITAL, NOW, STEEL, Told, contact, outage, plan, violation, world

QUIET = {"quiet": (time(13), time(15)), "quiet_passes": "critical"}
QUIET_ENDS = NOW + timedelta(hours=1)


def _said(notices: list) -> list[tuple[str, str, str]]:
    return [(n.contact, n.event_state, n.severity) for n in notices]


def test_raised_and_cleared_go_to_whom_it_concerns_and_the_end_to_those_who_were_told() -> None:
    told = Told(
        world(
            contact("all"), contact("steel", scope=STEEL), contact("cold", scope=COLD),
            contact("critical", severity="critical"), contact("outages", classes=("outage",)),
        )
    )  # fmt: skip
    assert _said(told.hear("violation", violation())) == [("all", "raised", "warning"), ("steel", "raised", "warning")]
    assert told.hear("violation", violation()) == []  # again
    assert told.hear("violation", violation("updated", 1)) == []  # no worse
    told.send_due(NOW)
    cleared = told.hear("violation", violation("cleared", 2, 11))
    assert _said(cleared) == [("all", "cleared", "warning"), ("steel", "cleared", "warning")]
    assert told.hear("violation", violation("raised", 0)) == []  # late, and old
    assert len({n.notice_id for n in told.notices.values()}) == 4


def test_a_severity_that_rises_is_told_and_reaches_those_who_wait_for_it() -> None:
    told = Told(world(contact("all"), contact("boss", severity="critical")))
    told.hear("violation", violation())
    assert told.hear("violation", violation("updated", 1, severity="info")) == []
    worse = told.hear("violation", violation("updated", 2, severity="critical"))
    assert _said(worse) == [("all", "updated", "critical"), ("boss", "raised", "critical")]
    assert told.hear("violation", violation("updated", 3, severity="critical")) == []
    told.send_due(NOW)
    assert {n.contact for n in told.hear("violation", violation("cleared", 4, 9))} == {"all", "boss"}


def test_withdrawn_goes_to_those_who_got_the_raised_one_and_to_nobody_else() -> None:
    told = Told(world(contact("all"), contact("cold", scope=COLD)))
    assert told.hear("violation", violation("withdrawn", 3, violation_id="never raised")) == []
    told.hear("violation", violation())
    told.send_due(NOW)
    assert _said(told.hear("violation", violation("withdrawn", 1))) == [("all", "withdrawn", "warning")]


def test_one_that_opens_anew_is_told_anew() -> None:
    told = Told(world(contact()))
    for revision, state in enumerate(("raised", "cleared", "updated", "cleared")):
        new = told.hear("violation", violation(state, revision))
        told.send_due(NOW)
        assert len(new) == 1, state
    assert [n.event_state for n in told.notices.values()] == ["raised", "cleared", "raised", "cleared"]


def test_what_failed_is_no_receiver() -> None:
    told = Told(world(contact()))
    (raised,) = told.hear("violation", violation())
    told.notices[raised.notice_id] = replace(raised, status="failed", seq=1)
    assert told.hear("violation", violation("cleared", 1, 5)) == []


def test_each_channel_and_each_row_of_a_contact_once() -> None:
    rows = (
        contact("duty", scope=STEEL, channels=("json://a", "json://b"), language="en"),
        contact("duty", channels=("json://a",)),
    )
    told = Told(world(*rows))
    first = told.hear("violation", violation())
    assert [(n.channel, n.language) for n in first] == [("json://a", "en"), ("json://b", "en")]
    second = told.hear("violation", violation(violation_id="other", customer_no=COLD))
    assert [(n.channel, n.language) for n in second] == [("json://a", "zh")]


def test_old_ones_are_expired_and_a_fresh_update_of_one_is_told() -> None:
    told = Told(world(contact(), contact("boss", level=1, after_min=15)))
    old = told.hear("violation", violation(minutes=-61))
    assert [(n.contact, n.status) for n in old] == [("duty", "expired")]
    assert told.hear("violation", violation("updated", 1, minutes=-60.5)) == []
    fresh = told.hear("violation", violation("updated", 2, minutes=-1))
    assert [(n.contact, n.event_state, n.status) for n in fresh] == [
        ("duty", "raised", "pending"), ("boss", "raised", "pending"),
    ]  # fmt: skip
    over = Told(world(contact()))
    over.hear("violation", violation(minutes=-600))
    assert over.hear("violation", violation("cleared", 1, minutes=-590)) == []


def test_escalation_is_due_after_its_minutes_and_ends_with_an_acknowledgement_or_the_end() -> None:
    rows = (contact(), contact("boss", level=1, after_min=15), contact("chief", level=2, after_min=60))
    told = Told(world(*rows))
    made = told.hear("violation", violation())
    assert [(n.contact, n.due_at - NOW) for n in made] == [
        ("duty", timedelta()), ("boss", timedelta(minutes=15)), ("chief", timedelta(hours=1)),
    ]  # fmt: skip
    told.send_due(NOW + timedelta(minutes=16))
    stopped = acknowledged(told.notices.values())
    assert stopped == ((made[2].notice_id, "stopped"),)
    cleared = told.hear("violation", violation("cleared", 1, 20), NOW + timedelta(minutes=20))
    assert [n.contact for n in cleared] == ["duty", "boss"]
    assert told.notices[made[2].notice_id].status == "stopped"


def test_quiet_hours_hold_what_does_not_pass() -> None:
    told = Told(world(contact(**QUIET), contact("day")))
    held, at_once = told.hear("violation", violation())
    assert (held.due_at, held.held) == (QUIET_ENDS, True)
    assert (at_once.due_at, at_once.held) == (NOW, False)
    assert told.hear("violation", violation(violation_id="bad", severity="critical"))[0].due_at == NOW


def test_what_is_over_before_quiet_hours_are_is_told_once() -> None:
    told = Told(world(contact(**QUIET)))
    (raised,) = told.hear("violation", violation())
    (cleared,) = told.hear("violation", violation("cleared", 1, 11))
    assert (cleared.due_at, told.notices[raised.notice_id].status) == (QUIET_ENDS, "superseded")
    (raised,) = told.hear("violation", violation(violation_id="false alarm"))
    assert told.hear("violation", violation("withdrawn", 1, violation_id="false alarm")) == []
    assert told.notices[raised.notice_id].status == "superseded"


def test_a_severity_that_passes_quiet_hours_takes_the_place_of_what_waits() -> None:
    told = Told(world(contact(**QUIET)))
    (held,) = told.hear("violation", violation())
    (worse,) = told.hear("violation", violation("updated", 1, severity="critical"))
    assert (worse.due_at, told.notices[held.notice_id].status) == (NOW, "superseded")


def test_a_plan_goes_to_its_customers_contacts_and_a_change_of_it_too() -> None:
    told = Told(world(contact("all"), contact("steel", scope=STEEL), contact("hospital", scope=HOSPITAL)))
    first = told.hear("plan", plan())
    assert [(n.contact, n.members, n.severity, n.event_class) for n in first] == [
        ("all", (STEEL, COLD), "critical", "orderly_usage"), ("steel", (STEEL,), "critical", "orderly_usage"),
    ]  # fmt: skip
    told.send_due(NOW)
    assert told.hear("plan", plan()) == []
    assert told.hear("plan", plan(1)) == []  # says the same
    tighter = told.hear("plan", plan(2, cap_kw={STEEL: 2000, COLD: 500}))
    assert [(n.contact, n.event_state) for n in tighter] == [("all", "updated"), ("steel", "updated")]
    told.send_due(NOW)
    moved = told.hear("plan", plan(3, customers=[COLD, HOSPITAL], cap_kw=400))
    assert [(n.contact, n.event_state) for n in moved] == [
        ("all", "updated"), ("hospital", "raised"), ("steel", "withdrawn"),
    ]  # fmt: skip
    told.send_due(NOW)
    off = told.hear("plan", plan(4, customers=[COLD, HOSPITAL], cap_kw=400, state="withdrawn"))
    assert [(n.contact, n.event_state) for n in off] == [("all", "withdrawn"), ("hospital", "withdrawn")]
    assert told.hear("plan", plan(1)) == []  # late


def test_a_plan_by_feeder_and_one_of_yesterday() -> None:
    told = Told(world(contact("steel", scope=STEEL), contact("cold", scope="feeder:35kV-02")))
    assert [n.contact for n in told.hear("plan", plan(customers=None, feeders=["10kV-01"], cap_kw=None))] == ["steel"]
    old = plan(plan_id="old", **{"from": "2026-03-01T18:00:00+08:00", "to": "2026-03-01T21:00:00+08:00"})
    assert [n.status for n in told.hear("plan", old)] == ["expired", "expired"]


def test_an_outage_and_the_return_of_power() -> None:
    told = Told(world(contact("all"), contact("hospital", scope=HOSPITAL), contact("cold", scope=COLD)))
    off = told.hear("outage", outage())
    assert [(n.contact, n.members, n.event_state) for n in off] == [
        ("all", (STEEL, HOSPITAL), "raised"), ("hospital", (HOSPITAL,), "raised"),
    ]  # fmt: skip
    told.send_due(NOW)
    back = told.hear("outage", outage(to=(NOW + timedelta(minutes=45)).isoformat()))
    assert [(n.contact, n.event_state) for n in back] == [("all", "cleared"), ("hospital", "cleared")]
    assert told.hear("outage", outage(to=(NOW + timedelta(minutes=45)).isoformat())) == []


def test_a_planned_outage_is_a_power_notice_and_an_outage() -> None:
    rows = (contact("notices", classes=("power_notice",)), contact("outages", classes=("outage",)))
    told = Told(world(*rows))
    planned = outage(kind="planned", **{"from": "2026-03-05T08:00:00+08:00", "to": "2026-03-05T17:00:00+08:00"})
    assert [(n.contact, n.event_class, n.event_state) for n in told.hear("outage", planned)] == [
        ("notices", "power_notice", "raised"), ("outages", "outage", "raised"),
    ]  # fmt: skip
    told.send_due(NOW)
    later = {**planned, "to": "2026-03-05T19:00:00+08:00"}
    assert {n.event_state for n in told.hear("outage", later)} == {"updated"}
    told.send_due(NOW)
    assert {n.event_state for n in told.hear("outage", {**later, "state": "cancelled"})} == {"withdrawn"}


def test_an_outage_that_is_over_when_it_becomes_known_is_told_as_over() -> None:
    told = Told(world(contact()))
    (over,) = told.hear("outage", outage(to=NOW.isoformat()))
    assert over.event_state == "cleared"


def test_a_plan_that_is_not_kept_is_told_once_and_so_is_that_it_is_kept_again() -> None:
    told = Told(world(contact()))
    window = {"plan_id": "P", "customer_no": STEEL, "cap_kw": 3200.0, "actual_kw": 3450.0, "compliant": False}
    quarter = timedelta(minutes=15)
    assert told.hear("control", {**window, "compliant": True, "window_end": NOW.isoformat()}) == []
    ends = [(NOW + n * quarter).isoformat() for n in range(1, 5)]
    assert [n.event_state for n in told.hear("control", {**window, "window_end": ends[0]})] == ["raised"]
    told.send_due(NOW)
    assert told.hear("control", {**window, "window_end": ends[1]}) == []
    over = told.hear("control", {**window, "window_end": ends[2], "compliant": True})
    assert [n.event_state for n in over] == ["cleared"]


def test_a_running_quarter_hour_is_no_news_yet() -> None:
    told = Told(world(contact()))
    window = {"plan_id": "P", "customer_no": STEEL, "window_end": NOW.isoformat(), "compliant": False, "state": "live"}
    assert told.hear("control", window) == []
    assert len(told.hear("control", {**window, "state": "final", "revision": 1})) == 1
    told.send_due(NOW)
    later = {**window, "window_end": (NOW + timedelta(minutes=15)).isoformat()}
    assert told.hear("control", {**later, "compliant": True}) == []
    assert told.hear("control", {**later, "state": "final", "compliant": None}) == []
    (off,) = told.hear("control", {**later, "state": "withdrawn", "revision": 1})
    assert off.event_state == "withdrawn"


def test_a_plan_may_be_withdrawn_without_saying_what_it_was() -> None:
    told = Told(world(contact(), contact("steel", scope=STEEL)))
    told.hear("plan", plan())
    told.send_due(NOW)
    off = {"plan_id": "P-2026-03-02", "revision": 1, "state": "withdrawn", "issued_at": NOW.isoformat()}
    assert [n.contact for n in told.hear("plan", off)] == ["duty", "steel"]


STEPS = st.lists(
    st.tuples(st.sampled_from(("raised", "updated", "cleared", "withdrawn")), st.sampled_from(SEVERITIES)),
    min_size=1, max_size=8,
)  # fmt: skip


@given(steps=STEPS, least=st.sampled_from(SEVERITIES), seed=st.integers(0, 2**16))
def test_whatever_comes_the_same_is_told_as_a_plain_account_says(
    steps: list[tuple[str, str]], least: str, seed: int
) -> None:
    """An account in plain words, and messages doubled and replayed: each thing told once."""
    rank = SEVERITIES.index
    expected: list[tuple[str, str]] = []
    open_, heard, worst = False, False, "info"
    for state, severity in steps:
        if state in ("raised", "updated"):
            if not open_:
                open_, heard, worst = True, rank(severity) >= rank(least), severity
                if heard:
                    expected.append(("raised", severity))
            elif rank(severity) > rank(worst):
                worst = severity
                if rank(severity) >= rank(least):
                    expected.append(("updated" if heard else "raised", severity))
                    heard = True
        elif open_:
            if heard:
                expected.append((state, worst))
            open_ = False
    told = Told(world(contact(severity=least)))
    messages = [violation(state, n, severity=severity) for n, (state, severity) in enumerate(steps)]
    chance = random.Random(seed)
    for n, message in enumerate(messages):
        told.hear("violation", message)
        told.send_due(NOW)
        for _ in range(chance.randrange(3)):
            told.hear("violation", messages[chance.randrange(n + 1)])
            told.send_due(NOW)
    assert [(n.event_state, n.severity) for n in told.notices.values()] == expected
