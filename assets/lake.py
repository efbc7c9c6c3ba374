"""The lake's tables as external assets: what the stream writes and batch work starts from."""

from __future__ import annotations

import dagster as dg

from metering.tables import LAKE
from metering.tables.records import KINDS

LAKE_GROUP = "lake"

EVENT_TIME = {
    "readings": "ts",
    "windows": "window_end",
    "violations": "at",
    "compliance": "as_of",
    "load_control": "window_end",
    "rejects": "ts",
    "gaps": "accepted_at",
    "notices": "at",
    **{name: kind.time for name, kind in KINDS.items()},
}
"""The column of each table that tells how recent its rows are."""


def lake_key(table: str) -> dg.AssetKey:
    return dg.AssetKey([LAKE_GROUP, table])


def lake_specs(days: dg.PartitionsDefinition) -> list[dg.AssetSpec]:
    """One external asset for each of the lake's tables, partitioned by local day."""
    return [
        dg.AssetSpec(
            lake_key(name), partitions_def=days, group_name=LAKE_GROUP, description=table.meaning, kinds={"parquet"}
        )
        for name, table in LAKE.items()
    ]
