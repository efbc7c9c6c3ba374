"""What a row of a table is about: whose meters, and which time; and which rows of another table are about the same.

Here: both, for any declared table, by the names of its columns. Not here: which table is made from which (`assets`),
reading rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from metering.calendar import day_bounds, local_date
from metering.load.curve import SCOPE
from metering.tables.lake import WINDOW_S
from metering.tables.schema import TIMESTAMP, Table

ALWAYS = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
HISTORY_DAYS = {"forecast": 56, "customer_lists": 366}
"""Tables whose rows rest on days before their own, and on how many."""
_IDENTITIES = ("violation_id", "plan_id", "storm_id", "notice_id", "kpi_id")
_STAMPS = ("window_end", "target", "ts", "at")


@dataclass(frozen=True, slots=True)
class Reach:
    """Whose and when: `customers` and `meters` (None: of everybody), instants (`start`, `end`], and identities."""

    customers: frozenset[str] | None
    meters: frozenset[str] | None
    start: datetime
    end: datetime
    named: Mapping[str, Any]
    timezone: str

    @property
    def first(self) -> date:
        return self._local(self.start + timedelta(microseconds=1))

    @property
    def last(self) -> date:
        """The local day that the last of the time belongs to: midnight is the end of the day before."""
        return self._local(self.end)

    def _local(self, at: datetime) -> date:
        if at <= ALWAYS[0] or at >= ALWAYS[1]:
            return at.date()
        found: date = pl.select(local_date(pl.lit(at, TIMESTAMP), self.timezone)).item()
        return found


def reach_of(
    row: Mapping[str, Any], table: Table, customers: pl.DataFrame, meters: pl.DataFrame, timezone: str
) -> Reach:
    """What a row of `table` is about. `customers`, `meters`: the registry as the warehouse has it."""
    theirs = _customers(row, customers)
    own = row.get("meter_id")
    if own:
        mine = frozenset({str(own)})
    elif theirs is None:
        mine = None
    else:
        mine = frozenset(meters.filter(pl.col("customer_no").is_in(list(theirs)))["meter_id"])
    start, end = _time(row, timezone)
    if (back := HISTORY_DAYS.get(table.name)) and start > ALWAYS[0]:
        start -= timedelta(days=back)
    return Reach(theirs, mine, start, end, {n: row[n] for n in _IDENTITIES if row.get(n)}, timezone)


def _customers(row: Mapping[str, Any], customers: pl.DataFrame) -> frozenset[str] | None:
    if number := row.get("customer_no"):
        return None if number == SCOPE else frozenset({str(number)})
    scope = row.get("scope")
    if not scope or scope == SCOPE:
        return None
    kind, _, value = str(scope).rpartition(":")
    kind = kind or str(row.get("scope_kind") or "customer")
    column = "customer_no" if kind == "customer" else kind
    if column not in customers.columns:
        return None
    wanted = customers.filter(pl.col(column).cast(pl.String) == value)
    if wanted.is_empty() and customers.schema[column].is_numeric():
        wanted = customers.filter(pl.col(column) == float(value)) if _is_number(value) else wanted
    return frozenset(wanted["customer_no"])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _time(row: Mapping[str, Any], timezone: str) -> tuple[datetime, datetime]:
    for name in ("window_end", "target"):
        if isinstance(at := row.get(name), datetime):
            return at - timedelta(seconds=WINDOW_S), at
    if isinstance(since := row.get("started_at"), datetime):
        until = row.get("ended_at") or row.get("at") or since + timedelta(days=1)
        return since, max(until, since)
    for name, days in (("date", 1), ("week", 7), ("month", 31)):
        if isinstance(first := row.get(name), date):
            return _span(first, days, name == "month", timezone)
    period = row.get("period")
    kind = str(row.get("period_kind") or "")
    if isinstance(period, str):
        parts = period.split("-")
        period = date(*(int(part) for part in [*parts, "1", "1"][:3])) if all(p.isdigit() for p in parts) else None
        kind = kind or {1: "year", 2: "month"}.get(len(parts), "day")
    if isinstance(period, date):
        return _span(period, {"year": 366, "month": 31, "week": 7}.get(kind, 1), kind in ("month", "year"), timezone)
    return ALWAYS


def _span(first: date, days: int, whole: bool, timezone: str) -> tuple[datetime, datetime]:
    """Of so many local days from `first` on; `whole`: up to the first of the month that then runs."""
    after = first + timedelta(days=days)
    after = after.replace(day=1) if whole else after
    return day_bounds(first, timezone)[0], day_bounds(after - timedelta(days=1), timezone)[1]


def within(table: Table, reach: Reach) -> pl.Expr:
    """Which rows of `table` are about the same: by meter, else customer; by time; by what they name."""
    names, found = table.names, [pl.lit(True)]
    if "meter_id" in names and reach.meters is not None:
        found.append(pl.col("meter_id").is_in(list(reach.meters)))
    elif "customer_no" in names:
        of_all = pl.col("customer_no") == SCOPE  # which is their sum
        theirs = ~of_all if reach.customers is None else pl.col("customer_no").is_in(list(reach.customers))
        found.append(theirs)
    found += [pl.col(name) == value for name, value in reach.named.items() if name in names]
    return pl.all_horizontal([*found, _at(table, reach)])


def _at(table: Table, reach: Reach) -> pl.Expr:
    names = table.names
    if "started_at" in names:
        ended = pl.col("ended_at") if "ended_at" in names else pl.lit(None, TIMESTAMP)
        return (pl.col("started_at") <= reach.end) & (ended.is_null() | (ended > reach.start))
    for name in _STAMPS:
        if name in names and table.column(name).dtype == TIMESTAMP:
            return (pl.col(name) > reach.start) & (pl.col(name) <= reach.end)
    if "date" in names:
        return pl.col("date").is_between(reach.first, reach.last)
    if "month" in names:
        return pl.col("month").is_between(reach.first.replace(day=1), reach.last)
    if "week" in names:
        return pl.col("week").is_between(reach.first - timedelta(days=6), reach.last)
    return pl.lit(True)


def ends(table: Table, timezone: str) -> pl.Expr | None:
    """When what a row tells of is over (day, month, quarter-hour, ...); None where rows have no time of their own."""
    name, step = _ends_by(table)
    if not name or not step:
        return pl.col(name) if name else None
    midnight = pl.col(name).dt.offset_by(step).cast(pl.Datetime("us"))
    local = midnight.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
    return local.dt.convert_time_zone("UTC")


def over_sql(table: Table, timezone: str, at: datetime) -> str:
    """The same as SQL: whether a row's time is over at `at`."""
    name, step = _ends_by(table)
    if not name:
        return "true"
    steps = {"1d": "INTERVAL 1 DAY", "1w": "INTERVAL 7 DAY", "1mo": "INTERVAL 1 MONTH"}
    zone = timezone.replace("'", "''")
    end = f"((\"{name}\" + {steps[step]})::TIMESTAMP AT TIME ZONE '{zone}')" if step else f'"{name}"'
    return f"{end} <= TIMESTAMPTZ '{at.isoformat()}'"


def _ends_by(table: Table) -> tuple[str, str]:
    """The column that a row's time ends by, and how long after it; "" where there is none."""
    for name in ("window_end", "target", "started_at"):
        if name in table.names and table.column(name).dtype == TIMESTAMP:
            return name, ""
    for name, step in {"date": "1d", "week": "1w", "month": "1mo"}.items():
        if name in table.names and table.column(name).dtype == pl.Date:
            return name, step
    return "", ""
