"""Validation, estimation and editing: what is checked, and how gaps are filled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

VeeSeverity = Literal["info", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """One validation of interval values: its row in the settings.

    `check` names the function in `metering.vee.validation.CHECKS` ("": the row's own name). `threshold` is in `unit`; 0
    switches the row off. What a `warning` finds is published as `raw` with the reason; `info` is only told.
    """

    meaning: str
    threshold: float
    unit: str
    clause: str
    check: str = ""
    severity: VeeSeverity = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class VeeSettings:
    """How gaps are filled, and what values are checked for.

    Gaps up to `linear_gap_min` are drawn straight; longer ones follow the mean of the newest `reference_days` days of
    the same kind (workday or day off) among the `reference_horizon_days` before. Registers on both sides of a gap are
    looked for up to `register_gap_days` away. Supply counts as failed where every voltage is below
    `power_failure_below` of nominal: no line is drawn from there. `history_days` days before are what a day is
    compared with, once there are `min_history_days` of them.
    """

    linear_gap_min: int = 120
    reference_days: int = 5
    reference_horizon_days: int = 35
    register_gap_days: int = 7
    power_failure_below: float = 0.60
    history_days: int = 28
    min_history_days: int = 5
    validation: dict[str, Validation] = field(default_factory=dict)
