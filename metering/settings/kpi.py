"""Targets of KPIs.

Not here: what a KPI counts (`metering.kpi`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KpiTarget:
    """Target of one KPI in the KPI's unit; None: no target, so never met or missed but reported."""

    target: float | None
    clause: str = ""
