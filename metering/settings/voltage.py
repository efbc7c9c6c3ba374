"""Limits of supply voltage: its deviation, its 10-min means over a week, its unbalance.

Not here: what follows from them (`metering.supply.voltage`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True, kw_only=True)
class VoltageClass:
    """Limits of supply-voltage deviation for one class of connection, fractions of Un.

    A meter belongs to the first class whose `wirings` hold its wiring and whose `max_kv` is at least its
    customer's voltage level. `spread` is the limit on |+dev| + |-dev|, 0 where the class has none.
    """

    name: str
    wirings: tuple[str, ...]
    max_kv: float
    upper: float
    lower: float
    spread: float = 0.0
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoltageLimits:
    effective_from: date
    band_lower: float
    band_upper: float
    classes: tuple[VoltageClass, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TenMinuteMeans:
    """What the 10-min means of a week are judged by, fractions of Un.

    At least `share` of them lie within `upper` and `lower`, and all within `outer_upper` and `outer_lower`. A mean
    counts that stands for at least `least_coverage` of its ten minutes and is not below `interruption`; a week passes
    of which at least `least_share` is there.
    """

    upper: float
    lower: float
    share: float
    outer_upper: float
    outer_lower: float
    interruption: float
    least_coverage: float
    least_share: float
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnbalanceLimits:
    """Limits of negative over positive sequence [%]: of all values but the largest 5 %, and of each.

    Currents are compared where the largest is at least `least_current` of rated current.
    """

    p95_pct: float
    max_pct: float
    least_current: float
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoltageQuality:
    effective_from: date
    tenmin: TenMinuteMeans
    unbalance: UnbalanceLimits
