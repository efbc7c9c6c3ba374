"""What docs/formats.md says holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

from metering.tables.lake import ESTIMATED
from metering.tabular.field_options import KEYS
from metering.tabular.formats import READERS
from metering.tabular.mapping import parse_mapping
from metering.tabular.shape import FIELD_FORMATS

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")


def test_the_example_is_read_as_the_page_says() -> None:
    mapping, _ = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    (file,) = re.findall(r"```csv\n(.*?)```", TEXT, re.DOTALL)
    parsed = parse_mapping(mapping, "Asia/Shanghai")
    replayed = READERS[parsed.format](file.encode(), parsed)
    assert replayed.rejects.is_empty()
    assert replayed.readings.height == 4
    (first,) = re.findall(r"The first reading: `(.*)`", TEXT)
    row = replayed.readings.row(0, named=True)
    assert replayed.readings["status"].to_list() == [None, None, None, ESTIMATED]
    del row["status"]
    assert json.loads(first) == {**row, "ts": row["ts"].strftime("%Y-%m-%dT%H:%M:%SZ")}


def test_mappings_on_the_page_can_be_used_and_keys_are_explained() -> None:
    for example in re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL):
        assert parse_mapping(example, "UTC").format in FIELD_FORMATS
    for key in KEYS:
        assert f"`{key}`" in TEXT or f"`[{key}]`" in TEXT
    for format in FIELD_FORMATS:
        assert f"`{format}`" in TEXT
