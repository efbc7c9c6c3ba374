"""Labels: what was wrong with which meter, from when to when, and so which alarms are due.

Here: labels of the faults of a day, and of rules that such a fault breaks besides its own. Not here: planning faults
and what they do (`faults`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import polars as pl

from metering.events.catalogue import check_frame
from metering.events.judge import END, NEITHER, START, judge
from metering.registry.meter_versions import meter_versions
from metering.settings import MeteringSettings
from metering.simulation import faults
from metering.simulation.fleet import Fleet
from metering.tables.lake import MEASURED
from metering.tables.schema import TIMESTAMP
from metering.text import filled

LABELS = pl.Schema(
    {
        "meter_id": pl.String(),
        "customer_no": pl.String(),
        "kind": pl.String(),
        "phase": pl.String(),
        "started_at": TIMESTAMP,
        "ended_at": TIMESTAMP,
        "detail": pl.String(),
    }
)

_WS_PER_KWH = 3_600_000


def of_faults(plan: pl.DataFrame, fleet: Fleet, begin: datetime, interval_s: int) -> pl.DataFrame:
    """LABELS of planned faults of the day that begins at `begin`."""
    arrives = _at(begin, pl.col("last") * interval_s + pl.col("delay_s"))
    at = arrives.dt.to_string("%Y-%m-%dT%H:%M:%SZ")
    detail = (
        pl.when(pl.col("rule").is_not_null())
        .then("detail")
        .when(pl.col("kind") == faults.LATE)
        .then(filled("arrives at {}", at))
        .when(pl.col("kind") == faults.CORRECTION)
        .then(filled("{} kW too high at first, sent again at {}", pl.col("strength").round(4), at))
        .when(pl.col("kind").is_in(list(faults.GLITCHES)))
        .then(filled("import_kwh shows {}", pl.col("strength").cast(pl.Int64)))
        .otherwise(pl.lit("never arrives"))
    )
    return _labels(plan.with_columns(detail=detail), fleet, begin, interval_s).sort("started_at", "meter_id")


def of_rules_besides(
    plan: pl.DataFrame, struck: pl.DataFrame, fleet: Fleet, begin: datetime, interval_s: int, settings: MeteringSettings
) -> pl.DataFrame:
    """LABELS of other rules that faults break too, for as long as these need: capacity, by an overload.

    `struck`: `meter`, `ts` and measured values of all struck readings.
    """
    versions = meter_versions(fleet.customers, fleet.meters, settings)
    checks = check_frame(settings)
    first = versions.with_row_index("version").group_by("meter_id").agg(pl.col("version").first())
    of_meter = fleet.traits.select("meter", "meter_id").join(first, on="meter_id").drop("meter_id")
    missing = [pl.lit(None, pl.Float64).alias(name) for name in MEASURED if name not in struck.columns]
    readings = struck.with_columns(missing).join(of_meter, on="meter")
    slot = ((pl.col("ts") - pl.lit(begin)).dt.total_seconds() // interval_s).alias("slot")
    said = judge(readings, versions, settings, checks["code"]).join(checks.select("code", "rule", "phase"), on="code")
    own = plan.select("meter", "rule", "phase")
    besides = said.join(own, on=["meter", "rule", "phase"], how="anti").with_columns(slot).sort("meter", "code", "slot")
    told = []
    for (meter, _), rows in besides.group_by("meter", "code", maintain_order=True):
        if (rows["verdict"] == START).any():
            names = {"meter": meter, "kind": rows["rule"][0], "phase": rows["phase"][0]}
            told += [names | {"first": first, "last": last} for first, last in _events(rows, interval_s)]
    schema = {name: dtype for name, dtype in plan.schema.items() if name in ("meter", "kind", "phase", "first", "last")}
    events = pl.DataFrame(told, schema=schema, orient="row")
    by = plan.select("meter", detail=filled("besides {}", "kind"))
    return _labels(events.join(by, on="meter", how="left", maintain_order="left"), fleet, begin, interval_s)


def _events(rows: pl.DataFrame, interval_s: int) -> Iterator[tuple[int, int]]:
    """First and last slots of what one meter's struck readings raise by one check; they are one stretch, in order."""
    first, last, verdict, run = None, 0, NEITHER, 0
    for slot, said, hold_s, clear_hold_s in rows.select("slot", "verdict", "hold_s", "clear_hold_s").iter_rows():
        run = run + 1 if said == verdict else 1
        verdict = said
        if said == START and first is None and run * interval_s >= hold_s:
            first = slot - run + 1
        if said != END:
            last = slot
        elif first is not None and run * interval_s >= clear_hold_s:
            yield first, last
            first = None
    if first is not None:
        yield first, last


def of_exchanges(exchanges: pl.DataFrame, fleet: Fleet) -> pl.DataFrame:
    """LABELS of meters that are exchanged."""
    starts = pl.col("import_ws") // _WS_PER_KWH
    known = exchanges.join(fleet.traits.select("meter", "meter_id", "customer_no"), on="meter")
    return known.select(
        "meter_id",
        "customer_no",
        pl.lit(faults.EXCHANGE).alias("kind"),
        pl.lit(None, pl.String).alias("phase"),
        pl.col("at").alias("started_at"),
        pl.col("at").alias("ended_at"),
        filled("import_kwh begins at {}", starts).alias("detail"),
    ).match_to_schema(LABELS)


def _labels(rows: pl.DataFrame, fleet: Fleet, begin: datetime, interval_s: int) -> pl.DataFrame:
    """LABELS of rows with `meter`, `kind`, `phase`, `detail` and the numbers of their `first` and `last` reading."""
    known = rows.join(fleet.traits.select("meter", "meter_id", "customer_no"), on="meter", maintain_order="left")
    times = _at(begin, (pl.col("first") - 1) * interval_s), _at(begin, pl.col("last") * interval_s)
    timed = known.with_columns(times[0].alias("started_at"), times[1].alias("ended_at"))
    return timed.select(LABELS.names()).match_to_schema(LABELS)


def _at(begin: datetime, seconds: pl.Expr) -> pl.Expr:
    return pl.lit(begin).cast(TIMESTAMP) + pl.duration(seconds=seconds)
