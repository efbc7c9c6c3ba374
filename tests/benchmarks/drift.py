"""`make bench-quick`: how a quick run compares with the recorded one.

Ratios between contenders of one run are compared, which a slower machine changes little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.benchmarks.record import load
from tests.benchmarks.targets import BY_NAME

NOTABLE = 0.15


def show(found: dict[str, Any], say: Callable[[str], None]) -> None:
    before = load()["quick"]
    say("row        measure      recorded       now    drift")
    for name, row in found.items():
        for target in BY_NAME[name].targets:
            now, then = (
                row["measures"].get(target.measure),
                before.get(name, {}).get("measures", {}).get(target.measure),
            )
            if now is not None:
                say(line(name, target.measure, then, now))


def line(name: str, measure: str, then: float | None, now: float) -> str:
    """One measure; a drift beyond what noise explains is marked."""
    if not then:
        return f"{name:10} {measure:12} {'-':>8} {now:9.3f}"
    change = now / then - 1
    return f"{name:10} {measure:12} {then:8.3f} {now:9.3f} {change:+8.0%}{'  <--' if abs(change) > NOTABLE else ''}"
