"""Events as topics bring them, contacts and customers, for tests of what people are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from metering.notices.contacts import Contact, Customer
from metering.notices.dispatch import Decision, Known, Notice, World, decide
from metering.notices.events import Event, read
from metering.settings import NoticeSettings

ZONE = "Asia/Shanghai"
NOW = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)  # 14:00 in Shanghai
SETTINGS = NoticeSettings(
    plan_severity={"red": "critical", "blue": "info"},
    outage_severity={"planned": "warning", "fault": "critical"},
    restored_states=("restored",),
    withdrawn_states=("cancelled",),
)
CUSTOMERS = {
    c.customer_no: c
    for c in (
        Customer(
            customer_no="370181000001", name="城东钢厂", segment="large", feeder="10kV-01", voltage_level_kv=10.0,
            manager="城东供电所",
        ),
        Customer(customer_no="370181000002", name="市立医院", segment="important", feeder="10kV-01"),
        Customer(customer_no="370181000003", name="冷库", segment="large", feeder="35kV-02", voltage_level_kv=35.0),
    )
}  # fmt: skip
STEEL, HOSPITAL, COLD = CUSTOMERS


def contact(name: str = "duty", **values: Any) -> Contact:
    """A contact that is told everything at once, but for the values."""
    return Contact(**{"contact": name, "role": "值班台", "channels": ("json://hook/a",), **values})


def world(*contacts: Contact, **settings: Any) -> World:
    """Contacts among the three customers."""
    from dataclasses import replace

    return World(contacts, CUSTOMERS, replace(SETTINGS, **settings), ZONE)


def violation(state: str = "raised", revision: int = 0, minutes: float = 0, **values: Any) -> dict[str, Any]:
    """A message of limit.violations.v1, `minutes` after NOW."""
    at = NOW + timedelta(minutes=minutes)
    ended = at.isoformat() if state == "cleared" else None
    return {
        "schema": {"name": "limit.violations", "version": 1}, "violation_id": "M-000000000017/over_voltage/a/1",
        "state": state, "revision": revision, "rule": "over_voltage", "phase": "a", "severity": "warning",
        "started_at": (NOW - timedelta(minutes=5)).isoformat(), "ended_at": ended, "at": at.isoformat(),
        "customer_no": STEEL, "event_class": "limit_warning", "storm_id": None,
        "message_zh": "城东钢厂（10 kV 东一线）AB 线电压过压：最高 129.7 V", "message_en": "over-voltage, 129.7 V",
        **values,
    }  # fmt: skip


def plan(revision: int = 0, **values: Any) -> dict[str, Any]:
    """A message of load.control.plan.v1: this evening, two customers."""
    return {
        "plan_id": "P-2026-03-02", "revision": revision, "level": "red", "from": "2026-03-02T18:00:00+08:00",
        "to": "2026-03-02T21:00:00+08:00", "customers": [STEEL, COLD], "cap_kw": {STEEL: 3200, COLD: 500},
        "state": "active", "issued_at": (NOW + timedelta(minutes=revision)).isoformat(), **values,
    }  # fmt: skip


def outage(**values: Any) -> dict[str, Any]:
    """A message of supply.outages.v1: a fault on a feeder that lasts."""
    return {
        "outage_id": "O-17", "kind": "fault", "feeder": "10kV-01", "from": NOW.isoformat(), "to": None, **values,
    }  # fmt: skip


class Told:
    """What a world has been told so far; plays the ledger's part without sending anything."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.known: dict[str, Known] = {}
        self.notices: dict[str, Notice] = {}

    def hear(self, kind: str, message: dict[str, Any], now: datetime = NOW) -> list[Notice]:
        """Decide about a message; gives the messages to people that are new."""
        from dataclasses import replace

        event = read(kind, message, self.world.settings)
        assert isinstance(event, Event)
        own = [notice for notice in self.notices.values() if notice.subject == event.subject]
        decision: Decision | None = decide(event, self.known.get(event.subject), own, self.world, now, now)
        if decision is None:
            return []
        self.known[event.subject] = decision.known
        for notice_id, status in decision.ended:
            self.notices[notice_id] = replace(self.notices[notice_id], status=status)
        new = [notice for notice in decision.notices if notice.notice_id not in self.notices]
        for notice in new:
            self.notices[notice.notice_id] = replace(notice, seq=len(self.notices) + 1)
        return new

    def send_due(self, now: datetime) -> list[Notice]:
        """Whatever is due is sent; gives it."""
        from dataclasses import replace

        due = [n for n in self.notices.values() if n.status == "pending" and n.due_at <= now]
        for notice in due:
            self.notices[notice.notice_id] = replace(notice, status="sent", attempts=1)
        return due
