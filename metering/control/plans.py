"""Plans of load control: messages to rows, and rows to the targets that hold for customers.

Here: what a valid plan is, which of its revisions holds when, customers' answers. Not here: baselines (`baseline`),
what is made of a target (`execution`), where plans come from.

A revision holds for windows that end after it was issued, until the next one was; a withdrawn one ends the plan. Of a
plan's time the whole quarter-hours count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from metering.calendar import local_date
from metering.readings.slots import WINDOW_US
from metering.tables.control import KINDS, LEVELS, PLANS
from metering.tables.schema import TIMESTAMP, no_rows

TARGETS = pl.Schema(
    {
        "plan_id": pl.String(),
        "customer_no": pl.String(),
        "kind": pl.String(),
        "level": pl.String(),
        "baseline": pl.String(),
        "plan_revision": pl.Int32(),
        "superseded": pl.Int32(),
        "cap_kw": pl.Float64(),
        "reduction_kw": pl.Float64(),
        "protected_kw": pl.Float64(),
        "first_us": pl.Int64(),
        "last_us": pl.Int64(),
    }
)
"""What is asked of a customer: from the window that ends at `first_us` to that at `last_us`. `superseded`: revisions
of the plan that were issued before. No customer has two targets of one plan in one window."""
ANSWERS = pl.Schema({"plan_id": pl.String(), "customer_no": pl.String(), "at": TIMESTAMP, "answer": pl.String()})
ANSWER_WORDS = ("accepted", "declined", "opted_out")
VOLUNTARY = "demand_response"
MANDATORY = "orderly_usage"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KNOWN_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_MOST_ID = 64
_MOST_REVISION = 2**31 - 1
_AMOUNTS = ("cap_kw", "reduction_kw", "protected_kw")
_ID = ("plan_id", "revision")


class PlanError(ValueError):
    """A message that is no plan; says why."""


# --- from messages to rows ------------------------------------------------------------------------------------------


def parse_plan(content: bytes | str, timezone: str) -> pl.DataFrame:
    """PLANS of one message, a JSON object: a row for each target; one with no target where it names none.

    `customers` are numbers, or objects that hold a customer's own figures too; `feeders` names of feeders. `cap_kw` or
    `reduction_kw`, and `protected_kw`, are one number for each target, or numbers by customer (or feeder). `from`, `to`
    and `issued_at` are RFC 3339 with offset or epoch milliseconds. Raises PlanError.
    """
    try:
        plan = json.loads(content)
    except ValueError as error:
        raise PlanError(f"is no JSON: {error}") from error
    if not isinstance(plan, dict):
        raise PlanError("is no JSON object")
    withdrawn = _word(plan, "state", ("active", "withdrawn"), "active") == "withdrawn"
    begin = None if withdrawn and plan.get("from") is None else _time(plan, "from")
    end = None if withdrawn and plan.get("to") is None else _time(plan, "to")
    if begin is not None and end is not None and end <= begin:
        raise PlanError("to is not after from")
    head = {
        "plan_id": _text(plan.get("plan_id"), "plan_id"),
        "revision": _whole(plan.get("revision", 0)),
        "kind": _word(plan, "kind", KINDS, MANDATORY),
        "level": _word(plan, "level", LEVELS, None),
        "state": "withdrawn" if withdrawn else "active",
        "issued_at": _time(plan, "issued_at"),
        "from_at": begin,
        "to_at": end,
        "baseline": None if plan.get("baseline") is None else _text(plan["baseline"], "baseline"),
    }
    targets = list(_targets(plan))
    if not withdrawn:
        if not targets:
            raise PlanError("names neither customers nor feeders")
        for target in targets:
            if (target["cap_kw"] is None) == (target["reduction_kw"] is None):
                raise PlanError(f"{target['scope']} {target['name']} needs either cap_kw or reduction_kw")
    rows = pl.DataFrame(
        [{**head, **target} for target in targets] or [head],
        schema={name: dtype for name, dtype in PLANS.schema.items() if name != "date" and (targets or name in head)},
    )
    return PLANS.conform(rows.with_columns(local_date(pl.col("issued_at"), timezone).alias("date")))


def _targets(plan: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    amounts = {name: plan.get(name) for name in _AMOUNTS}
    seen: set[tuple[str, str]] = set()
    for scope, key in (("customer", "customers"), ("feeder", "feeders")):
        listed = plan.get(key)
        if isinstance(listed, Mapping):
            listed = [{"name": name, **_own(value)} for name, value in listed.items()]
        if listed is None:
            listed = []
        if not isinstance(listed, list):
            raise PlanError(f"{key} is no list")
        for item in listed:
            own = item if isinstance(item, Mapping) else {}
            name = _text(own.get("customer_no", own.get("feeder", own.get("name"))) if own else item, key)
            if (scope, name) in seen:
                raise PlanError(f"{scope} {name} is named twice")
            seen.add((scope, name))
            said = {n: own[n] if n in own else _of(amounts[n], name) for n in _AMOUNTS}
            yield {"scope": scope, "name": name, **{n: _power(value, f"{n} of {name}") for n, value in said.items()}}
    if "customers" in plan or "feeders" in plan:
        return
    named = dict.fromkeys(n for value in amounts.values() if isinstance(value, Mapping) for n in value)
    for name in named:  # the figures by customer say whom they are for
        said = {n: _power(_of(amounts[n], name), f"{n} of {name}") for n in _AMOUNTS}
        yield {"scope": "customer", "name": _text(name, "customer"), **said}


def _own(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise PlanError('customers by name must have objects such as {"cap_kw": 500}')


def _of(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else value


def _power(value: Any, what: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise PlanError(f"{what} is no power from 0 kW")
    return float(value)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _MOST_ID:
        raise PlanError(f"{key} is no text of 1 to {_MOST_ID} characters")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_REVISION:
        raise PlanError("revision is no whole number from 0")
    return value


def _word(plan: Mapping[str, Any], key: str, known: Sequence[str], otherwise: str | None) -> str | None:
    value = plan.get(key)
    if value is None:
        return otherwise
    if value not in known:
        raise PlanError(f"{key} is none of {', '.join(known)}")
    return str(value)


def _time(plan: Mapping[str, Any], key: str) -> datetime:
    value = plan.get(key)
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            at = _EPOCH + timedelta(milliseconds=value)
        else:
            raise PlanError(f"{key} is missing, or no time")
        if at.tzinfo is None:
            raise PlanError(f"{key} has no offset from UTC")
        at = at.astimezone(UTC)
    except (OverflowError, ValueError) as error:
        raise error if isinstance(error, PlanError) else PlanError(f"{key} is no time: {value!r:.40}") from error
    if at < _KNOWN_FROM:
        raise PlanError(f"{key} is a time that no plan can mean: {value!r:.40}")
    return at


# --- which target holds when ----------------------------------------------------------------------------------------


def targets(
    plans: pl.DataFrame, answers: pl.DataFrame, meter_versions: pl.DataFrame, default_baseline: str
) -> pl.DataFrame:
    """TARGETS of customers that the registry knows. `plans`: PLANS in any order; `answers`: ANSWERS.

    A feeder's figures are shared among its customers by contract capacity; a customer that is named itself is not asked
    as one of a feeder, too. A customer that declined, or opted out of, demand response is not asked from then on until
    it accepts; orderly usage is not a matter of choice.
    """
    if plans.is_empty():
        return no_rows(TARGETS)
    held = _holding(plans).filter(pl.col("state") == "active", pl.col("scope").is_not_null())
    held = held.filter(pl.col("first_us") <= pl.col("last_us"))
    if held.is_empty():
        return no_rows(TARGETS)
    found = _of_customers(held, _accounts(meter_versions))
    cut = [
        found.filter(pl.col("kind") != VOLUNTARY),
        _without_refused(found.filter(pl.col("kind") == VOLUNTARY), answers),
    ]
    rows = pl.concat(cut).with_columns(pl.col("baseline").fill_null(default_baseline))
    return rows.select(TARGETS.names()).cast(TARGETS).sort("plan_id", "customer_no", "first_us")


def _holding(plans: pl.DataFrame) -> pl.DataFrame:
    """Rows with `first_us` and `last_us`, the ends of the windows that their revision holds for, and `superseded`."""
    # of one revision that came twice what was issued later counts
    rows = plans.unique(maintain_order=True).with_columns(pl.col("issued_at").max().over(_ID).alias("newest"))
    rows = rows.filter(pl.col("issued_at") == pl.col("newest")).drop("newest")
    revisions = rows.unique(_ID).sort("plan_id", "issued_at", "revision").select(
        *_ID,
        pl.int_range(pl.len(), dtype=pl.Int32).over("plan_id").alias("superseded"),
        pl.col("issued_at").shift(-1).over("plan_id").alias("until"),
    )  # fmt: skip
    issued, until, begin, end = (pl.col(n).to_physical() for n in ("issued_at", "until", "from_at", "to_at"))
    first = pl.max_horizontal(_up(begin) + WINDOW_US, _up(issued + 1))
    last = pl.min_horizontal(end // WINDOW_US, until // WINDOW_US) * WINDOW_US
    return rows.join(revisions, on=_ID).with_columns(first.alias("first_us"), last.alias("last_us"))


def _up(us: pl.Expr) -> pl.Expr:
    return -(-us // WINDOW_US) * WINDOW_US


def _accounts(meter_versions: pl.DataFrame) -> pl.DataFrame:
    return meter_versions.filter(pl.col("role") == "main").select(
        "customer_no", "feeder", "contract_capacity_kva", registered_kw="protected_kw", valid_us=_us("valid_from"),
        over_us=_us("valid_to").fill_null(2**62),
    )  # fmt: skip


def _us(name: str) -> pl.Expr:
    return pl.col(name).to_physical()


def _of_customers(held: pl.DataFrame, accounts: pl.DataFrame) -> pl.DataFrame:
    """Targets of customers, each once in a revision, from those of customers and of feeders."""
    there = (pl.col("valid_us") < pl.col("last_us")) & (pl.col("over_us") > pl.col("first_us") - WINDOW_US)
    own = held.filter(pl.col("scope") == "customer").rename({"name": "customer_no"}).join(accounts, on="customer_no")
    fed = held.filter(pl.col("scope") == "feeder").rename({"name": "feeder"}).join(accounts, on="feeder")
    key = (*_ID, "customer_no")
    own, fed = (rows.filter(there).sort("valid_us").unique(key, keep="last") for rows in (own, fed))
    fed = fed.sort("feeder").unique(key, keep="first").join(own.select(key), on=key, how="anti")
    share = pl.col("contract_capacity_kva") / pl.col("contract_capacity_kva").sum().over(*_ID, "feeder")
    fed = fed.with_columns(pl.col(_AMOUNTS) * share)
    rows = pl.concat([rows.select(own.columns) for rows in (own, fed)])
    return rows.with_columns(pl.coalesce("protected_kw", "registered_kw")).rename({"revision": "plan_revision"})


def _without_refused(rows: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """Targets cut to the windows that end before a refusal, or after the customer accepted again."""
    refused = answers.join(rows, on=("plan_id", "customer_no"), how="semi")
    if refused.is_empty():
        return rows
    said: dict[tuple[str, str], list[tuple[int, bool]]] = {}
    for plan_id, customer_no, at, answer in refused.sort("at").select(ANSWERS.names()).iter_rows():
        us = (at - _EPOCH) // timedelta(microseconds=1)
        said.setdefault((plan_id, customer_no), []).append((us, answer == "accepted"))
    parts = []
    for row in rows.iter_rows(named=True):
        for first, last in _spans(said.get((row["plan_id"], row["customer_no"]), ()), row["first_us"], row["last_us"]):
            parts.append({**row, "first_us": first, "last_us": last})
    return pl.DataFrame(parts, schema=rows.schema)


def _spans(said: Iterable[tuple[int, bool]], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Windows from `first` to `last` that end while the customer takes part: it does until it refuses."""
    since: int | None = first
    for us, accepted in said:
        window = us // WINDOW_US * WINDOW_US
        if accepted and since is None:
            since = max(first, window + WINDOW_US)
        elif not accepted and since is not None:
            if since <= min(window, last):
                yield since, min(window, last)
            since = None
    if since is not None and since <= last:
        yield since, last


def holding(found: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    """`windows` (customer_no, window_end, and more) with the target of each plan (TARGETS) that holds for them."""
    at = pl.col("window_end").to_physical()
    joined = windows.join(found, on="customer_no", maintain_order="left")
    return joined.filter(at >= pl.col("first_us"), at <= pl.col("last_us"))
