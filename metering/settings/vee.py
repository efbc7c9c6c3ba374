"""Validation, estimation and editing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VeeSettings:
    """Estimation: gaps up to `linear_gap_min` are drawn straight; longer ones stay missing."""

    linear_gap_min: int = 120
