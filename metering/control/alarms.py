"""What is raised about quarter-hours: a projection that passes its limit, and a cap that was passed.

Here: how a warning goes on from look to look, runs of windows above their cap, and rows of `violations`. Not here: when
is looked (`pipelines.shard.control`), figures and texts (settings).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from metering.calendar import day_of
from metering.settings import MeteringSettings
from metering.settings.control import ControlAlarm
from metering.tables.control import ALARM_RULES
from metering.tables.lake import VIOLATIONS, WINDOW_S

WARNING, VIOLATION, DEMAND, CAPACITY = ALARM_RULES
RAISED, UPDATED, CLEARED, WITHDRAWN = "raised", "updated", "cleared", "withdrawn"

_OPEN = {RAISED, UPDATED}
_MATTERS = 0.01
_LEAST = timedelta(seconds=60)
_ONE_WINDOW = timedelta(seconds=WINDOW_S)
_PLAN_NAMES = {"orderly_usage": ("有序用电", "orderly usage"), "demand_response": ("需求响应", "demand response")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One violation as it was told last, and the worst since. `told_kw`: the value that was told; `kind` of its plan.

    `until`: the end of the quarter-hour that was looked at last; `allowed_kw` is the mean power that its rest may have.
    `of_meters`: where some main meters were silent, how many of how many were known ("1/2"), which alone come to
    `value`. Powers of `capacity_warning` are apparent ones [kVA].
    """

    rule: str
    plan_id: str
    customer_no: str
    kind: str
    started_at: datetime
    at: datetime
    until: datetime
    value: float
    limit_value: float
    told_kw: float
    allowed_kw: float | None = None
    of_meters: str = ""
    state: str = RAISED
    revision: int = 0
    ended_at: datetime | None = None

    @property
    def violation_id(self) -> str:
        """A function of who, what and when: never of when it was found."""
        start = self.started_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        return "/".join(part for part in (self.plan_id, self.customer_no, self.rule, start) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The projection of a customer's running quarter-hour `at` a time: `elapsed_s` of it are over, at `used_kw`.

    `of_meters`: as in `Alarm`; what some meters come to is the least that there is, and ends no warning.
    """

    at: datetime
    until: datetime
    projected_kw: float
    limit_kw: float
    elapsed_s: float
    used_kw: float
    of_meters: str = ""

    @property
    def allowed_kw(self) -> float | None:
        """Mean power that the rest may have for the limit to be kept; None: there is no rest."""
        left_s = WINDOW_S - self.elapsed_s
        if left_s <= 0:
            return None
        return max(0.0, (self.limit_kw * WINDOW_S - self.used_kw * self.elapsed_s) / left_s)


def warned(
    alarm: Alarm | None, look: Look, row: ControlAlarm, rule: str, plan_id: str, customer_no: str, kind: str = ""
) -> tuple[Alarm | None, bool]:
    """The warning after a look, and whether that is to be told. A warning that is cleared is over.

    It is raised from `after_s` of the window on, updated at most once a minute for what is 1 % of the limit worse or
    another limit, and cleared once the projection is `clear_margin` inside the limit.
    """
    limit = look.limit_kw * row.start
    above = row.start > 0 and look.projected_kw > limit
    if alarm is None or alarm.state == CLEARED:
        if not above or look.elapsed_s < row.after_s:
            return None, False
        raised = Alarm(
            rule=rule, plan_id=plan_id, customer_no=customer_no, kind=kind, started_at=look.at, at=look.at,
            until=look.until, value=look.projected_kw, limit_value=limit, told_kw=look.projected_kw,
            allowed_kw=look.allowed_kw, of_meters=look.of_meters,
        )  # fmt: skip
        return raised, True
    if look.of_meters and not above:
        return alarm, False
    if look.projected_kw <= limit * (1 - row.clear_margin):
        return ended(alarm, look.at), True
    worst = replace(alarm, value=max(alarm.value, look.projected_kw))
    matters = worst.value - alarm.told_kw >= _MATTERS * limit or limit != alarm.limit_value
    if not matters or look.at - alarm.at < _LEAST:
        return worst, False
    told = replace(
        worst, state=UPDATED, revision=alarm.revision + 1, at=look.at, until=look.until, limit_value=limit,
        told_kw=worst.value, allowed_kw=look.allowed_kw, of_meters=look.of_meters,
    )  # fmt: skip
    return told, True


def ended(alarm: Alarm, at: datetime) -> Alarm:
    """The alarm, cleared."""
    return replace(alarm, state=CLEARED, revision=alarm.revision + 1, at=at, ended_at=at, told_kw=alarm.value)


def runs(rows: Iterable[Mapping[str, Any]], over_at: datetime | None, row: ControlAlarm) -> list[Alarm]:
    """Violations of one customer's plan: runs of windows above the cap. `rows`: LOAD_CONTROL, final, in order of time.

    A window without a verdict neither raises nor clears. A run is cleared by the first window that is kept, or at
    `over_at`, when the plan ended (None: it goes on). `revision` counts what was to be told: raised, each window 1 % of
    the cap worse than what was told before, cleared.
    """
    found: list[Alarm] = []
    current: Alarm | None = None
    for window in rows if row.start > 0 else ():
        end, actual, cap = window["window_end"], window["actual_kw"], window["cap_kw"]
        if window["compliant"] is None or actual is None or cap is None:
            continue
        if actual <= cap * row.start:
            if current is not None:
                found.append(ended(current, end - _ONE_WINDOW))
            current = None
        elif current is None:
            current = Alarm(
                rule=VIOLATION, plan_id=window["plan_id"], customer_no=window["customer_no"], kind=window["kind"],
                started_at=end - _ONE_WINDOW, at=end, until=end, value=actual, limit_value=cap * row.start,
                told_kw=actual,
            )  # fmt: skip
        elif actual - cap > current.value - current.limit_value + _MATTERS * cap:
            current = replace(
                current, state=UPDATED, revision=current.revision + 1, at=end, until=end, value=actual, told_kw=actual,
                limit_value=cap * row.start,
            )  # fmt: skip
    if current is not None:
        found.append(current if over_at is None else ended(current, over_at))
    return found


def changes(found: Sequence[Alarm], told: pl.DataFrame, were: Sequence[Alarm] = ()) -> Iterator[Alarm]:
    """Those of `found` that are not as they were `told` (current rows of `violations` of the same plan and customer),
    and what was told and is not found any more: withdrawn. `were`: what was found before; what one has been told more
    often since is told at once, and counts as often.
    """
    known = {row["violation_id"]: row for row in told.iter_rows(named=True)}
    counted = {alarm.violation_id: alarm.revision for alarm in were}
    for alarm in found:
        before = known.pop(alarm.violation_id, None)
        if before is None:
            yield alarm
            continue
        same = (
            (before["state"] == alarm.state or {before["state"], alarm.state} == _OPEN)
            and before["ended_at"] == alarm.ended_at
            and before["value"] == alarm.value
            and before["limit_value"] == alarm.limit_value
        )
        if not same:
            more = alarm.revision - counted.get(alarm.violation_id, alarm.revision)
            yield replace(alarm, revision=before["revision"] + max(1, more if before["state"] != WITHDRAWN else 1))
    for before in known.values():
        if before["state"] != WITHDRAWN:
            yield Alarm(
                rule=before["rule"], plan_id=before["violation_id"].split("/")[0], customer_no=before["customer_no"],
                kind="", started_at=before["started_at"], at=before["at"], until=before["at"], value=before["value"],
                limit_value=before["limit_value"], told_kw=before["value"], state=WITHDRAWN,
                revision=before["revision"] + 1, ended_at=before["ended_at"],
            )  # fmt: skip


# --- rows of violations ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whom an alarm is about: the customer as the registry has it, and its first main meter."""

    customer_no: str
    name: str
    feeder: str
    meter_id: str


def violations(alarms: Sequence[Alarm], accounts: Mapping[str, Account], settings: MeteringSettings) -> pl.DataFrame:
    """VIOLATIONS of what is to be told, in that order."""
    if not alarms:
        return VIOLATIONS.empty()
    rows = [_row(alarm, accounts[alarm.customer_no], settings) for alarm in alarms]
    return VIOLATIONS.conform(pl.DataFrame(rows, schema_overrides=_TYPES, infer_schema_length=None))


_TYPES = {n: VIOLATIONS.schema[n] for n in ("ended_at", "started_at", "at", "value", "limit_value", "date")}


def _row(alarm: Alarm, account: Account, settings: MeteringSettings) -> dict[str, Any]:
    row = settings.control.alarms[alarm.rule]
    percent = alarm.value / alarm.limit_value * 100 if alarm.limit_value > 0 else None
    duration = (alarm.ended_at or alarm.at) - alarm.started_at
    return {
        "violation_id": alarm.violation_id,
        "state": alarm.state,
        "revision": alarm.revision,
        "rule": alarm.rule,
        "phase": "total",
        "started_at": alarm.started_at,
        "ended_at": alarm.ended_at,
        "value": alarm.value,
        "limit_value": alarm.limit_value,
        "unit": "kVA" if alarm.rule == CAPACITY else "kW",
        "severity": row.severity,
        "meter_id": account.meter_id,
        "customer_no": alarm.customer_no,
        "customer_name": account.name,
        "feeder": account.feeder,
        "quantity": "s" if alarm.rule == CAPACITY else "p",
        "nominal": alarm.limit_value,
        "percent": percent,
        "duration_s": duration.total_seconds(),
        "event_class": row.event_class,
        "advice_zh": row.advice_zh,
        "advice_en": row.advice_en,
        "message_zh": _message(alarm, account, row, settings.timezone, 0),
        "message_en": _message(alarm, account, row, settings.timezone, 1),
        "ruleset": settings.control.ruleset,
        "at": alarm.at,
        "date": day_of(alarm.at, settings.timezone),
    }


_OVER = (
    "{name}已{ended}，{customer}最高 {value} {unit}（限值 {limit} {unit}），{since}–{to}，历时 {minutes} 分钟。",
    "{name} {ended}: {customer} was at up to {value} {unit} ({limit} {unit} allowed), {since} to {to}, {minutes} min.",
)
_PAST = (
    "{name}：{customer}至 {until} 的 15 分钟平均负荷 {value} {unit}，超出限值 {limit} {unit}。建议：立即压降负荷。",
    "{name}: {customer} was at {value} {unit} in the quarter-hour to {until}, above the {limit} {unit} allowed. "
    "Shed load now.",
)
PLACEHOLDERS = ("plan", "plan_name", "name", "customer", "value", "limit", "since", "to", "until", "left", "allowed")
"""What a text of `[control.alarms]` may name, in braces."""
_PARTLY = (
    "（{n} 块主表中 {known} 块有数据，其余未计入。）",
    " ({known} of {n} main meters known; the others are not counted.)",
)
_ENDED = {CLEARED: ("解除", "has ended"), WITHDRAWN: ("撤销", "is withdrawn")}


def _message(alarm: Alarm, account: Account, row: ControlAlarm, timezone: str, language: int) -> str:
    def clock(at: datetime) -> str:
        return at.astimezone(ZoneInfo(timezone)).strftime("%H:%M")

    who = account.name or account.customer_no
    at_feeder = (f"{who}（{account.feeder}）", f"{who} ({account.feeder})")[language]
    over = alarm.state in _ENDED
    end = alarm.ended_at or alarm.at
    left_s = (alarm.until - alarm.at).total_seconds()
    plan_name = _PLAN_NAMES.get(alarm.kind, ("", ""))[language]
    values = {
        "plan": alarm.plan_id,
        "plan_name": plan_name,
        "name": (row.name_zh, row.name_en)[language],
        "customer": at_feeder if account.feeder else who,
        "unit": "kVA" if alarm.rule == CAPACITY else "kW",
        "value": f"{alarm.value:.0f}",
        "limit": f"{alarm.limit_value:.0f}",
        "since": clock(alarm.started_at),
        "to": clock(end),
        "until": clock(alarm.until),
        "left": f"{max(0.0, left_s) / 60:.0f}",
        "allowed": "0" if alarm.allowed_kw is None else f"{alarm.allowed_kw:.0f}",
        "minutes": f"{(end - alarm.started_at).total_seconds() / 60:.0f}",
        "ended": _ENDED[alarm.state][language] if over else "",
    }
    no_rest = alarm.rule != VIOLATION and alarm.allowed_kw is None
    text = _OVER[language] if over else _PAST[language] if no_rest else (row.text_zh, row.text_en)[language]
    said = text.format_map(values)
    if not alarm.of_meters or over:
        return said
    known, n = alarm.of_meters.split("/")
    return said + _PARTLY[language].format(known=known, n=n)
