"""Lines from hell: readings, and what seeded damage makes of them.

Here: bytes of one line or message. Not here: what should become of them (`referee`), Arrow (`malformed_arrow`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

METERS = ("M0", "M1", "电表", "42", "007", "1e3", "true", "null", "{x")
"""In the registry, always valid."""
NOW_MS = 1_767_225_660_000

_NUMBERS = (
    b"0", b"-0", b"1", b"-1.5", b"1e3", b"1E-400", b"5e-324", b"1e308", b"1e309", b"-1e999", b"9" * 30, b"9" * 400,
    b"9" * 5000, b"1" + b"0" * 308, b"0." + b"1" * 600, b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551616", b"-9223372036854775809", b"2.2250738585072011e-308", b"1.7976931348623159e308", b"01",
    b"+1", b"1.", b".5", b"1e", b"-", b"0x10", b"1_000", b"NaN", b"Infinity", b"-Infinity", b"nan", b"1,5",
)  # fmt: skip
_OTHERS = (
    b"null", b"true", b"false", b'""', b'"1"', b'"NaN"', b"[]", b"{}", b"[1]", b'{"a":1}', b"[[[[1]]]]", b'"\\ud800"',
    b'"\\udc00\\ud800"', b'"\\u0000"', b'"\x00"', b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\xf4\x90\x80\x80"',
    b'"\\q"', b'"\\u12"', b'"a\tb"', b"undefined", b"None", b"'x'", b"",
)  # fmt: skip
_TIMES = (
    b"1767225660000", b"1767225660000.5", b"-1", b"1e300", b"253370764799999", b"253370764800000", b"1767225960000",
    b"1767225960001", b"9007199254740993", b'"1767225660000"', b'"2026-01-01T00:01:00"',
    b'"2026-01-01T00:01:00+08:00"', b'"2026-01-01 00:01:00Z"', b'"2026-01-01t00:01:00z"',
    b'"2026-01-01T00:01:00.123456789Z"', b'"2026-02-30T00:00:00Z"', b'"2026-01-01T24:00:00Z"',
    b'"2026-01-01T23:59:60Z"', b'"2025-12-31T19:01:00-05:00"', b'"2026-01-01T00:01Z"', b'"+2026-01-01T00:01:00Z"',
    b'"0001-01-01T00:01:00Z"', b'"2026-01-01T00:01:00+0800"', b'" 2026-01-01T00:01:00Z"', b'"2026-01-01T00:01:00Z "',
    b'"2026-1-1T0:1:0Z"', b'"20260101T000100Z"', b'"2026-01-01T00:01:00,5Z"', b'"2026-01-01T00:01:00+08"',
    b'"2026-01-01T00:01:00+24:00"', b'"2026-01-01T00:01:00-00:00"', b'"yesterday"', b'"\\u0032026-01-01T00:01:00Z"',
    b'"9999-12-31T23:59:59Z"', b'"2026-01-01T00:01:00Z\\u0000"', b'"2026-W01-4"',
    b'"2026-01-01T00:01:00\xe2\x88\x9208:00"', b'"\xef\xbc\x92026-01-01T00:01:00Z"', b'"2026-01-01T00:01:00.Z"',
)  # fmt: skip
_IDS = (
    *(json.dumps(name, ensure_ascii=False).encode() for name in METERS), b'"none"', b'" M0"', b'"M0 "', b'"m0"',
    b'"M0\\u0000"', b'"\\u004d0"', b'"' + b"a" * 65 + b'"', b'"' + b"a" * 70_000 + b'"', b"42", b"007", b"1e3", b"true",
    b"{x", b'["M0"]', b'{"M0":1}',
)  # fmt: skip
_EXTRAS = (
    b'"note":"text"', b'"note":"\\ud800"', b'"\\ud800":1', b'"":1', b'"ts ":1', b'"TS":1', b'"meter_id\\u0000":1',
    b'"p\\u005fkw":7', b'"x":{"ts":1,"meter_id":"M1"}', b'"x":[{"p_kw":1}]', b'"p_kw":"x"', b'"meter_id":"M1"',
    b'"ts":0', b'"x":' + b"[" * 300 + b"]" * 300, b'"x":' + b"[" * 5000 + b"]" * 5000, b'"x":' + b'{"a":' * 1023 +
    b"1" + b"}" * 1023, b'"x":' + b'{"a":' * 1022 + b"1" + b"}" * 1022, b'"x":"' + b"y" * 20_000 + b'"',
)  # fmt: skip
_MEASURED = (
    b"ua_v", b"ub_v", b"uc_v", b"ia_a", b"ib_a", b"ic_a", b"p_kw", b"q_kvar", b"import_kwh", b"export_kwh",
    b"import_kvarh", b"export_kvarh", b"uab_v", b"ubc_v", b"uca_v", b"status",
)  # fmt: skip
_BLANKS = (b"", b" ", b"\r", b"\t", b"\x0b", b"\x0c", b"  \r")
_GARBAGE = (
    b"\x00", b"null", b"12", b"[]", b"{", b"}", b'"', b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b\x08\x00", b"PK\x03\x04",
    b"meter_id,ts\r", b"<xml/>", b"{}{}", b"{},", b"{}\x00", b"\\", b"{\"meter_id\"",
)  # fmt: skip
_INTERESTING = b'"\\{}[]:,.-+eE0 \x00\x7f\x80\xff\xc3\xed\t\r'
_HUGE = (
    b"x" * 1_000_000, b"\xf0" * 1_000_000, b"[" * 1_000_000, b"\x00" * 1_000_000, b'\\"' * 500_000,
    b'{"meter_id":"M0","ts":1767225660000,"note":"' + b"y" * 999_000 + b'"}',
    b'{"meter_id":"' + b"M" * 999_000 + b'","ts":1767225660000}', b'{"p_kw":' + b"9" * 999_000 + b"}",
)  # fmt: skip


def line(rng: random.Random) -> bytes:
    """One line, two in five of them sound readings."""
    kind = rng.random()
    if kind < 0.4:
        return _reading(rng)
    return _KINDS[int((kind - 0.4) / 0.6 * len(_KINDS))](rng)


def message(rng: random.Random) -> bytes | None:
    """A message: mostly one line, sometimes several, none, or a tombstone."""
    kind = rng.random()
    if kind < 0.9:
        return line(rng)
    if kind < 0.98:
        return b"\n".join(line(rng) for _ in range(rng.randint(2, 6))) + rng.choice((b"", b"\n", b"\n\n"))
    return rng.choice((None, b"", b"\n", b" \r\n \n"))


def huge(rng: random.Random) -> bytes:
    """About a megabyte."""
    return _damaged(rng, rng.choice(_HUGE)) if rng.random() < 0.5 else rng.choice(_HUGE)


def _reading(rng: random.Random) -> bytes:
    names = rng.sample(_MEASURED, rng.randint(0, 5))
    fields = [b'"%s":%d' % (name, rng.randint(-9, 9)) if name == b"status" or rng.random() < 0.3
              else b'"%s":%.4g' % (name, rng.uniform(-1e3, 1e6)) for name in names]  # fmt: skip
    return _object(rng, rng.choice(_IDS[: len(METERS)]), b"%d" % (NOW_MS - rng.randrange(10**9)), fields)


def _object(rng: random.Random, meter_id: bytes, ts: bytes, fields: list[bytes]) -> bytes:
    members = [b'"meter_id":' + meter_id, b'"ts":' + ts, *fields]
    if rng.random() < 0.3:
        rng.shuffle(members)
    return b"{" + rng.choice((b",", b",", b", ", b" ,\r")).join(members) + b"}"


def _odd_value(rng: random.Random) -> bytes:
    value = rng.choice(rng.choice((_NUMBERS, _OTHERS)))
    return _object(rng, b'"M0"', b'"2026-01-01T00:01:00Z"', [b'"%s":%s' % (rng.choice(_MEASURED), value)])


def _odd_head(rng: random.Random) -> bytes:
    pools = (_IDS, _OTHERS, _NUMBERS) if rng.random() < 0.3 else (_IDS,)
    times = (_TIMES, _OTHERS, _NUMBERS) if rng.random() < 0.3 else (_TIMES,)
    return _object(rng, rng.choice(rng.choice(pools)), rng.choice(rng.choice(times)), [b'"p_kw":1'])


def _with_extras(rng: random.Random) -> bytes:
    fields = [b'"p_kw":1.5', *rng.sample(_EXTRAS, rng.randint(1, 3))]
    return _object(rng, b'"M0"', b'"2026-01-01T00:01:00Z"', fields)


def _damaged_reading(rng: random.Random) -> bytes:
    return _damaged(rng, _reading(rng))


def _damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes changed, cut out, put in or turned round; never a newline, which would make two lines of one."""
    value = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at, how = rng.randrange(len(value) + 1), rng.random()
        if how < 0.4:
            value[at : at + 1] = bytes((rng.choice(_INTERESTING),))
        elif how < 0.6:
            value[at : at + 1] = bytes((rng.randrange(256),))
        elif how < 0.75:
            del value[at : at + rng.randint(1, 8)]
        elif how < 0.9:
            value[at:at] = bytes(rng.choice(_INTERESTING) for _ in range(rng.randint(1, 4)))
        else:
            del value[at:]
    return bytes(value).replace(b"\n", b"\r")


def _random_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(0, 60)).replace(b"\n", b"\r")


def _blank_or_garbage(rng: random.Random) -> bytes:
    return rng.choice(_BLANKS) + rng.choice((b"", *_GARBAGE)) + rng.choice(_BLANKS)


def _encoded(rng: random.Random) -> bytes:
    text = _reading(rng).decode()
    return text.encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "gb18030", "utf-7"))).replace(
        b"\n", b"\r"
    )


def _two(rng: random.Random) -> bytes:
    return _reading(rng) + rng.choice((b"", b" ", b",", b"\r", b"\x00")) + _reading(rng)


_KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    _odd_value, _odd_head, _odd_value, _odd_head, _with_extras, _damaged_reading, _damaged_reading, _damaged_reading,
    _damaged_reading, _random_bytes, _blank_or_garbage, _encoded, _two,
)  # fmt: skip
