"""Formats of the field, by name: `format = "nem12"` in a mapping instead of a table's columns.

Here: which function reads which format. Not here: the formats (a module each, named as the format), tables of cells
(`convert`), containers such as gzip (whoever opens the file).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Mapping as Dict

from metering.tabular import espi, nem12
from metering.tabular.convert import Replayed
from metering.tabular.encodings import encoding_of
from metering.tabular.shape import Mapping

Reader = Callable[[bytes, Mapping], Replayed]
"""From a file's unpacked bytes to readings and rejects. Raises MappingError when the file is not of the format."""

READERS: Dict[str, Reader] = {"nem12": nem12.read_nem12, "nem13": nem12.read_nem12, "espi": espi.read_espi}
"""A format's name, which `shape.FIELD_FORMATS` has too, and what reads it."""

_LOOKED_AT = 20_000
_SEEN = (
    (nem12.looks_like, "nem12", "NEM12 or NEM13"),
    (espi.looks_like, "espi", "a Green Button feed (ESPI)"),
)


def recognised(content: bytes) -> tuple[str, str] | None:
    """The format of the field that a file has for all to see, and what it is called; None: none."""
    text = content[:_LOOKED_AT].decode(encoding_of(content[:_LOOKED_AT]), errors="replace")
    return next(((format, name) for looks_like, format, name in _SEEN if looks_like(text)), None)


def unreadable(content: bytes) -> str | None:
    """What a text is that neither a mapping nor a format of the field reads, and what to do; None: it may be read."""
    text = content[:_LOOKED_AT].decode(encoding_of(content[:_LOOKED_AT]), errors="replace")
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith(("UNA:", "UNB+")) or re.match(r"UNA.{6}\s*UNB", start, re.DOTALL):
        kind = next((kind for kind in ("MSCONS", "UTILMD", "APERAK") if kind in text), "of EDIFACT")
        return f"a message {kind} (EDIFACT), which is not read: have its values exported as CSV, and map that"
    if start.lower().startswith(("<!doctype html", "<html")):
        return "a web page, perhaps of a login: download the file anew"
    if start.startswith("<") and not espi.looks_like(text):
        return "XML but no Green Button feed (ESPI): have it exported as CSV, and map that"
    if start.startswith(("{", "[{")):
        return "JSON: lines with meter_id and ts are readings already, which `kilowatch stream` reads"
    return None
