"""How large messages Kafka's topics take, and what becomes of a result that is larger.

Here: asking the brokers, cutting keys and values. Not here: what may be cut of a result (`metering.tables.messages`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from metering.tables.messages import shortened

Key = str | bytes

_LIMIT_WHERE_UNKNOWN = 1_048_588  # what Kafka's brokers take unless told otherwise
_AROUND_A_MESSAGE = 512  # bytes that a batch of one message has besides its key and value, and some to spare
_TIMEOUT_S = 5.0


def message_limits(admin: AdminClient, topics: Sequence[str]) -> dict[str, int]:
    """Bytes that each topic takes in one batch; what brokers take by default where they do not say."""
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    limits = dict.fromkeys(topics, _LIMIT_WHERE_UNKNOWN)
    for resource, answer in admin.describe_configs(resources, request_timeout=_TIMEOUT_S).items():
        with contextlib.suppress(KafkaException, KeyError, TypeError, ValueError):
            limits[resource.name] = int(answer.result()["max.message.bytes"].value)
    return limits


def fitted(
    keys: Sequence[Key | None], values: Sequence[bytes], limit: int
) -> tuple[Sequence[Key | None], Sequence[bytes]]:
    """Keys and values, those results cut that are larger than `limit` bytes; whatever else is larger stays as it is."""
    room = limit - _AROUND_A_MESSAGE
    longest = max((len(key) for key in keys if key), default=0)
    if max(map(len, values), default=0) + 4 * longest <= room or len(keys) != len(values):  # 4: bytes of a character
        return keys, values
    pairs = [
        (key, value) if len(value) + _size(key) <= room else _cut_to(room, key, value)
        for key, value in zip(keys, values, strict=True)
    ]
    return [key for key, _ in pairs], [value for _, value in pairs]


def _cut_to(room: int, key: Key | None, value: bytes) -> tuple[Key | None, bytes]:
    """Key and value of a result in `room` bytes; as they are where it is none."""
    kept = key if _size(key) <= room // 2 else None
    short = shortened(value, room - _size(kept))
    return (key, value) if short is None else (kept, short)


def _size(key: Key | None) -> int:
    return 0 if key is None else len(raw(key))


def raw(key: Key) -> bytes:
    """The key's bytes, as they are sent."""
    return key.encode() if isinstance(key, str) else key
