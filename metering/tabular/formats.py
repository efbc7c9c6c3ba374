"""Formats of the field, by name: `format = "nem12"` in a mapping instead of a table's columns.

Here: which function reads which format. Not here: the formats (a module each, named as the format), tables of cells
(`convert`), containers such as gzip (whoever opens the file).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Dict

from metering.tabular.convert import Replayed
from metering.tabular.shape import Mapping

Reader = Callable[[bytes, Mapping], Replayed]
"""From a file's unpacked bytes to readings and rejects. Raises MappingError when the file is not of the format."""

READERS: Dict[str, Reader] = {}
"""A format's name, which `shape.FIELD_FORMATS` has too, and what reads it."""
