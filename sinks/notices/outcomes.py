"""What became of messages, for everybody: rows of `notices`, on the topic and in the lake, each once.

Here: rows from the ledger's, and parts of the lake under names that a batch keeps. Not here: the ledger itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from metering.calendar import local_date
from metering.notices.events import CONTROL, OUTAGE, PLAN, VIOLATION
from metering.notices.storms import STORM
from metering.tables.messages import notice_messages
from metering.tables.notices import NOTICES
from metering.tables.schema import TIMESTAMP
from sinks.kafka.topics import TopicSink
from sinks.lake.owner import make_folder, sync_folder
from sinks.lake.parts import parts, write_part
from sinks.lake.reader import LakeReader
from sinks.notices.channels import scheme
from sinks.notices.ledger import Ledger

_MICROSECONDS = 1_000_000


def outcome_rows(rows: Sequence[Mapping[str, Any]], zone: str) -> pl.DataFrame:
    """Rows of `notices` from the ledger's."""
    frame = pl.DataFrame([_row(row) for row in rows], schema=NOTICES.schema)
    return frame.with_columns(date=local_date(pl.col("at"), zone))


def publish(ledger: Ledger, sink: TopicSink, topic: str, zone: str) -> int:
    """Publish outcomes that are not on the topic yet; how many these were.

    One that was published just before the process died is published again, with the same key and value. Raises
    OperationError.
    """
    count = 0
    while rows := ledger.unpublished():
        out = notice_messages(outcome_rows(rows, zone))
        sink.publish(topic, out.keys, out.values, out.partition_keys)
        sink.flush()
        ledger.published(rows)
        count += len(rows)
    return count


def to_lake(ledger: Ledger, home: Path, zone: str) -> int:
    """Write outcomes that are not in the lake yet; how many these were. Raises OSError and OperationError."""
    count = 0
    while (batch := ledger.lake_batch()) is not None:
        number, rows = batch
        _reveal(home, number, outcome_rows(rows, zone))
        ledger.in_lake(number)
        count += len(rows)
    return count


def _reveal(home: Path, number: int, frame: pl.DataFrame) -> None:
    """Put a batch into the lake: whole parts, by rename. Rows that are there already stay there alone."""
    lake = LakeReader(home)
    aside = home / "notify" / "parts"
    make_folder(aside)
    make_folder(home / "lake")
    for folder, part in parts({NOTICES.name: [frame]}).items():
        with lake.held():  # compaction waits: what is there can be seen
            there = home / folder
            days = list(there.glob("*.parquet")) if there.is_dir() else []
            known = pl.concat([pl.read_parquet(path, columns=["notice_id"]) for path in days]) if days else None
            new = part if known is None else part.join(known, on="notice_id", how="anti")
            if new.is_empty():
                continue
            path = aside / f"notices-{number:09d}.parquet"
            path.unlink(missing_ok=True)
            write_part(path, new)
            make_folder(there)
            path.rename(there / path.name)
            sync_folder(there)


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    kind, subject, members = row["kind"], row["subject"], _members(row)
    return {
        "notice_id": row["notice_id"], "state": row["status"], "event_class": row["event_class"],
        "event_state": row["event_state"], "severity": row["severity"], "channel": scheme(row["channel"]),
        "contact": row["contact"], "role": row["role"], "level": row["level"], "language": row["language"],
        "violation_id": subject if kind == VIOLATION else members[0] if kind == STORM and len(members) == 1 else None,
        "plan_id": subject if kind == PLAN else subject.rpartition("/")[0] if kind == CONTROL else None,
        "outage_id": subject if kind == OUTAGE else None, "storm_id": subject if kind == STORM else None,
        "members": len(members), "customer_no": row["customer_no"] or None, "attempts": row["attempts"],
        "event_at": _time(row["event_at"]), "taken_at": _time(row["taken_at"]), "at": _time(row["at"]),
        "title": row["title"], "body": row["body"], "detail": row["detail"], "date": None,
    }  # fmt: skip


def _members(row: Mapping[str, Any]) -> list[str]:
    import json

    members: list[str] = json.loads(row["members"])
    return members


def _time(seconds: float) -> pl.Expr | Any:
    return pl.Series([round(seconds * _MICROSECONDS)]).cast(TIMESTAMP).item()
