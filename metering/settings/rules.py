"""Limit rules.

Here: their shape. Not here: what they say to a reading (`metering.events`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One limit rule. `limit` is a fraction of the base that the rule is judged against; 0 disables the rule.

    Raised once the start condition has held for `hold_s`; cleared once the value has been `clear_margin` of the
    limit inside it for `clear_hold_s`. `min_load` (fraction of capacity) is where judging begins, if the rule has one.
    """

    limit: float
    hold_s: float = 60.0
    clear_hold_s: float = 60.0
    clear_margin: float = 0.02
    min_load: float = 0.0
    severity: str = "warning"
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """All limit rules in force from a date. `name` is published with every violation it judges."""

    name: str
    effective_from: date
    over_voltage: Rule
    under_voltage: Rule
    over_capacity: Rule
    low_power_factor: Rule
