"""Dagster's SQLite event log, with a batch of events written in one transaction for each file.

A range of days is thousands of events, one for each asset and day; Dagster writes every one in transactions of its own.
Here: that one difference. It rests on Dagster's own class, whose minor version is pinned.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy.engine import Connection


class BatchedEventLog(SqliteEventLogStorage):
    """`SqliteEventLogStorage` whose `store_event_batch` keeps its connections open until the batch is written."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._batch: tuple[int, ExitStack, dict[str, Connection]] | None = None
        super().__init__(base_dir, inst_data)
        self._db_lock = threading.RLock()  # a batch holds the run's file and the index together

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: dict[str, str]
    ) -> "BatchedEventLog":
        return cls(inst_data=inst_data, **config_value)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store all of `events` or, if one cannot be stored, none."""
        with self._db_lock, ExitStack() as open_files:
            self._batch = (threading.get_ident(), open_files, {})
            try:
                super().store_event_batch(events)
            finally:
                self._batch = None

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        batch = self._batch
        if batch is None or batch[0] != threading.get_ident():
            with super()._connect(shard) as connection:
                yield connection
            return
        _, open_files, connections = batch
        if shard not in connections:
            connections[shard] = open_files.enter_context(super()._connect(shard))
        yield connections[shard]
