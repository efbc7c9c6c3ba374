"""Who is told of an event, and when: once each, also those whom it escalates to, and nobody twice.

Here: what an event adds to, and takes from, the messages that are due. Not here: what contacts say (`contacts`), the
words (`texts`), several violations in one message (`storms`), sending.

An event that opens is told to the contacts it concerns. From then on its subject has receivers: a change that matters
goes to them and to whom it concerns now, its end to them alone. What waits for the end of quiet hours and is over by
then is told as over, or not at all. Nothing here knows a clock; the same events in the same order make the same ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from metering.notices.contacts import Contact, Customer, Directory, rank
from metering.notices.events import OUTAGE, VIOLATION, Event
from metering.notices.texts import Words, body, title
from metering.settings.notices import NoticeSettings

PENDING, SENDING, SENT, FAILED = "pending", "sending", "sent", "failed"
EXPIRED, SUPERSEDED, STOPPED = "expired", "superseded", "stopped"
FINAL = (SENT, FAILED, EXPIRED, SUPERSEDED)
"""Outcomes that are told; an escalation that was not needed is `stopped`, and is not."""
_RECEIVED = (PENDING, SENDING, SENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One message to one contact through one channel. `held`: it waits for the end of quiet hours.

    `seq` is its place among all of the ledger's, 0 for one that is not there yet. `untried`: nobody has had it yet.
    """

    notice_id: str
    subject: str
    kind: str
    contact: str
    role: str
    level: int
    channel: str
    language: str
    event_class: str
    event_state: str
    severity: str
    members: tuple[str, ...]
    customer_no: str
    title: str
    body: str
    event_at: datetime
    taken_at: datetime
    due_at: datetime
    held: bool = False
    storm: bool = False
    status: str = PENDING
    attempts: int = 0
    seq: int = 0

    @property
    def receiver(self) -> tuple[str, str]:
        return self.contact, self.channel

    @property
    def untried(self) -> bool:
        return self.status == PENDING and self.attempts == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is remembered of a subject: its last message, how bad it was told to be, and how often it has opened anew.

    `expired`: it was too old to be told. `acknowledged`: somebody has taken it up, and nothing escalates any more.
    """

    event: Event
    severity: str
    episode: int = 0
    expired: bool = False
    acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """What deciding needs besides the event: contacts, customers, figures, the time zone; and what rules are called, by
    id, in Chinese and in English.
    """

    contacts: tuple[Contact, ...]
    directory: Directory
    settings: NoticeSettings
    zone: str
    rule_names: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of it: what to remember, messages that are new, and those of before that end without being sent."""

    known: Known
    notices: tuple[Notice, ...] = ()
    ended: tuple[tuple[str, str], ...] = ()
    """(notice_id, SUPERSEDED or STOPPED)"""


@dataclass(frozen=True, slots=True)
class Target:
    """A contact that an event concerns, under which class, and its customers there."""

    contact: Contact
    event_class: str
    customers: tuple[Customer, ...]


def is_news(event: Event, known: Known | None) -> bool:
    """Whether a message says something that is not known: not, where it came before or again."""
    if event.says_nothing_yet:
        return False
    if known is None:
        return True
    if event.order and event.order <= known.event.order:
        return event.order == known.event.order and event.kind != VIOLATION and event.content != known.event.content
    return event.content != known.event.content or event.kind == VIOLATION


def decide(
    event: Event, known: Known | None, notices: Sequence[Notice], world: World, now: datetime, reference: datetime
) -> Decision | None:
    """What to do about an event; None where it is no news.

    `notices`: all that the subject has so far. `now`: the time; `reference`: the time by which the event's age counts.
    """
    if not is_news(event, known):
        return None
    was_open = known is not None and known.event.is_open
    old = reference - event.fresh_at > timedelta(minutes=world.settings.expire_after_min)
    if event.is_open:
        return (
            _opened(event, known, world, now, old)
            if not was_open
            else _changed(event, _certain(known), notices, world, now, old)
        )
    if was_open:
        return _closed(event, _certain(known), notices, world, now)
    after = replace(_fresh(event, known), event=event)
    if event.kind == OUTAGE and event.state == "cleared" and known is None and not old:
        return Decision(after, tuple(_to_all(event, after, world, now)))  # over before anybody knew of it
    return Decision(after)


def acknowledged(notices: Iterable[Notice]) -> tuple[tuple[str, str], ...]:
    """What ends when somebody has taken the subject up: escalations that are not under way."""
    return tuple((n.notice_id, STOPPED) for n in notices if n.level > 0 and n.untried)


def targets(event: Event, world: World) -> list[Target]:
    """The contacts that an event concerns, in order of the file; of a contact's rows that fit, the first of a level."""
    found: dict[tuple[str, int], Target] = {}
    customers = concerned(event, world.directory)
    for contact in world.contacts:
        event_class = contact.wants(event.classes, event.severity)
        if event_class is None or (contact.contact, contact.level) in found:
            continue
        own = tuple(customer for customer in customers if contact.concerns(customer))
        if own or any(contact.concerns_feeder(feeder) for feeder in event.feeders) or contact.scope == "*":
            found[contact.contact, contact.level] = Target(contact, event_class, own)
    return list(found.values())


def concerned(event: Event, known: Directory) -> tuple[Customer, ...]:
    """The customers that an event is about: those it names, and those of the feeders it names."""
    named = [known.get(number) or _stranger(number, event) for number in event.customers]
    if event.kind == VIOLATION:
        return tuple(named)
    numbers = set(event.customers)
    feeders = set(event.feeders)
    return (*named, *(c for c in known.values() if c.feeder in feeders and c.customer_no not in numbers))


def make(
    event: Event, target: Target, channel: str, state: str, world: World, now: datetime, *,
    key: Iterable[str] = (), due: datetime | None = None, severity: str | None = None,
) -> Notice:  # fmt: skip
    """The message of an event to a contact. `key`: what its id follows from besides subject, state and receiver."""
    contact = target.contact
    severity = severity or event.severity
    wanted = due or now
    at = contact.not_before(wanted, severity, world.zone)
    words = Words(event, state, target.event_class, target.customers, contact, world.zone, world.settings.members_named)
    return Notice(
        notice_id=notice_id(event.subject, state, contact.contact, channel, contact.level, *key),
        subject=event.subject, kind=event.kind, contact=contact.contact, role=contact.role, level=contact.level,
        channel=channel, language=contact.language, event_class=target.event_class, event_state=state,
        severity=severity, members=tuple(c.customer_no for c in target.customers),
        customer_no=target.customers[0].customer_no if len(target.customers) == 1 else "", title=title(words),
        body=body(words), event_at=event.at, taken_at=now, due_at=at, held=at > wanted,
    )  # fmt: skip


def notice_id(subject: str, state: str, contact: str, channel: str, level: int, *key: str) -> str:
    """The id of a message: a function of what is told, and to whom."""
    parts = (subject, state, contact, channel, str(level), *key)
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def _opened(event: Event, known: Known | None, world: World, now: datetime, old: bool) -> Decision:
    after = _fresh(event, known, expired=old)
    made = _to_all(event, after, world, now)
    return Decision(after, tuple(_expired(made) if old else made))


def _changed(event: Event, known: Known, notices: Sequence[Notice], world: World, now: datetime, old: bool) -> Decision:
    after = replace(known, event=event)
    if known.expired:
        return (
            Decision(after)
            if old
            else Decision(
                replace(after, severity=event.severity, expired=False),
                tuple(_to_all(event, after, world, now, key=("late",))),
            )
        )
    if event.kind == VIOLATION and rank(event.severity) <= rank(known.severity):
        return Decision(after)
    after = replace(after, severity=max(event.severity, known.severity, key=rank))
    key = (event.severity,) if event.kind == VIOLATION else (event.content,)
    told = {n.receiver: n for n in _received(notices)}
    made = _to_all(event, after, world, now, "updated", key, told)
    renewed = {notice.receiver for notice in made}
    waiting = [n for n in told.values() if n.untried and (n.held or n.level > 0)]
    ended = [(n.notice_id, SUPERSEDED if n.held else STOPPED) for n in waiting if n.receiver in renewed]
    if event.kind != VIOLATION:  # whom it does not concern any more has to hear of it
        for before in told.values():
            if before.receiver not in renewed and before.level == 0:
                made.append(make(event, _same(before, event, world), before.channel, "withdrawn", world, now, key=key))
    return Decision(after, tuple(made), tuple(ended))


def _closed(event: Event, known: Known, notices: Sequence[Notice], world: World, now: datetime) -> Decision:
    after = replace(known, event=event)
    made: list[Notice] = []
    ended: list[tuple[str, str]] = list(acknowledged(notices))
    stopped = {notice_id for notice_id, _ in ended}
    for before in _received(notices):
        if before.notice_id in stopped:
            continue
        due = now
        if before.held and before.untried:
            ended.append((before.notice_id, SUPERSEDED))
            if event.state == "withdrawn" and event.kind == VIOLATION:
                continue  # nobody has heard of it, and there is nothing to hear
            due = before.due_at
        target = _same(before, event, world)
        notice = make(
            event, target, before.channel, event.state, world, now, key=_episode(after), due=due,
            severity=before.severity,
        )  # fmt: skip
        made.append(notice)
    return Decision(after, tuple(made), tuple(ended))


def _to_all(
    event: Event, after: Known, world: World, now: datetime, state: str = "", key: tuple[str, ...] = (),
    told: Mapping[tuple[str, str], Notice] | None = None,
) -> list[Notice]:  # fmt: skip
    """Messages to all whom the event concerns; to levels above 0 once their minutes are over.

    `told`: the last messages of those who are receivers already; to others it is new.
    """
    made: dict[tuple[str, str], Notice] = {}
    opens = "raised" if event.is_open else event.state
    for target in sorted(targets(event, world), key=lambda target: target.contact.level):
        contact = target.contact
        if contact.level and (after.acknowledged or not event.is_open):
            continue
        for channel in contact.channels:
            before = (told or {}).get((contact.contact, channel))
            due = now + timedelta(minutes=contact.after_min)
            if before is not None:
                due = before.due_at if before.untried and before.level else now
            says = state if before is not None and state else opens
            notice = make(event, target, channel, says, world, now, key=(*_episode(after), *key), due=due)
            made.setdefault(notice.receiver, notice)
    return list(made.values())


def _expired(made: Iterable[Notice]) -> list[Notice]:
    return [replace(notice, status=EXPIRED) for notice in made if notice.level == 0]


def _fresh(event: Event, known: Known | None, expired: bool = False) -> Known:
    """What is remembered of a subject that opens."""
    if known is None:
        return Known(event=event, severity=event.severity, expired=expired)
    again = known.episode + 1 if event.is_open else known.episode
    return replace(known, event=event, severity=event.severity, episode=again, expired=expired)


def _episode(known: Known) -> tuple[str, ...]:
    return (f"again {known.episode}",) if known.episode else ()


def _received(notices: Sequence[Notice]) -> list[Notice]:
    """Of each receiver the last message that told of the subject as open, since it opened; failed ones count not."""
    last: dict[tuple[str, str], Notice] = {}
    for notice in sorted(notices, key=lambda notice: notice.seq):
        if notice.event_state in ("cleared", "withdrawn"):
            last.pop(notice.receiver, None)
        elif notice.status in _RECEIVED:
            last[notice.receiver] = notice
    return list(last.values())


def _same(before: Notice, event: Event, world: World) -> Target:
    """Whom a message went to, as contacts.csv has it now, or as it was."""
    row = next((c for c in world.contacts if (c.contact, c.level) == (before.contact, before.level)), None)
    contact = row or Contact(
        contact=before.contact,
        role=before.role,
        channels=(before.channel,),
        language=before.language,
        level=before.level,
    )
    members = set(before.members)
    customers = tuple(c for c in concerned(event, world.directory) if c.customer_no in members)
    event_class = before.event_class if before.event_class in event.classes else event.classes[0]
    return Target(replace(contact, role=before.role, language=before.language), event_class, customers)


def _stranger(number: str, event: Event) -> Customer:
    """A customer that the registry does not have, as the event knows it."""
    said = event.value
    return Customer(
        customer_no=number, name=said.get("customer_name") or number, feeder=said.get("feeder") or "",
        manager=said.get("manager") or "",
    )  # fmt: skip


def _certain(known: Known | None) -> Known:
    assert known is not None
    return known
