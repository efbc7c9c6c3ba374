"""A seeded log of telemetry for the fault runs: messages in the order in which they reach the topic.

Here: what meters send, and everything that goes wrong on the way; the same log in files. Not here: producing it
(`topics`), what it should come to (`oracle`). The same seed gives the same bytes.

Ids have twelve digits, stamps are epoch milliseconds (of every seventh meter RFC 3339), intervals are 1, 5 and 15
minutes. At the first local midnight some meters are exchanged: their registers begin anew, and the new ones of some
report more often.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

START = datetime(2026, 2, 28, 14, 30, tzinfo=UTC)
"""An hour and a half before a local day and month end."""
LOCAL = timezone(timedelta(hours=8))
VALID_FROM, EXCHANGED_ON = date(2020, 1, 1), date(2026, 3, 1)
CAPACITY_KVA, PF_STANDARD, REGISTER_MODULUS = 630.0, 0.9, 1e6
WIRINGS = (("3p4w", 57.7), ("3p3w", 100.0), ("1p", 220.0), ("3p4w", 57.7))
MIDNIGHT_MIN = 90
"""Minutes from START to the local midnight at which meters are exchanged."""
LATEST_MIN = 100.0
"""How late a reading may come; eight closed windows, two hours, are held."""
VERY_LATE_MIN = (150.0, 600.0)

_CUSTOMERS = (
    "customer_no,name,segment,industry,voltage_level_kv,contract_capacity_kva,contract_demand_kw,pf_standard,tariff,"
    "dual_supply,feeder,manager,controllable\n"
)
_METERS = (
    "meter_id,customer_no,wiring,nominal_v,pt_ratio,ct_ratio,rated_a,max_a,register_digits,interval_s,source_no,"
    "valid_from,valid_to\n"
)
_BAD = (
    b"not json", b"", b"\xff\xfe\x00", b'{"meter_id": 7, "ts": "2026-03-01T00:00:00Z"}',
    b'{"meter_id": "310106000000"}',
    b'{"meter_id": "999900000001", "ts": 1772290800000}', b'{"meter_id": "310106000001", "ts": "yesterday"}', b"[1, 2]",
    b'{"meter_id": "310106000001", "ts": 1772290800000, "p_kw": "12"}', b'{"ts": "2026-02-28T15:00:00Z"}',
    b'{"meter_id": "310106000002", "ts": 1772290800000, "p_kw": 1e999}', b'{"meter_id": "310106000002", "ts": 17722',
    b'{"meter_id": "310106000002", "ts": 1772290800, "p_kw": 12}', b'{"meter_id": 310106000001, "ts": 1772290800000}',
)  # fmt: skip


def meter_id(number: int) -> str:
    """The id of a fleet's meter."""
    return str(310_106_000_000 + number)


class Sent(NamedTuple):
    """One message; `logged_ms` is the time it carries in the log."""

    key: str
    value: bytes
    logged_ms: int


@dataclass(slots=True)
class _Meter:
    """One meter as it goes through its minutes: a load, registers that integrate it, and bursts over limits."""

    number: int
    wiring: str
    nominal_v: float
    every_min: int
    register: float
    kvarh: float = 0.0
    export_kvarh: float = 7.0
    burst: str = ""
    left: int = 0

    @property
    def name(self) -> str:
        return meter_id(self.number)

    @property
    def exchanged(self) -> bool:
        return self.number % 10 == 3 or self.number % 16 == 7

    @property
    def every_min_then(self) -> int:
        """How often it reports once it is exchanged."""
        return 1 if self.number % 16 == 7 else self.every_min

    def due(self, minute: int) -> bool:
        """Whether it reports in this minute; what begins anew with the exchange does so after that of midnight."""
        if minute == MIDNIGHT_MIN + 1 and self.exchanged:
            self.register, self.kvarh, self.export_kvarh = 3.0, 0.0, 0.0
            self.every_min = self.every_min_then
        return minute % self.every_min == 0

    @property
    def customer_no(self) -> str:
        return f"C{self.number // 4}"

    @property
    def key(self) -> str:
        """Every fifth meter sends through a head-end, several readings a message."""
        return f"head-end-{self.number % 15}" if self.number % 5 == 0 else self.name

    def reading(self, minute: int, rng: random.Random, correction: float = 0.0) -> str:
        p, q = 200.0 + 20 * rng.random() + correction, 50.0 + 5 * rng.random()
        u = self.nominal_v * (0.985 + 0.03 * rng.random())
        ua = u
        if self.burst == "capacity":
            p += 500
        elif self.burst == "power_factor":
            q += 400
        elif self.burst:
            ua *= {"over": 1.25, "under": 0.6, "high": 1.1, "low": 0.9}[self.burst]
        if not correction:
            self.register = (self.register + p * self.every_min / 60) % REGISTER_MODULUS
            self.kvarh = (self.kvarh + q * self.every_min / 60) % REGISTER_MODULUS
        ub = "" if self.number % 3 else f'"ub_v":{u:.2f},'
        return (
            f'{{"meter_id":"{self.name}","ts":{self._stamp(minute)},"ua_v":{ua:.2f},{ub}"uc_v":{u:.2f},'
            f'"p_kw":{p:.3f},"q_kvar":{q:.3f},"import_kwh":{self.register:.3f},"import_kvarh":{self.kvarh:.3f},'
            f'"export_kvarh":{self.export_kvarh:g},"status":1}}'
        )

    def _stamp(self, minute: int) -> str:
        at = _at(minute)
        return f'"{at:%Y-%m-%dT%H:%M:%SZ}"' if self.number % 7 == 2 else str(round(at.timestamp() * 1000))

    def go_on(self, rng: random.Random) -> None:
        self.left -= 1
        if self.left <= 0:
            self.burst = ""
        if not self.burst and rng.random() < 0.01:
            self.burst = rng.choice(("capacity", "power_factor", "over", "under", "high", "low"))
            self.left = rng.randint(1, 40)


def _every_min(number: int) -> int:
    return 15 if number % 16 == 11 else 5 if number % 8 == 7 else 1


def _spans(meter: _Meter) -> Iterator[tuple[int, date, date | None]]:
    """Of each version of a meter how often it reports, its first local day, and the day after its last."""
    if not meter.exchanged:
        yield meter.every_min, VALID_FROM, None
        return
    yield meter.every_min, VALID_FROM, EXCHANGED_ON
    yield meter.every_min_then, EXCHANGED_ON, None


def _us(local_midnight: date | None) -> int | None:
    """Epoch microseconds of a local midnight."""
    if local_midnight is None:
        return None
    return round(datetime.combine(local_midnight, datetime.min.time(), LOCAL).timestamp() * 1e6)


def _at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


@dataclass(frozen=True)
class Fleet:
    """`meters` meters over so many minutes that about `readings` readings come of it.

    `very_late`: share of readings that come hours late, after the state has let go of their windows.
    """

    seed: int
    meters: int
    readings: int
    very_late: float = 0.0

    @property
    def minutes(self) -> int:
        return max(60, round(self.readings / (self.meters * 0.92)))

    def _made(self) -> list[_Meter]:
        return [
            _Meter(i, *WIRINGS[i % len(WIRINGS)], _every_min(i), 999_950.0 if i % 4 == 0 else 1000.0)
            for i in range(self.meters)
        ]

    def meter_versions(self) -> list[dict[str, object]]:
        """What the oracle needs to know of each version of each meter: it is valid after `from_us` until `to_us`."""
        return [
            {"meter_id": m.name, "customer_no": m.customer_no, "wiring": m.wiring, "nominal_v": m.nominal_v,
             "interval_s": 60 * every_min, "from_us": _us(first), "to_us": _us(last)}
            for m in self._made() for every_min, first, last in _spans(m)
        ]  # fmt: skip

    def write_registry(self, home: Path) -> None:
        folder = home / "registry"
        folder.mkdir(parents=True)
        meters = self._made()
        customers = "".join(
            f"C{i},Plant {i},large,machinery,10,{CAPACITY_KVA:.0f},,{PF_STANDARD:.2f},large_industry,false,,,true\n"
            for i in range(-(-len(meters) // 4))
        )
        rows = "".join(
            f"{m.name},{m.customer_no},{m.wiring},{m.nominal_v},100,20,5,6,6,{60 * every_min},1,{first},"
            f"{'' if last is None else last - timedelta(days=1)}\n"
            for m in meters
            for every_min, first, last in _spans(m)
        )
        (folder / "customers.csv").write_text(_CUSTOMERS + customers, "utf-8")
        (folder / "meters.csv").write_text(_METERS + rows, "utf-8")

    def write_files(self, folder: Path, shards: int) -> None:
        """The log as files: a sub-folder a shard, in it a file an hour, so that a meter is in many."""
        for sent in self.messages():
            hour = datetime.fromtimestamp(sent.logged_ms / 1000, UTC)
            shard = folder / f"shard-{crc32(sent.key.encode()) % shards}"
            path = shard / f"{hour:%Y%m%dT%H}.ndjson"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(sent.value + b"\n")

    def messages(self) -> Iterator[Sent]:
        """The log: jitter within the allowed lateness, late readings, corrections, repeats, gaps, useless lines."""
        rng = random.Random(self.seed)
        meters = self._made()
        waiting: list[tuple[float, int, str, str]] = []
        number = 0
        last = VERY_LATE_MIN[1] + LATEST_MIN if self.very_late else LATEST_MIN
        for minute in range(1, self.minutes + int(last) + 10):
            for meter in meters if minute <= self.minutes else ():
                if meter.due(minute):
                    for arrival, line in _arrivals(meter, minute, rng, self.very_late):
                        number += 1
                        heappush(waiting, (arrival, number, meter.key, line))
            yield from _sent(waiting, minute, rng)


def _arrivals(meter: _Meter, minute: int, rng: random.Random, very_late: float) -> Iterator[tuple[float, str]]:
    meter.go_on(rng)
    line = meter.reading(minute, rng)
    if rng.random() < 0.02:
        return
    arrival = minute + rng.random() * 0.2
    if rng.random() < 0.2:
        arrival += rng.random() * 4
    if rng.random() < 0.03:
        arrival += rng.uniform(6, LATEST_MIN - 45)
    if very_late and rng.random() < very_late:
        arrival += rng.uniform(*VERY_LATE_MIN)
    yield arrival, line
    if rng.random() < 0.02:
        yield arrival + rng.random() * 40, line
    if rng.random() < 0.01:
        yield arrival + rng.random() * 40, meter.reading(minute, rng, correction=rng.choice((-30.0, 450.0)))


def _sent(waiting: list[tuple[float, int, str, str]], until: int, rng: random.Random) -> Iterator[Sent]:
    """Messages of what has arrived: those of a head-end go together once a minute, bad lines among them."""
    together: dict[str, list[bytes]] = {}
    while waiting and waiting[0][0] <= until:
        arrival, _, key, line = heappop(waiting)
        if key.startswith("head-end"):
            together.setdefault(key, []).append(line.encode())
        else:
            yield Sent(key, line.encode(), _logged(arrival))
        if rng.random() < 0.004:
            yield Sent("bad", _bad(arrival, rng), _logged(arrival))
    for key, lines in together.items():
        if rng.random() < 0.05:
            lines.insert(rng.randrange(len(lines)), b'{"meter_id": "310106000003", "ts": ')
        yield Sent(key, b"\n".join(lines), _logged(until))


def _bad(arrival: float, rng: random.Random) -> bytes:
    if rng.random() < 0.2:  # a clock that is ahead
        return f'{{"meter_id":"{meter_id(4)}","ts":{_logged(arrival + rng.choice((6, 1440)))}}}'.encode()
    return rng.choice(_BAD)


def _logged(arrival: float) -> int:
    return int(_at(arrival).timestamp() * 1000)
