"""Events that meters report themselves, beside those that are derived from their readings: both, or one of them alone.

Here: what codes mean, and which event and which violation are one. Not here: reading events (`metering.records`), the
codes (`meter_events.toml`), deriving violations (`judge`, `lifecycle`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import polars as pl

from metering.calendar import local_date
from metering.records.current import current
from metering.settings import MeterEventCode, MeteringSettings
from metering.tables.alarms import METER_EVENTS_JOINED
from metering.tables.records import METER_EVENTS
from metering.text import filled
from metering.vee.findings import FINDINGS

BOTH, DEVICE_ONLY, DERIVED_ONLY = "both", "device_only", "derived_only"
UNKNOWN_CODE, UNKNOWN_METER = "unknown_code", "unknown_meter"


def code_frame(codes: Mapping[str, MeterEventCode]) -> pl.DataFrame:
    """`said` (a code or alias, lower case), `name_zh`, `name_en`, `rule` (null: none)."""
    rows = [
        (said.lower(), code.name_zh, code.name_en, code.rule or None)
        for name, code in codes.items()
        for said in (name, *code.aliases)
    ]
    names = {name: pl.String() for name in ("said", "name_zh", "name_en", "rule")}
    return pl.DataFrame(rows, schema=names, orient="row").unique("said", keep="last", maintain_order=True)


def joined(
    events: pl.DataFrame, alarms: pl.DataFrame, meters: pl.DataFrame, day: date, settings: MeteringSettings
) -> pl.DataFrame:
    """METER_EVENTS_JOINED of the local `day`: meters' own events that began on it, each with the violations that are
    the same; and violations that began on it and that no such event speaks of, of rules that a code has.

    `events`: rows of the lake's table, of the day and the days beside it; `alarms`: ALARMS, withdrawn ones count not;
    `meters`: meter_id, customer_no, interval_s, a row for each meter.
    """
    codes = code_frame(settings.meter_events.codes)
    known = current(events, METER_EVENTS).with_columns(said=pl.col("code").str.to_lowercase())
    known = known.join(codes, on="said", how="left").join(meters, on="meter_id", how="left")
    derived = alarms.filter(pl.col("state") != "withdrawn", pl.col("rule").is_in(codes["rule"].drop_nulls().implode()))
    derived = derived.select("meter_id", "rule", "violation_id", "started_at", "ended_at", of="customer_no")
    same = _same(known, derived, settings.meter_events.tolerance_s)
    own = known.filter(pl.col("date") == day).select(
        "meter_id", "customer_no", "code", "name_zh", "name_en", "rule", "at", "cleared_at", "detail"
    )
    told = own.join(same, on=("meter_id", "code", "at"), how="left").with_columns(
        found=pl.when(pl.col("violation_id").is_null()).then(pl.lit(DEVICE_ONLY)).otherwise(pl.lit(BOTH))
    )
    of_day = local_date(pl.col("started_at"), settings.timezone) == day
    alone = derived.filter(of_day).join(same, on="violation_id", how="anti")
    names = codes.filter(pl.col("rule").is_not_null()).unique("rule", keep="first", maintain_order=True)
    alone = alone.join(names, on="rule", how="left").select(
        "meter_id", "violation_id", "name_zh", "name_en", "rule",
        customer_no="of", at="started_at", cleared_at="ended_at", found=pl.lit(DERIVED_ONLY),
    )  # fmt: skip
    rows = pl.concat([told, alone], how="diagonal").with_columns(pl.col("code", "violation_id").fill_null(""))
    return METER_EVENTS_JOINED.conform(rows, date=day).sort(METER_EVENTS_JOINED.key)


def _same(events: pl.DataFrame, derived: pl.DataFrame, tolerance_s: float) -> pl.DataFrame:
    """Pairs (meter_id, code, at; violation_id) of one meter and rule whose times overlap."""
    pairs = events.filter(pl.col("rule").is_not_null()).join(derived, on=("meter_id", "rule"))
    slack = pl.duration(microseconds=((tolerance_s + pl.col("interval_s").fill_null(0)) * 1_000_000).cast(pl.Int64))
    ends = pl.coalesce("cleared_at", "at")
    overlap = (pl.col("started_at") - slack <= ends) & (
        pl.col("ended_at").is_null() | (pl.col("ended_at") + slack >= pl.col("at"))
    )
    return pairs.filter(overlap).select("meter_id", "code", "at", "violation_id")


def doubts(rows: pl.DataFrame) -> pl.DataFrame:
    """FINDINGS of a day's METER_EVENTS_JOINED: events whose code means nothing, or whose meter nobody knows."""
    own = rows.filter(pl.col("found") != DERIVED_ONLY).unique(["meter_id", "code", "at"], maintain_order=True)
    nothing = own.filter(pl.col("name_zh").is_null()).with_columns(
        finding=pl.lit(UNKNOWN_CODE), said=filled("code {} means nothing: add it to [meter_events.codes]", "code")
    )
    nobody = own.filter(pl.col("customer_no").is_null()).with_columns(
        finding=pl.lit(UNKNOWN_METER), said=filled("event {} of a meter that is not in the registry", "code")
    )
    told = pl.concat([nothing, nobody]).select(
        "meter_id", window_end="at", rule="finding", severity=pl.lit("info"), detail="said",
        value=pl.lit(None, pl.Float64), limit=pl.lit(None, pl.Float64),
    )  # fmt: skip
    return told.select(pl.col(name).cast(dtype) for name, dtype in FINDINGS.items())
