"""Rule profiles of customer lists: rows of `[lists.profile]`.

Here: their shape. Not here: what their expressions may name, and what follows from them (`metering.registry.lists`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ListCondition:
    """One ground for a customer to be on a list: `when` is a SQL expression over CANDIDATES' columns, true or not;
    `reason` says it in words, with {columns} in them.
    """

    when: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListProfile:
    """Who belongs on the list `list`: whoever meets one of the conditions."""

    list: str
    meaning: str
    conditions: tuple[ListCondition, ...]
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSettings:
    """The profiles, and those that are `in_force`, one a list. A month of which less than `known_share` of the days has
    a known energy is not a month of zero use.
    """

    in_force: tuple[str, ...]
    profile: dict[str, ListProfile]
    known_share: float = 0.9
