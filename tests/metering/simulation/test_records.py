"""What simulated meters and crews say: a function of seed and fault, and true to the labels."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from metering.readings.decode import Lines
from metering.records.decode import decode_records
from metering.settings import MeteringSettings
from metering.simulation.records import feedback, meter_events
from metering.simulation.run import LABELS
from metering.tables.records import FEEDBACK, METER_EVENTS

T0 = datetime(2026, 3, 2, 1, tzinfo=UTC)


def labels(count: int) -> pl.DataFrame:
    kinds = ("over_voltage", "reading_missing", "meter_exchange", "correction", "under_voltage")
    rows = [
        (f"3101052{number:05}", "C1", kinds[number % 5], "a", start := T0 + timedelta(minutes=7 * number),
         start + timedelta(minutes=5), "")
        for number in range(count)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=LABELS, orient="row")


def alarms(faults: pl.DataFrame, extra: int) -> pl.DataFrame:
    """Each fault of a rule as an alarm, and some that no fault explains."""
    seen = faults.filter(pl.col("kind").str.ends_with("voltage")).select(
        pl.concat_str("meter_id", "kind", separator="-").alias("violation_id"), "meter_id", rule="kind",
        started_at="started_at", ended_at="ended_at",
    )  # fmt: skip
    none = seen.head(extra).with_columns(
        pl.col("violation_id") + "-none", pl.col("started_at", "ended_at") + pl.duration(hours=9)
    )
    return pl.concat([seen, none]).with_columns(raised_at=pl.col("started_at") + pl.duration(minutes=1))


def as_records(kind: Any, rows: pl.DataFrame) -> pl.DataFrame:
    decoded = decode_records(kind, Lines(rows.write_ndjson().encode()))
    assert decoded.rejects.is_empty()
    return decoded.accepted


def test_meters_report_most_of_their_faults(metering_settings: MeteringSettings) -> None:
    faults, codes = labels(1000), dict(metering_settings.meter_events.codes)
    events = meter_events(faults, codes, 7)
    counts = dict(events["code"].value_counts().iter_rows())
    assert counts.keys() == {"over_voltage", "under_voltage", "power_down", "programming"}
    assert counts["programming"] == 200
    assert 140 < counts["over_voltage"] < 180
    assert 80 < counts["power_down"] < 120
    assert events.equals(meter_events(faults, codes, 7))
    assert not events.equals(meter_events(faults, codes, 8))
    begun = events.join(faults, on="meter_id").select((pl.col("at") - pl.col("started_at")).dt.total_seconds())
    assert begun.to_series().is_between(0, 20).all()
    some = meter_events(faults.head(500), codes, 7)
    assert some.equals(events.join(some, on=["meter_id", "at"], how="semi")), "a fleet's beginning is a smaller fleet"
    as_records(METER_EVENTS, events.with_columns(pl.col("at", "cleared_at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")))
    assert meter_events(faults.clear(), codes, 7).is_empty()


def test_a_crew_confirms_what_is_labelled_and_refutes_what_is_not() -> None:
    faults = labels(1000)
    told = alarms(faults, extra=50)
    said = feedback(told, faults, 7)
    word = said.filter(pl.col("action").is_in(["confirmed", "false"]))
    assert word["violation_id"].is_unique().all()
    assert 0.94 < word.height / told.height < 1
    refuted = pl.col("violation_id").str.ends_with("-none")
    assert word.filter(refuted)["action"].unique().to_list() == ["false"]
    assert word.filter(~refuted)["action"].unique().to_list() == ["confirmed"]
    wide = said.pivot("action", index="violation_id", values="at")
    assert wide.select((pl.col("acknowledged") < pl.col("confirmed")).all()).item()
    assert wide.select((pl.col("handled") <= pl.col("closed")).all()).item()
    assert 0.85 < wide["closed"].count() / wide.height < 0.98
    assert wide.filter(refuted)["handled"].count() == 0
    assert said.equals(feedback(told, faults, 7))
    as_records(FEEDBACK, said.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")))
    assert feedback(told.clear(), faults, 7).is_empty()
