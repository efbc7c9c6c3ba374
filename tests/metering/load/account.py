"""A plain account of one meter: slots, windows, energy, worked out reading by reading from the contract (sections 2 and
5) and the domain handbook (section 9), without a data frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

QUARTER = timedelta(minutes=15)
NO_TIME = timedelta()


@dataclass(frozen=True)
class Version:
    """What the registry says of a meter for a while. `rated_kw`: at maximum current and nominal voltage."""

    interval: timedelta
    valid_from: datetime
    valid_to: datetime | None
    rated_kw: float
    nominal_v: float
    count_kwh: float
    modulus: float = 1e6

    @property
    def tolerance(self) -> timedelta:
        return min(self.interval / 10, timedelta(seconds=60))


@dataclass
class Answer:
    """The reading that answers for a slot, and the time for which it does."""

    version: Version
    start: datetime
    end: datetime
    last: dict[str, Any]
    highest_kw: float | None
    lowest_kw: float | None


@dataclass
class Window:
    n: int = 0
    covered: timedelta = NO_TIME
    kwh: float | None = None
    basis: str | None = None
    p_kw_s: float = 0.0
    p_s: float = 0.0
    u_s: float = 0.0
    highest_kw: float | None = None
    lowest_kw: float | None = None

    @property
    def mean_kw(self) -> float | None:
        return self.p_kw_s / self.p_s if self.p_s else None


def slot_of(version: Version, ts: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    at = ts - version.tolerance
    day = (at - timedelta(microseconds=1)).astimezone(zone).date()
    begin, end = (_midnight(d, zone) for d in (day, day + timedelta(days=1)))
    count = max(1, int((end - begin) / version.interval + 0.5))
    edges = [begin + n * version.interval for n in range(count)] + [end]
    return next((a, b) for a, b in pairwise(edges) if at <= b)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)


def version_of(versions: Sequence[Version], ts: datetime) -> Version | None:
    """The version that holds then; one that ended with a quarter-hour takes what is stamped a little later. What is
    stamped at the very start of one, and of none before, shows its registers there.
    """
    for version in versions:
        end = version.valid_to
        if end is not None and not (end.minute % 15 or end.second):
            end += version.tolerance
        if version.valid_from <= ts and (end is None or ts <= end):
            return version
    return None


def answers(versions: Sequence[Version], readings: Sequence[dict[str, Any]], zone: ZoneInfo) -> list[Answer]:
    """In order of time. `readings`: `ts` and values; of two of one time the later in the list counts."""
    by_time = {reading["ts"]: reading for reading in readings}
    found: dict[tuple[datetime, datetime], Answer] = {}
    for ts, raw in sorted(by_time.items()):
        version = version_of(versions, ts)
        if version is None:
            continue
        reading = _believed(raw, version)
        start, end = slot_of(version, ts, zone)
        start = max(start, version.valid_from)
        end = end if version.valid_to is None else min(end, version.valid_to)
        p = reading["p_kw"]
        answer = found.get((version.valid_from, end))
        if answer is None:
            found[version.valid_from, end] = Answer(version, min(start, end), end, reading, p, p)
            continue
        answer.last = reading
        answer.highest_kw, answer.lowest_kw = _more(max, answer.highest_kw, p), _more(min, answer.lowest_kw, p)
    return list(found.values())


def _believed(reading: dict[str, Any], version: Version) -> dict[str, Any]:
    most = {"p_kw": 2 * version.rated_kw, "ua_v": 2 * version.nominal_v}
    return {
        name: None if name in most and value is not None and abs(value) > most[name] else value
        for name, value in reading.items()
    }


def _more(of: Any, one: float | None, other: float | None) -> float | None:
    known = [value for value in (one, other) if value is not None]
    return of(known) if known else None


def step(before: Answer, after: Answer, powered: float | None, lowest_kw: float | None) -> float | None:
    """What the import register counted, if the meter can have; `powered`: kWh by power, where that is whole. It
    does not count what is fed back (power below 0).
    """
    a, b, version = before.last["import_kwh"], after.last["import_kwh"], after.version
    if before.version is not version or a is None or b is None or not (0 <= a < version.modulus > b >= 0):
        return None
    on = b - a if b >= a else b - a + version.modulus
    hours = (after.last["ts"] - before.last["ts"]) / timedelta(hours=1)
    if (b < a and on > version.modulus / 10) or on > 1.2 * version.rated_kw * hours:
        return None
    fed_back = lowest_kw is not None and lowest_kw < 0 and powered is not None and on > powered
    if powered is not None and not fed_back and abs(on - powered) > max(0.2 * abs(powered), version.count_kwh):
        return None
    return on


def windows(versions: Sequence[Version], readings: Sequence[dict[str, Any]], zone: ZoneInfo) -> dict[datetime, Window]:
    """Windows that readings stand for, by their ends."""
    each = answers(versions, readings, zone)
    found: dict[datetime, Window] = {}
    parts: dict[datetime, list[tuple[Answer, timedelta]]] = {}
    for answer in each:
        for end, piece in _pieces(answer):
            window = found.setdefault(end, Window())
            parts.setdefault(end, []).append((answer, piece))
            window.n += answer.end <= end
            window.covered += piece
            p, seconds = answer.last["p_kw"], piece.total_seconds()
            if p is not None:
                window.p_kw_s, window.p_s = window.p_kw_s + p * seconds, window.p_s + seconds
            u = answer.last["ua_v"]
            if u is not None and 0.7 * answer.version.nominal_v <= u <= 1.2 * answer.version.nominal_v:
                window.u_s += seconds
            window.highest_kw = _more(max, window.highest_kw, answer.highest_kw)
            window.lowest_kw = _more(min, window.lowest_kw, answer.lowest_kw)
    by_end = {(answer.version, answer.end): answer for answer in each}
    for end, window in found.items():
        if all(_is_whole(answer.version, end) for answer, _ in parts[end]):
            _whole(window, end, parts[end], by_end)
        else:
            _shared(window, parts[end], each)
    return found


def _pieces(answer: Answer) -> Iterator[tuple[datetime, timedelta]]:
    at = answer.start
    while at < answer.end:
        end = _quarter_after(at)
        until = min(end, answer.end)
        yield end, until - at
        at = until


def _quarter_after(at: datetime) -> datetime:
    quarters = (at - datetime(2000, 1, 1, tzinfo=UTC)) // QUARTER
    return datetime(2000, 1, 1, tzinfo=UTC) + (quarters + 1) * QUARTER


def _is_whole(version: Version, end: datetime) -> bool:
    """Whether the window is made of whole slots, and of one version."""
    seams = [seam for seam in (version.valid_from, version.valid_to) if seam is not None]
    return QUARTER % version.interval == NO_TIME and not any(end - QUARTER < seam < end for seam in seams)


def _whole(
    window: Window,
    end: datetime,
    parts: Sequence[tuple[Answer, timedelta]],
    by_end: dict[tuple[Version, datetime], Answer],
) -> None:
    version = parts[0][0].version
    known = [answer for answer, _ in parts if answer.last["p_kw"] is not None]
    powered = sum(a.last["p_kw"] for a in known) * (version.interval / timedelta(hours=1)) if known else None
    first, last = by_end.get((version, end - QUARTER)), by_end.get((version, end))
    if first is not None and last is not None:
        window.kwh = step(first, last, powered if len(known) == QUARTER // version.interval else None, window.lowest_kw)
        window.basis = None if window.kwh is None else "registers"
    if window.kwh is None and powered is not None:
        window.kwh, window.basis = powered, "power"


def _shared(window: Window, parts: Sequence[tuple[Answer, timedelta]], each: Sequence[Answer]) -> None:
    spread, by_power, kwh = False, False, []
    for answer, piece in parts:
        length = answer.end - answer.start
        p = answer.last["p_kw"]
        powered = None if p is None else p * (length / timedelta(hours=1))
        before = next((a for a in each if a.version is answer.version and a.end == answer.start), None)
        used = None if before is None else step(before, answer, powered, answer.lowest_kw)
        by_power |= used is None and powered is not None
        used = powered if used is None else used
        spread |= piece < length
        if used is not None:
            kwh.append(used * (piece / length))
    if kwh:
        window.kwh, window.basis = sum(kwh), "spread" if spread else "power" if by_power else "registers"
