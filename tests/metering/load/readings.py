"""Readings by minute, of the four meters that windows are tested with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from metering.tables.lake import MEASURED
from metering.tables.schema import TIMESTAMP

Frame = pl.DataFrame
Row = dict[str, Any]

ZONE = "Asia/Shanghai"
T0 = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = pl.Schema(
    {
        "meter": pl.UInt32, "version": pl.UInt32, "ts": TIMESTAMP, **dict.fromkeys(MEASURED, pl.Float64),
        "log_offset": pl.Int64, "source_row": pl.Int32,
    }
)  # fmt: skip


def frame(rows: list[Row]) -> Frame:
    """Readings from {minute, meter (0..3), ...}; the offset is the place in the list."""
    full = [
        {
            **dict.fromkeys(MEASURED),
            "meter": row.get("meter", 0),
            "version": row.get("meter", 0),
            "ts": T0 + timedelta(minutes=row["minute"]),
            "log_offset": number,
            "source_row": 0,
            **{name: value for name, value in row.items() if name not in ("minute", "meter")},
        }
        for number, row in enumerate(rows)
    ]
    return pl.DataFrame(full, schema=SCHEMA)
