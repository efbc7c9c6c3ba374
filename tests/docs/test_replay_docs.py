"""What docs/replay.md says about mappings holds."""

from __future__ import annotations

import re
from pathlib import Path

from metering.tabular.convert import REASONS
from metering.tabular.mapping import parse_mapping

DOCS = Path(__file__).parents[2] / "docs"


def test_the_example_is_a_mapping() -> None:
    text = (DOCS / "replay.md").read_text("utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    mapping = parse_mapping(example, "Asia/Shanghai")
    assert mapping.timezone == "Asia/Seoul"
    assert mapping.timestamp.order == "file"


def test_every_reason_is_explained() -> None:
    text = (DOCS / "replay.md").read_text("utf-8")
    explained = re.findall(r"^\| `(\w+)` \| ", text.partition("## Why a row is rejected")[2], re.MULTILINE)
    assert explained == list(REASONS)


def test_mappings_in_the_docs_can_be_used() -> None:
    files = sorted((DOCS / "mappings").glob("*.toml"))
    assert [file.stem for file in files] == ["household", "steel"]
    for file in files:
        assert parse_mapping(file.read_text("utf-8"), "UTC").channels
