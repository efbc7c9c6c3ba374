"""Plain machines as frames, and back: numbers and microseconds for rows of the state.

Not here: letting the machines run (`disputed`), the machine itself (`metering.events.plain`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from metering.events.lifecycle import CHANGE_SCHEMA, STATE_SCHEMA
from metering.events.plain import Pair
from metering.events.stories import Change, Emitted, Run, Story, Violation
from metering.tables.schema import TIMESTAMP

PairKey = tuple[int, int]
Machines = dict[PairKey, Pair]
"""By meter and check."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def us_of(at: datetime) -> int:
    return (at - EPOCH) // _MICROSECOND


def _us_or_none(at: datetime | None) -> int | None:
    return None if at is None else us_of(at)


def run_of(row: dict[str, Any], side: int) -> Run:
    named = row["started_at"] is not None
    return Run(
        Violation(us_of(row["started_at"]), row["limit_value"], row["ruleset"]) if named else None,
        row["value"] * side if named else 0.0,
        row["step"] if named else 0.0,
        row["occurrences"] if named else 0,
        _us_or_none(row["ended_at"]),
        _us_or_none(row["reopens_until"]),
        row["run"],
        us_of(row["run_start"]),
        row["run_s"],
        row["run_value"] * side,
        us_of(row["last_ts"]),
    )


def emitted_of(row: dict[str, Any], side: int) -> Emitted:
    ended = _us_or_none(row["ended_at"])
    story = Story(ended, row["value"] * side, row["limit_value"], row["ruleset"], row["occurrences"] or 1)
    return Emitted(row["state"], row["revision"], story, row["version"])


def states(runs: dict[PairKey, Run | None], machines: Machines) -> pl.DataFrame:
    """Runs as STATE_SCHEMA."""
    rows = []
    for (meter, code), run in runs.items():
        if run is None:
            continue
        machine = machines[meter, code]
        named = run.violation is not None
        started_us, limit_value, ruleset = run.named
        told = machine.emitted.get(started_us) if named else None
        rows.append(
            {
                "meter": meter,
                "code": code,
                "active": run.active,
                "started_at": started_us if named else None,
                "value": run.extreme * machine.side if named else None,
                "limit_value": limit_value if named else None,
                "ruleset": ruleset if named else None,
                "revision": told.revision if told else 0,
                "step": run.step if named else None,
                "occurrences": run.occurrences if named else None,
                "ended_at": run.ended_us,
                "reopens_until": run.reopens_until_us,
                "run": run.verdict,
                "run_start": run.run_start_us,
                "run_s": run.run_s,
                "run_value": run.run_extreme * machine.side,
                "last_ts": run.last_us,
            }
        )
    return _timed(rows, STATE_SCHEMA)


def changes_of(found: dict[PairKey, list[Change]], machines: Machines) -> pl.DataFrame:
    """Changes as CHANGE_SCHEMA."""
    rows = [
        {
            "meter": meter,
            "code": code,
            "version": change.version,
            "state": change.state,
            "revision": change.revision,
            "started_at": change.started_us,
            "ended_at": change.story.ended_us,
            "value": change.story.extreme * machines[meter, code].side,
            "limit_value": change.story.limit_value,
            "ruleset": change.story.ruleset,
            "at": change.at_us,
            "occurrences": change.story.occurrences,
        }
        for (meter, code), changes in found.items()
        for change in changes
    ]
    return _timed(rows, CHANGE_SCHEMA)


def _timed(rows: list[dict[str, Any]], schema: pl.Schema) -> pl.DataFrame:
    """Rows whose times are microseconds."""
    physical = {name: pl.Int64() if dtype == TIMESTAMP else dtype for name, dtype in schema.items()}
    return pl.DataFrame(rows, schema=physical, orient="row").cast(schema)
