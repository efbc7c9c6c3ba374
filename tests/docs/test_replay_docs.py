"""What docs/replay.md says about mappings holds."""

from __future__ import annotations

import re
from pathlib import Path

from metering.tabular.convert import REASONS
from metering.tabular.mapping import CHANNEL_KEYS, KEYS, TIMESTAMP_KEYS, parse_mapping

DOCS = Path(__file__).parents[2] / "docs"


def test_the_examples_are_mappings() -> None:
    text = (DOCS / "replay.md").read_text("utf-8")
    example, *others = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    mapping = parse_mapping(example, "Asia/Shanghai")
    assert all(parse_mapping(other, "Asia/Shanghai").channels for other in others)
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


def test_every_key_is_explained() -> None:
    text = (DOCS / "replay.md").read_text("utf-8")
    table = text.partition("| key | meaning | default |")[2].partition("\n\n")[0]
    explained = re.findall(r"^\| `([^`]+)` \| ", table, re.MULTILINE)
    roots = {key.strip("[]").partition(".")[0] for key in explained}
    assert roots == set(KEYS)
    assert {key.partition(".")[2] for key in explained if key.startswith("timestamp.")} == set(TIMESTAMP_KEYS)
    assert {key.partition(".")[2] for key in explained if key.startswith("channel.")} == set(CHANNEL_KEYS)
