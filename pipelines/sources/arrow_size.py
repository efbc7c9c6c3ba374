"""What an Arrow IPC stream says of its own size, before anything of it is unpacked.

Here: the few fields of the messages' flatbuffers that tell rows and unpacked bytes, for pyarrow hands out neither
(format/Message.fbs, format/Schema.fbs of Apache Arrow). pyarrow has verified a message's flatbuffer when it hands the
message over. Not here: reading the stream (`arrow`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

_HEADER, _DICTIONARY_DATA = 2, 1  # fields of Message and DictionaryBatch
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3  # of RecordBatch
_U16, _U32, _I32, _I64, _PAIR = (struct.Struct(f"<{code}") for code in ("H", "I", "i", "q", "qq"))


def check_size(value: bytes, most_bytes: int, most_rows: int) -> str | None:
    """What is too large about a stream; None: nothing. Raises what pyarrow raises for a corrupt one."""
    total_rows = total_bytes = 0
    for message in pa.ipc.MessageReader.open_stream(value):
        if message.type not in ("record batch", "dictionary"):
            continue
        batch = _batch(message)
        total_rows += max(batch.number(_LENGTH), 0) if message.type == "record batch" else 0
        total_bytes += sum(_unpacked_bytes(batch, message))
        if total_rows > most_rows:
            return f"the Arrow IPC stream has more than {most_rows} rows"
        if total_bytes > most_bytes:
            return f"the Arrow IPC stream unpacks to more than {most_bytes} bytes"
    return None


@dataclass(frozen=True, slots=True)
class _Table:
    """A flatbuffer table: its fields by number, absent ones None."""

    data: memoryview
    at: int

    def _field(self, number: int) -> int | None:
        vtable = self.at - _I32.unpack_from(self.data, self.at)[0]
        (size,) = _U16.unpack_from(self.data, vtable)
        slot = 4 + 2 * number
        offset = _U16.unpack_from(self.data, vtable + slot)[0] if slot < size else 0
        return self.at + offset if offset else None

    def has(self, number: int) -> bool:
        return self._field(number) is not None

    def number(self, number: int) -> int:
        at = self._field(number)
        return 0 if at is None else _I64.unpack_from(self.data, at)[0]

    def table(self, number: int) -> _Table:
        at = self._field(number)
        if at is None:
            raise ValueError("a part of the message is missing")
        return _Table(self.data, at + _U32.unpack_from(self.data, at)[0])

    def pairs(self, number: int) -> Iterator[tuple[int, int]]:
        """A vector of structs of two 64-bit numbers."""
        at = self._field(number)
        if at is None:
            return
        start = at + _U32.unpack_from(self.data, at)[0]
        (count,) = _U32.unpack_from(self.data, start)
        for i in range(count):
            yield _PAIR.unpack_from(self.data, start + 4 + i * _PAIR.size)


def _batch(message: pa.Message) -> _Table:
    data = memoryview(message.metadata)
    header = _Table(data, _U32.unpack_from(data)[0]).table(_HEADER)
    return header.table(_DICTIONARY_DATA) if message.type == "dictionary" else header


def _unpacked_bytes(batch: _Table, message: pa.Message) -> Iterator[int]:
    """Bytes of each buffer; a compressed one begins with them, or with -1 when it is stored as it is.

    A length below zero, which pyarrow passes over, counts as none.
    """
    compressed, body = batch.has(_COMPRESSION), memoryview(message.body)
    for offset, length in batch.pairs(_BUFFERS):
        within = length >= _I64.size and 0 <= offset <= len(body) - _I64.size
        told = _I64.unpack_from(body, offset)[0] if compressed and within else length
        yield max(length if told < 0 else told, 0)
