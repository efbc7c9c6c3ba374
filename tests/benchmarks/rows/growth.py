"""Cost as work grows: CPU time by reading from 1,000 to 100,000 meters, and from 1 to 32 partitions.

Start-up (of a run on one reading, with the same registry) is taken off: it does not grow with the readings.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.answers import check_lake
from tests.benchmarks.bench import Bench, Found
from tests.benchmarks.data import Load
from tests.benchmarks.homes import Home
from tests.benchmarks.measure import Cost, Result, alternate
from tests.benchmarks.rows.kafka import kilowatch


def run(bench: Bench) -> Found:
    meters = _by_meters(bench)
    partitions = _by_partitions(bench)
    few, many, one, several = (result.cpu_s / result.amount for result in (*meters, *partitions))
    return Found(
        load=f"{meters[0].amount:,} readings from files; {partitions[0].amount:,} from Kafka",
        measures={"meters_pct": (many / few - 1) * 100, "partitions_pct": (several / one - 1) * 100},
        contenders=[*meters, *partitions],
        notes=["CPU seconds are without start-up."],
    )


def _by_meters(bench: Bench) -> tuple[Result, Result]:
    few = bench.load(Load(1000, 3000), Load(1000, 300))
    many = bench.load(Load(100_000, 30), Load(10_000, 30))

    def over(load: Load) -> Callable[[], Cost]:
        source, expected = bench.file(load), bench.windows(load)

        def stream() -> Cost:
            home = Home(bench.folder / "growth", load)
            cost = home.files(source)
            check_lake(load, expected, home.path)
            home.remove()
            return cost

        return stream

    contenders = {
        f"{few.meters:,} meters": over(few), f"{many.meters:,} meters": over(many),
        "start-up, few": start_up_of(bench, few), "start-up, many": start_up_of(bench, many),
    }  # fmt: skip
    found = alternate(contenders, dict.fromkeys(contenders, bench.runs), few.readings, bench.say)
    a, b, start_a, start_b = found.values()
    return without(a, start_a), without(b, start_b)


def _by_partitions(bench: Bench) -> tuple[Result, Result]:
    load = bench.load(Load(1000, 1440), Load(1000, 60))
    none = Load(1000, 1)
    expected = bench.windows(load)

    def over(partitions: int) -> Callable[[], Cost]:
        topic = bench.brokers.json(load, partitions)
        return lambda: kilowatch(bench, load, topic, expected, partitions)

    small = bench.brokers.json(none, 1)
    contenders = {
        "1 partition": over(1), "32 partitions": over(32),
        "start-up": lambda: kilowatch(bench, none, small, bench.windows(none), 1),
    }  # fmt: skip
    found = alternate(contenders, dict.fromkeys(contenders, bench.runs), load.readings, bench.say)
    one, many, start = found.values()
    return without(one, start), without(many, start)


def start_up_of(bench: Bench, load: Load) -> Callable[[], Cost]:
    """A run over one reading of the load, with all of its registry."""
    one = bench.folder / f"one-of-{load.name}.ndjson"
    with bench.file(load).open("rb") as file:
        one.write_bytes(file.readline())

    def stream() -> Cost:
        home = Home(bench.folder / "growth", load)
        cost = home.files(one)
        home.remove()
        return cost

    return stream


def without(result: Result, start: Result) -> Result:
    """Its runs without the start-up's median CPU time."""
    runs = tuple(Cost(run.cpu_s - start.cpu_s, run.wall_s, run.peak_bytes) for run in result.runs)
    return Result(result.name, result.amount, runs)
