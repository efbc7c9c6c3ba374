"""A fixture that tests of the Kafka source share: readers of topics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pipelines.sources.kafka import KafkaReader, KafkaSource
from pipelines.sources.poll import Position
from tests.pipelines.sources.topics import never


@pytest.fixture
def reading(kafka: str) -> Iterator[Callable[..., KafkaReader]]:
    """Opens readers of a topic, and closes them after the test."""
    opened: list[KafkaReader] = []

    def open_reader(
        topic: str,
        positions: Callable[[str], Position | None] = never,
        *,
        worker: int = 0,
        workers: int = 1,
        batch_rows: int = 1000,
        address: str = kafka,
        **config: object,
    ) -> KafkaReader:
        source = KafkaSource({"bootstrap.servers": address, **config}, topic, batch_rows, 50)
        opened.append(source.open(worker, workers, positions))
        return opened[-1]

    yield open_reader
    for reader in opened:
        reader.close()
