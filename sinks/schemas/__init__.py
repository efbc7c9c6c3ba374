"""JSON Schemas of all topics, for whoever consumes or produces them; generated from the declared tables.

Here: the files, and writing them anew (`python -m sinks.schemas`). Not here: what they say
(`metering.tables.messages`).
"""

from __future__ import annotations

import json
from pathlib import Path

from metering.tables.messages import json_schemas

FOLDER = Path(__file__).parent


def texts() -> dict[Path, str]:
    """What each schema file has to contain."""
    return {
        FOLDER / name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in json_schemas().items()
    }


def write() -> None:
    """Write the schema files anew."""
    for path, text in texts().items():
        path.write_text(text, "utf-8")
