"""What is told to people, from the topics' messages: violations, plans and their execution, outages, feedback.

Here: reading these messages, and what each comes to. Not here: who is told (`dispatch`), in which words (`texts`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from metering.settings.notices import NoticeSettings
from metering.tables.notices import SEVERITIES

VIOLATION, PLAN, OUTAGE, CONTROL, FEEDBACK = "violation", "plan", "outage", "control", "feedback"
KINDS = (VIOLATION, PLAN, OUTAGE, CONTROL, FEEDBACK)
OPEN = ("raised", "updated")
STATES = (*OPEN, "cleared", "withdrawn")
_ACTIONS = ("acknowledged", "confirmed", "false", "handled", "closed")
_MILLISECONDS = 1000


class UnusableError(ValueError):
    """A message that says nothing that could be told; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that people are told of, as it stands after one message.

    `subject` names it: a violation, a plan, an outage, or plan/customer. `classes`: those that a contact may ask for,
    the proper one first. `order` tells a newer message from an older one, `content` one that says something else.
    `fresh_at`: the time by which it is judged too old to be told. `caps` and `reductions`: power [kW] by customer ("*":
    each).
    """

    subject: str
    kind: str
    classes: tuple[str, ...]
    state: str
    severity: str
    at: datetime
    fresh_at: datetime
    order: tuple[float, ...]
    content: str
    customers: tuple[str, ...] = ()
    feeders: tuple[str, ...] = ()
    storm: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    caps: Mapping[str, float] = field(default_factory=dict)
    reductions: Mapping[str, float] = field(default_factory=dict)
    value: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def says_nothing_yet(self) -> bool:
        """A quarter-hour under a plan that is running, or of which it is not known whether it was kept."""
        said = self.value
        live = said.get("state") == "live" or said.get("compliant") is None
        return self.kind == CONTROL and live and self.state != "withdrawn"


@dataclass(frozen=True, slots=True)
class Feedback:
    """Somebody has taken up an alarm."""

    subject: str
    action: str
    at: datetime


def read(kind: str, value: bytes | str | Mapping[str, Any], settings: NoticeSettings) -> Event | Feedback:
    """What a message of that kind says. Raises UnusableError."""
    message = value if isinstance(value, Mapping) else _object(value)
    try:
        return _READERS[kind](message, settings)
    except KeyError as error:
        raise UnusableError(f"{error.args[0]} is missing") from error
    except UnusableError:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UnusableError(f"a field has another type than it should: {error}") from error


def _object(value: bytes | str) -> Mapping[str, Any]:
    try:
        message = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"no JSON: {error}") from error
    if not isinstance(message, dict):
        raise UnusableError("no JSON object")
    return message


def _violation(message: Mapping[str, Any], settings: NoticeSettings) -> Event:  # noqa: ARG001 - as all readers
    started, at = _time(message, "started_at"), _time(message, "at")
    revision = int(message["revision"])
    customer = _text(message, "customer_no")
    return Event(
        subject=_text(message, "violation_id"), kind=VIOLATION,
        classes=(message.get("event_class") or "limit_warning",), state=_one_of(message, "state", STATES),
        severity=_one_of(message, "severity", SEVERITIES), at=at, fresh_at=at,
        order=(revision,), content=str(revision), customers=(customer,),
        feeders=(message["feeder"],) if message.get("feeder") else (), storm=message.get("storm_id") or "",
        started_at=started, ended_at=_time_or_none(message, "ended_at"), value=message,
    )  # fmt: skip


def _plan(message: Mapping[str, Any], settings: NoticeSettings) -> Event:
    withdrawn = (message.get("state") or "active") == "withdrawn"
    span = _time_or_none if withdrawn else _time
    begin, end, issued = span(message, "from"), span(message, "to"), _time(message, "issued_at")
    caps, reductions = _figures(message, "cap_kw"), _figures(message, "reduction_kw")
    named = [*_names(message, "customers"), *caps, *reductions]
    told = [message.get("kind"), message.get("level"), begin, end, named, _names(message, "feeders"), caps, reductions]
    return Event(
        subject=_text(message, "plan_id"), kind=PLAN, classes=("orderly_usage",),
        state="withdrawn" if withdrawn else "raised",
        severity=_severity(settings.plan_severity, message.get("level")), at=issued, fresh_at=end or issued,
        order=(int(message.get("revision") or 0), issued.timestamp()), content=repr([*told, withdrawn]),
        customers=tuple(dict.fromkeys(name for name in named if name != "*")),
        feeders=tuple(_names(message, "feeders")), started_at=begin, ended_at=end, caps=caps, reductions=reductions,
        value=message,
    )  # fmt: skip


def _outage(message: Mapping[str, Any], settings: NoticeSettings) -> Event:
    begin, end = _time(message, "from"), _time_or_none(message, "to")
    kind, said = _text(message, "kind"), str(message.get("state") or "")
    planned = kind == "planned"
    if said in settings.withdrawn_states:
        state = "withdrawn"
    elif said in settings.restored_states or (end is not None and not planned):
        state = "cleared"
    else:
        state = "raised"
    feeders = (message["feeder"],) if message.get("feeder") else ()
    customers = tuple(_names(message, "customers"))
    announced = _time_or_none(message, "announced_at")
    return Event(
        subject=_text(message, "outage_id"), kind=OUTAGE,
        classes=("power_notice", "outage") if planned else ("outage",), state=state,
        severity=_severity(settings.outage_severity, kind), at=announced or begin, fresh_at=end or begin, order=(),
        content=repr([state, begin, end, feeders, customers]), customers=customers, feeders=feeders, started_at=begin,
        ended_at=end, value=message,
    )  # fmt: skip


def _control(message: Mapping[str, Any], settings: NoticeSettings) -> Event:
    plan, customer, end = _text(message, "plan_id"), _text(message, "customer_no"), _time(message, "window_end")
    if message.get("state") == "withdrawn":
        state = "withdrawn"
    else:
        state = "raised" if message.get("compliant") is False else "cleared"
    return Event(
        subject=f"{plan}/{customer}", kind=CONTROL, classes=("orderly_usage",), state=state,
        severity=_severity(settings.plan_severity, message.get("level")), at=end, fresh_at=end,
        order=(end.timestamp(), int(message.get("revision") or 0)), content=state, customers=(customer,),
        started_at=end, value=message,
    )  # fmt: skip


def _feedback(message: Mapping[str, Any], settings: NoticeSettings) -> Feedback:  # noqa: ARG001 - as all readers
    return Feedback(_text(message, "violation_id"), _one_of(message, "action", _ACTIONS), _time(message, "at"))


_READERS: Mapping[str, Callable[[Mapping[str, Any], NoticeSettings], Event | Feedback]] = {
    VIOLATION: _violation, PLAN: _plan, OUTAGE: _outage, CONTROL: _control, FEEDBACK: _feedback,
}  # fmt: skip


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message[name]
    if not isinstance(value, str) or not value:
        raise UnusableError(f"{name} is no text")
    return value


def _one_of(message: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = message[name]
    if value not in allowed:
        raise UnusableError(f"{name} is '{value}', not one of {', '.join(allowed)}")
    return str(value)


def _time(message: Mapping[str, Any], name: str) -> datetime:
    value = message[name]
    try:
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            if at.tzinfo is not None:
                return at.astimezone(UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / _MILLISECONDS, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise UnusableError(f"{name} is no time with an offset")


def _time_or_none(message: Mapping[str, Any], name: str) -> datetime | None:
    return None if message.get(name) is None else _time(message, name)


def _names(message: Mapping[str, Any], name: str) -> list[str]:
    value = message.get(name) or []
    return [value] if isinstance(value, str) else [str(part) for part in value]


def _figures(message: Mapping[str, Any], name: str) -> dict[str, float]:
    """Power [kW] by customer; a bare number is each one's."""
    value = message.get(name)
    if value is None:
        return {}
    return {str(key): float(kw) for key, kw in value.items()} if isinstance(value, Mapping) else {"*": float(value)}


def _severity(by_name: Mapping[str, str], name: object) -> str:
    return by_name.get(str(name), "warning")
