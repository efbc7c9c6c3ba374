"""The warehouse is read while it is published: no error, never two versions at once."""

from __future__ import annotations

from pathlib import Path

from tests.faults.readers import READERS, watched


def test_readers_see_whole_versions_in_order(tmp_path: Path) -> None:
    seen = watched(tmp_path, publishes=50)
    assert [reader["wrong"] for reader in seen] == [[]] * READERS
    assert all(int(str(reader["versions"])) > 1 for reader in seen)
