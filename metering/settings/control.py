"""How load control is judged: baselines, warnings, and what is said of them.

Not here: what follows from them (`metering.control`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineMethod:
    """One way to say what a customer would have used: its row in the settings.

    The mean of the same quarter-hour on the `days` with most energy among the newest `of` eligible days: those before
    the day in question, at most `horizon_days` old, of the same kind (workday or day off), without load control, and
    whole. There is none from fewer than `min_days`. With `days` = `of` the newest count, whatever their energy.
    """

    meaning: str
    days: int
    of: int
    clause: str
    min_days: int = 1
    horizon_days: int = 45


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlAlarm:
    """What is raised about a quarter-hour: names, texts and severity of one rule.

    `warning` looks at the projection while the window runs, from `after_s` on; it ends once that is `clear_margin`
    (fraction of the limit) inside the limit. `start` is the share of the limit that must not be passed; 0: off.
    """

    name_zh: str
    name_en: str
    text_zh: str
    text_en: str
    severity: Literal["info", "warning", "critical"]
    clause: str
    start: float = 1.0
    after_s: int = 60
    clear_margin: float = 0.02
    event_class: str = "orderly_usage"
    advice_zh: str = ""
    advice_en: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """`baseline` are the methods by name, `default_baseline` that of plans that name none. `alarms` by rule:
    load_control_warning, load_control_violation, demand_warning, capacity_warning; `ruleset` is published with what
    they raise. `settle_first`: of plans that ask the same customer at one time, a reduction counts first for the one
    that comes first by these, in their order: kind (demand response before orderly usage), level (red first), issued.
    """

    ruleset: str = "control-2023"
    default_baseline: str = "last_5"
    settle_first: tuple[Literal["kind", "level", "issued"], ...] = ("issued",)
    baseline: dict[str, BaselineMethod] = field(default_factory=dict)
    alarms: dict[str, ControlAlarm] = field(default_factory=dict)
