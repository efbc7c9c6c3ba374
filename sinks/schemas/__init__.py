"""JSON Schemas of all topics, for whoever consumes or produces them; generated from the declared tables.

Here: the files, and writing them anew (`python -m sinks.schemas`). Not here: what they say
(`metering.tables.messages`).
"""

from __future__ import annotations

import json
from pathlib import Path

from metering.events.catalogue import default_rules
from metering.settings import Rulebook
from metering.tables.messages import json_schemas

FOLDER = Path(__file__).parent


def texts(rules: Rulebook | None = None, folder: Path = FOLDER) -> dict[Path, str]:
    """What each schema file has to contain: those in `folder` under a home's own rules, or Kilowatch's."""
    rules = rules or default_rules()
    return {
        folder / name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in json_schemas(rules.by_id).items()
    }


def write() -> None:
    """Write the schema files anew."""
    for path, text in texts().items():
        path.write_text(text, "utf-8")
