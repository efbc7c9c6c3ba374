"""Violations of one storm: told together, in one message to each contact, which waits a little for its members.

Here: what a storm's members come to for each contact. Not here: what makes a storm (`storm_id` of the violations).

A contact hears of those members that it would hear of alone. Members that come after its message was sent are told
together in a second one; the end once, when all have ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from metering.notices.contacts import Contact, rank
from metering.notices.dispatch import (
    STOPPED,
    SUPERSEDED,
    Known,
    Notice,
    Target,
    World,
    concerned,
    notice_id,
    targets,
)
from metering.notices.events import Event
from metering.notices.texts import Words, body, feeders_text, message_of, storm_body, storm_title, title

STORM = "storm"
_FEEDERS_NAMED = 3


@dataclass(frozen=True, slots=True)
class StormDecision:
    """Messages that are new, or pending and to be reworded; and those of before that end without being sent."""

    notices: tuple[Notice, ...] = ()
    ended: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """The members of a storm that a contact hears of."""

    contact: Contact
    event_class: str
    members: tuple[Event, ...]

    @property
    def open(self) -> tuple[Event, ...]:
        return tuple(member for member in self.members if member.is_open)


def decide_storm(
    storm: str, members: Sequence[Known], notices: Sequence[Notice], world: World, now: datetime, acknowledged: bool
) -> StormDecision:
    """What to tell of a storm, all of whose members are given, after one of them has changed.

    `notices`: all that the storm has so far.
    """
    made: list[Notice] = []
    ended: list[tuple[str, str]] = []
    for seen in _seen([known for known in members if not known.expired], world):
        contact = seen.contact
        for channel in contact.channels:
            own = [n for n in sorted(notices, key=lambda n: n.seq) if n.receiver == (contact.contact, channel)]
            own = [n for n in own if n.level == contact.level]
            episode = sum(n.event_state in ("cleared", "withdrawn") for n in own)
            since = _since_last_end(own)
            told = {member for notice in since for member in notice.members}
            new = [member for member in seen.open if member.subject not in told]
            if new and not (contact.level and acknowledged):
                made.append(_opened(storm, seen, channel, since, new, episode, world, now))
            elif since and not seen.open:
                notice, over = _closed(storm, seen, channel, since, episode, world, now)
                made += notice
                ended += over
    return StormDecision(tuple(made), tuple(ended))


def _seen(members: Sequence[Known], world: World) -> list[_Seen]:
    found: dict[tuple[str, int], tuple[Target, list[Event]]] = {}
    for known in sorted(members, key=lambda known: (known.event.started_at, known.event.subject)):
        event = replace(known.event, severity=max(known.severity, known.event.severity, key=rank))
        for target in targets(event, world):
            key = (target.contact.contact, target.contact.level)
            found.setdefault(key, (target, []))[1].append(event)
    return [_Seen(target.contact, target.event_class, tuple(events)) for target, events in found.values()]


def _since_last_end(own: Sequence[Notice]) -> list[Notice]:
    """Messages that told of the storm as open, since its last end, and count as received."""
    since: list[Notice] = []
    for notice in own:
        if notice.event_state in ("cleared", "withdrawn"):
            since = []
        elif notice.status in ("pending", "sending", "sent"):
            since.append(notice)
    return since


def _opened(
    storm: str, seen: _Seen, channel: str, since: Sequence[Notice], new: Sequence[Event], episode: int, world: World,
    now: datetime,
) -> Notice:  # fmt: skip
    waiting = next((notice for notice in reversed(since) if notice.untried), None)
    told = {member for notice in since for member in notice.members}
    ids = [*(waiting.members if waiting else ()), *(member.subject for member in new)]
    shown = [member for member in seen.members if member.subject in ids]
    if waiting is not None:
        return _worded(replace(waiting, members=tuple(ids)), seen, shown, world)
    state = "updated" if since else "raised"
    key = (f"again {episode}",) if episode else ()
    if told:
        key = (*key, min(ids))
    due = now + timedelta(seconds=world.settings.storm_wait_s)
    if not since:
        due += timedelta(minutes=seen.contact.after_min)
    return _notice(storm, seen, channel, state, shown, key, due, world, now)


def _closed(
    storm: str, seen: _Seen, channel: str, since: Sequence[Notice], episode: int, world: World, now: datetime
) -> tuple[list[Notice], list[tuple[str, str]]]:
    ended = [(n.notice_id, STOPPED) for n in since if n.untried and n.level > 0]
    ended += [(n.notice_id, SUPERSEDED) for n in since if n.untried and n.level == 0 and n.held]
    gone = {notice for notice, _ in ended}
    withdrawn = all(member.state == "withdrawn" for member in seen.members)
    heard = [n for n in since if n.notice_id not in gone]
    held = [n for n in since if n.held and n.untried and n.level == 0]
    if not heard and (withdrawn or not held):
        return [], ended
    due = now if heard else max(n.due_at for n in held)
    ids = {member for notice in since for member in notice.members}
    shown = [member for member in seen.members if member.subject in ids]
    key = (f"again {episode}",) if episode else ()
    state = "withdrawn" if withdrawn else "cleared"
    return [_notice(storm, seen, channel, state, shown, key, due, world, now)], ended


def _notice(
    storm: str, seen: _Seen, channel: str, state: str, shown: Sequence[Event], key: tuple[str, ...], due: datetime,
    world: World, now: datetime,
) -> Notice:  # fmt: skip
    contact = seen.contact
    severity = max((member.severity for member in shown), key=rank)
    at = contact.not_before(due, severity, world.zone)
    notice = Notice(
        notice_id=notice_id(storm, state, contact.contact, channel, contact.level, *key), subject=storm, kind=STORM,
        contact=contact.contact, role=contact.role, level=contact.level, channel=channel, language=contact.language,
        event_class=seen.event_class, event_state=state, severity=severity,
        members=tuple(member.subject for member in shown), customer_no="", title="", body="",
        event_at=min(member.at for member in shown), taken_at=now, due_at=at, held=at > due, storm=True,
    )  # fmt: skip
    return _worded(notice, seen, shown, world)


def _worded(notice: Notice, seen: _Seen, shown: Sequence[Event], world: World) -> Notice:
    contact = seen.contact
    if len(shown) == 1:
        own = concerned(shown[0], world.directory)
        words = Words(
            shown[0], notice.event_state, notice.event_class, own, contact, world.zone, world.settings.members_named
        )
        return replace(notice, customer_no=own[0].customer_no, title=title(words), body=body(words))
    customers = {c.customer_no: c for member in shown for c in concerned(member, world.directory)}
    feeders = sorted({c.feeder for c in customers.values() if c.feeder})
    zh = contact.language == "zh"
    count = len(customers)
    if count == 1:
        name = next(iter(customers.values())).name
        whom = f"{name}，{len(shown)} 条" if zh else f"{name}, {len(shown)} alarms"
    else:
        whom = f"{count} 户" if zh else f"{count} customers"
        if 0 < len(feeders) <= _FEEDERS_NAMED:
            whom = f"{feeders_text(feeders, contact.language)}{' ' if zh else ', '}{whom}"
    begin = min(member.started_at or member.at for member in shown)
    over = sum(not member.is_open for member in shown)
    ends = [member.ended_at or member.at for member in shown] if notice.event_state == "cleared" else []
    messages = [message_of(member, contact.language) for member in shown]
    return replace(
        notice,
        customer_no=next(iter(customers)) if count == 1 else "",
        severity=max((member.severity for member in shown), key=rank),
        title=storm_title(contact, notice.event_class, notice.event_state, whom),
        body=storm_body(
            contact,
            notice.event_state,
            messages,
            _kinds(shown, world, zh),
            over,
            (begin, max(ends) if ends else None),
            world.zone,
            world.settings.members_named,
        ),
    )


def _kinds(shown: Sequence[Event], world: World, zh: bool) -> str:
    """How many alarms there are by rule, the most first; nothing where all are of one."""
    counts = Counter(str(member.value.get("rule", "")) for member in shown)
    if len(counts) < 2:
        return ""
    named = ((world.rule_names.get(rule, (rule, rule))[0 if zh else 1], n) for rule, n in counts.most_common())
    return ("、" if zh else ", ").join(f"{name} {n}" for name, n in named)
