"""Which partition a key leads to: as Java clients have it, so that whoever reads by key finds it where it is.

Not here: producing (`topics`).
"""

from __future__ import annotations

import time

from sinks.kafka.limits import Key, raw

_KEYS_REMEMBERED = 1_000_000
TRUSTED_S = 60.0
"""How long a number of partitions is taken to be right."""


class Partitions(dict[Key | None, int]):
    """Partition of each partition key, worked out once; -1 (the client chooses by message key) where there is none."""

    def __init__(self, count: int) -> None:
        super().__init__({None: -1})
        self.count = count
        self.trusted_until = time.monotonic() + TRUSTED_S

    def __missing__(self, key: Key) -> int:
        if len(self) > _KEYS_REMEMBERED:
            self.clear()
            self[None] = -1
        value = self[key] = partition_of(key, self.count)
        return value


def partition_of(key: Key, count: int) -> int:
    """The partition Kafka's default partitioner (murmur2 of the key's bytes, sign bit dropped) gives `key`."""
    return (murmur2(raw(key)) & 0x7FFFFFFF) % count


def murmur2(data: bytes) -> int:
    """32-bit MurmurHash2 with Kafka's seed, unsigned."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)
