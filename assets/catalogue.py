"""Every batch asset: its table, what it is computed from, and by which function.

Here: the list, and the one op body that all tables share (compute, gate, publish, report). Not here: the computing.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg

from assets import control
from assets.alarms import alarm_handlings, meter_events, metering_faulted, observabilities, register_dailies
from assets.batch import Batch, Outcome, Part, gated
from assets.charges import bill_checks, charges, demands, seen_bills, seen_charges, seen_demand
from assets.curves import (
    batch_windows,
    curves,
    demands_of_days,
    loads,
    meter_curves,
    meter_dailies,
    power_factors,
    registry_customers,
    registry_meters,
)
from assets.forecasts import accuracies, forecasts
from assets.kpis import kpis
from assets.lake import lake_key, lake_specs
from assets.lists import lists
from assets.quality_report import write_reports
from assets.reconciliations import reconciliations
from assets.rollups import group_curves, indices
from assets.seen import FIGURES, Shown, seen_curve, seen_forecast
from assets.shown import (
    CHECK,
    ROWS_CHECK,
    check_of,
    column_schema,
    grain_of,
    lineage_of,
    markdown,
    promise_of,
    refusal,
    rows_check_of,
    shown,
)
from assets.supply import monthly_voltages, unbalances, voltages, weekly_voltages
from assets.violations import notices_of, storms_of, violations
from metering.errors import UserError
from metering.tables import Table
from metering.tables.batch import BATCH
from sinks.lake.calendar import check_timezone
from sinks.lake.reader import LakeReader
from sinks.marts import Marts
from sinks.warehouse import build

_ROWS_PROMISE = (
    "Every row is as declared, and no validation failed; those that are not are kept out or marked, and named."
)
FIRST_DAY = "2000-01-01"
"""No day before this one can be materialised."""
RECENT_DAYS = 7
"""Data that ended longer ago than this is a closed record: days after it are not missing."""
PICTURES = 31
PREVIEW_ROWS = 8
OWNERS = {
    "registry": "metering",
    "load": "load-management",
    "customers": "key-accounts",
    "supply": "supply-quality",
    "charges": "billing",
    "control": "load-control",
    "forecast": "load-management",
    "kpi": "operations",
    "quality": "data-platform",
}
"""Who answers for a group's tables: a role, never a person."""

Compute = Callable[[Batch, Sequence[date]], Iterator[Part]]


@dataclass(frozen=True, slots=True)
class Result:
    """One table of results: its asset, the assets and lake tables it is made from, and the function that makes it."""

    asset: str
    table: str
    compute: Compute
    group: str
    deps: tuple[str, ...] = ()
    lake: tuple[str, ...] = ()
    seen: Callable[[Batch, date], Shown] | None = None
    """Metadata of the newest days: numbers that draw trends, markdown with a picture."""
    seen_days: int = 1


_COUNTED = (
    Result("customers", "customers", registry_customers, "registry"),
    Result("meters", "meters", registry_meters, "registry"),
    Result("batch_windows", "windows", batch_windows, "load", ("meters",), ("readings",)),
    Result("meter_curve", "meter_curve", meter_curves, "load", ("batch_windows",)),
    Result("meter_daily", "meter_daily", meter_dailies, "load", ("meter_curve",)),
    Result("daily_curve", "daily_curve", curves, "load", ("meter_curve", "customers"), (), seen_curve, PICTURES),
    Result("demand_daily", "demand_daily", demands_of_days, "load", ("daily_curve", "meter_curve"), ("readings",)),
    Result("daily_load", "daily_load", loads, "load", ("daily_curve", "demand_daily", "batch_windows")),
    Result("scope_curve", "scope_curve", group_curves, "load", ("daily_curve", "customers")),
    Result("load_indices", "load_indices", indices, "load", ("daily_curve", "daily_load", "scope_curve", "customers")),
    Result("customer_lists", "customer_lists", lists, "customers", ("daily_load", "customers")),
    Result("voltage_daily", "voltage_daily", voltages, "supply", ("meters",), ("readings",)),
    Result("voltage_weekly", "voltage_weekly", weekly_voltages, "supply", ("voltage_daily",)),
    Result("voltage_monthly", "voltage_monthly", monthly_voltages, "supply", ("voltage_daily", "customers")),
    Result("unbalance_daily", "unbalance_daily", unbalances, "supply", ("meters",), ("readings",)),
    Result("power_factor_monthly", "power_factor_monthly", power_factors, "supply", ("meter_daily", "customers")),
    Result(
        "demand_monthly",
        "demand_monthly",
        demands,
        "charges",
        ("demand_daily", "power_factor_monthly", "customers"),
        ("frozen_registers",),
        seen_demand,
    ),
    Result(
        "charges_monthly",
        "charges_monthly",
        charges,
        "charges",
        ("demand_monthly", "daily_load", "daily_curve", "power_factor_monthly", "customers"),
        ("frozen_registers",),
        seen_charges,
    ),
    Result(
        "bill_check",
        "bill_check",
        bill_checks,
        "charges",
        ("charges_monthly", "meter_daily"),
        ("service_events",),
        seen_bills,
    ),
    Result("violations", "violations", violations, "supply", (), ("violations", "feedback")),
    Result("storms", "storms", storms_of, "supply", ("violations", "customers")),
    Result("meter_events", "meter_events", meter_events, "supply", ("violations", "meters"), ("meter_events",)),
    Result("register_daily", "register_daily", register_dailies, "supply", ("batch_windows",)),
    Result(
        "metering_faults",
        "metering_faults",
        metering_faulted,
        "supply",
        ("violations", "meter_curve", "register_daily"),
    ),
    Result("rule_observability", "rule_observability", observabilities, "supply", ("meters",)),
    Result("alarm_handling", "alarm_handling", alarm_handlings, "supply", ("violations", "customers")),
    Result("notices", "notices", notices_of, "supply", (), ("notices",)),
    Result(
        "load_control",
        "load_control",
        control.load_control,
        "control",
        ("batch_windows",),
        ("windows", "load_control_plans", "service_events"),
    ),
    Result("load_control_daily", "load_control_daily", control.dailies, "control", ("load_control",)),
    Result(
        "load_control_settlement", "load_control_settlement", control.settlements, "control", ("load_control_daily",)
    ),
    Result("controllable_load", "controllable_load", control.coverages, "control", ("daily_curve", "customers")),
    Result("forecast", "forecast", forecasts, "forecast", ("daily_curve",)),
    Result(
        "forecast_accuracy",
        "forecast_accuracy",
        accuracies,
        "forecast",
        ("forecast", "daily_curve"),
        seen=seen_forecast,
        seen_days=PICTURES,
    ),
)
RESULTS = (
    *_COUNTED,
    # a home's own KPI may count the rows of any table, so all come first
    Result("kpi", "kpi", kpis, "kpi", tuple(r.asset for r in _COUNTED if r.table not in ("customers", "meters"))),
    Result(
        "reconciliation",
        "reconciliation",
        reconciliations,
        "quality",
        ("batch_windows", "load_control"),
        ("readings", "windows", "compliance", "load_control"),
    ),
)


def partitions(timezone: str, span: tuple[date, date] | None = None) -> dg.DailyPartitionsDefinition:
    """Local days of a `span` of data, and those up to today unless it ended long ago; without data today alone."""
    today = datetime.now(ZoneInfo(timezone)).date()
    first, last = span or (today, today)
    if first <= last < today - timedelta(days=RECENT_DAYS):
        end = (last + timedelta(days=1)).isoformat()
        return dg.DailyPartitionsDefinition(first.isoformat(), end_date=end, timezone=timezone)
    return dg.DailyPartitionsDefinition(min(first, today).isoformat(), timezone=timezone, end_offset=1)


def span_of(home: Path) -> tuple[date, date] | None:
    """The first and last local days with readings in the lake or results in the marts; None for a home without data."""
    lake, first = LakeReader(home), date.fromisoformat(FIRST_DAY)
    found = [*lake.dates("readings"), *lake.dates("windows"), *Marts(home).days("daily_curve")]
    days = [day for day in found if day >= first]
    return (min(days), max(days)) if days else None


def batch_assets(
    days: dg.PartitionsDefinition,
    tables: Mapping[str, Table],
    condition: dg.AutomationCondition[dg.AssetKey],
    first: dg.AutomationCondition[dg.AssetKey],
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The lake's external assets, one asset for each result, and the warehouse; `condition` automates them.

    `days`: see `partitions`. `first` is for those that depend on nothing. They need a resource `batch`, a Batch.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # the policy of a range in one run
        made = {r.asset: _table(r, tables) for r in RESULTS}
        results = [
            _asset(
                r,
                made[r.asset],
                {name: made[name] for name in r.deps},
                days,
                condition if r.deps or r.lake else first,
            )
            for r in RESULTS
        ]
        return [*lake_specs(days), *results, _warehouse(days, condition)]


def _table(result: Result, tables: Mapping[str, Table]) -> Table:
    return tables[result.table] if result.table in tables else BATCH[result.table]


def _asset(
    result: Result,
    table: Table,
    made_from: Mapping[str, Table],
    days: dg.PartitionsDefinition,
    condition: dg.AutomationCondition[dg.AssetKey],
) -> dg.AssetsDefinition:
    lineage = lineage_of(table, made_from)

    @dg.asset(
        name=result.asset,
        deps=[*(dg.AssetKey(name) for name in result.deps), *(lake_key(name) for name in result.lake)],
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=condition,
        group_name=result.group,
        description=table.meaning,
        metadata={"dagster/column_schema": column_schema(table)},
        kinds={"polars", "parquet"},
        owners=[f"team:{OWNERS[result.group]}"],
        tags={"group": result.group, "grain": grain_of(table)},
        check_specs=[
            dg.AssetCheckSpec(CHECK, asset=result.asset, blocking=True, description=promise_of(table)),
            dg.AssetCheckSpec(ROWS_CHECK, asset=result.asset, description=_ROWS_PROMISE),
        ],
        required_resource_keys={"batch"},
        output_required=False,
    )
    def materialise(context: dg.AssetExecutionContext) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
        batch = context.resources.batch
        wanted = [date.fromisoformat(key) for key in context.partition_keys]
        if result.lake:
            _require_whole(batch, wanted)
        outcome = gated(batch, table, wanted, result.compute(batch, wanted))
        yield check_of(outcome.verdict, wanted)
        yield rows_check_of(batch.home, outcome, wanted)
        if not outcome.verdict.success:
            outcome.stage.discard()
            raise dg.Failure(refusal(outcome.verdict), allow_retries=False)
        outcome.stage.publish()
        for day, metadata in _metadata(batch, result, table, wanted, outcome):
            context.add_asset_metadata(metadata, partition_key=day.isoformat())
        # where columns come from is shown from the newest materialisation, not from the definition
        context.add_asset_metadata({"dagster/column_lineage": lineage}, partition_key=wanted[-1].isoformat())
        yield dg.MaterializeResult()

    return materialise


def _require_whole(batch: Batch, days: Sequence[date]) -> None:
    """A day of which the lake holds but late rows must not replace results that were made from all of it; nor may days
    of another calendar."""
    try:
        check_timezone(batch.home, batch.settings.timezone)
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    if gone := [day for day in days if not batch.lake.whole(day)]:
        raise dg.Failure(
            f"the lake no longer holds all of {gone[0]} (setting retention.lake_days), whose results stay as they are: "
            f"choose days after {gone[-1]}",
            allow_retries=False,
        )


def _warehouse(days: dg.PartitionsDefinition, condition: dg.AutomationCondition[dg.AssetKey]) -> dg.AssetsDefinition:
    @dg.asset(
        name="warehouse",
        deps=[dg.AssetKey(result.asset) for result in RESULTS],
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=condition,
        group_name="warehouse",
        owners=[f"team:{OWNERS['quality']}"],
        description="warehouse.duckdb, rebuilt from everything published and swapped in whole.",
        kinds={"duckdb"},
        required_resource_keys={"batch"},
    )
    def warehouse(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        batch = context.resources.batch
        for day, reason in batch.marts.refused().items():
            raise dg.Failure(f"warehouse: {day} was refused: {reason}", allow_retries=False)
        rows = build(batch.home, batch.tables, batch.views.values())
        reports = write_reports(batch, [date.fromisoformat(key) for key in context.partition_keys])
        batch.told("warehouse", len(context.partition_keys), len(context.partition_keys))
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": sum(rows.values()),
                "quality report": dg.MetadataValue.path(str(reports)),
                **rows,
            }
        )

    return warehouse


def _metadata(
    batch: Batch, result: Result, table: Table, days: Sequence[date], outcome: Outcome
) -> Iterator[tuple[date, dict[str, dg.MetadataValue | int]]]:
    for day in days:
        metadata: dict[str, dg.MetadataValue | int] = {"dagster/row_count": outcome.rows[day]}
        rows = batch.marts.read(table, [day]) if table.name in FIGURES and outcome.rows[day] else table.empty()
        if rows.height:
            metadata |= {name: shown(value) for name, value in FIGURES[table.name](rows).items()}
            metadata["preview"] = dg.MetadataValue.md(markdown(rows.head(PREVIEW_ROWS)))
        if result.seen is not None and day in days[-result.seen_days :]:
            metadata |= {name: shown(value) for name, value in result.seen(batch, day).items()}
        yield day, metadata
