"""Messages from hell through the real stream: each is accepted or rejected, good readings all are, and it lives on.

Here: a real Kafka, the process, what lake, topic and metrics hold of it. Not here: the inputs (`malformed_lines`
and `malformed_arrow` of `tests.metering`), what should become of each (`referee` and `fuzz`).
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Producer

from pipelines.sources.kafka_messages import ARROW_STREAM
from tests.faults.conftest import METERS, StreamHome
from tests.faults.test_gap import settings
from tests.faults.topics import make_topic, read_topic
from tests.metering.readings import fuzz, malformed_arrow, malformed_lines, referee

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

SEED = 11
STREAMS, HUGE = 60, 12
GOOD = ("G0", "G1", "G2", "G3")
LIES = (
    None, b"", b"text/xml", b"\xff\xfe", b"\x00", b"application/json; charset=utf-16", ARROW_STREAM[:-1], b"x" * 9_000,
)  # fmt: skip
"""Content types of messages that are read as JSON."""
REJECTS = "select source_offset, source_row, payload, message_key from lake"


def hell() -> fuzz.Batch:
    """Of every kind, among it a good reading in five messages."""
    rng = random.Random(SEED)
    found: list[tuple[bytes | None, bool]] = [(value, rng.random() < 0.03) for value in fuzz.batch_of(rng).values]
    found += [(malformed_arrow.stream(rng), rng.random() < 0.9) for _ in range(STREAMS)]
    found += [(malformed_lines.huge(rng), number % 4 == 0) for number in range(HUGE)]
    found += [(value, False) for value in (None, b"") for _ in range(20)]
    found += [(value, False) for value in good_readings(len(found) // 4)]
    rng.shuffle(found)
    return fuzz.Batch([value for value, _ in found], frozenset(i for i, (_, arrow) in enumerate(found) if arrow))


def good_readings(count: int) -> Iterator[bytes]:
    for number in range(count):
        reading = {"meter_id": GOOD[number % 4], "ts": malformed_lines.NOW_MS - 60_000 * number, "p_kw": 1.0 + number}
        yield json.dumps(reading).encode()


def send(address: str, topic: str, batch: fuzz.Batch) -> None:
    producer = Producer({"bootstrap.servers": address, "message.max.bytes": 1_040_000})
    rng = random.Random(0)
    for number, (value, key) in enumerate(zip(batch.values, batch.keys, strict=True)):
        headers = [("content-type", rng.choice(LIES)), ("\x00", b"\xff")] if rng.random() < 0.3 else []
        headers += [("Content-Type", ARROW_STREAM)] if number in batch.arrow else []
        producer.produce(topic, value, key, headers=headers, timestamp=malformed_lines.NOW_MS)
        producer.poll(0)
    assert producer.flush(60) == 0


def register(home: StreamHome) -> None:
    """The meters that lines from hell name and the good ones, valid at any time."""
    head, example = METERS.splitlines()[:2]
    rest = example.split(",", 1)[1].replace("2020-01-01", "0001-01-01")
    meters = [f"{name},{rest}" for name in (*malformed_lines.METERS, *GOOD)]
    (home.path / "registry" / "meters.csv").write_text("\n".join([head, *meters, ""]), "utf-8")


def taken(home: StreamHome) -> dict[fuzz.Place, referee.Row]:
    """What the lake holds of each message, by offset and row."""
    names = ["meter_id", "ts", *referee.MEASURED, "status"]
    columns = ", ".join(names).replace(" ts,", " epoch_us(ts),")
    rows = home.sql("readings", f"select source_offset, source_row, {columns} from lake")
    rows += home.sql("rejects", REJECTS)
    found: dict[fuzz.Place, referee.Row] = {}
    for offset, row, *values in rows:
        assert (offset, row) not in found, "a line stands there twice"
        is_reject = len(values) == 2
        found[offset, row] = dict(zip(("payload", "key") if is_reject else names, values, strict=True))
    return found


def metric(home: StreamHome, name: str) -> int:
    """Sum over all labels."""
    lines = home.get("/metrics")[1].splitlines()
    return sum(
        int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith(f"kilowatch_readings_{name}_total")
    )


def test_whatever_comes_is_accepted_or_rejected_and_the_stream_lives_on(
    kafka: str, prefix: str, stream_home: Callable[..., Any]
) -> None:
    referee.deep_enough()
    batch, topic = hell(), f"{prefix}.readings"
    make_topic(kafka, topic, 1)
    send(kafka, topic, batch)
    home = stream_home(settings(kafka, prefix) + "batch_rows = 700\n")
    register(home)
    home.start()
    home.wait_until_started()
    home.wait_for(lambda: f'lag_messages{{shard="{topic}-0"}} 0.0' in home.get("/metrics")[1])
    wanted = dict(fuzz.expected(batch, {}, (*malformed_lines.METERS, *GOOD)))
    home.wait_for(lambda: home.rows("readings") + home.rows("rejects") >= len(wanted))
    counted = {name: metric(home, name) for name in ("received", "accepted", "rejected")}
    assert home.get("/healthz")[0] == 200
    assert home.terminate()[0] == 0, home.said[-3000:]

    found = taken(home)
    wanted = dict(fuzz.expected(batch, found, (*malformed_lines.METERS, *GOOD)))
    differing = [place for place in wanted.keys() | found.keys() if not fuzz.same(wanted.get(place), found.get(place))]
    assert not differing, [(at, batch.values[at[0]], wanted.get(at), found.get(at)) for at in sorted(differing)[:5]]
    rejects = sum("payload" in row for row in found.values())
    assert counted == {"received": len(wanted), "accepted": len(wanted) - rejects, "rejected": rejects}
    good = {value for value in batch.values if value and value.startswith(b'{"meter_id": "G')}
    assert sum(row.get("meter_id") in GOOD for row in found.values()) == len(good) > 200
    assert_published(kafka, f"{prefix}.rejected", home)


def assert_published(address: str, topic: str, home: StreamHome) -> None:
    """Each reject is on its topic once, with the bytes that the lake has."""
    published = []
    for message in read_topic(address, topic):
        value = json.loads(message.value() or b"")
        payload = base64.b64decode(value["payload_base64"])
        published.append((value["source_offset"], value["source_row"], payload, message.key()))
    lake = home.sql("rejects", REJECTS)
    assert sorted(published, key=lambda row: row[:2]) == sorted(lake, key=lambda row: row[:2])
