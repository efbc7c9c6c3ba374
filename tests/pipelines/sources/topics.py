"""What tests of the Kafka source share: sending to a topic, and what polls give, cut by partition."""

from __future__ import annotations

import time
from dataclasses import dataclass

from metering.readings.decode import Messages
from pipelines.sources.kafka import KafkaReader
from pipelines.sources.poll import Batch, Segment
from sinks.kafka.topics import TopicSink


def never(_: str) -> None:
    return None


@dataclass
class Part:
    """A segment, and its messages."""

    segment: Segment
    content: Messages
    batch: Batch


def parts_of(batch: Batch) -> list[Part]:
    """What a batch's messages are by partition, cut by what its segments say."""
    whole = batch.content
    assert isinstance(whole, Messages)
    parts, first = [], 0
    for segment in batch.segments:
        here = slice(first, first := first + segment.items)
        columns = (whole.values[here], whole.offsets[here], whole.logged_ms[here], whole.keys[here])
        parts.append(Part(segment, Messages(*columns), batch))
    assert first == len(whole.values) == len(whole.offsets) == len(whole.logged_ms) == len(whole.keys)
    return parts


def polled(reader: KafkaReader) -> list[Part]:
    batches = reader.poll()
    assert len(batches) <= 1, "what has come of all partitions is one batch"
    return [part for batch in batches for part in parts_of(batch)]


def take(reader: KafkaReader, messages: int, within_s: float = 20) -> list[Part]:
    """What polls give until so many messages have come."""
    parts: list[Part] = []
    deadline = time.monotonic() + within_s
    while sum(part.segment.items for part in parts) < messages:
        assert time.monotonic() < deadline, f"{parts} is all that came"
        parts += polled(reader)
    return parts


def values(parts: list[Part], partition: int = 0) -> list[bytes | None]:
    return [value for part in parts if part.segment.partition == partition for value in part.content.values]


def streams(parts: list[Part]) -> list[int]:
    """The offsets of those messages that are Arrow streams."""
    batches = {id(part.batch): part.batch.content for part in parts}
    found = [(c, c.arrow) for c in batches.values() if isinstance(c, Messages) and c.arrow is not None]
    return [content.offsets[number] for content, arrow in found for number in sorted(arrow.broken)]


def numbers(start: int, end: int) -> list[bytes]:
    return [str(n).encode() for n in range(start, end)]


def send(address: str, topic: str, sent: list[bytes], key: str = "M1", **headers: bytes) -> None:
    sink = TopicSink({"bootstrap.servers": address})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sink.publish(topic, [key] * len(sent), sent, [key] * len(sent), named or None)
    sink.flush()
