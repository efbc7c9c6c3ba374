"""Limits of supply voltage.

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
