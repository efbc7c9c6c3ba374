"""Fuzzing of `decode`: batches from hell as the stream sees them, and an account of what became of every line.

    python -m tests.metering.readings.fuzz --inputs 1000000 --seed 1

For each batch: accepted + rejected = received, line by line; a line is accepted exactly where the referee says so, with
the referee's values; rejects keep the bytes and the key. Writes a report as JSON; ends with exit code 1 if anything
differs. What would kill the process kills this one: whoever starts it sees the exit code.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from metering.readings.decode import Messages, decode
from metering.registry.index import MeterIndex
from pipelines.sources.arrow import columnar
from tests.metering.readings import malformed_arrow, malformed_lines, referee

INPUTS_A_BATCH = 1000
TOLERANCE_S = 300
_NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
_MOST_EXAMPLES = 20

Place = tuple[int, int]
_Told = referee.Row | None


@dataclass
class Report:
    """What was put in and what came of it. `examples`: of what differs, each with its line alone."""

    seed: int
    inputs: int = 0
    messages: int = 0
    arrow: int = 0
    accepted: int = 0
    rejected: int = 0
    differing: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """`arrow`: the numbers of the messages whose header says that they are Arrow IPC streams."""

    values: list[bytes | None]
    arrow: frozenset[int]

    @property
    def messages(self) -> Messages:
        streams = {i: self.values[i] or b"" for i in sorted(self.arrow)}
        count = len(self.values)
        logged = [malformed_lines.NOW_MS] * count
        return Messages(self.values, range(count), logged, self.keys, columnar(streams) if streams else None)

    @property
    def keys(self) -> list[bytes | None]:
        return [_key(number) for number in range(len(self.values))]


def _key(number: int) -> bytes | None:
    return None if number % 7 == 0 else b"key %d" % number


def index() -> MeterIndex:
    """Of the meters that the lines name, each with one version that is always valid."""
    meter_versions = pl.DataFrame({"meter_id": sorted(malformed_lines.METERS)}).with_columns(
        valid_from=pl.lit(datetime(1, 1, 1, tzinfo=UTC)), valid_to=pl.lit(None, pl.Datetime("us", "UTC"))
    )
    return MeterIndex.of(meter_versions.with_columns(stamps_from="valid_from", stamps_to="valid_to"))


def fuzz(seed: int, inputs: int, say: Callable[[str], None] = lambda _: None) -> Report:
    """Decode about `inputs` lines and streams."""
    referee.deep_enough()
    report, meters, begun = Report(seed), index(), time.monotonic()
    number = 0
    while report.inputs < inputs:
        _examine(batch_of(random.Random(f"{seed}/{number}")), meters, report)
        number += 1
        if number % 50 == 0:
            say(f"{report.inputs:,} inputs, {report.differing} differ")
    report.seconds = round(time.monotonic() - begun, 1)
    return report


def batch_of(rng: random.Random) -> Batch:
    kind = rng.random()
    if kind < 0.02:  # few batches have huge messages, or they would be all that there is time for
        return Batch([rng.choice((malformed_lines.huge, malformed_lines.line))(rng) for _ in range(4)], frozenset())
    values: list[bytes | None] = []
    arrow: set[int] = set()
    share = 0.2 if kind < 0.3 else 0.0
    for number in range(INPUTS_A_BATCH):
        is_stream, lies = rng.random() < share, rng.random() < 0.02
        values.append(malformed_arrow.stream(rng) if is_stream else malformed_lines.message(rng))
        if is_stream != lies and (share or rng.random() < 0.1):
            arrow.add(number)
    return Batch(values, frozenset(arrow))


def _examine(batch: Batch, meters: MeterIndex, report: Report) -> None:
    got, reasons = _decoded(batch, meters)
    wanted = dict(expected(batch, got))
    report.messages += len(batch.values)
    report.arrow += len(batch.arrow)
    report.inputs += len(wanted)
    report.accepted += sum("payload" not in row for row in got.values())
    report.rejected += sum("payload" in row for row in got.values())
    report.reasons.update(reasons)
    for place in wanted.keys() | got.keys():
        if not same(wanted.get(place), got.get(place)):
            report.differing += 1
            if len(report.examples) < _MOST_EXAMPLES:
                report.examples.append(_shrunk(batch, place, wanted.get(place), got.get(place), meters))


def _shrunk(batch: Batch, place: Place, wanted: _Told, found: _Told, meters: MeterIndex) -> str:
    """The line of a difference, and whether it differs alone too."""
    message, row = place
    value = batch.values[message]
    is_stream = message in batch.arrow
    line = value if is_stream or value is None else value.split(b"\n")[row]
    alone = Batch([line], frozenset({0} if is_stream else ()))
    got, _ = _decoded(alone, meters)
    due = dict(expected(alone, got))
    agree = due.keys() == got.keys() and all(same(due[at], got[at]) for at in due)
    where = "in its batch only" if agree else "alone too"
    shown = line.hex() if is_stream and line else repr(line and line[:400])
    return f"{where}: wanted {_short(wanted)}, got {_short(found)}, row {row} of {shown}"


def _short(row: _Told) -> str:
    return str({name: value for name, value in (row or {}).items() if value is not None})[:400]


def expected(
    batch: Batch, got: Mapping[Place, referee.Row], meters: Collection[str] = malformed_lines.METERS
) -> Iterator[tuple[Place, referee.Row]]:
    """A damaged stream may be refused whole although pyarrow would read it: it need not be believed that far."""
    for number, value in enumerate(batch.values):
        bytes_ = value or b""
        if number in batch.arrow:
            refused = reject(number, bytes_)
            forgiven = got.get((number, 0)) == refused and not malformed_arrow.is_sound(bytes_)
            rows = [None] if forgiven else malformed_arrow.readings(bytes_, meters, malformed_lines.NOW_MS)
            for row, reading in enumerate(rows):
                yield (number, row), reading or (refused if rows == [None] else reject(number, None))
        elif referee.is_blank(bytes_):
            yield (number, 0), reject(number, bytes_.split(b"\n")[0])
        else:
            for row, line in enumerate(bytes_.split(b"\n")):
                if not referee.is_blank(line):
                    reading = referee.reading(line, meters, malformed_lines.NOW_MS)
                    yield (number, row), reading or reject(number, line)


def reject(number: int, payload: bytes | None) -> referee.Row:
    """What a reject keeps: bytes (None: a row of a stream, whose fields are told as JSON) and key."""
    return {"payload": payload, "key": _key(number)}


def _decoded(batch: Batch, meters: MeterIndex) -> tuple[dict[Place, referee.Row], list[str]]:
    decoded = decode(batch.messages, meters, TOLERANCE_S, _NOW)
    names = ("meter_id", "ts", *referee.MEASURED, "status")
    accepted = decoded.accepted.select("source_offset", "source_row", *names).with_columns(pl.col("ts").to_physical())
    found: dict[Place, referee.Row] = {}
    for offset, row, *values in accepted.iter_rows():
        assert (offset, row) not in found, "a line stands there twice"
        found[offset, row] = dict(zip(names, values, strict=True))
    told = decoded.rejects.select("source_offset", "source_row", "payload", "message_key")
    for offset, row, payload, key in told.iter_rows():
        assert (offset, row) not in found, "a line stands there twice"
        found[offset, row] = {"payload": payload, "key": key}
    return found, decoded.rejects["reason"].to_list()


def same(wanted: _Told, found: _Told) -> bool:
    if wanted is None or found is None:
        return False
    if wanted.get("payload", b"") is None and found.get("payload") is not None:
        return wanted["key"] == found["key"]
    return wanted == found


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.metering.readings.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="lines and streams (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = fuzz(options.seed, options.inputs, _say)
    sys.stdout.write(json.dumps(vars(report), indent=1) + "\n")
    return 1 if report.differing else 0


if __name__ == "__main__":
    sys.exit(main())
