"""Records as files under a home: what a simulation makes, written whole or not at all.

Not here: which records those are (`metering.simulation.records`), reading them (`pipelines.sources.records`).
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from metering.tables.messages import RFC3339_UTC
from metering.tables.records import RecordKind

SIMULATED = "fleet.ndjson"


def write_records(home: Path, kind: RecordKind, rows: pl.DataFrame, name: str = SIMULATED) -> Path:
    """Write `rows` (columns named as the record's fields) as one file of the kind's folder; gives its path."""
    path = home / kind.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{name}.part")
    times = [column for column, dtype in rows.schema.items() if isinstance(dtype, pl.Datetime)]
    rows.with_columns(pl.col(times).dt.strftime(RFC3339_UTC)).write_ndjson(aside)
    aside.replace(path)
    return path
