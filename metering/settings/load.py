"""Bands of the transformer load rate.

Not here: the load rate (`metering.load.rollup`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRateBands:
    """Largest apparent power over capacity, as fractions: below the first a transformer is too large, above the second
    tight, above the third overloaded.
    """

    oversized_below: float = 0.30
    tight_above: float = 0.80
    overload_above: float = 1.00
