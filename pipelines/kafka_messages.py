"""Messages as the client gives them, in columns.

Here: what of a message counts, and which ones are Arrow IPC streams. Not here: consuming (`kafka_source`), what is in
the messages (`metering.decode`), checking the streams (`arrow`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import groupby

from confluent_kafka import Message

from metering.payloads import Columnar, Messages

ARROW_STREAM = b"application/vnd.apache.arrow.stream"

Headers = list[tuple[str, bytes | None]]


def content_of(messages: list[Message]) -> Messages:
    """What the messages, of one partition in offset order, say."""
    values = list(map(Message.value, messages))
    streams = {i: values[i] or b"" for i, own in enumerate(_headers(messages)) if own and _is_arrow(own)}
    return Messages(
        values=values,
        offsets=list(map(Message.offset, messages)),
        logged_ms=[milliseconds for _, milliseconds in map(Message.timestamp, messages)],
        keys=list(map(Message.key, messages)),
        arrow=_columnar(streams) if streams else None,
    )


def by_partition(messages: list[Message]) -> dict[int, list[Message]]:
    """Messages of each partition, in order of arrival, which within a partition is offset order."""
    found: defaultdict[int, list[Message]] = defaultdict(list)
    for partition, run in groupby(messages, Message.partition):  # the client hands them over in long runs
        found[partition] += run
    return dict(sorted(found.items()))


def _columnar(streams: Mapping[int, bytes]) -> Columnar:
    from pipelines.arrow import columnar  # pyarrow takes a while, and JSON needs none of it

    return columnar(streams)


def _headers(messages: list[Message]) -> list[Headers | None]:
    """Each message's headers; None also where one has a name that is not UTF-8, which the client cannot give."""
    found: list[Headers | None] = []
    rest = map(Message.headers, messages)  # `map` sees that the client fails: a specialised call does not, and crashes
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
