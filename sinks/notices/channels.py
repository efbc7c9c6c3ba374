"""Channels: how a message leaves the house, through Apprise, with an id by which a receiver can tell it came before.

Here: channels from their URLs, handing a message over, why it was not taken. Not here: when, how often (`ledger`).

The id is in a header and a field of web hooks (`Idempotency-Key`, `notice_id`), in a mail's Message-ID, and at the end
of every text.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from metering.errors import UserError
from metering.notices.dispatch import Notice

if TYPE_CHECKING:
    from apprise import NotifyBase

ID_HEADER = "Idempotency-Key"
ATTEMPT_HEADER = "Kilowatch-Attempt"
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_NO_DEADLINE = 0.0
_TYPES = {"info": "info", "warning": "warning", "critical": "failure"}
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*(?=://)|\$\{\w+\})")
_message_id: ContextVar[str | None] = ContextVar("message_id", default=None)


class Channels:
    """Channels by URL, each made when it is first used. A URL's ${NAME} is the environment variable's value."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        _imported()
        self._environment = environment
        self._made: dict[str, NotifyBase] = {}

    def problem(self, url: str) -> str | None:
        """Why a URL cannot be a channel; None where it can."""
        try:
            self._channel(url)
        except UserError as error:
            return str(error)
        return None

    def unset(self, url: str) -> list[str]:
        """Environment variables that a URL names, and that are not set."""
        return [name for name in _VARIABLE.findall(url) if name not in self._environment]

    def hand_over(self, notice: Notice) -> str | None:
        """Hand a message over; None when it was taken, else why not. Not for one channel in two threads at a time."""
        from apprise import Apprise

        try:
            service = self._channel(notice.channel)
        except UserError as error:
            return str(error)
        _marked(service, notice)
        sender = Apprise(asset=service.asset)
        sender.add(service)
        with _mailed_as(f"<{notice.notice_id}@kilowatch>"):
            done = sender.notify(
                body=f"{notice.body}\n{reference(notice)}",
                title=notice.title,
                notify_type=_TYPES[notice.severity] if notice.event_state in ("raised", "updated") else "success",
                body_format="text",
            )
        return None if done else _why(done)

    def _channel(self, url: str) -> NotifyBase:
        filled = _VARIABLE.sub(lambda found: self._value(found[1]), url)
        service = self._made.get(filled)
        if service is None:
            service = self._made[filled] = _made(filled, scheme(url))
        return service

    def _value(self, name: str) -> str:
        try:
            return self._environment[name]
        except KeyError:
            raise UserError(f"the environment variable {name} is not set") from None


def scheme(url: str) -> str:
    """The kind of channel, or the variable that holds all of its URL; the rest may be secret, and is never shown."""
    found = _SCHEME.match(url)
    return "?" if found is None else found[0] if found[0].startswith("$") else found[0].lower()


def reference(notice: Notice) -> str:
    """The last line of a text."""
    return f"编号 {notice.notice_id}" if notice.language == "zh" else f"Reference {notice.notice_id}"


def _imported() -> None:
    """Have Apprise at hand, and quiet: what matters of its log comes with each result."""
    with warnings.catch_warnings():  # it asks for modules that Python 3.13 will not have
        warnings.simplefilter("ignore", DeprecationWarning)
        import apprise.plugins.email.base  # noqa: F401
    logger = logging.getLogger("apprise")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _made(url: str, kind: str) -> NotifyBase:
    from apprise import Apprise, AppriseAsset
    from apprise.plugins.email.base import NotifyEmail

    asset = AppriseAsset(
        app_id="Kilowatch", app_desc="Kilowatch", app_url="", async_mode=False, service_timeout=_NO_DEADLINE
    )
    try:
        service = Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    except TypeError as error:
        raise UserError(f"{kind}:// cannot be used: {error}") from error
    if service is None:
        raise UserError(f"Apprise does not know what to do with the {kind}:// URL: check its form at appriseit.com")
    service.retry = 0  # trying again is the ledger's
    if len(service) > 1:
        raise UserError(f"the {kind}:// URL names {len(service)} receivers: give each a URL of its own")
    if isinstance(service, NotifyEmail):
        service.request_rate_per_sec = 0  # Apprise's own 5.5 s between two mails are for web services
    return service


def _marked(service: NotifyBase, notice: Notice) -> None:
    """The message's id where the kind of channel has a place for it."""
    marks = {ID_HEADER: notice.notice_id, ATTEMPT_HEADER: str(notice.attempts)}
    headers: Any = getattr(service, "headers", None)
    if isinstance(headers, dict):
        headers.update(marks)
    extras: Any = getattr(service, "payload_extras", None)
    if isinstance(extras, dict):
        extras["notice_id"] = notice.notice_id


@contextmanager
def _mailed_as(message_id: str) -> Iterator[None]:
    """Mails that are made meanwhile have this Message-ID: Apprise has no way to say it."""
    from apprise.plugins.email import base

    module: Any = base
    if not isinstance(module.make_msgid, _MessageId):
        module.make_msgid = _MessageId(module.make_msgid)
    token = _message_id.set(message_id)
    try:
        yield
    finally:
        _message_id.reset(token)


class _MessageId:
    """The Message-ID that is asked for, else a new one."""

    def __init__(self, otherwise: Callable[..., str]) -> None:
        self._otherwise = otherwise

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        return _message_id.get() or self._otherwise(*args, **kwargs)


def _why(result: Any) -> str:
    """The first line that Apprise logged of what went wrong."""
    lines = [entry.message for entry in result.logs() if entry.level in ("WARNING", "ERROR", "CRITICAL")]
    said = " ".join(str(lines[0]).split()) if lines else "the channel did not take it"
    return re.sub(r"\b[a-z+]+://\S+", "...", said)[:300]
