"""Seeded telemetry for the benchmarks: a registry, readings as NDJSON, Arrow or Parquet, and the violations in them.

Here: what the contenders read, and what is known of it by construction. Not here: running anything on it.

Every meter reports at the end of each interval, in order of time, 12 fields a reading. Some meters break one rule
once, for half an hour. The same load gives the same bytes, however it is cut.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import polars as pl

from sinks.kafka.topics import partition_of

START = datetime(2026, 3, 1, 16, 0, tzinfo=UTC)
"""A local midnight in the default time zone."""
NOMINAL_V, CAPACITY_KVA, PF_STANDARD = 57.7, 1000.0, 0.9
RULES = ("over_voltage", "under_voltage", "over_capacity", "low_power_factor")
BURST_MIN = 30
FIELDS = (
    "meter_id", "ts", "ua_v", "ub_v", "uc_v", "ia_a", "ib_a", "ic_a", "p_kw", "q_kvar", "import_kwh", "import_kvarh",
)  # fmt: skip

_ONE_BURST_IN = 50
_DAY_MIN = 1440
_CHUNK_ROWS = 500_000
_HOLD_MIN = {"over_voltage": 1, "under_voltage": 1, "over_capacity": 15, "low_power_factor": 15}
_CUSTOMERS = (
    "customer_no,name,segment,industry,voltage_level_kv,contract_capacity_kva,contract_demand_kw,pf_standard,tariff,"
    "dual_supply,feeder,manager,controllable\n"
)
_METERS = (
    "meter_id,customer_no,wiring,nominal_v,pt_ratio,ct_ratio,rated_a,max_a,register_digits,interval_s,source_no,"
    "valid_from,valid_to\n"
)


@dataclass(frozen=True, slots=True)
class Load:
    """`meters` meters, `minutes` minutes of them, a reading each `interval_min`. Every meter has its own customer."""

    meters: int
    minutes: int
    interval_min: int = 1
    seed: int = 1

    @property
    def readings(self) -> int:
        return self.meters * (self.minutes // self.interval_min)

    @property
    def windows(self) -> int:
        """Windows that have a reading."""
        return self.meters * -(-self.minutes // 15)

    @property
    def name(self) -> str:
        return f"{self.meters}x{self.minutes}min-every{self.interval_min}-seed{self.seed}"

    def frames(self, rows: int = _CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """All readings in order of time, about `rows` at a time: FIELDS, with `ts` as an instant."""
        steps = self.minutes // self.interval_min
        at_once = max(1, rows // self.meters)
        for first in range(0, steps, at_once):
            yield self._frame(np.arange(first + 1, min(first + at_once, steps) + 1) * self.interval_min)

    def _frame(self, minute: np.ndarray) -> pl.DataFrame:
        meter = np.arange(self.meters)
        base = 150.0 + 100.0 * _uniform(self.seed, meter)
        angle = 2 * np.pi * minute / _DAY_MIN
        p = base * (1 + 0.3 * np.sin(angle))[:, None] + 5.0 * self._noise(minute, 0)
        u = NOMINAL_V * (1 + 0.01 * self._noise(minute, 1))
        ua, q = u.copy(), 0.3 * p
        within = self._burst(minute)
        for rule, number in enumerate(RULES):
            here = within[:, None] & (meter % _ONE_BURST_IN == 7 + 10 * rule)
            match number:
                case "over_voltage":
                    ua = np.where(here, 1.25 * NOMINAL_V, ua)
                case "under_voltage":
                    ua = np.where(here, 0.70 * NOMINAL_V, ua)
                case "over_capacity":
                    p = np.where(here, 1500.0, p)
                case "low_power_factor":
                    q = np.where(here, 1.2 * p, q)
        # What went through the registers is the load without its noise, so that any part of it can be told alone.
        used_kwh = base * ((minute - 0.3 * _DAY_MIN / (2 * np.pi) * (np.cos(angle) - 1)) / 60)[:, None]
        amps = p / (np.sqrt(3) * 3 * 100 * NOMINAL_V) * 1000 / 3
        values = (ua, u, 0.999 * u, amps, 0.98 * amps, 1.01 * amps, p, q, 1000 + used_kwh, 100 + 0.3 * used_kwh)
        ts = pl.Series([START + timedelta(minutes=int(m)) for m in minute], dtype=pl.Datetime("us", "UTC"))
        return pl.DataFrame(
            {
                "meter_id": pl.Series(self.meter_ids).gather(np.tile(meter, len(minute))),
                "ts": ts.gather(np.repeat(np.arange(len(minute)), self.meters)),
                **{name: np.round(value, 3).ravel() for name, value in zip(FIELDS[2:], values, strict=True)},
            }
        )

    def _noise(self, minute: np.ndarray, channel: int) -> np.ndarray:
        """Uniform in -1..1 for each minute and meter, a function of both."""
        return (
            2 * _uniform(self.seed + 7919 * (channel + 1), minute[:, None] * self.meters + np.arange(self.meters)) - 1
        )

    def _burst(self, minute: np.ndarray) -> np.ndarray:
        return (minute > self._burst_at) & (minute <= self._burst_at + BURST_MIN)

    @property
    def _burst_at(self) -> int:
        return self.minutes // 3 // self.interval_min * self.interval_min

    @property
    def meter_ids(self) -> list[str]:
        return [f"M{number:07d}" for number in range(self.meters)]

    def violations(self) -> pl.DataFrame:
        """What must be found: meter_id, rule, started_at, ended_at (null: still open at the end)."""
        started = START + timedelta(minutes=self._burst_at)
        end = self._burst_at + min(BURST_MIN, self.minutes - self._burst_at) // self.interval_min * self.interval_min
        rows = []
        for number, rule in enumerate(RULES):
            held = min(end, self.minutes) - self._burst_at
            cleared = self.minutes - end >= _HOLD_MIN[rule]
            ended = START + timedelta(minutes=end) if cleared else None
            broken = range(7 + 10 * number, self.meters, _ONE_BURST_IN) if held >= _HOLD_MIN[rule] else ()
            rows += [(f"M{meter:07d}", rule, started, ended) for meter in broken]
        times = dict.fromkeys(("started_at", "ended_at"), pl.Datetime("us", "UTC"))
        return pl.DataFrame(rows, schema={"meter_id": pl.String, "rule": pl.String, **times}, orient="row")

    def write_registry(self, home: Path) -> None:
        folder = home / "registry"
        folder.mkdir(parents=True)
        number = pl.int_range(self.meters, eager=True).alias("n").to_frame()
        customer = number.select(
            pl.format(
                f"C{{}},Plant {{}},large,machinery,10,{CAPACITY_KVA:.0f},,{PF_STANDARD:.2f},"
                "large_industry,false,10kV-{},office {},true",
                "n", "n", pl.col("n") % 2000, pl.col("n") % 40,
            )
        )  # fmt: skip
        interval_s = 60 * self.interval_min
        meter = number.select(
            pl.format(
                f"M{{}},C{{}},3p4w,{NOMINAL_V},100,20,5,6,8,{interval_s},1,2020-01-01,",
                pl.col("n").cast(pl.String).str.zfill(7), "n",
            )
        )  # fmt: skip
        for name, head, lines in (("customers", _CUSTOMERS, customer), ("meters", _METERS, meter)):
            text = head + "\n".join(lines.to_series().to_list()) + "\n"
            (folder / f"{name}.csv").write_text(text, "utf-8")


def _uniform(seed: int, key: np.ndarray) -> np.ndarray:
    """0..1 by `key`: splitmix64 of it."""
    with np.errstate(over="ignore"):
        z = key.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53


def with_text_times(readings: pl.DataFrame) -> pl.DataFrame:
    """`ts` as RFC 3339 text, as JSON carries it."""
    return readings.with_columns(pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))


def cache_folder() -> Path:
    """Where data is kept between runs: it takes longer to make than to read."""
    folder = Path(tempfile.gettempdir()) / f"kilowatch-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def ndjson(load: Load, folder: Path) -> Path:
    """The load as one NDJSON file; made unless it is there."""
    path = folder / f"{load.name}.ndjson"
    if not path.exists():
        aside = path.with_suffix(f".{os.getpid()}")
        with aside.open("wb") as file:
            for frame in load.frames():
                with_text_times(frame).write_ndjson(file)
        aside.rename(path)
    return path


def lines(load: Load) -> Iterator[tuple[str, bytes]]:
    """Each reading as (meter_id, JSON)."""
    for frame in load.frames():
        text = with_text_times(frame).select(pl.struct(pl.all()).struct.json_encode()).to_series()
        yield from zip(frame["meter_id"].to_list(), text.cast(pl.Binary).to_list(), strict=True)


def arrow_messages(load: Load, rows: int = 1000, groups: int = 8) -> Iterator[tuple[str, bytes]]:
    """Arrow IPC streams of `rows` readings each as (head-end, bytes), in order of time: a meter always goes through one
    head-end, and of `groups` partitions each has one.
    """
    size = -(-load.meters // groups)
    names = _head_ends(groups)
    for frame in load.frames():
        numbered = frame.with_columns(group=pl.col("meter_id").str.slice(1).cast(pl.Int64) // size)
        parts = numbered.partition_by("group", as_dict=True, include_key=False)
        streams = [[(names[group], piece) for piece in part.iter_slices(rows)] for (group,), part in parts.items()]
        for name, piece in filter(None, chain.from_iterable(zip_longest(*streams))):
            yield name, _ipc(piece)


def _head_ends(count: int) -> list[str]:
    """Names that as keys go to one partition each."""
    named = ((partition_of(f"head-end-{number}", count), f"head-end-{number}") for number in range(100 * count))
    found: dict[int, str] = {}
    for partition, name in named:
        found.setdefault(partition, name)
    return list(found.values())


def _ipc(frame: pl.DataFrame) -> bytes:
    buffer = BytesIO()
    frame.write_ipc_stream(buffer)
    return buffer.getvalue()
