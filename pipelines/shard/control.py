"""Load control of a turn: closed windows under plans are judged, running ones are looked at, plans change.

Here: which windows of which customers are judged in a turn, and what of that is new. Not here: what is asked of whom
(`control_plans`), running windows (`control_live`), the formulae (`metering.control`).

A window is judged once all main meters of the customer that are heard have it closed, and again when a late reading, a
plan or a day of its baseline changes it; what was emitted last is asked of the past. So it does not matter when the
stream learned of a plan. Where several workers read a customer's meters, the one that hears the first of them speaks
for the customer, and has the others' windows from the lake (docs/adr/0012-load-control-speaks-once.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from metering.calendar import local_date
from metering.control.alarms import VIOLATION, WITHDRAWN, Alarm, changes, runs, violations
from metering.control.execution import executed
from metering.control.plans import holding
from metering.readings.slots import WINDOW_US
from metering.tables.control import LOAD_CONTROL
from metering.tables.lake import VIOLATIONS, WINDOWS
from metering.tables.records import PLANS, SERVICE
from metering.tables.schema import TIMESTAMP
from pipelines.shard import control_live
from pipelines.shard.blocks import last_ends
from pipelines.shard.chunks import NEVER
from pipelines.shard.control_live import handled
from pipelines.shard.control_plans import InForce, in_force
from pipelines.shard.meters import Turn
from pipelines.shard.state import State
from pipelines.shard.store import Context, Past
from sinks.lake.reader import current

_KEY = ["customer_no", "window_end"]
_CONTENT = [name for name in LOAD_CONTROL.names if name not in ("revision", "date", "as_of")]
_PAIR = ["plan_id", "customer_no"]
_DAY_US = 86_400_000_000
_INCOMPLETE_US = 2 * 3_600_000_000


@dataclass(frozen=True, slots=True)
class Controlled:
    """Rows of LOAD_CONTROL (`closed` windows: lake and topic, `live` ones: the topic alone) and of VIOLATIONS."""

    closed: pl.DataFrame
    live: pl.DataFrame
    violations: pl.DataFrame


NOTHING = Controlled(LOAD_CONTROL.empty(), LOAD_CONTROL.empty(), VIOLATIONS.empty())


def step(before: State, state: State, turn: Turn, fresh: pl.DataFrame, context: Context) -> tuple[State, Controlled]:
    """The state after a turn. `before`: the state that its readings were added to; `fresh`: windows that closed, or
    changed, with it (WINDOWS, `meter` and `version`).
    """
    force = in_force(context)
    arrived = _arrived(context)
    past = context.past
    if fresh.height and force.targets.height:
        past = past.and_then(turn.rows.clear(), {WINDOWS.name: WINDOWS.conform(fresh)})
    looked = control_live.step(before, state, turn, force, bool(arrived), past, context)
    state, alarms = looked.state, looked.alarms
    closed = LOAD_CONTROL.empty()
    if arrived or (force.targets.height and (turn.moves_on or fresh.height)):
        told = (
            past.rows(LOAD_CONTROL.name, "plan_id", pl.Series(arrived), force.days_of(arrived)) if arrived else closed
        )
        bounds = _bounds(told, state, turn, force, context)
        keys = _keys(bounds, told, turn, fresh, arrived, force, past, context)
        if keys.height:
            closed = _judged(keys, force, past, context)
        alarms = [*alarms, *_runs(closed, told, bounds, force, past, context)]
    if closed.is_empty() and looked.rows.is_empty() and not alarms:
        return state, NOTHING
    accounts = force.accounts([alarm.customer_no for alarm in alarms])
    return state, Controlled(closed, looked.rows, violations(alarms, accounts, context.settings))


def _arrived(context: Context) -> list[str]:
    """Plans that came with the turn, or that were answered."""
    found: set[str] = set()
    for kind in (PLANS, SERVICE):
        records = context.records.get(kind.table.name)
        if records is not None and records.arrived.height:
            found.update(records.arrived["plan_id"].drop_nulls())
    return sorted(found)


# --- which windows --------------------------------------------------------------------------------------------------


def _bounds(told: pl.DataFrame, state: State, turn: Turn, force: InForce, context: Context) -> pl.DataFrame:
    """Customers under plans, or that were, for which this worker speaks: up to where their windows were (`before`) and
    are (`after`) closed by all of their meters that are heard [us], and whether they have `several` meters.
    """
    planned = force.planned.gather(force.members["meter"])
    members = force.members.filter(planned | force.members["customer_no"].is_in(told["customer_no"].unique().implode()))
    meters = members["meter"]
    heard = state.meters(context.index)["shard"].gather(meters) != 0
    before, after = (
        last_ends(meters, bound.of(meters), context).alias(name)
        for name, bound in (("before", turn.before), ("after", turn.after))
    )
    bounds = (
        members.with_columns(heard.alias("heard"), before, after)
        .group_by("customer_no")
        .agg(pl.col("before", "after").filter("heard").min(), (pl.len() > 1).alias("several"))
        .filter(pl.col("after") > NEVER)
    )
    return bounds.filter(pl.col("customer_no").is_in(handled(bounds["customer_no"], state, force, context)))


def _keys(
    bounds: pl.DataFrame,
    told: pl.DataFrame,
    turn: Turn,
    fresh: pl.DataFrame,
    arrived: Sequence[str],
    force: InForce,
    past: Past,
    context: Context,
) -> pl.DataFrame:
    """customer_no and window_end of closed windows that there may be something new of."""
    parts = [told.select(_KEY)]
    if fresh.height:
        touched = fresh.filter(force.planned.gather(fresh["meter"])).select(_KEY).unique()
        parts += [touched, _built_on(touched, bounds, force, past, context)]
    crossed = bounds.filter(pl.col("several"), pl.col("after") > pl.col("before"))
    since = (pl.col("before") // WINDOW_US + 1) * WINDOW_US
    parts.append(_windows(force.targets.join(crossed, on="customer_no"), since, pl.col("after")))
    if arrived:
        parts.append(_of_plans(arrived, bounds, force))
    if not context.alone and turn.moves_on:
        parts.append(_incomplete(bounds, past, context))
    keys = pl.concat([part.select(_KEY) for part in parts]).unique()
    closed = keys.join(bounds, on="customer_no").filter(pl.col("window_end").to_physical() <= pl.col("after"))
    return closed.select(_KEY)


def _windows(found: pl.DataFrame, since: pl.Expr, until: pl.Expr) -> pl.DataFrame:
    """customer_no, window_end of the windows of targets between ends [us]."""
    first, last = pl.max_horizontal("first_us", since), pl.min_horizontal("last_us", until)
    spans = found.select("customer_no", first.alias("first"), last.alias("last"))
    there = spans.filter(pl.col("first") <= pl.col("last")).unique()
    each = there.with_columns(pl.int_ranges("first", pl.col("last") + 1, WINDOW_US).alias("us")).explode("us")
    return each.select("customer_no", pl.col("us").cast(TIMESTAMP).alias("window_end"))


def _built_on(
    touched: pl.DataFrame, bounds: pl.DataFrame, force: InForce, past: Past, context: Context
) -> pl.DataFrame:
    """Windows that were judged by baselines which windows of days before, that have come now, may be part of."""
    dated = touched.with_columns(local_date(pl.col("window_end"), context.settings.timezone).alias("date"))
    first, now_us = dated["date"].min(), bounds["after"].max()
    if not isinstance(first, date) or not isinstance(now_us, int):
        return touched.clear()
    force.forget(first)
    until = pl.select(local_date(pl.lit(now_us).cast(TIMESTAMP), context.settings.timezone)).item()
    later = force.later_days(first, until)
    if not later:
        return touched.clear()
    rows = past.rows(LOAD_CONTROL.name, "customer_no", touched["customer_no"], later)
    since = dated.group_by("customer_no").agg(pl.col("date").min().alias("since"))
    return rows.join(since, on="customer_no").filter(pl.col("date") > pl.col("since")).select(_KEY)


def _of_plans(arrived: Sequence[str], bounds: pl.DataFrame, force: InForce) -> pl.DataFrame:
    """Windows under plans that have just come; and under others, for a day under a plan is none of a baseline."""
    found = force.targets.join(bounds, on="customer_no")
    theirs = found.filter(pl.col("plan_id").is_in(list(arrived)))
    first = theirs.group_by("customer_no").agg(pl.col("first_us").min().alias("since"))
    horizon = max((row.horizon_days for row in force.settings.control.baseline.values()), default=0) + 1
    until = pl.min_horizontal("after", pl.col("since") + horizon * _DAY_US)
    return _windows(found.join(first, on="customer_no"), pl.col("since"), until)


def _incomplete(bounds: pl.DataFrame, past: Past, context: Context) -> pl.DataFrame:
    """Windows of late that were judged without a meter which another worker reads."""
    last_us = bounds["after"].max()
    if not isinstance(last_us, int):
        return LOAD_CONTROL.empty().select(_KEY)
    since = pl.select(pl.lit(last_us - _INCOMPLETE_US).cast(TIMESTAMP)).item()
    day = pl.select(local_date(pl.lit(since, TIMESTAMP), context.settings.timezone)).item()
    rows = past.rows(LOAD_CONTROL.name, "customer_no", bounds["customer_no"], [day, day + timedelta(days=1)])
    told = current(rows.lazy(), LOAD_CONTROL.key).collect()
    return told.filter(pl.col("meters") < pl.col("meters_due"), pl.col("window_end") > since).select(_KEY)


# --- what is new of them --------------------------------------------------------------------------------------------


def _judged(keys: pl.DataFrame, force: InForce, past: Past, context: Context) -> pl.DataFrame:
    """LOAD_CONTROL of what is not as it was emitted last: final, or withdrawn where no plan holds any more."""
    keys = keys.with_columns(local_date(pl.col("window_end"), context.settings.timezone).alias("date"))
    days, customers = keys["date"].unique().sort().to_list(), keys["customer_no"].unique()
    told = past.rows(LOAD_CONTROL.name, "customer_no", customers, days).join(keys, on=_KEY, how="semi")
    before = current(told.lazy(), LOAD_CONTROL.key).collect()
    held = holding(force.targets, keys)
    rows = LOAD_CONTROL.empty()
    if held.height:
        load = force.load(past.rows(WINDOWS.name, "customer_no", customers, days))
        rows = executed(held, load, force.baselines(held, past), context.meter_versions, context.settings)
    known = before.select(*LOAD_CONTROL.key, told="revision")
    alike = before.select(*_CONTENT, like="revision")  # late readings that change nothing else are counted all the same
    new = rows.join(alike, on=_CONTENT, how="left", nulls_equal=True)
    new = new.filter((pl.col("revision") > pl.col("like")).fill_null(True))
    new = new.join(known, on=LOAD_CONTROL.key, how="left").filter((pl.col("meters") > 0) | pl.col("told").is_not_null())
    revision = pl.max_horizontal("revision", pl.col("told") + 1).cast(pl.Int32)
    gone = before.filter(pl.col("state") != WITHDRAWN).join(held, on=LOAD_CONTROL.key, how="anti")
    withdrawn = gone.with_columns(
        pl.lit(WITHDRAWN).alias("state"), pl.lit(None, pl.Boolean).alias("compliant"), pl.col("revision") + 1
    )
    emitted = [LOAD_CONTROL.conform(new.with_columns(revision.alias("revision"))), LOAD_CONTROL.conform(withdrawn)]
    return pl.concat(emitted).sort(LOAD_CONTROL.key)


def _runs(
    closed: pl.DataFrame, replaced: pl.DataFrame, bounds: pl.DataFrame, force: InForce, past: Past, context: Context
) -> list[Alarm]:
    """Violations of caps that are not as they were told, of customers and plans with something new or at an end, and of
    plans of which rows have been `replaced`.
    """
    row = context.settings.control.alarms.get(VIOLATION)
    last = force.targets.group_by("plan_id", "customer_no").agg(pl.col("last_us").max().alias("last"))
    ends = last.join(bounds, on="customer_no").filter(pl.col("last") <= pl.col("after"))
    at_end = ends.filter(pl.col("last") > pl.col("before")).select(_PAIR)
    pairs = pl.concat([closed.select(_PAIR), replaced.select(_PAIR), at_end]).unique().sort(_PAIR)
    if row is None or pairs.is_empty():
        return []
    over = {(plan, customer): at for plan, customer, at in ends.select(*_PAIR, _at("last")).iter_rows()}
    were_over = set(ends.filter(pl.col("last") <= pl.col("before")).select(_PAIR).iter_rows())
    plans = pairs["plan_id"].unique()
    days = force.days_of(plans.to_list())
    told = past.rows(LOAD_CONTROL.name, "plan_id", plans, days)
    before, rows = (
        current(known.lazy(), LOAD_CONTROL.key).filter(pl.col("state") == "final").collect()
        for known in (told, pl.concat([told, closed]))
    )
    raised = past.rows(VIOLATIONS.name, "customer_no", pairs["customer_no"], days)
    raised = current(raised.filter(pl.col("rule") == VIOLATION).lazy(), VIOLATIONS.key).collect()
    found: list[Alarm] = []
    for plan_id, customer in pairs.iter_rows():
        pair = plan_id, customer
        was_over = over.get(pair) if pair in were_over else None
        theirs = pl.col("plan_id") == plan_id, pl.col("customer_no") == customer
        were, alarms = (
            runs(windows.filter(*theirs).sort("window_end").iter_rows(named=True), at, row)
            for windows, at in ((before, was_over), (rows, over.get(pair)))
        )
        known = raised.filter(pl.col("violation_id").str.starts_with(f"{plan_id}/{customer}/"))
        found += changes(alarms, known, were)
    return found


def _at(name: str) -> pl.Expr:
    return pl.col(name).cast(TIMESTAMP)
