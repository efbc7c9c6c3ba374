"""Load control by hand: one customer, one quarter-hour at a time, from the handbook's sections 10 and 13."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from metering.readings.decode import Lines
from metering.records.current import broadcast
from metering.records.decode import decode_records
from metering.tables.records import PLANS

Builder = Callable[..., pl.DataFrame]
QUARTER = timedelta(minutes=15)
Plan = Mapping[str, Any]
Power = Mapping[tuple[str, datetime], float]
"""Mean power of a customer in the quarter-hour that ends then."""


def messages(*records: Mapping[str, Any]) -> bytes:
    """Records as lines of JSON."""
    return b"\n".join(json.dumps(record).encode() for record in records)


def plans_of(*records: Mapping[str, Any]) -> pl.DataFrame:
    """Plans' messages as rows of the lake, as a worker knows them."""
    decoded = decode_records(PLANS, Lines(messages(*records)))
    assert decoded.rejects.is_empty(), decoded.rejects["detail"].to_list()
    rows = decoded.accepted.with_columns(date=pl.col("issued_at").dt.date(), log_offset=pl.col("item").cast(pl.Int64))
    return broadcast(PLANS.table.conform(rows, source="load.control.plan.v1", source_partition=0), PLANS)


def target(plans: Sequence[Plan], plan_id: str, customer: str, end: datetime) -> tuple[Plan, int] | None:
    """The revision of a plan that holds for a customer's quarter-hour, and how many it supersedes."""
    issued = [p for p in plans if p["plan_id"] == plan_id and p["issued_at"] < end]
    if not issued:
        return None
    newest = max(issued, key=lambda p: (p["issued_at"], p["revision"]))
    inside = newest["from"] <= end - QUARTER and end <= newest["to"]
    if newest["state"] == "withdrawn" or customer not in newest["figures"] or not inside:
        return None
    return newest, len(issued) - 1


def any_target(plans: Sequence[Plan], customer: str, end: datetime) -> bool:
    return any(target(plans, plan_id, customer, end) for plan_id in {p["plan_id"] for p in plans})


def reference_days(
    plans: Sequence[Plan], customer: str, day: date, power: Power, off: Callable[[date], bool], zone: ZoneInfo
) -> list[date]:
    """The newest days before `day` of its kind, whole, without load control."""
    found = []
    for back in range(1, 46):
        past = day - timedelta(days=back)
        start = datetime.combine(past, datetime.min.time(), zone)
        ends = [start + n * QUARTER for n in range(1, 97)]  # in a zone without summer time
        whole = off(past) == off(day) and all((customer, end) in power for end in ends)
        if whole and not any(any_target(plans, customer, end) for end in ends):
            found.append(past)
    return found


def baseline(days: Sequence[date], customer: str, end: datetime, power: Power, zone: ZoneInfo) -> float | None:
    clock = (end - QUARTER).astimezone(zone).time()
    values = [power[customer, datetime.combine(day, clock, zone) + QUARTER] for day in days]
    return sum(values) / len(values) if values else None


def execution(figure: Mapping[str, float], base: float | None, actual: float | None) -> dict[str, Any]:
    """Cap, reduction asked for, achieved, verdict."""
    protected = figure.get("protected_kw", 0.0)
    if "cap_kw" in figure:
        cap: float | None = max(figure["cap_kw"], protected)
        asked = None if base is None else max(0.0, base - (cap or 0.0))
    else:
        asked = None if base is None else min(figure["reduction_kw"], max(0.0, base - protected))
        cap = None if base is None or asked is None else max(0.0, base - asked)
    achieved = None if base is None or actual is None else max(0.0, base - actual)
    compliant = None if cap is None or actual is None else actual <= cap
    return {"cap_kw": cap, "instructed_kw": asked, "achieved_kw": achieved, "compliant": compliant}
