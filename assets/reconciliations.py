"""Does what the stream wrote equal what batch computes? For each day, windows, compliance and load control.

Here: which rows are compared. A window counts once its shard's watermark has passed it: before that the stream may not
have closed it, and that is no difference. Not here: the comparison (`metering.tables.reconcile`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from assets.batch import Batch, Part
from assets.readings import known
from metering.load.windows import withdrawn
from metering.readings.slots import pieces, placed, spans
from metering.registry.index import MeterIndex
from metering.supply.compliance import DAYS_SCHEMA, advance, contributions
from metering.tables import LAKE, TIMESTAMP, Table
from metering.tables.reconcile import differing, reconcile
from metering.vee.findings import FINDINGS
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
_DISPUTED = "the stream emitted something else"
_MENDING = (
    "the registry, or a setting, was changed for a time that is past: stop the stream and run `kilowatch recut`, which "
    "cuts all anew, or change it back"
)
_NAMED = 5
_NO_METERS = pl.Series("meter_id", [], pl.String)
_DAY_VALUES = ("as_of", *(name for name in COMPLIANCE.names if name.startswith("day_")))


def reconciliations(batch: Batch, days: Sequence[date]) -> Iterator[Part]:
    for day in days:
        found = batch.compared.pop(day, None) or differences(batch, day)
        with batch.lake.held():
            others = [_compliance(batch, day, found.unfinished), _load_control(batch, day, found.unfinished)]
        counts = pl.concat([found.counted, *(each.counted for each in others)])
        meters = pl.concat([each.meters for each in (found, *others)]).unique().sort()
        alike = found.every.filter(~found.every.is_in(meters.implode()))
        blocking = bool(counts["differing_rows"].sum()) and alike.is_empty()
        told = None if blocking else _told(meters, found)
        problem = _problem(counts, meters, day) if blocking else ""
        if problem:
            batch.marts.refuse(day, problem)
        else:
            batch.marts.accept(day)
        yield Part(day_partition(day), counts, day, findings=told, problem=problem)


@dataclass(frozen=True, slots=True)
class Differences:
    """How a day of one table stands: its row of `reconciliation`, and the meters whose rows differ; of windows also
    which do (`meter_id`, `window_end`), all meters of the day, and the windows that are not closed yet.
    """

    counted: pl.DataFrame
    meters: pl.Series
    windows: pl.DataFrame
    every: pl.Series
    unfinished: pl.DataFrame


def differences(batch: Batch, day: date) -> Differences:
    """Windows of the stream that are not what batch makes of the day's readings."""
    following = next((d for d in batch.lake.dates("readings") if d > day), day)
    with batch.lake.held():
        unfinished = _open_windows(batch, day, following)
        return _windows(batch, day, unfinished)


def disputed(batch: Batch, day: date) -> pl.DataFrame:
    """FINDINGS that mark the windows of those meters of which stream and batch differ, where others are alike: where
    all differ the day is not published at all.
    """
    found = batch.compared[day] = differences(batch, day)
    if found.windows.is_empty() or found.meters.len() == found.every.len():
        return pl.DataFrame(schema=FINDINGS)
    detail = pl.lit(f"{_DISPUTED}: {_MENDING}")
    return found.windows.select(_findings(pl.col("window_end"), detail))


def _told(meters: pl.Series, found: Differences) -> pl.DataFrame | None:
    """Of meters whose windows are alike, but not what follows from them: else their windows are marked."""
    others = meters.filter(~meters.is_in(found.meters.implode())).to_frame("meter_id")
    return others.select(_findings(pl.lit(None, TIMESTAMP), pl.lit(f"{_DISPUTED}: {_MENDING}")))


def _findings(window_end: pl.Expr, detail: pl.Expr) -> list[pl.Expr]:
    none = pl.lit(None, pl.Float64)
    return [
        pl.col("meter_id"), window_end.alias("window_end"), pl.lit("reconciliation").alias("rule"),
        pl.lit("warning").alias("severity"), none.alias("value"), none.alias("limit"), detail.alias("detail"),
    ]  # fmt: skip


def _problem(counts: pl.DataFrame, meters: pl.Series, day: date) -> str:
    """Why a day must not be published: what the stream said of all its meters is not what its readings say."""
    differing = counts.filter(pl.col("differing_rows") > 0)
    said = ", ".join(f"{row['differing_rows']} of {row['table_name']}" for row in differing.iter_rows(named=True))
    named = ", ".join(meters.head(_NAMED)) + (f" and {len(meters) - _NAMED} more" if len(meters) > _NAMED else "")
    return f"{said} on {day} differ between the stream and its readings (meters {named}): {_MENDING}"


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


def _windows(batch: Batch, day: date, unfinished: pl.DataFrame) -> Differences:
    columns = (*WINDOWS.key, "revision", *_WINDOW_VALUES)
    stream = newest(batch.lake.scan("windows", [day]).select(columns).collect(), WINDOWS.key).filter(~withdrawn())
    computed = batch.marts.read(WINDOWS, [day], columns)
    counted = reconcile("windows", stream, computed, WINDOWS.key, _WINDOW_VALUES, day, left_out=unfinished)
    every = pl.concat([stream["meter_id"], computed["meter_id"]]).unique()
    keys = _keys(counted, stream, computed, WINDOWS, _WINDOW_VALUES, unfinished)
    return Differences(counted, keys["meter_id"].unique(), keys, every, unfinished)


def _keys(
    counted: pl.DataFrame,
    stream: pl.DataFrame,
    computed: pl.DataFrame,
    table: Table,
    values: Sequence[str],
    left_out: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The keys that differ, looked for where some do."""
    if not counted["differing_rows"].sum():
        return computed.select(table.key).clear()
    return differing(stream, computed, table.key, values, left_out=left_out)


def _compliance(batch: Batch, day: date, unfinished: pl.DataFrame) -> Differences:
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
    # days that have no windows any more are said to be empty
    empty = stream.join(computed, on=COMPLIANCE.key, how="anti").filter(pl.col("day_monitored_min") == 0)
    stream = stream.join(empty.filter(pl.col("day_active_kwh") == 0), on=COMPLIANCE.key, how="anti")
    counted = reconcile("compliance", stream, computed, COMPLIANCE.key, _DAY_VALUES, day)
    keys = _keys(counted, stream, computed, COMPLIANCE, _DAY_VALUES)
    return Differences(counted, keys["meter_id"].unique(), windows.clear().select(WINDOWS.key), _NO_METERS, unfinished)


def _load_control(batch: Batch, day: date, unfinished: pl.DataFrame) -> Differences:
    """Of windows that the stream can have judged: it says nothing of those that no meter has power of."""
    stream = newest(batch.lake.scan(CONTROL.name, [day]).collect(), CONTROL.key).filter(pl.col("state") == "final")
    computed = batch.marts.read(CONTROL, [day]).filter(pl.col("meters") > 0)
    meters = batch.registry.meter_versions.select("meter_id", "customer_no").unique()
    waiting = unfinished.join(meters, on="meter_id").select("customer_no", "window_end").unique()
    keys = pl.concat([rows.select(CONTROL.key) for rows in (stream, computed)]).unique()
    left_out = keys.join(waiting, on=["customer_no", "window_end"], how="semi")
    counted = reconcile(CONTROL.name, stream, computed, CONTROL.key, _CONTROL_VALUES, day, left_out=left_out)
    customers = _keys(counted, stream, computed, CONTROL, _CONTROL_VALUES, left_out)["customer_no"].unique()
    concerned = meters.filter(pl.col("customer_no").is_in(customers.implode()))["meter_id"].unique()
    return Differences(counted, concerned, unfinished.clear(), _NO_METERS, unfinished)
