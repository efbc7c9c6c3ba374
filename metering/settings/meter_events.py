"""Codes of meters' own events, and how these are matched with what is derived from readings.

Here: their shape, and which rules are faults of the metering. Not here: the codes (`metering/events/meter_events.toml`,
and a home's own), matching (`metering.events.meter_events`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterEventCode:
    """What a code means. `aliases`: other codes for the same, case aside; `rule`: the limit rule that sees the same in
    readings ("": none does).
    """

    name_zh: str
    name_en: str
    aliases: tuple[str, ...] = ()
    rule: str = ""
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterEventSettings:
    """A meter's own event and a violation are one where their times overlap, each so much longer at both ends:
    `tolerance_s`, and the meter's interval, for readings do not say when within it something began.
    """

    tolerance_s: float = 300.0
    codes: Mapping[str, MeterEventCode] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringFaultSettings:
    """`rules`: those under which a meter goes on reporting, and counts too little; `by_power`: those of them under
    which the register stands and power does not, so that its integral tells; it may be off by `power_error` (fraction).

    Registers are short on a day where they count less than the integral of power by more than `short_fraction` of it,
    and by more than one count, over `short_hours` at least; `short_days` of them in a row are a fault.
    """

    rules: tuple[str, ...] = ()
    by_power: tuple[str, ...] = ()
    power_error: float = 0.05
    short_fraction: float = 0.05
    short_days: int = 3
    short_hours: float = 12.0
