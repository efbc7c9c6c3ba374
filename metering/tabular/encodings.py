"""What encoding a text is in, and what a file is that is no text, by its bytes.

Here: `container` and `encoding_of`, which look and never raise. Not here: reading files.
"""

from __future__ import annotations

import codecs
import re

_CONTAINERS = (
    (b"PK\x03\x04", "an Excel workbook or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"\x1f\x8b", "compressed (gzip)"),
    (b"PAR1", "a Parquet file"),
)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SAMPLE = 4096
_LONE_HIGH_BYTE = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])")
_HAN = re.compile("[\u4e00-\u9fff]")


def container(content: bytes) -> str | None:
    """What a file is that is no text; None: it may be one."""
    return next((name for magic, name in _CONTAINERS if content.startswith(magic)), None)


def encoding_of(content: bytes) -> str:
    """The encoding that a text is most likely in: utf-8-sig, utf-16, utf-16-le, utf-16-be, gb18030 or cp1252.

    A byte order mark and text that can only be UTF-8 are sure; gb18030 and cp1252 are guesses.
    """
    if content.startswith(_UTF16):
        return "utf-16"
    sample = content[:_SAMPLE]
    if sample.count(0) > len(sample) // 4:
        return "utf-16-le" if sample[1::2].count(0) >= sample[::2].count(0) else "utf-16-be"
    if _decodes(content, "utf-8"):
        return "utf-8-sig"
    if not _LONE_HIGH_BYTE.search(content) and _decodes(content, "gb18030") and _HAN.search(content.decode("gb18030")):
        return "gb18030"
    return "cp1252"


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
