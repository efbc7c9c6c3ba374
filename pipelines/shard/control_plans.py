"""Plans of load control as a turn needs them: by meter and by customer, and the baselines of their days.

Here: what follows from the plans and the registry alone, made anew only when one of them changes. Not here: what a
turn's readings say (`control_live`, `control`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property, lru_cache

import polars as pl

from metering.calendar import day_of
from metering.control.alarms import CAPACITY, DEMAND, Account
from metering.control.baseline import BASELINE_SCHEMA, baselines, control_days, customer_load, reference_days
from metering.control.plans import answers, targets
from metering.registry.index import MeterIndex
from metering.settings import MeteringSettings
from metering.tables.records import PLANS, SERVICE
from metering.tables.schema import no_rows
from pipelines.shard.store import Context, Past
from sinks.lake.reader import newest


@dataclass(frozen=True, eq=False)
class InForce:
    """What is asked of whom. `members`: customer_no and meter (code) of main meters; `planned`, by meter code: whether
    its customer has a target at some time; `demand_kw` and `capacity_kva`, by version: power of a meter from which
    on its customer may pass its contract demand, or the capacity that it has in use (null: never). `of_day`: baselines
    that have been asked for, by local day.
    """

    index: MeterIndex
    settings: MeteringSettings
    plans: pl.DataFrame
    targets: pl.DataFrame
    members: pl.DataFrame
    planned: pl.Series
    demand_kw: pl.Series
    capacity_kva: pl.Series
    of_day: dict[date, pl.DataFrame] = field(default_factory=dict)

    @cached_property
    def first(self) -> pl.DataFrame:
        """customer_no and meter: the first of its main meters."""
        return self.members.group_by("customer_no", maintain_order=True).agg(pl.col("meter").first())

    def accounts(self, customers: Sequence[str]) -> Mapping[str, Account]:
        """Customers as the registry has them last, with their first main meters."""
        theirs = pl.col("customer_no").is_in(list(customers))
        rows = self.index.meter_versions.filter(theirs).sort("role", "meter_id", "valid_from")
        last = rows.group_by("customer_no", maintain_order=True).agg(
            pl.col("meter_id").first(), pl.col("customer_name", "feeder").last()
        )
        return {
            row["customer_no"]: Account(
                customer_no=row["customer_no"],
                name=row["customer_name"] or "",
                feeder=row["feeder"] or "",
                meter_id=row["meter_id"],
            )
            for row in last.iter_rows(named=True)
        }

    def baselines(self, held: pl.DataFrame, past: Past) -> pl.DataFrame:
        """BASELINE_SCHEMA of windows (`plans.holding`, with `date`): asked of the past once for each day."""
        frames = [no_rows(BASELINE_SCHEMA)]
        for day in held["date"].unique():
            wanted = held.filter(pl.col("date") == day).select("customer_no", "window_end", "baseline")
            known = self.of_day.get(day, no_rows(BASELINE_SCHEMA))
            new = wanted.join(known, on=wanted.columns, how="anti")
            if new.height:
                known = pl.concat([known, self._asked(new, day, past)])
                self.of_day[day] = known
            frames.append(known)
        return pl.concat(frames)

    def _asked(self, wanted: pl.DataFrame, day: date, past: Past) -> pl.DataFrame:
        days = reference_days(day, self.settings.control.baseline)
        rows = past.rows("windows", "customer_no", wanted["customer_no"], days)
        return baselines(wanted, self.load(rows), self.targets, self.index.meter_versions, self.settings)

    def load(self, windows: pl.DataFrame) -> pl.DataFrame:
        """LOAD_SCHEMA of rows of the lake's windows, all revisions."""
        rows = newest(windows, ("meter_id", "window_end"))
        coded = rows.with_columns(self.index.code(rows["meter_id"])).filter(pl.col("meter").is_not_null())
        of_version = coded.with_columns(self.index.version_of_window(coded["meter"], coded["window_end"]))
        return customer_load(of_version.filter(pl.col("version").is_not_null()), self.index.meter_versions)

    def days_of(self, plan_ids: Sequence[str]) -> list[date]:
        """Local days that any revision of some plans reaches over."""
        rows = self.plans.filter(pl.col("plan_id").is_in(list(plan_ids)))
        first, last = rows["from_at"].min(), rows["to_at"].max()
        if not isinstance(first, datetime) or not isinstance(last, datetime):
            return []
        begin, end = (day_of(at, self.settings.timezone) for at in (first + timedelta(microseconds=1), last))
        if begin is None or end is None:
            return []
        return [begin + timedelta(days=n) for n in range((end - begin).days + 1)]

    def later_days(self, since: date, until: date) -> list[date]:
        """Local days under plans after `since`, so near that it may be part of their baselines, up to `until`."""
        horizon = max((row.horizon_days for row in self.settings.control.baseline.values()), default=0)
        last = min(until, since + timedelta(days=horizon))
        found = control_days(self.targets, self.settings.timezone)["date"]
        return found.filter((found > since) & (found <= last)).unique().sort().to_list()

    def forget(self, since: date) -> None:
        """Let go of baselines that windows of `since` may be part of: of later days."""
        for day in [day for day in self.of_day if day > since]:
            del self.of_day[day]


@dataclass(frozen=True, eq=False, slots=True)
class _Inputs:
    """Told apart by identity: frames of records stay the same until one comes."""

    plans: pl.DataFrame
    events: pl.DataFrame
    index: MeterIndex
    settings: MeteringSettings

    def _parts(self) -> tuple[object, ...]:
        return self.plans, self.events, self.index, self.settings

    def __hash__(self) -> int:
        return hash(tuple(map(id, self._parts())))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Inputs):
            return NotImplemented
        return all(a is b for a, b in zip(self._parts(), other._parts(), strict=True))


_NO_PLANS, _NO_EVENTS = PLANS.table.empty(), SERVICE.table.empty()


def in_force(context: Context) -> InForce:
    """What the plans that are known in this turn ask for."""
    plans, events = (context.records.get(kind.table.name) for kind in (PLANS, SERVICE))
    return _made(
        _Inputs(
            _NO_PLANS if plans is None else plans.current,
            _NO_EVENTS if events is None else events.current,
            context.index,
            context.settings,
        )
    )


@lru_cache(maxsize=4)
def _made(inputs: _Inputs) -> InForce:
    versions, settings = inputs.index.meter_versions, inputs.settings
    found = targets(inputs.plans, answers(inputs.events), versions, settings.control.default_baseline)
    main = versions.filter(pl.col("role") == "main")
    members = main.select("customer_no", inputs.index.code(main["meter_id"])).unique().sort("customer_no", "meter")
    theirs = members.join(found.select("customer_no").unique(), on="customer_no", how="semi")["meter"]
    nobody = pl.repeat(False, len(inputs.index.first), dtype=pl.Boolean, eager=True).alias("planned")
    planned = nobody.scatter(theirs, True) if len(theirs) else nobody
    demand_kw, capacity_kva = (_share(rule, versions, members, settings) for rule in LIMITS)
    return InForce(inputs.index, settings, inputs.plans, found, members, planned, demand_kw, capacity_kva)


LIMITS = {
    DEMAND: pl.col("contract_demand_kw"),
    CAPACITY: pl.col("contract_capacity_kva") - pl.col("suspended_kva").fill_null(0.0),
}
"""What a customer is warned of that is heading above it: contract demand [kW], capacity less the suspended [kVA]."""


def _share(rule: str, versions: pl.DataFrame, members: pl.DataFrame, settings: MeteringSettings) -> pl.Series:
    """One of a customer's k meters is above a k-th of the limit when their sum is above it."""
    alarm = settings.control.alarms.get(rule)
    meters = members.group_by("customer_no").agg(pl.len().alias("meters"))
    joined = versions.join(meters, on="customer_no", how="left", maintain_order="left")
    start = alarm.start if alarm is not None and alarm.start > 0 else None
    share = LIMITS[rule] * pl.lit(start, pl.Float64) / pl.col("meters")
    return joined.select(pl.when(pl.col("role") == "main").then(share).alias(rule)).to_series()
