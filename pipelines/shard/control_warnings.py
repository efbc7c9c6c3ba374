"""Warnings of what customers are heading for: of a plan's cap, of their contract demand, of their capacity.

Here: the frame WARNINGS, and how a turn's looks move it on. Not here: the looks (`control_live`), when a warning is
raised and cleared (`metering.control.alarms`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta

import polars as pl

from metering.control.alarms import CAPACITY, CLEARED, DEMAND, WARNING, Alarm, Look, ended, warned
from metering.control.baseline import meters_due
from metering.readings.slots import WINDOW_US
from metering.tables.schema import TIMESTAMP
from pipelines.shard.control_plans import LIMITS, InForce
from pipelines.shard.meters import Turn
from pipelines.shard.state import Frame, State
from pipelines.shard.store import Context, LakePast

WATCHED = "watched"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

WARNINGS = Frame(
    "control_warnings",
    2,
    pl.Schema(
        {
            "meter": pl.UInt32(),
            "rule": pl.String(),
            "plan_id": pl.String(),
            "customer_no": pl.String(),
            "kind": pl.String(),
            "started_at": TIMESTAMP,
            "at": TIMESTAMP,
            "until": TIMESTAMP,
            "value": pl.Float64(),
            "limit_value": pl.Float64(),
            "told_kw": pl.Float64(),
            "allowed_kw": pl.Float64(),
            "of_meters": pl.String(),
            "state": pl.String(),
            "revision": pl.Int32(),
            "ended_at": TIMESTAMP,
        }
    ),
    stays=pl.col("state") != WATCHED,
)
"""Warnings that are open; and customers near their contract demand or capacity, `watched` up to the end of the window
`until`, with so many meters as `revision` says."""


def time_of(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


_Key = tuple[str, str, str]
_Watch = tuple[datetime, datetime, int]
"""When a customer was looked at last, in which window, with how many meters."""


def step(
    state: State, looks: pl.DataFrame, live: pl.DataFrame, turn: Turn, force: InForce, context: Context
) -> tuple[State, list[Alarm]]:
    """Warnings after the looks; and after plans that hold no more, which end theirs."""
    alarms = _alarms(state)
    if looks.is_empty() and not alarms:
        return state, []
    told: list[Alarm] = []
    settings = context.settings.control.alarms
    limits = {rule: _limits(rule, looks, force) for rule in LIMITS if rule in settings and settings[rule].start > 0}
    of_look: dict[int, list[dict[str, object]]] = {}
    for row in live.iter_rows(named=True):
        of_look.setdefault(row["look"], []).append(row)
    watched = dict(_watched(state))
    due = meters_due(looks, context.meter_versions)["meters_due"]
    together = _in_one_log(looks, state, force, context)
    for number, (customer, end, at, mean, heading, mean_kva, heading_kva, meters) in enumerate(looks.iter_rows()):
        if any(of_rule[number] is not None for of_rule in limits.values()):
            watched[customer] = (at, end, meters)
        some = f"{meters}/{due[number]}" if meters < due[number] else ""
        if some and customer not in together:
            continue
        elapsed_s = (at - end).total_seconds() + WINDOW_US / 1e6
        for row in of_look.get(number, ()):
            cap = row["cap_kw"]
            if isinstance(cap, float) and WARNING in settings:
                seen = Look(
                    at=at, until=end, projected_kw=heading, limit_kw=cap, elapsed_s=elapsed_s, used_kw=mean,
                    of_meters=some,
                )  # fmt: skip
                key = (WARNING, str(row["plan_id"]), customer)
                alarm, tell = warned(alarms.get(key), seen, settings[WARNING], *key, str(row["kind"]))
                _put(alarms, key, alarm, told, tell)
        for rule, of_rule in limits.items():
            limit = of_rule[number]
            if limit is None:
                continue
            powers = (mean_kva, heading_kva) if rule == CAPACITY else (mean, heading)
            seen = Look(
                at=at, until=end, projected_kw=powers[1], limit_kw=limit, elapsed_s=elapsed_s, used_kw=powers[0],
                of_meters=some,
            )  # fmt: skip
            key = (rule, "", customer)
            alarm, tell = warned(alarms.get(key), seen, settings[rule], *key)
            _put(alarms, key, alarm, told, tell)
    for key, alarm in list(alarms.items()):
        if key[0] == WARNING and (over := _over(alarm, turn, force)) is not None:
            told.append(ended(alarm, max(alarm.at, over)))
            del alarms[key]
    kept = _kept(alarms, watched, force, context)
    return state if kept.equals(state.frame(WARNINGS)) else state.having({WARNINGS: kept}), told


def _in_one_log(looks: pl.DataFrame, state: State, force: InForce, context: Context) -> set[str]:
    """Customers all of whose main meters are heard in one shard, so that the order of its log says which are silent. Of
    others a meter may only not have been read yet.
    """
    theirs = force.members.join(looks.select("customer_no").unique(), on="customer_no", how="semi")
    shard = state.meters(context.index)["shard"].gather(theirs["meter"])
    if len(state.shards.names) <= 2:  # one, and that of none
        return set(theirs["customer_no"])
    counted = (
        theirs.select("customer_no", shard)
        .group_by("customer_no")
        .agg(pl.all().n_unique().alias("n"), pl.all().min().alias("least"))
    )
    return set(counted.filter(pl.col("n") == 1, pl.col("least") > 0)["customer_no"])


def _put(alarms: dict[_Key, Alarm], key: _Key, alarm: Alarm | None, told: list[Alarm], tell: bool) -> None:
    if alarm is not None and tell:
        told.append(alarm)
    if alarm is None or alarm.state == CLEARED:
        alarms.pop(key, None)
    else:
        alarms[key] = alarm


def _over(alarm: Alarm, turn: Turn, force: InForce) -> datetime | None:
    """When the plan of a warning ended for its customer; None: it has not yet."""
    customer = pl.col("customer_no") == alarm.customer_no
    last = force.targets.filter(pl.col("plan_id") == alarm.plan_id, customer)["last_us"].max()
    if not isinstance(last, int):
        return alarm.at
    closed_us = turn.after.of(force.first.filter(customer)["meter"]).max()
    over = time_of(last) < alarm.until or (isinstance(closed_us, int) and closed_us >= last)
    return time_of(last) if over else None


def _limits(rule: str, looks: pl.DataFrame, force: InForce) -> list[float | None]:
    """A customer's limit in the window of each look, as the registry has it then; null: none."""
    versions = force.index.meter_versions.filter(pl.col("role") == "main")
    theirs = versions.select("customer_no", "valid_from", "valid_to", limit=LIMITS[rule])
    at = pl.col("window_end")
    joined = looks.with_row_index("look").select("look", "customer_no", "window_end").join(theirs, on="customer_no")
    valid = joined.filter(pl.col("valid_from") < at, (pl.col("valid_to") >= at).fill_null(True))
    of_look = dict(valid.sort("valid_from").select("look", "limit").iter_rows())
    return [of_look.get(number) for number in range(looks.height)]


def _alarms(state: State) -> dict[_Key, Alarm]:
    names = [f.name for f in fields(Alarm)]
    rows = state.frame(WARNINGS).filter(pl.col("state") != WATCHED)
    alarms = [Alarm(**row) for row in rows.select(names).iter_rows(named=True)]
    return {(alarm.rule, alarm.plan_id, alarm.customer_no): alarm for alarm in alarms}


def _watched(state: State) -> Iterator[tuple[str, _Watch]]:
    rows = state.frame(WARNINGS).filter(pl.col("state") == WATCHED)
    for customer, at, until, meters in rows.select("customer_no", "at", "until", "revision").iter_rows():
        yield customer, (at, until, meters)


def _kept(alarms: dict[_Key, Alarm], watched: dict[str, _Watch], force: InForce, context: Context) -> pl.DataFrame:
    newest = max((at for at, *_ in watched.values()), default=None)
    rows: list[dict[str, object]] = [asdict(alarm) for alarm in alarms.values()]
    for customer, (at, until, meters) in watched.items():
        if newest is not None and until > newest - timedelta(seconds=context.settings.lateness_s):
            watch = {"rule": DEMAND, "plan_id": "", "customer_no": customer, "at": at, "until": until}
            rows.append({**watch, "state": WATCHED, "revision": meters})
    schema = {name: dtype for name, dtype in WARNINGS.schema.items() if name != "meter"}
    frame = pl.DataFrame(rows, schema=schema).join(force.first, on="customer_no")
    return frame.select(WARNINGS.schema.names()).sort("customer_no", "rule", "plan_id", "state")


def recalled(state: State, past: LakePast, context: Context) -> State:
    """A state made anew, with the warnings that the lake says are open."""
    rows = past.open_violations([WARNING, *LIMITS])
    known = rows.with_columns(context.index.code(rows["meter_id"])).filter(pl.col("meter").is_not_null())
    plan = pl.col("violation_id").str.split("/").list.first()
    frame = known.with_columns(
        pl.when(pl.col("rule") == WARNING).then(plan).otherwise(pl.lit("")).alias("plan_id"),
        kind=pl.lit(""),
        until="at",
        told_kw="value",
        allowed_kw=pl.lit(None, pl.Float64),
        of_meters=pl.lit(""),
    )
    return state.having({WARNINGS: frame.select(WARNINGS.schema.names()).cast(WARNINGS.schema)})
