"""Messages as the client gives them, in columns.

Here: what of a message counts, and which ones are Arrow IPC streams. Not here: consuming (`kafka`), what is in
the messages (`metering.readings.decode`), checking the streams (`arrow`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

from confluent_kafka import Message

from metering.readings.payloads import Columnar, Messages

ARROW_STREAM = b"application/vnd.apache.arrow.stream"

Headers = list[tuple[str, bytes | None]]

# As messages have them that were consumed; the client's types allow for others.
_OFFSET = cast("Callable[[Message], int]", Message.offset)
_PARTITION = cast("Callable[[Message], int]", Message.partition)
_HEADERS = cast("Callable[[Message], Headers | None]", Message.headers)


@dataclass(slots=True)
class Run:
    """Messages of one partition, in offset order, field by field. `streams`: payloads that are Arrow, by number among
    these messages.
    """

    values: list[bytes | None] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    logged_ms: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    streams: dict[int, bytes] = field(default_factory=dict)

    def add(self, messages: list[Message]) -> None:
        first = len(self.values)
        self.values += map(Message.value, messages)
        self.offsets += map(_OFFSET, messages)
        self.logged_ms += [milliseconds for _, milliseconds in map(Message.timestamp, messages)]
        self.keys += map(Message.key, messages)
        for number, headers in enumerate(_headers(messages), first):
            if headers and _is_arrow(headers):
                self.streams[number] = self.values[number] or b""


def joined(runs: Sequence[Run]) -> Messages:
    """What the messages of several partitions say, one partition after the other."""
    values: list[bytes | None] = []
    offsets: list[int] = []
    logged_ms: list[int] = []
    keys: list[bytes | None] = []
    streams: dict[int, bytes] = {}
    for run in runs:
        streams.update((len(values) + number, stream) for number, stream in run.streams.items())
        values += run.values
        offsets += run.offsets
        logged_ms += run.logged_ms
        keys += run.keys
    return Messages(values, offsets, logged_ms, keys, _columnar(streams) if streams else None)


def by_partition(messages: list[Message]) -> dict[int, list[Message]]:
    """Messages of each partition, in order of arrival, which within a partition is offset order."""
    found: defaultdict[int, list[Message]] = defaultdict(list)
    for partition, run in groupby(messages, _PARTITION):  # the client hands them over in long runs
        found[partition] += run
    return dict(sorted(found.items()))


def _columnar(streams: Mapping[int, bytes]) -> Columnar:
    from pipelines.sources.arrow import columnar  # pyarrow takes a while, and JSON needs none of it

    return columnar(streams)


def _headers(messages: list[Message]) -> list[Headers | None]:
    """Each message's headers; None also where one has a name that is not UTF-8, which the client cannot give."""
    found: list[Headers | None] = []
    rest = map(_HEADERS, messages)  # `map` sees that the client fails: a specialised call does not, and crashes
    while len(found) < len(messages):
        try:
            found.extend(rest)
        except SystemError:
            found.append(None)
    return found


def _is_arrow(headers: Headers) -> bool:
    """Whether the last content-type header, whatever its case and parameters, names an Arrow IPC stream."""
    kinds = [value for name, value in headers if name.lower() == "content-type"]
    return bool(kinds) and (kinds[-1] or b"").split(b";")[0].strip().lower() == ARROW_STREAM
