"""A plan of load control for a simulated fleet: announced, tightened, withdrawn; and what customers make of it.

Not here: plans themselves (`metering.control`), the loads that are shed from (`loads`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from metering.settings import MeteringSettings
from metering.simulation.draws import between, uniform
from metering.simulation.fleet import Fleet
from metering.tables.schema import TIMESTAMP

BEGIN, TIGHTENED, WITHDRAWN, END = time(10), time(10, 40), time(11, 30), time(12)
ASKED, ASKED_MORE = 0.06, 0.09
"""Reduction asked for, fractions of contract capacity."""
LEAST, MOST = 0.15, 0.45
"""Of its load each customer sheds a part between these, from the plan's begin to its end."""


@dataclass(frozen=True, slots=True)
class Shed:
    """What customers do: those that are control-equipped use less in (begin, end]. `plans`: the plan's messages."""

    plans: tuple[dict[str, Any], ...]
    begin: datetime
    end: datetime

    def of(self, rows: pl.DataFrame, seed: int) -> list[pl.Expr]:
        """`p_kw` and `q_kvar` of `rows` (meters' traits times moments) as they are then."""
        inside = (pl.col("ts") > pl.lit(self.begin, TIMESTAMP)) & (pl.col("ts") <= pl.lit(self.end, TIMESTAMP))
        kept = 1 - between(LEAST, MOST, uniform(seed, "shed", rows["n"]))
        factor = pl.when(inside & pl.col("controllable")).then(kept).otherwise(1.0)
        return [pl.col("p_kw") * factor, pl.col("q_kvar") * factor]


def shed_of(fleet: Fleet, start: date, days: int, settings: MeteringSettings) -> Shed | None:
    """For the last workday of a simulation that has another one before it; None where there is none, or nobody is
    equipped.
    """
    dates = [start + timedelta(days=n) for n in range(days)]
    workdays = [
        day for day in dates if (day.weekday() < 5 or day in settings.workdays) and day not in settings.holidays
    ]
    equipped = fleet.customers.filter("controllable")
    if len(workdays) < 2 or equipped.is_empty():
        return None

    def at(clock: time) -> datetime:
        return datetime.combine(workdays[-1], clock, tzinfo=ZoneInfo(settings.timezone))

    def asked(part: float) -> dict[str, float]:
        rows = equipped.select("customer_no", (pl.col("contract_capacity_kva") * part).round(0))
        return dict(rows.iter_rows())

    plan = {
        "plan_id": f"YX-{workdays[-1]:%Y%m%d}", "kind": "orderly_usage", "level": "orange",
        "from": at(BEGIN).isoformat(), "to": at(END).isoformat(), "customers": equipped["customer_no"].to_list(),
    }  # fmt: skip
    before = at(time(16)) - timedelta(days=1)
    revisions = (
        {"revision": 1, "issued_at": before.isoformat(), "reduction_kw": asked(ASKED), "state": "active"},
        {"revision": 2, "issued_at": at(TIGHTENED).isoformat(), "reduction_kw": asked(ASKED_MORE), "state": "active"},
        {
            "revision": 3,
            "issued_at": at(WITHDRAWN).isoformat(),
            "reduction_kw": asked(ASKED_MORE),
            "state": "withdrawn",
        },
    )
    return Shed(
        tuple({**plan, **revision} for revision in revisions), at(BEGIN).astimezone(UTC), at(WITHDRAWN).astimezone(UTC)
    )
