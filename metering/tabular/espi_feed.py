"""A Green Button feed as it lies in a file: Atom entries, their links, and the readings that they hold.

Here: `Feed`, which reads XML strictly: no document type, no deep nesting, nothing half. Not here: its meaning (`espi`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit
from xml.parsers import expat

from metering.errors import MappingError

_DEEPEST = 64


@dataclass(slots=True)
class Reading:
    line: int
    start: str | None = None
    duration: str | None = None
    value: str | None = None
    quality: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Block:
    start: str | None = None
    duration: str | None = None
    readings: list[Reading] = field(default_factory=list)


@dataclass(slots=True)
class Entry:
    """One Atom entry: where it stands (`self`, `up`), what it is `related` to, what it holds."""

    id: str = ""
    title: str = ""
    self: str = ""
    up: str = ""
    related: set[str] = field(default_factory=set)
    kind: str = ""
    values: dict[str, str] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)

    def under(self, other: Entry) -> int:
        """How closely this entry stands under another by its links: the length of what they share; 0: it does not."""
        if not other.self:
            return 0
        inside = any(link == other.self or link.startswith(other.self + "/") for link in (self.self, self.up) if link)
        tied = {self.self, self.up} & other.related - {""} or other.self in self.related
        return len(other.self) + 1 if inside or tied else 0


class Feed:
    """What a feed holds, entry by entry, as expat goes through it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.root = ""
        self._path: list[str] = []
        self._text: list[str] = []
        self._entry = Entry()
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text.append
        self._parser.StartDoctypeDeclHandler = self._document_type

    def read(self, content: bytes) -> None:
        try:
            self._parser.Parse(content, True)
        except expat.ExpatError as error:
            said = expat.ErrorString(error.code)
            raise MappingError(
                f"format: the file is no well-formed XML ({said}, line {error.lineno}): has it been cut off?"
            ) from None
        except (ValueError, LookupError) as error:
            raise MappingError(f"format: the file's XML cannot be read: {error}") from None

    def _document_type(self, *_: object) -> None:
        raise MappingError("format: the file declares a document type (DOCTYPE), which Green Button has not: refused")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        self.root = self.root or local
        self._path.append(local)
        self._text.clear()
        if len(self._path) > _DEEPEST:
            raise MappingError(f"format: the file's XML is nested more than {_DEEPEST} levels deep, which ESPI is not")
        parent = self._path[-2] if len(self._path) > 1 else ""
        entry = self._entry
        if local == "entry":
            self._entry = Entry()
            self.entries.append(self._entry)
        elif local == "link" and parent == "entry":
            link = _path_of(attributes.get("href", ""))
            relation = attributes.get("rel", "")
            if relation == "self":
                entry.self = link
            elif relation == "up":
                entry.up = link
            else:
                entry.related.add(link)
        elif parent == "content":
            entry.kind = entry.kind or local
        if local == "IntervalBlock":
            entry.blocks.append(Block())
        elif local == "IntervalReading":
            if not entry.blocks:
                entry.blocks.append(Block())
            entry.blocks[-1].readings.append(Reading(self._parser.CurrentLineNumber))

    def _end(self, _: str) -> None:
        local = self._path.pop()
        parent = self._path[-1] if self._path else ""
        text = "".join(self._text).strip()
        self._text.clear()
        entry = self._entry
        if parent == "entry" and local in ("id", "title"):
            setattr(entry, local, text)
        elif parent in ("ReadingType", "ServiceCategory"):
            entry.values.setdefault(local, text)
        elif entry.blocks and "IntervalBlock" in self._path:
            self._of_block(entry.blocks[-1], parent, local, text)

    def _of_block(self, block: Block, parent: str, local: str, text: str) -> None:
        if parent == "interval" and local in ("start", "duration"):
            setattr(block, local, text)
        elif block.readings and "IntervalReading" in self._path:
            reading = block.readings[-1]
            if parent == "timePeriod" and local in ("start", "duration"):
                setattr(reading, local, text)
            elif parent == "IntervalReading" and local == "value":
                reading.value = text
            elif parent == "ReadingQuality" and local == "quality":
                reading.quality.append(text)


def _path_of(link: str) -> str:
    try:
        return urlsplit(link.strip()).path.strip("/")
    except ValueError:
        return link.strip()
