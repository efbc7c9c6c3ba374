"""Does what the stream wrote equal what batch computes? For each day, windows, compliance and load control.

Here: which rows are compared. A window counts once its shard's watermark has passed it: before that the stream may not
have closed it, and that is no difference. Not here: the comparison (`metering.tables.reconcile`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import polars as pl

from assets.batch import Batch, Part
from assets.readings import known
from metering.readings.slots import pieces, placed, spans
from metering.registry.index import MeterIndex
from metering.supply.compliance import DAYS_SCHEMA, advance, contributions
from metering.tables import LAKE
from metering.tables.reconcile import reconcile
from pipelines.shard_names import shard_of
from sinks.lake.reader import newest
from sinks.marts import day_partition

WINDOWS, COMPLIANCE, CONTROL = LAKE["windows"], LAKE["compliance"], LAKE["load_control"]
_OF_SHARD = ("source", "source_partition")

_DAY = pl.duration(days=1)
_WINDOW_VALUES = tuple(name for name in WINDOWS.names if name not in (*WINDOWS.key, "revision", "date"))
_CONTRIBUTING = (
    "u_monitored_min", "u_over_min", "u_under_min", "energy_kwh", "import_kvarh", "q_import_kvarh", "export_kvarh",
    "q_export_kvarh",
)  # fmt: skip
_CONTROL_VALUES = tuple(n for n in CONTROL.names if n not in (*CONTROL.key, "revision", "date"))
_DAY_VALUES = ("as_of", *(name for name in COMPLIANCE.names if name.startswith("day_")))


def reconciliations(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    dates = batch.lake.dates("readings")
    for day in days:
        following = next((d for d in dates if d > day), day)
        with batch.lake.held():
            unfinished = _open_windows(batch, day, following)
            rows = [
                _windows(batch, day, unfinished),
                _compliance(batch, day, unfinished),
                _load_control(batch, day, unfinished),
            ]
        found = pl.concat(rows)
        yield Part(day_partition(day), found, day, problem=_problem(found, day))


def _problem(found: pl.DataFrame, day: date) -> str:
    """Why a day must not be published: what the stream said of it is not what its readings say; "" where it is."""
    differing = found.filter(pl.col("differing_rows") > 0)
    if differing.is_empty():
        return ""
    counts = ", ".join(f"{row['differing_rows']} of {row['table_name']}" for row in differing.iter_rows(named=True))
    return (
        f"{counts} on {day} differ between the stream and its readings, as they do after a change of the registry or "
        "of settings for a time that is past: change that back, or stream the telemetry into a new home"
    )


def _open_windows(batch: Batch, day: date, following: date) -> pl.DataFrame:
    """(meter_id, window_end) of the day whose blocks the watermark of a shard with its readings has not passed."""
    near = batch.lake.scan("readings", sorted({day, following})).select("meter_id", "ts", "date", *_OF_SHARD)
    newest_of = near.group_by(_OF_SHARD).agg(pl.col("ts").max().alias("highest")).collect()
    # files of one folder are one log, with one watermark
    shards = pl.Series("shard", list(map(shard_of, *(newest_of[name] for name in _OF_SHARD))), pl.String)
    highest = newest_of.with_columns(shards).with_columns(pl.col("highest").max().over("shard"))
    # No slot and no block ends a day later than a reading of it is stamped.
    recent = pl.col("ts") > pl.col("highest") - pl.duration(seconds=batch.settings.lateness_s) - _DAY
    rows = near.filter(pl.col("date") == day).join(highest.lazy(), on=_OF_SHARD).filter(recent).collect()
    versions, timezone = batch.registry.meter_versions, batch.settings.timezone
    rows = placed(known(rows, versions), versions, timezone)
    watermark_us = pl.col("highest").to_physical() - batch.settings.lateness_s * 1_000_000
    rows = rows.filter(pl.col("end_us") > watermark_us)
    windows = pieces(spans(rows, versions, timezone))
    return windows.select(
        "meter_id", pl.col("window_us").cast(WINDOWS.schema["window_end"]).alias("window_end")
    ).unique()


def _windows(batch: Batch, day: date, unfinished: pl.DataFrame) -> pl.DataFrame:
    columns = (*WINDOWS.key, "revision", *_WINDOW_VALUES)
    stream = newest(batch.lake.scan("windows", [day]).select(columns).collect(), WINDOWS.key)
    computed = batch.marts.read(WINDOWS, [day], columns)
    return reconcile("windows", stream, computed, WINDOWS.key, _WINDOW_VALUES, day, left_out=unfinished)


def _compliance(batch: Batch, day: date, unfinished: pl.DataFrame) -> pl.DataFrame:
    """Of the day alone: its month to date may hold days that have not been materialised."""
    columns = (*COMPLIANCE.key, "revision", *_DAY_VALUES)
    stream = newest(batch.lake.scan("compliance", [day]).select(columns).collect(), COMPLIANCE.key)
    meter_versions = batch.registry.meter_versions
    windows = batch.marts.read(WINDOWS, [day], (*WINDOWS.key, *_CONTRIBUTING))
    # A window that the watermark has not passed counts if the stream has closed it, as it does at a file's end.
    reached = stream.select("meter_id", pl.col("as_of").alias("stream_as_of"))
    waiting = windows.join(unfinished, on=WINDOWS.key, how="semi").join(reached, on="meter_id")
    told = waiting.filter(pl.col("window_end") <= pl.col("stream_as_of")).select(windows.columns)
    closed = pl.concat([windows.join(unfinished, on=WINDOWS.key, how="anti"), told])
    index = MeterIndex.of(meter_versions)
    coded = closed.with_columns(meter=index.code(closed["meter_id"]))
    of_version = coded.with_columns(version=index.version_of_window(coded["meter"], coded["window_end"]))
    nothing = pl.DataFrame(schema=DAYS_SCHEMA)
    _, computed = advance(
        nothing, contributions(of_version, batch.settings), nothing, meter_versions, batch.settings.timezone
    )
    return reconcile("compliance", stream, computed, COMPLIANCE.key, _DAY_VALUES, day)


def _load_control(batch: Batch, day: date, unfinished: pl.DataFrame) -> pl.DataFrame:
    """Of windows that the stream can have judged: it says nothing of those that no meter has power of."""
    stream = newest(batch.lake.scan(CONTROL.name, [day]).collect(), CONTROL.key).filter(pl.col("state") == "final")
    computed = batch.marts.read(CONTROL, [day]).filter(pl.col("meters") > 0)
    meters = batch.registry.meter_versions.select("meter_id", "customer_no").unique()
    waiting = unfinished.join(meters, on="meter_id").select("customer_no", "window_end").unique()
    keys = pl.concat([rows.select(CONTROL.key) for rows in (stream, computed)]).unique()
    left_out = keys.join(waiting, on=["customer_no", "window_end"], how="semi")
    return reconcile(CONTROL.name, stream, computed, CONTROL.key, _CONTROL_VALUES, day, left_out=left_out)
