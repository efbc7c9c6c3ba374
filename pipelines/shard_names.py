"""Names of shards: which log a reading came in.

Here: the rule, which sources and state share. Not here: reading logs (`sources`), what is known of shards (`shard`).
"""

from __future__ import annotations

from pathlib import PurePosixPath

LINE_SUFFIXES = (".ndjson", ".jsonl", ".json")
PARQUET_SUFFIX = ".parquet"


def is_telemetry(name: str) -> bool:
    """Whether a file of that name is one of telemetry."""
    return PurePosixPath(name).suffix.lower() in (*LINE_SUFFIXES, PARQUET_SUFFIX)


def partition_shard(topic: str, partition: int) -> str:
    """The shard that a topic's partition is."""
    return f"{topic}-{partition}"


def shard_of(source: str, partition: int) -> str:
    """The shard that a reading marked with `source` and `partition` came in: of a file, the folder that it lies in."""
    return PurePosixPath(source).parent.as_posix() if is_telemetry(source) else partition_shard(source, partition)
