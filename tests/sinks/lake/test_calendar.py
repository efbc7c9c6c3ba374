"""A home's days are those of one time zone."""

from __future__ import annotations

from pathlib import Path

import pytest

from metering.errors import UserError
from sinks.lake.calendar import check_timezone, keep_timezone


def test_the_first_time_zone_is_kept_and_another_one_is_refused_by_name(tmp_path: Path) -> None:
    check_timezone(tmp_path, "Europe/Vienna")  # nothing is kept yet
    keep_timezone(tmp_path, "Asia/Shanghai")
    keep_timezone(tmp_path, "Asia/Shanghai")
    check_timezone(tmp_path, "Asia/Shanghai")
    for refuse in (check_timezone, keep_timezone):
        with pytest.raises(UserError, match=r"those of Asia/Shanghai, and timezone is Europe/Vienna now: set it back"):
            refuse(tmp_path, "Europe/Vienna")
    assert [path.name for path in (tmp_path / "lake").iterdir()] == ["timezone"]
