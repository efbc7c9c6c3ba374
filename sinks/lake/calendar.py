"""The calendar of a home's lake: the time zone whose days its folders are.

Here: keeping it, and refusing another one; two calendars in one lake would be two days under one name. Not here: local
days (`metering.calendar`), the setting (`orchestration.home.settings`).
"""

from __future__ import annotations

import os
from pathlib import Path

from metering.errors import UserError

NAME = "timezone"


def check_timezone(home: Path, timezone: str) -> None:
    """Raises UserError where the days of the lake of `home` are those of another time zone."""
    path = home / "lake" / NAME
    if path.exists() and (kept := path.read_text("ascii").strip()) != timezone:
        raise UserError(
            f"the days in this home are those of {kept}, and timezone is {timezone} now: set it back in kilowatch.toml "
            "(or KILOWATCH_TIMEZONE), or stream the telemetry into a new home (`kilowatch recut` cannot change it: "
            "days are the lake's folders)"
        )


def keep_timezone(home: Path, timezone: str) -> None:
    """Keep `timezone` as that of the lake of `home`, before anything is written to it. Raises UserError as above."""
    check_timezone(home, timezone)
    path = home / "lake" / NAME
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{NAME}.{os.getpid()}.part")
        aside.write_text(timezone, "ascii")
        aside.replace(path)
