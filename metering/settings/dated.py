"""What is effective-dated: `effective_from` is a local date; the newest one not after the day in question is in force.

Not here: what is dated so.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Protocol, TypeVar


class Dated(Protocol):
    @property
    def effective_from(self) -> date: ...


D = TypeVar("D", bound=Dated)


def in_force(items: Iterable[D], day: date) -> D:
    """The newest of `items` effective on `day`; the oldest when none is yet (so that history has a rule).

    Raises ValueError when there are none at all.
    """
    ordered = sorted(items, key=lambda item: item.effective_from)
    if not ordered:
        raise ValueError("nothing is configured")
    return next((item for item in reversed(ordered) if item.effective_from <= day), ordered[0])
