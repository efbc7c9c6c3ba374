"""Seeded telemetry like life for the benchmarks: a registry, readings as NDJSON, Arrow or Parquet, their violations.

Here: what the contenders read, and what is known of it by construction. Not here: running anything on it.

Every meter reports at the end of each interval, 12 fields a reading: ids of twelve digits, stamps in epoch ms. Readings
arrive jittered by seconds, 2 % of them up to two minutes late, some twice, and some that mean no time at all. At any
moment 1 % of the meters break a limit; 2 % are exchanged at the first local midnight, after which their registers begin
anew. Registers hold the integral of the power that is reported. The same load gives the same bytes, however it is cut.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from io import BytesIO
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import polars as pl

from sinks.kafka.partitioner import partition_of

START = datetime(2026, 3, 1, 14, 0, tzinfo=UTC)
"""Two hours before a local midnight in the default time zone."""
MIDNIGHT = START + timedelta(hours=2)
NOMINAL_V, CAPACITY_KVA, PF_STANDARD = 57.7, 1000.0, 0.9
RULES = ("over_voltage", "under_voltage", "over_capacity", "low_power_factor")
VOLTAGE_RULES = RULES[:2]
FIELDS = (
    "meter_id", "ts", "ua_v", "ub_v", "uc_v", "ia_a", "ib_a", "ic_a", "p_kw", "q_kvar", "import_kwh", "import_kvarh",
)  # fmt: skip
IMPLAUSIBLE_MS = 946_684_800_000
"""Stamps before it, those of before 2000, mean no time."""

_IDS_FROM = 310_105_000_000
_ZONE_H = 8
_MINUTE_MS = 60_000
_DAY_MIN = 1440
_CHUNK_ROWS = 500_000
_HOLD_MIN = {"over_voltage": 1, "under_voltage": 1, "over_capacity": 15, "low_power_factor": 15}
_LATE, _LATEST_MS = 0.02, 120_000
_DOUBLED, _AGAIN_MS = 0.005, (1_000, 60_000)
_WRONG = 1 / 20_000
_NEW_REGISTER = 5.0
_ARRIVAL = ("arrived_ms", "number", "kind")
_RIGHT, _AGAIN, _NO_TIME = range(3)
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
    """`meters` meters, `minutes` minutes of them from `start`, a reading each `interval_min`. Every meter has its own
    customer. Readings arrive spread over `spread_s` after their stamp; a meter in violation is so for
    `burst_min`; one in `exchanged_in` is exchanged.
    """

    meters: int
    minutes: int
    interval_min: int = 1
    seed: int = 1
    start: datetime = START
    burst_min: int = 30
    spread_s: int = 10
    exchanged_in: int = 50

    @property
    def steps(self) -> int:
        return self.minutes // self.interval_min

    @property
    def readings(self) -> int:
        """Readings that count: right ones, each once."""
        return self.meters * self.steps

    @property
    def accepted(self) -> int:
        """Right ones as they come, some twice."""
        return self.readings + _counts(self)[0]

    @property
    def wrong(self) -> int:
        """Those that mean no time, and must be rejected."""
        return _counts(self)[1]

    @property
    def received(self) -> int:
        return self.accepted + self.wrong

    @property
    def windows(self) -> int:
        """Windows that have a reading; the start is a window's edge."""
        return self.meters * -(-self.minutes // 15)

    @property
    def end(self) -> datetime:
        """The last stamp."""
        return self.start + timedelta(minutes=self.steps * self.interval_min)

    @property
    def name(self) -> str:
        others = (self.burst_min, self.spread_s, self.exchanged_in)
        bursts = "" if others == (30, 10, 50) else "-{}-{}-{}".format(*others)
        every = f"every{self.interval_min}-seed{self.seed}{bursts}"
        return f"life1-{self.meters}x{self.minutes}min-{every}-{self.start:%Y%m%dT%H%M}"

    @property
    def meter_ids(self) -> list[str]:
        return [str(_IDS_FROM + number) for number in range(self.meters)]

    # --- readings ---

    def readings_in_time(self, rows: int = _CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """The readings that count, in order of time, about `rows` at a time: FIELDS."""
        for frame in self._frames(rows):
            yield frame.select(FIELDS)

    def frames(self, rows: int = _CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """Everything in the order of arrival, about `rows` at a time: FIELDS and `arrived_ms` (epoch milliseconds)."""
        waiting: list[pl.DataFrame] = []
        for frame in self._frames(rows):
            came = pl.concat([*waiting, *self._came(frame)]).sort(_ARRIVAL)
            next_ms = self._ms(frame["minute"][-1] + self.interval_min)
            before = int((came["arrived_ms"] < next_ms).sum())
            waiting = [came[before:]]
            yield came[:before].select(*FIELDS, "arrived_ms")
        yield pl.concat(waiting).select(*FIELDS, "arrived_ms")

    def _came(self, frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """A piece's readings as they arrive: right, again, without a usable time."""
        number = frame["number"].to_numpy()
        late = np.where(self._chance(number, 1) < _LATE, self._chance(number, 2) * _LATEST_MS, 0.0)
        arrived = frame["ts"].to_numpy() + self._chance(number, 3) * self.spread_s * 1000 + late
        frame = frame.drop("minute").with_columns(arrived_ms=pl.Series(arrived.astype(np.int64)), kind=_kind(_RIGHT))
        yield frame
        first, last = _AGAIN_MS
        again = pl.Series(first + self._chance(number, 4) * (last - first)).cast(pl.Int64)
        yield frame.with_columns(pl.col("arrived_ms") + again, kind=_kind(_AGAIN)).filter(self.doubled(number))
        is_wrong = self.without_time(number)
        in_seconds = pl.when(pl.col("number") % 2 == 0).then(pl.col("ts") // 1000)
        yield frame.filter(is_wrong).with_columns(in_seconds.alias("ts"), kind=_kind(_NO_TIME))

    def doubled(self, number: np.ndarray) -> np.ndarray:
        return self._chance(number, 5) < _DOUBLED

    def without_time(self, number: np.ndarray) -> np.ndarray:
        return self._chance(number, 6) < _WRONG

    def _chance(self, number: np.ndarray, channel: int) -> np.ndarray:
        return _uniform(self.seed + 104_729 * channel, number)

    def _frames(self, rows: int) -> Iterator[pl.DataFrame]:
        at_once = max(1, rows // self.meters)
        registers = _Registers(self.meters)
        for first in range(0, self.steps, at_once):
            minute = np.arange(first + 1, min(first + at_once, self.steps) + 1) * self.interval_min
            yield self._frame(minute, registers)

    def _frame(self, minute: np.ndarray, registers: _Registers) -> pl.DataFrame:
        meter = np.arange(self.meters)
        base = 150.0 + 100.0 * _uniform(self.seed, meter)
        angle = 2 * np.pi * minute / _DAY_MIN
        p = base * (1 + 0.3 * np.sin(angle))[:, None] + 5.0 * self._noise(minute, 0)
        u = NOMINAL_V * (1 + 0.01 * self._noise(minute, 1))
        broken = self._broken(minute)
        ua = np.where(broken == 0, 1.25 * NOMINAL_V, np.where(broken == 1, 0.75 * NOMINAL_V, u))
        p = np.where(broken == 2, 1500.0, p)
        q = np.where(broken == 3, 1.2, 0.3) * p
        amps = p * 1000 / (3 * NOMINAL_V * 100 * 20)
        exchanged = (minute > self._exchange_min)[:, None] & (meter % self.exchanged_in == 3)
        kwh, kvarh = registers.run_on(np.stack([p, q]) * (self.interval_min / 60), exchanged)
        values = (ua, u, 0.999 * u, amps, 0.98 * amps, 1.01 * amps, p, q, kwh, kvarh)
        number = minute[:, None] // self.interval_min * self.meters + meter
        return pl.DataFrame(
            {
                "meter_id": pl.Series(self.meter_ids).gather(np.tile(meter, len(minute))),
                "ts": np.repeat(self._ms(0) + minute.astype(np.int64) * _MINUTE_MS, self.meters),
                **{name: np.round(value, 3).ravel() for name, value in zip(FIELDS[2:], values, strict=True)},
                "number": number.ravel(),
                "minute": np.repeat(minute, self.meters),
            }
        )

    def _ms(self, minute: int) -> int:
        return round(self.start.timestamp() * 1000) + int(minute) * _MINUTE_MS

    def _noise(self, minute: np.ndarray, channel: int) -> np.ndarray:
        """Uniform in -1..1 for each minute and meter, a function of both."""
        key = minute[:, None] * self.meters + np.arange(self.meters)
        return 2 * _uniform(self.seed + 7919 * (channel + 1), key) - 1

    # --- violations ---

    def _broken(self, minute: np.ndarray) -> np.ndarray:
        """Number of the rule that each meter breaks in each minute; -1: none."""
        meter = np.arange(self.meters)
        turn = (minute[:, None] - 1 - meter * 7 % self.burst_min) // self.burst_min
        return np.where((turn >= 0) & ((meter + 61 * turn) % 100 == 7), (meter // 100 + turn) % self._rules, -1)

    @property
    def _rules(self) -> int:
        """A short burst breaks only what holds for a minute."""
        return len(RULES) if self.burst_min >= 30 else len(VOLTAGE_RULES)

    def violations(self) -> pl.DataFrame:
        """What must be found: meter_id, rule, started_at, ended_at (null: still open at the end)."""
        every, last_min = self.interval_min, self.steps * self.interval_min
        rows = []
        for meter in range(self.meters):
            phase = meter * 7 % self.burst_min
            for turn in range(
                (7 - meter) * 41 % 100, (last_min - phase) // self.burst_min + 1, 100
            ):  # 41 * 61 = 1 mod 100
                rule = RULES[(meter // 100 + turn) % self._rules]
                began = phase + turn * self.burst_min
                first = (began // every + 1) * every
                last = min((began + self.burst_min) // every * every, last_min)
                if last - first + every < _HOLD_MIN[rule]:
                    continue
                cleared = last_min - last >= _HOLD_MIN[rule]
                started, ended = first - every, last if cleared else None
                rows.append(
                    (str(_IDS_FROM + meter), rule, self._at(started), None if ended is None else self._at(ended))
                )
        times = dict.fromkeys(("started_at", "ended_at"), pl.Datetime("us", "UTC"))
        return pl.DataFrame(rows, schema={"meter_id": pl.String, "rule": pl.String, **times}, orient="row")

    def _at(self, minute: int) -> datetime:
        return self.start + timedelta(minutes=minute)

    # --- registry ---

    @property
    def exchange_on(self) -> date:
        """The local day that begins with the exchange of some meters: the first that begins at the start or later."""
        local = self.start + timedelta(hours=_ZONE_H)
        return local.date() if local.time() == datetime.min.time() else local.date() + timedelta(days=1)

    @property
    def _exchange_min(self) -> float:
        midnight = datetime.combine(self.exchange_on, datetime.min.time(), UTC) - timedelta(hours=_ZONE_H)
        return (midnight - self.start).total_seconds() / 60

    def write_registry(self, home: Path) -> None:
        folder = home / "registry"
        folder.mkdir(parents=True)
        _write_registry(folder, self.meters, 60 * self.interval_min, self.exchange_on, self.exchanged_in)


def _write_registry(folder: Path, meters: int, interval_s: int, exchange_on: date, exchanged_in: int) -> None:
    """customers.csv and meters.csv; one meter in `exchanged_in` has a second version from local `exchange_on` on."""
    number = pl.int_range(meters, eager=True).alias("n").to_frame()
    customer = number.select(
        pl.format(
            f"C{{}},Plant {{}},large,machinery,10,{CAPACITY_KVA:.0f},,{PF_STANDARD:.2f},large_industry,false,,,true",
            "n", "n",
        )
    )  # fmt: skip
    gone = number.filter(pl.col("n") % exchanged_in == 3).with_columns(
        of=pl.lit(0), span=pl.lit(f"2020-01-01,{exchange_on - timedelta(days=1)}")
    )
    new = gone.with_columns(of=pl.lit(1), span=pl.lit(f"{exchange_on},"))
    stay = number.filter(pl.col("n") % exchanged_in != 3).with_columns(of=pl.lit(0), span=pl.lit("2020-01-01,"))
    meter = (
        pl.concat([gone, new, stay])
        .sort("n", "of")
        .select(
            pl.format(
                f"{{}},C{{}},3p4w,{NOMINAL_V},100,20,5,6,8,{interval_s},1,{{}}", pl.col("n") + _IDS_FROM, "n", "span"
            )
        )
    )
    for name, head, lines in (("customers", _CUSTOMERS, customer), ("meters", _METERS, meter)):
        text = head + "\n".join(lines.to_series().to_list()) + "\n"
        (folder / f"{name}.csv").write_text(text, "utf-8")


class _Registers:
    """What went through each meter's two registers, and where those of exchanged meters began anew."""

    def __init__(self, meters: int) -> None:
        self._total = np.vstack([np.full(meters, 1000.0), np.full(meters, 100.0)])
        self._offset = np.zeros((2, meters))
        self._exchanged = np.zeros(meters, dtype=bool)

    def run_on(self, used: np.ndarray, exchanged: np.ndarray) -> np.ndarray:
        """The registers after each step, of the use in it (2 x steps x meters) and of which meters are new in it."""
        # Sums run on from where they stood, so that they do not depend on how the load is cut.
        total = np.cumsum(np.concatenate([self._total[:, None], used], axis=1), axis=1)
        begins = exchanged & ~np.vstack([self._exchanged, exchanged[:-1]])
        new = begins.any(axis=0)
        self._offset[:, new] = total[:, begins.argmax(axis=0)[new], new] - _NEW_REGISTER
        self._total, self._exchanged = total[:, -1], exchanged[-1]
        read: np.ndarray = total[:, 1:] - np.where(exchanged, self._offset[:, None], 0.0)
        return read


def _kind(number: int) -> pl.Expr:
    return pl.lit(number, pl.Int8)


@lru_cache
def _counts(load: Load) -> tuple[int, int]:
    """How many of a load's readings come twice, and how many come without a usable time besides."""
    doubled = wrong = 0
    for first in range(load.meters, load.meters + load.readings, _CHUNK_ROWS):
        number = np.arange(first, min(first + _CHUNK_ROWS, load.meters + load.readings))
        doubled += int(load.doubled(number).sum())
        wrong += int(load.without_time(number).sum())
    return doubled, wrong


def _uniform(seed: int, key: np.ndarray) -> np.ndarray:
    """0..1 by `key`: splitmix64 of it."""
    with np.errstate(over="ignore"):
        z = key.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53


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
                frame.select(FIELDS).write_ndjson(file)
        aside.rename(path)
    return path


def lines_of(frame: pl.DataFrame) -> list[bytes]:
    """Each reading of a piece as JSON."""
    text = frame.select(pl.struct(FIELDS).struct.json_encode()).to_series()
    return text.cast(pl.Binary).to_list()


def lines(load: Load) -> Iterator[tuple[str, bytes]]:
    """Each reading as (meter_id, JSON), in the order of arrival."""
    for frame in load.frames():
        yield from zip(frame["meter_id"].to_list(), lines_of(frame), strict=True)


def arrow_messages(load: Load, rows: int = 1000, groups: int = 8) -> Iterator[tuple[str, bytes]]:
    """Arrow IPC streams of `rows` readings each as (head-end, bytes), in the order of arrival: a meter always goes
    through one head-end, and of `groups` partitions each has one.
    """
    size = -(-load.meters // groups)
    names = head_ends(groups)
    for frame in load.frames():
        numbered = frame.select(FIELDS).with_columns(group=(pl.col("meter_id").cast(pl.Int64) - _IDS_FROM) // size)
        parts = numbered.partition_by("group", as_dict=True, include_key=False)
        streams = [[(names[group], piece) for piece in part.iter_slices(rows)] for (group,), part in parts.items()]
        for name, piece in filter(None, chain.from_iterable(zip_longest(*streams))):
            yield name, ipc(piece)


def head_ends(count: int) -> list[str]:
    """Names that as keys go to one partition each, in the order of the partitions."""
    named = ((partition_of(f"head-end-{number}", count), f"head-end-{number}") for number in range(100 * count))
    found: dict[int, str] = {}
    for partition, name in named:
        found.setdefault(partition, name)
    return [found[partition] for partition in range(count)]


def ipc(frame: pl.DataFrame) -> bytes:
    buffer = BytesIO()
    frame.write_ipc_stream(buffer)
    return buffer.getvalue()
