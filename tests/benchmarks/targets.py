"""The targets: for each row of the benchmark its measures, what must be reached and what is aimed at.

Not here: how a row is measured (`rows`), what was found (docs/performance.json).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """`must` and `aim` for a measure of a row; without them it is told only. `most`: smaller is better."""

    measure: str
    what: str
    must: float | None = None
    aim: float | None = None
    most: bool = False
    unit: str = ""
    decimals: int = 2

    def met(self, value: float, bound: float | None) -> bool:
        return bound is None or (value <= bound if self.most else value >= bound)

    def verdict(self, value: float) -> str:
        """Whether the target is met, or how far from it."""
        if self.must is None or self.aim is None:
            return ""
        if self.met(value, self.aim):
            return "met, and the aim"
        if self.met(value, self.must):
            return "met"
        reached = self.must / value if self.most else value / self.must
        return f"not met: {reached:.0%} of it"


@dataclass(frozen=True, slots=True)
class RowOf:
    """A row of the benchmark: its name on the command line, the work, its measures."""

    name: str
    work: str
    targets: tuple[Target, ...]


ROWS = (
    RowOf(
        "file",
        "file NDJSON → windows, all rules → lake; CPU, start-up included",
        (
            Target("of_duckdb", "readings per CPU-second, of DuckDB's batch: parse, once each, aggregate", 0.25, 0.32),
            Target("of_plain", "the same of DuckDB's where doubled readings count twice"),
            Target("of_polars", "the same of Polars' batch"),
        ),
    ),
    RowOf(
        "kafka",
        "Kafka JSON, one reading a message → everything → lake and topics; CPU",
        (
            Target("x_quix", "readings per CPU-second, times Quix Streams'", 7, 10, decimals=1),
            Target("x_bytewax", "times idiomatic Bytewax's", 2.5, 3.5, decimals=1),
        ),
    ),
    RowOf(
        "arrow",
        "Kafka Arrow messages of 1,000 readings → everything; CPU",
        (Target("of_duckdb", "readings per CPU-second, of DuckDB's batch on NDJSON", 0.40, 0.60),),
    ),
    RowOf(
        "processes",
        "two processes on two cores against one at one thread, files; wall",
        (Target("speed_up", "speed-up", 1.7, 1.9),),
    ),
    RowOf(
        "live",
        "20,000 readings/s live: violation readable on its topic; wall",
        (
            Target("p50_ms", "median wait", 250, 100, most=True, unit="ms", decimals=0),
            Target("p99_ms", "99th percentile", 1000, 400, most=True, unit="ms", decimals=0),
            # half and a third of what it was before
            Target("x_duckdb", "CPU a reading, times that of DuckDB's batch", 29, 19, most=True, decimals=1),
        ),
    ),
    RowOf(
        "pace",
        "2,000 meters once a minute in real time, spread over it, everything on",
        (
            Target("cores", "cores used", 0.10, 0.04, most=True, decimals=3),
            Target("p50_ms", "median wait for a change of a violation", 300, 300, most=True, unit="ms", decimals=0),
            Target("p99_ms", "99th percentile", 1000, 1000, most=True, unit="ms", decimals=0),
            Target(
                "later_pct",
                "CPU of the last ten minutes of 2 h, over the first ten",
                10,
                10,
                most=True,
                unit="% more",
                decimals=0,
            ),
        ),
    ),
    RowOf(
        "late",
        "the same, and a reading 10 min, 1 h, 1 day late; CPU",
        (Target("late_ms", "a late reading, of the dearest kind", 100, 20, most=True, unit="ms", decimals=0),),
    ),
    RowOf(
        "registry",
        "registry of 300,000 meters, one in ten exchanged: a poll of 8 readings; CPU",
        (
            Target("decode_ms", "decoding it", 2.0, 0.5, most=True, unit="ms"),
            Target("turn_more_ms", "a whole turn, more than with 1,000 meters", 2.0, 0.5, most=True, unit="ms"),
            Target("turn_ms", "a whole turn", most=True, unit="ms"),
        ),
    ),
    RowOf(
        "rules",
        "from four rules to the whole catalogue, few violations; CPU",
        (
            Target("rules_pct", "a reading", 30, 15, most=True, unit="% more", decimals=0),
            Target("more_rules_pct", "25 rules of a home's own besides", most=True, unit="% more", decimals=0),
        ),
    ),
    RowOf(
        "catchup",
        "catching up after an outage, 10,000 meters at 1 min; wall, one core",
        (Target("x_real_time", "times real time", 800, 1500, decimals=0),),
    ),
    RowOf(
        "state",
        "state of meters at 15 min; resident memory",
        (
            Target("bytes_per_meter", "a meter", 1000, 500, most=True, unit="bytes", decimals=0),
            Target("gib_at_1m", "1 million meters, once caught up", 3.0, 1.5, most=True, unit="GiB"),
            Target("peak_gib", "largest on the way there", unit="GiB"),
        ),
    ),
    RowOf(
        "restart",
        "restart with the state of 100,000 meters; wall",
        (Target("first_commit_s", "from the process's start to its first new commit", 10, 5, most=True, unit="s"),),
    ),
    RowOf(
        "daily",
        "daily batch of 100,000 customers x 96 points, all but forecasts, with publish; CPU",
        (Target("x_sql", "CPU, times that of plain DuckDB SQL for the same tables", 3.0, 1.5, most=True),),
    ),
    RowOf(
        "growth",
        "time per reading as work grows; CPU",
        (
            Target("meters_pct", "1,000 to 100,000 meters", 20, 10, most=True, unit="% more", decimals=0),
            Target("partitions_pct", "1 to 32 partitions", 10, 5, most=True, unit="% more", decimals=0),
        ),
    ),
)
BY_NAME = {row.name: row for row in ROWS}
