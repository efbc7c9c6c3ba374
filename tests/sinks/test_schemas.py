"""The schema files say what the declared tables say."""

from __future__ import annotations

from sinks import schemas


def test_schema_files_are_current() -> None:
    stale = [
        path.name for path, text in schemas.texts().items() if not path.exists() or path.read_text("utf-8") != text
    ]
    assert not stale, f"{stale} differ from the declared tables: run `python -m sinks.schemas` and review the change"


def test_no_schema_file_is_left_over() -> None:
    assert set(schemas.FOLDER.glob("*.json")) == set(schemas.texts())
