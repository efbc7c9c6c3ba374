"""Logs that are hard on a state: random by seed, in order of arrival."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

Rows = list[dict[str, Any]]

LATE_START = datetime(2026, 1, 30, 10, tzinfo=UTC)  # 18:00 in Shanghai: over a midnight and the end of a month
LATE_STEPS = (5, 5, 15)
LATE_METERS = {f"M{number}": {"interval_s": step * 60} for number, step in enumerate(LATE_STEPS)}
SILENT_START = datetime(2026, 1, 24, 9, tzinfo=UTC)
SILENT_METERS = {name: {"interval_s": 900} for name in ("STEADY", "SILENT", "LATE", "GONE")}
DAY = 96
"""Readings of a day."""


def late_log(seed: int) -> Rows:
    """16 hours of three meters in order of arrival; some readings come hours late, some twice, some hours only late."""
    rng = random.Random(seed)
    arrivals: list[tuple[float, float, dict[str, Any]]] = []
    for meter, step in enumerate(LATE_STEPS):
        register = 0.0
        for minute in range(step, 16 * 60, step):
            voltage = {"ua_v": rng.choice((rng.uniform(52, 64), 75.0)), "ub_v": 57.7, "uc_v": rng.uniform(42, 64)}
            power = {"p_kw": rng.choice((rng.uniform(1, 500), 1100.0)), "q_kvar": rng.uniform(-50, 100)}
            register += power["p_kw"] * step / 60
            reading = {
                "meter_id": f"M{meter}", "ts": (LATE_START + timedelta(minutes=minute)).isoformat(), **voltage, **power,
                "import_kwh": register, "import_kvarh": minute / 2, "export_kvarh": 0.0,
            }  # fmt: skip
            whole_hour_late = minute // 60 % 11 == 3
            late = rng.choice((12.0, 20.0, 90.0, 400.0, 900.0)) if whole_hour_late or rng.random() < 0.1 else 0.0
            arrivals.append((minute + late, rng.random(), reading))
            if rng.random() < 0.02:
                arrivals.append((minute + rng.uniform(0, 1000), rng.random(), {**reading, "p_kw": 7.0, "ua_v": None}))
    return [reading for *_, reading in sorted(arrivals, key=lambda item: item[:2])]


def _reading(rng: random.Random, meter: str, number: int, **values: float) -> dict[str, Any]:
    power = {"p_kw": rng.choice((rng.uniform(1, 500), 1100.0)), "q_kvar": rng.uniform(-50, 100)}
    ts = SILENT_START + timedelta(minutes=15 * number)
    return {
        "meter_id": meter, "ts": ts.isoformat(), **power, "ua_v": rng.uniform(50, 66), "ub_v": 57.7, "uc_v": 57.7,
        "import_kwh": float(number), **values,
    }  # fmt: skip


def silent_log(seed: int) -> Rows:
    """11 days over the end of a month. SILENT falls silent for a week within an over-voltage, and clears it later; of
    its silence some readings come after it. LATE comes back with old readings first. GONE never comes back.
    """
    rng = random.Random(seed)
    heard = {
        "STEADY": [range(1, 11 * DAY)],
        "SILENT": [range(1, 2 * DAY), range(9 * DAY, 11 * DAY)],
        "LATE": [range(1, 2 * DAY - 7), range(8 * DAY, 9 * DAY)],
        "GONE": [range(1, DAY)],
    }
    arrivals: list[tuple[float, float, dict[str, Any]]] = []
    for meter, spans in heard.items():
        for number in (number for span in spans for number in span):
            high = {"ua_v": 75.0} if meter in ("SILENT", "GONE") and number % (2 * DAY) in range(90, 96) else {}
            at = number + (rng.choice((2.0, 9.0, 30.0)) if rng.random() < 0.01 else 0.0)
            arrivals.append((at, rng.random(), _reading(rng, meter, number, **high)))
    again = [
        _reading(rng, "SILENT", number, ua_v=rng.choice((57.7, 75.0))) for number in (2 * DAY, 2 * DAY + 3, 300, 95)
    ]
    again += [_reading(rng, "LATE", number) for number in (2 * DAY - 9, 2 * DAY - 6, 3 * DAY)]
    arrivals += [(8 * DAY - 1 + rng.choice((0, 0, 200)), rng.random(), reading) for reading in again]
    return [reading for *_, reading in sorted(arrivals, key=lambda item: item[:2])]


# --- several partitions ---------------------------------------------------------------------------------------------

PARTITIONS = 3
MESSY_START = datetime(2026, 1, 29, 6, tzinfo=UTC)  # over the end of a month, three days later
MESSY_STEPS = {
    "330100000101": 15, "330100000202": 15, "330100000303": 30, "330100000404": 15, "330100000505": 10
}  # fmt: skip
MESSY_METERS = {name: {"interval_s": step * 60} for name, step in MESSY_STEPS.items()}
STAYING = ("330100000101", "330100000202", "330100000303")
"""Each in the partition of its place; the others move."""


def messy_log(seed: int, hours: int = 90, moving: bool = True) -> list[tuple[int, dict[str, Any]]]:
    """Readings of five meters in three partitions (partition, reading), in order of arrival: with jitter, some minutes,
    hours or days late, some twice, some replaced; two meters move from partition to partition. Each has a `logged_ms`.
    """
    rng = random.Random(seed)
    arrivals: list[tuple[float, float, dict[str, Any]]] = []
    for meter, step in MESSY_STEPS.items():
        high, register, jitter_s = 0, 0.0, rng.uniform(0, 120)
        for minute in range(step, hours * 60, step):
            high = max(0, high - 1) or (rng.random() < 0.04) * rng.randint(1, 5)
            p_kw = 1150.0 if high else rng.uniform(20, 600)
            register += p_kw * step / 60
            if rng.random() < 0.03:
                continue
            ts_ms = int((MESSY_START + timedelta(minutes=minute, seconds=rng.choice((0, jitter_s)))).timestamp() * 1000)
            reading = {
                "meter_id": meter, "ts": ts_ms, "p_kw": p_kw,
                "q_kvar": rng.uniform(-50, 200), "ua_v": 75.0 if high == 1 else 57.7, "ub_v": 57.7,
                "uc_v": rng.choice((57.7, 57.7, 57.7, 48.0)), "import_kwh": register, "import_kvarh": minute / 2,
                "export_kvarh": 0.0,
            }  # fmt: skip
            late = rng.random() < 0.08 and rng.choice((7.0, 25.0, 90.0, 400.0, 1500.0, 3000.0))
            arrivals.append((minute + rng.random() + late, rng.random(), reading))
            if rng.random() < 0.05:
                other = {**reading, "p_kw": rng.uniform(1, 1200), "ua_v": rng.choice((None, 57.7, 75.0))}
                again = rng.choice((reading, other, other))
                arrivals.append((minute + late + rng.choice((1, 1, 60, 900)) * rng.random(), rng.random(), again))
    moves = {meter: sorted(rng.uniform(0, hours * 60) for _ in range(rng.choice((1, 2, 5)))) for meter in MESSY_STEPS}
    log = []
    for at, _, reading in sorted(arrivals, key=lambda item: item[:2]):
        meter = reading["meter_id"]
        if meter in STAYING or not moving:
            partition = list(MESSY_STEPS).index(meter) % PARTITIONS
        else:
            partition = (len(meter) + sum(at > moment for moment in moves[meter])) % PARTITIONS
        logged = MESSY_START + timedelta(minutes=at)
        log.append((partition, {**reading, "logged_ms": int(logged.timestamp() * 1000)}))
    return log
