"""Records beside the readings of a fault run: feedback and plans, some of them twice, and whether each is there once.

Not here: the readings (`telemetry`), the kills (`run`).
"""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from metering.tables.records import KINDS
from sinks.kafka.topics import TopicSink
from tests.faults.harness import Home
from tests.faults.topics import make_topic, read_topic

SENT = ("feedback", "load_control_plans")
T0 = datetime(2026, 3, 1, tzinfo=UTC)
_PLACE = ("source_partition", "source_offset", "source_row")


class Records:
    """Sends records to the topics of a run; `send` is called once a cycle."""

    def __init__(self, address: str, prefix: str, seed: int, partitions: int) -> None:
        self._address, self._prefix, self._rng = address, prefix, random.Random(seed)
        for name in KINDS:
            make_topic(address, self._topic(name), partitions)
        self._sink = TopicSink({"bootstrap.servers": address})

    def send(self, cycle: int) -> None:
        at = (T0 + timedelta(minutes=cycle)).isoformat()
        words = [
            {"violation_id": f"v{cycle}-{n}", "action": "confirmed", "at": at, "by": "抢修班"}
            for n in range(self._rng.randint(1, 40))
        ]
        self._publish("feedback", [(f"{word['violation_id']}/confirmed", word) for word in [*words, words[0]]])
        plan = {
            "plan_id": f"P{cycle % 7}", "revision": cycle, "from": at, "to": (T0 + timedelta(days=9)).isoformat(),
            "customers": ["C1"], "cap_kw": 400 + cycle, "issued_at": at,
        }  # fmt: skip
        self._publish("load_control_plans", [(plan["plan_id"], plan)])

    def _publish(self, name: str, rows: list[tuple[Any, dict[str, Any]]]) -> None:
        values = [json.dumps(row, ensure_ascii=False).encode() for _, row in rows]
        self._sink.publish(self._topic(name), [key for key, _ in rows], values)
        self._sink.flush()

    def wait_for(self, home: Home, seconds: float = 60) -> None:
        """Until all are in the lake; what is not there after that is lost."""
        deadline = time.monotonic() + seconds
        due = {name: self._places(name).height for name in SENT}
        while any(home.rows(name) < count for name, count in due.items()) and time.monotonic() < deadline:
            time.sleep(0.2)

    def wrong(self, home: Home) -> tuple[pl.DataFrame, int]:
        """Places of records that the lake does not hold exactly once, and how many records there are."""
        frames, count = [], 0
        for name in SENT:
            due = self._places(name)
            count += due.height
            if not home.rows(name):
                frames.append(due.with_columns(table=pl.lit(name), here=pl.lit(0, pl.Int64)))
                continue
            held = home.frame(f"select {', '.join(_PLACE)}, count(*) as here from {home.lake(name)} group by all")
            both = due.join(held, on=list(_PLACE), how="full", coalesce=True).with_columns(table=pl.lit(name))
            bad = both.filter(pl.col("due").is_null() | (pl.col("here").fill_null(0) != 1))
            frames.append(bad.select(*_PLACE, "due", "table", pl.col("here").fill_null(0)))
        return pl.concat(frames), count

    def _topic(self, name: str) -> str:
        return f"{self._prefix}.{name}"

    def _places(self, name: str) -> pl.DataFrame:
        rows = [(m.partition(), m.offset(), 0, True) for m in read_topic(self._address, self._topic(name))]
        schema = {"source_partition": pl.Int32, "source_offset": pl.Int64, "source_row": pl.Int32, "due": pl.Boolean}
        return pl.DataFrame(rows, schema=schema, orient="row")
