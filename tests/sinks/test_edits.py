"""The home's log of edits: append-only, in order, and proof against changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from metering.errors import UserError
from metering.vee.edits import in_force, signed
from sinks.edits import keep_edits, load_edits


def corrections(kwh: float, why: str = "fuse blown") -> bytes:
    header = "meter_id,window_end,energy_kwh,by,at,why\n"
    line = f"M1,2026-03-02T10:15:00+08:00,{kwh},office,2026-03-05T09:00:00+08:00,{why}\n"
    return signed((header + line).encode())


def test_files_are_kept_as_they_came_in_order_and_the_last_counts(tmp_path: Path) -> None:
    assert load_edits(tmp_path).is_empty()
    first, _ = keep_edits(tmp_path, corrections(50), "z.csv")
    second, edits = keep_edits(tmp_path, corrections(60), "a.csv")
    assert [first.name[:7], second.name[:7]] == ["000001-", "000002-"]
    assert first.read_bytes() == corrections(50)
    assert edits["number"].to_list() == [1]
    assert load_edits(tmp_path)["energy_kwh"].to_list() == [50.0, 60.0]
    assert in_force(load_edits(tmp_path))["energy_kwh"].to_list() == [60.0]
    assert sorted(path.suffix for path in first.parent.iterdir() if not path.name.startswith(".")) == [".csv", ".csv"]


def test_a_file_is_accepted_once_and_a_wrong_one_not_at_all(tmp_path: Path) -> None:
    keep_edits(tmp_path, corrections(50), "a.csv")
    with pytest.raises(UserError, match="accepted before"):
        keep_edits(tmp_path, corrections(50), "copy.csv")
    with pytest.raises(UserError, match=r"b\.csv: it has been changed since it was signed"):
        keep_edits(tmp_path, corrections(50).replace(b",50,", b",51,"), "b.csv")
    assert load_edits(tmp_path).height == 1


def test_a_kept_file_that_is_changed_is_seen(tmp_path: Path) -> None:
    path, _ = keep_edits(tmp_path, corrections(50), "a.csv")
    path.write_bytes(path.read_bytes().replace(b"fuse", b"fuze"))
    with pytest.raises(UserError, match=rf"edits/{path.name}: it has been changed"):
        load_edits(tmp_path)
