"""What tests of the flow share: a log that is hard on it, a small registry, and what a lake holds in the end."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal

from metering.registry.index import MeterIndex
from metering.tables.lake import LAKE
from metering.tables.warehouse import CUSTOMERS, METERS
from sinks.lake.reader import LakeReader, current
from tests.pipelines.turns import standing

START = datetime(2026, 1, 1, 10, tzinfo=UTC)
REVISED = ("windows", "violations", "compliance")
APPENDED = ("readings", "rejects")

CUSTOMER = {
    "customer_no": "C1", "name": "Rolling mill", "segment": "large", "industry": "steel", "voltage_level_kv": 10.0,
    "pf_standard": 0.9, "contract_capacity_kva": 1000.0, "tariff": "large_industry", "dual_supply": False,
    "controllable": False,
}  # fmt: skip
METER = {
    "customer_no": "C1", "wiring": "3p4w", "nominal_v": 57.7, "pt_ratio": 100.0, "ct_ratio": 40.0, "rated_a": 5.0,
    "max_a": 6.0, "register_digits": 6, "interval_s": 60, "source_no": 1, "valid_from": date(2020, 1, 1),
}  # fmt: skip


def meters_of(*names: str) -> pl.DataFrame:
    return METERS.conform(pl.DataFrame([{**METER, "meter_id": name} for name in names]))


def customers_of() -> pl.DataFrame:
    return CUSTOMERS.conform(pl.DataFrame([CUSTOMER]))


def log_of(meters: int, minutes: int, seed: int = 0) -> list[bytes]:
    """Readings of M0, M1, ... in order of arrival: bursts over limits, some late by minutes or hours, some broken."""
    rng = random.Random(seed)
    arrivals: list[tuple[float, float, bytes]] = []
    for meter in range(meters):
        high = False
        for minute in range(1, minutes):
            high ^= rng.random() < 0.03
            reading = {
                "meter_id": f"M{meter}", "ts": (START + timedelta(minutes=minute)).isoformat(),
                "p_kw": 1100.0 if high else rng.uniform(100, 300), "q_kvar": rng.uniform(0, 200),
                "ua_v": 75.0 if high else 57.7, "ub_v": 57.7, "uc_v": rng.uniform(52, 63), "import_kwh": float(minute),
            }  # fmt: skip
            late = rng.choice((8, 30, 400)) if rng.random() < 0.01 else rng.random()
            arrivals.append((minute + late, rng.random(), json.dumps(reading).encode()))
            if rng.random() < 0.005:
                arrivals.append((minute, rng.random(), json.dumps({**reading, "p_kw": "much"}).encode()))
    return [line for *_, line in sorted(arrivals)]


class Fixed:
    def __init__(self, index: MeterIndex) -> None:
        self._index = index

    def index(self) -> MeterIndex:
        return self._index


def lake_of(home: Path) -> dict[str, pl.DataFrame]:
    """Every table's final rows: of revised ones the highest revision, of others each row, which must be there once."""
    lake = LakeReader(home)
    tables = {name: current(lake.scan(name), LAKE[name].key).collect() for name in REVISED}
    for name in APPENDED:
        key = LAKE[name].key
        rows = lake.scan(name).collect()
        assert rows.select(key).is_unique().all(), f"{name} hold a row twice"
        tables[name] = rows.sort(key)
    return tables


def same(a: dict[str, pl.DataFrame], b: dict[str, pl.DataFrame], without: tuple[str, ...] = ()) -> None:
    for name in (*REVISED, *APPENDED):
        left, right = (frame.drop(without, strict=False) for frame in (a[name], b[name]))
        assert_frame_equal(left, right, check_exact=True)


FINAL = {
    "windows": [name for name in LAKE["windows"].names if name != "revision"],
    "compliance": [name for name in LAKE["compliance"].names if name != "revision"],
    "violations": ["violation_id", "started_at", "ended_at", "value", "limit_value", "severity", "ruleset"],
}


def final_of(home: Path) -> dict[str, pl.DataFrame]:
    """What a lake says in the end, however often it was revised; no revision of anything may stand there twice. But for
    missing readings: which of them were told of depends on when the files ended.
    """
    lake, found = LakeReader(home), {}
    for name, columns in FINAL.items():
        rows = lake.scan(name).collect()
        assert rows.select(*LAKE[name].key, "revision").is_unique().all(), f"{name} hold a revision twice"
        last = current(rows.lazy(), LAKE[name].key).collect()
        last = last.filter(pl.col("rule") != "reading_missing") if name == "violations" else last
        found[name] = (standing(last) if name == "violations" else last).select(columns)
    for name in APPENDED:
        assert lake.scan(name).select(LAKE[name].key).collect().is_unique().all(), f"{name} hold a row twice"
    return found


def same_in_the_end(home: Path, other: Path, without: Sequence[str] = ()) -> None:
    a, b = ({name: rows.drop(without, strict=False) for name, rows in final_of(h).items()} for h in (home, other))
    for name, frame in a.items():
        assert frame.height > 0
        assert_frame_equal(frame, b[name], check_exact=True)
