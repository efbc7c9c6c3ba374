"""Registry: what a poll of 8 readings costs when 300,000 meters are known, one in ten of them exchanged.

Decoding alone, in a process of its own; and a whole turn of the stream, from the poll to the topics, which is compared
with that of a stream that knows 1,000 meters: the difference is what a large registry costs.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sinks.kafka.topics import TopicSink
from tests.benchmarks.bench import CONTENDERS, Bench, Found
from tests.benchmarks.data import Load
from tests.benchmarks.homes import Home
from tests.benchmarks.measure import Cost, Result, process
from tests.benchmarks.rows.kafka import kafka_home
from tests.benchmarks.rows.pace import Script, waited
from tests.benchmarks.topics import make_topic

MANY, FEW = 300_000, 1_000
EXCHANGED_IN = 10
READINGS = 8
EACH_S = 0.25
POLLS, QUICK_POLLS = 200, 40
DECODED = 200


def run(bench: Bench) -> Found:
    many = bench.load(Load(MANY, 1, exchanged_in=EXCHANGED_IN), Load(MANY // 10, 1, exchanged_in=EXCHANGED_IN))
    few = Load(FEW, 1, exchanged_in=EXCHANGED_IN)
    decoded = [_decoded(bench, many) for _ in range(bench.runs)]
    decoded_few = [_decoded(bench, few) for _ in range(bench.runs)]
    turns = {load.meters: _Turns(bench, load).run() for load in (few, many)}
    costs = {meters: cost for meters, (cost, _) in turns.items()}
    turn_ms = {meters: ms for meters, (_, ms) in turns.items()}
    return Found(
        load=f"{many.meters:,} meters, one in {EXCHANGED_IN} exchanged; {READINGS} readings each {EACH_S} s",
        measures={
            "decode_ms": statistics.median(decoded),
            "turn_more_ms": turn_ms[many.meters] - turn_ms[few.meters],
            "turn_ms": turn_ms[many.meters],
        },
        contenders=[Result(f"kilowatch, {meters:,} meters", READINGS * _polls(bench), (cost,))
                    for meters, cost in costs.items()],
        figures={f"decode_ms, {few.meters} meters": statistics.median(decoded_few),
                 f"turn_ms, {few.meters} meters": turn_ms[few.meters]},
        notes=[
            f"A poll is decoded in {statistics.median(decoded):.2f} ms ({statistics.median(decoded_few):.2f} ms with "
            f"{few.meters:,} meters); a whole turn takes {turn_ms[many.meters]:.1f} ms ({turn_ms[few.meters]:.1f} ms). "
            "The costs of the processes have their start-up in them."
        ],
    )  # fmt: skip


def _polls(bench: Bench) -> int:
    return QUICK_POLLS if bench.quick else POLLS


def _decoded(bench: Bench, load: Load) -> float:
    """Median CPU milliseconds to decode a poll."""
    home, out = Home(bench.folder / "registry", load), bench.folder / "registry.json"
    process([sys.executable, CONTENDERS / "registry_poll.py", home.path, out, str(DECODED)], log=home.log)
    home.remove()
    return float(json.loads(out.read_text("utf-8"))["median_ms"])


@dataclass
class _Turns:
    """A live stream that gets a message of `READINGS` readings now and then, all in one partition."""

    bench: Bench
    load: Load

    def __post_init__(self) -> None:
        self.home = kafka_home(self.bench, self.load, f"registry-{self.bench.unique()}", 1, "registry")
        self.topic = self.home.topics["readings"]
        make_topic(self.bench.brokers.address, self.topic, 1)
        self.busy_s, self.idle_s = 0.0, 0.0

    def run(self) -> tuple[Cost, float]:
        """The cost of the process, and the CPU milliseconds of a turn, less what it takes when nothing comes."""
        self.bench.say(f"{_polls(self.bench)} messages to a stream that knows {self.load.meters:,} meters")
        script = self._script()
        cost = self.home.until(lambda: next(script, True))
        self.home.remove()
        return cost, 1000 * (self.busy_s - self.idle_s) / _polls(self.bench)

    def _script(self) -> Script:
        sink = TopicSink({"bootstrap.servers": self.bench.brokers.address, "linger.ms": 1}, topics=[self.topic])
        seconds = _polls(self.bench) * EACH_S
        while not self.home.metrics():
            yield False
        self._send(sink, 0)
        yield from waited(12.0)  # the first commit
        before = self.home.cpu_s()
        yield from waited(seconds / 2)
        self.idle_s = 2 * (self.home.cpu_s() - before)
        before, start = self.home.cpu_s(), time.monotonic()
        for poll in range(1, _polls(self.bench) + 1):
            self._send(sink, poll)
            yield from waited(start + poll * EACH_S - time.monotonic())
        self.busy_s = self.home.cpu_s() - before
        sink.close()

    def _send(self, sink: TopicSink, poll: int) -> None:
        """Readings of meters that are far apart; a poll of all is a minute."""
        ids, size = self.load.meter_ids, self.load.meters // READINGS
        at = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=1) + timedelta(minutes=poll // size)
        values = [
            b'{"meter_id":"%s","ts":%d,"ua_v":57.7,"ub_v":57.8,"uc_v":57.6,"ia_a":0.58,"ib_a":0.57,"ic_a":0.59,'
            b'"p_kw":200.1,"q_kvar":60.2,"import_kwh":1234.5,"import_kvarh":321.0}'
            % (ids[(number * size + poll) % len(ids)].encode(), round(at.timestamp() * 1000))
            for number in range(READINGS)
        ]
        sink.publish(self.topic, ["head-end"], [b"\n".join(values)], ["head-end"])
        sink.flush()
