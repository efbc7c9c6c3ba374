"""Noticing what the stream has put into the lake, and reporting it to Dagster.

Here: the sensor over the lake's parts. Each day of a table with new parts becomes one materialisation event without a
run, which is what automation reacts to; so does a day before it, where a gap reached out of that and has ended now. Not
here: what then runs (`automation`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg

from assets.lake import EVENT_TIME, lake_key
from sinks.lake.reader import LakeReader, part_facts

EVENTS_PER_TICK = 400


@dataclass(frozen=True, slots=True)
class Seen:
    """What has been reported of one day of one table: its parts, the newest part's time of reveal, rows, newest row."""

    parts: int = 0
    revealed_ns: int = 0
    rows: int = 0
    newest: str | None = None


EndedGaps = Callable[[date], Mapping[date, Sequence[str]]]
"""Given a day with new readings, the days before it that these change, and the meters whose gap has ended."""
_GAPS = "ended gaps"
_MATERIALISED = "kilowatch lake parts materialised"


def lake_sensor(home: Path, days: dg.PartitionsDefinition, ended_gaps: EndedGaps) -> dg.SensorDefinition:
    """Reports new parts of the lake of `home`, each once. The cursor holds what has been seen of each day.

    Parts that were merged hold the same rows, so they are no news; nor are late rows of a day whose other rows
    retention has taken out: its results stay as they are.
    """

    @dg.sensor(
        name="lake_parts",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports new parts of the lake's tables: rows, newest event time, lag.",
    )
    def lake_parts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        known = json.loads(context.cursor or "{}")
        gaps: dict[str, list[str]] = known.pop(_GAPS, {})
        cursor = _newer({key: Seen(*seen) for key, seen in known.items()}, _remembered(context.instance))
        events: list[dg.AssetMaterialization] = []
        lake = LakeReader(home)
        for key, table, day, seen in changes(lake, cursor):
            before = cursor.get(key, Seen())
            if seen.rows == before.rows or not lake.whole(day):
                cursor[key] = seen
            elif days.has_partition_key(day.isoformat()):
                events.append(_event(table, day, seen, before))
                cursor[key] = seen
                if table == "readings":
                    events += _of_gaps(ended_gaps(day), day, gaps)
            if len(events) >= EVENTS_PER_TICK:
                break
        written = json.dumps({**{key: astuple(seen) for key, seen in cursor.items()}, _GAPS: gaps})
        return dg.SensorResult(asset_events=events, cursor=written)

    return lake_parts


def notice(instance: dg.DagsterInstance, home: Path, first: date, last: date) -> dict[str, Seen]:
    """Report what the lake holds of days that are about to be materialised; gives it, for `remember`."""
    known, lake = _remembered(instance), LakeReader(home)
    found = {}
    for key, table, day, seen in changes(lake, known):
        if first <= day <= last:
            instance.report_runless_asset_event(_event(table, day, seen, known.get(key, Seen())))
            found[key] = seen
    return found


def remember(instance: dg.DagsterInstance, noticed: Mapping[str, Seen]) -> None:
    """What the sensor need not report, as it has been materialised."""
    if noticed and (storage := instance.daemon_cursor_storage):
        known = _newer(_remembered(instance), noticed)
        storage.set_cursor_values({_MATERIALISED: json.dumps({key: astuple(seen) for key, seen in known.items()})})


def _remembered(instance: dg.DagsterInstance) -> dict[str, Seen]:
    storage = instance.daemon_cursor_storage
    kept = storage.get_cursor_values({_MATERIALISED}) if storage else {}
    return {key: Seen(*seen) for key, seen in json.loads(kept.get(_MATERIALISED, "{}")).items()}


def _newer(one: Mapping[str, Seen], other: Mapping[str, Seen]) -> dict[str, Seen]:
    """Of each day of a table what was seen last."""
    found = dict(one)
    for key, seen in other.items():
        if seen.revealed_ns > found.get(key, Seen()).revealed_ns:
            found[key] = seen
    return found


def changes(lake: LakeReader, cursor: dict[str, Seen]) -> Iterator[tuple[str, str, date, Seen]]:
    """Days of tables whose parts are not those of `cursor`: cursor key, table, day, and what is there now."""
    for table, time_column in EVENT_TIME.items():
        for day in lake.dates(table):
            key = f"{table}/{day.isoformat()}"
            before = cursor.get(key, Seen())
            with lake.held():
                parts = [(path.stat().st_ctime_ns, path) for path in lake.parts(table, day)]
                now = _seen(parts, before, time_column)
            if now != before:
                yield key, table, day, now


def _of_gaps(
    ended: Mapping[date, Sequence[str]], day: date, reported: dict[str, list[str]]
) -> Iterator[dg.AssetMaterialization]:
    """Days before `day` that have to run again; `reported`: for each day the meters for which it has been asked."""
    for before, meters in ended.items():
        known = reported.setdefault(before.isoformat(), [])
        if fresh := sorted(set(meters) - set(known)):
            known += fresh
            metadata = {"gap_ended_on": day.isoformat(), "meters": ", ".join(fresh)}
            yield dg.AssetMaterialization(lake_key("readings"), partition=before.isoformat(), metadata=metadata)


def _seen(parts: list[tuple[int, Path]], before: Seen, time_column: str) -> Seen:
    """Only footers of parts revealed since `before` are read, unless older ones have changed."""
    fresh = [(at, path) for at, path in parts if at > before.revealed_ns]
    if before.parts + len(fresh) != len(parts):
        fresh, before = parts, Seen()
    if not fresh:
        return before
    facts = [part_facts(path, time_column) for _, path in fresh]
    newest = [fact.newest.isoformat() for fact in facts if fact.newest] + ([before.newest] if before.newest else [])
    return Seen(
        before.parts + len(fresh),
        max(at for at, _ in fresh),
        before.rows + sum(fact.rows for fact in facts),
        max(newest, default=None),
    )


def _event(table: str, day: date, seen: Seen, before: Seen) -> dg.AssetMaterialization:
    metadata: dict[str, dg.MetadataValue | int] = {
        "dagster/row_count": seen.rows,
        "new_rows": seen.rows - before.rows,
        "parts": seen.parts,
    }
    if seen.newest:
        newest = datetime.fromisoformat(seen.newest)
        lag = (datetime.now(UTC) - newest).total_seconds()
        metadata["newest_event_time"] = dg.MetadataValue.timestamp(newest)
        metadata["lag_s"] = dg.MetadataValue.float(round(lag, 1))
    return dg.AssetMaterialization(lake_key(table), partition=day.isoformat(), metadata=metadata)
